"""Processes that each do one piece of work at a time, in parallel; this process is one of them.

The others are started with the Python interpreter, not forked, and do not import the script of the user: a script needs
no ``if __name__ == "__main__"``, and threads or open files of this process do no harm. A thread for each of them gives
it its work and takes the results, so that it never waits while this process works.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any

from threadpoolctl import threadpool_limits

from dwiml.arguments import check_whole
from dwiml.failures import WORKER, ResourceError
from dwiml.signals import ENDING

# Isolated (-I), so that nothing is imported from the current folder before the path is set.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from dwiml.hdf5.workers import serve; "
    # What every subject needs, imported before the first one comes.
    "import dwiml.hdf5.parts; serve()"
)
# Numbers of threads of the libraries under NumPy and SciPy.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_ADVICE = "use fewer processes (nbr_processes), or ask the cluster for more memory"
# Of 1000: the system, when the memory is full, should kill a process that it is told about, and not this one.
_KILLED_FIRST = "200"
# Errors whose message is complete: they are raised again without the traceback of the process.
_EXPLAINED = (ValueError, OSError, MemoryError, ResourceError)


@dataclass
class Outcome:
    """Result of one piece of work.

    Attributes
    ----------
    index
        Its index.
    value
        What the function returned; None after an error.
    error
        The error that the function raised, if it did.
    is_bad_input
        Whether the error is that an input is invalid or missing, and not that the machine failed.
    messages
        Log records of the process.
    """

    index: int
    value: Any = None
    error: Exception | None = None
    is_bad_input: bool = False
    messages: list[logging.LogRecord] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    """One piece of work: a function, its argument, and what that is."""

    function: Callable[[Any], Any]
    item: Any
    index: int
    name: str


class Workers:
    """Up to `nb` processes, of which this one is the first; a context manager, at whose end the others are gone.

    They ignore the signals that end a program, since this process decides, and end with it, even if it is killed.

    Parameters
    ----------
    nb
        Number of processes. With 1, no process is started.

    Raises
    ------
    ValueError, TypeError
        If `nb` is not a whole number above 0.
    """

    def __init__(self, nb: int) -> None:
        self.nb = check_whole("nbr_processes", nb, low=1)
        self._running: list[_Worker] = []
        self._lifeline: tuple[int, int] | None = None
        # None ends the thread that takes it.
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Outcome | ResourceError] = queue.SimpleQueue()

    def start(self) -> Workers:
        """Start processes now, up to one for each core with this one, so that they import while this process does.

        The others are started when it is known how much work there is.
        """
        self._start(min(self.nb, os.cpu_count() or 1))
        return self

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill the other processes, whatever they do, and wait until they are gone."""
        for worker in self._running:
            worker.kill()
        with suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        for _worker in self._running:
            self._jobs.put(None)
        for worker in self._running:
            worker.end()
        self._running = []
        self._jobs, self._results = queue.SimpleQueue(), queue.SimpleQueue()
        if self._lifeline is not None:
            for descriptor in self._lifeline:
                os.close(descriptor)
            self._lifeline = None

    def run(
        self, function: Callable[[Any], Any], items: Sequence[Any], name: Callable[[Any], str]
    ) -> Iterator[Outcome]:
        """Call a function for each item, in all processes, and yield the outcomes as they come.

        Those of the other processes are yielded when this one has finished the item that it works on. The caller takes
        all of them, or calls :meth:`stop`: until then, the other processes go on with the next items.

        Parameters
        ----------
        function
            Function of a module, that pickle can find.
        items
            Its arguments.
        name
            Function that returns what an item is, for the error if its process is killed.

        Yields
        ------
        Outcome
            One for each item, in any order. The messages of the other processes are logged in this one.

        Raises
        ------
        ResourceError
            If another process was killed.
        """
        jobs = [_Job(function, item, index, name(item)) for index, item in enumerate(items)]
        # The matrix products are small: synchronizing several threads costs more than it gains.
        with threadpool_limits(limits=1, user_api="blas"):
            if self.nb == 1 or len(items) < 2:
                for job in jobs:
                    yield _done(job.function, job.item, job.index)
                return
            for job in jobs:
                self._jobs.put(job)
            self._start(min(self.nb, len(items)))
            for _ in jobs:
                outcome = self._next()
                for record in outcome.messages:
                    logging.getLogger(record.name).handle(record)
                yield outcome

    def _next(self) -> Outcome:
        """Return what another process has done; if there is nothing, do a job here; if there is none, wait."""
        with suppress(queue.Empty):
            return _unless_lost(self._results.get_nowait())
        with suppress(queue.Empty):
            job = self._jobs.get_nowait()
            assert job is not None
            return _done(job.function, job.item, job.index)
        return _unless_lost(self._results.get())

    def _start(self, nb: int) -> None:
        """Start processes until there are `nb`, with this one."""
        while len(self._running) < nb - 1:
            if self._lifeline is None:
                self._lifeline = os.pipe()
            self._running.append(_Worker(self._lifeline[0], self._jobs, self._results))


def _unless_lost(result: Outcome | ResourceError) -> Outcome:
    if isinstance(result, ResourceError):
        raise result
    return result


class _Worker:
    """One process, the connection to it, and the thread that gives it jobs."""

    def __init__(
        self,
        lifeline: int,
        jobs: queue.SimpleQueue[_Job | None],
        results: queue.SimpleQueue[Outcome | ResourceError],
    ) -> None:
        self._connection, theirs = Pipe()
        words = [json.dumps([str(folder) for folder in sys.path]), str(theirs.fileno()), str(lifeline)]
        self._thread = threading.Thread(target=self._give, args=(jobs, results), daemon=True)
        try:
            # Blocked signals stay so in the new process, and in the thread, so that the main one gets them.
            with _signals_blocked():
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _PROGRAM, *words],
                    # As many threads as cores in each process would only wait for each other.
                    env={**dict.fromkeys(_THREADS, "1"), **os.environ},
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), lifeline),
                )
                self._thread.start()
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """Kill the process; the thread then ends, unless it waits for a job."""
        self._process.kill()

    def end(self) -> None:
        """Wait for the end of the process and the thread."""
        self._process.wait()
        self._thread.join()
        self._connection.close()

    def _give(self, jobs: queue.SimpleQueue[_Job | None], results: queue.SimpleQueue[Outcome | ResourceError]) -> None:
        """Give the process one job after the other; the program of the thread."""
        work = None
        try:
            # That it is ready: until then, this process does the jobs.
            self._connection.recv()
            while (job := jobs.get()) is not None:
                work = job.name
                results.put(self._done(job))
        except (EOFError, OSError):
            results.put(self._failure(work))

    def _done(self, job: _Job) -> Outcome:
        """Have the process do a job; raise EOFError or OSError if it is gone."""
        level = logging.getLogger("dwiml").getEffectiveLevel()
        try:
            self._connection.send((job.function, job.item, job.index, level))
            outcome: Outcome = self._connection.recv()
        except (EOFError, OSError):
            raise
        except Exception as error:
            # What pickle cannot handle.
            return Outcome(job.index, error=error)
        return outcome

    def _failure(self, work: str | None) -> ResourceError:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            how = "was killed (SIGKILL), usually by the system because the memory is full"
        elif code < 0:
            how = f"was ended by a signal ({signal.Signals(-code).name})"
        else:
            how = f"ended with exit code {code}; its own messages are above"
        which = "A process that was being started" if work is None else f"The process that worked on {work}"
        return ResourceError(f"{which} {how}; {_ADVICE}.", WORKER)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, *(signal.Signals[name] for name in ENDING)])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Kept(logging.Handler):
    """Keeps log records, for the other process."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args, record.exc_info = record.getMessage(), None, None
        self.records.append(record)


def serve() -> None:
    """Do the work that comes through a connection, until it is closed; the program of a worker."""
    connection, lifeline = Connection(int(sys.argv[2])), int(sys.argv[3])
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    logger, kept = logging.getLogger("dwiml"), _Kept()
    logger.addHandler(kept)
    logger.propagate = False
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_KILLED_FIRST)
    with suppress(OSError):
        connection.send(None)
    while True:
        try:
            function, item, index, level = connection.recv()
        except (EOFError, OSError):
            return
        logger.setLevel(level)
        kept.records = []
        outcome = _done(function, item, index)
        outcome.messages = kept.records
        outcome.error = _sendable(outcome.error)
        try:
            connection.send(outcome)
        except OSError:
            # The other process is gone.
            return


def _done(function: Callable[[Any], Any], item: Any, index: int) -> Outcome:
    try:
        return Outcome(index, function(item))
    except Exception as error:
        return Outcome(index, error=error, is_bad_input=is_bad_input(error))


def is_bad_input(error: BaseException) -> bool:
    """Return whether an error is that a file is invalid or missing, and not that memory or the disk is full."""
    kinds = (ValueError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
    return isinstance(error, kinds) and not isinstance(error.__cause__, MemoryError)


def _sendable(error: Exception | None) -> Exception | None:
    if error is None:
        return None
    if isinstance(error, _EXPLAINED):
        with suppress(Exception):
            # Its own bytes: an error whose class cannot be rebuilt from its arguments would be lost on the way.
            pickle.loads(pickle.dumps(error))
            return error
    # The traceback of an unexpected error, which would be lost.
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return RuntimeError(f"{type(error).__name__}: {error}\n\nIn another process:\n{text}")


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)
