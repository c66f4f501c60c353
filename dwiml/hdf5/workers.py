"""Processes that each do one piece of work at a time, in parallel.

They are started with the Python interpreter, not forked, and do not import the script of the user: a script needs no
``if __name__ == "__main__"``, and threads or open files of this process do no harm.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any

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


class Workers:
    """Up to `nb` processes; a context manager, at whose end they are gone.

    They ignore the signals that end a program, since this process decides, and end with it, even if it is killed.

    Parameters
    ----------
    nb
        Number of processes. With 1, the work is done in this process.

    Raises
    ------
    ValueError, TypeError
        If `nb` is not a whole number above 0.
    """

    def __init__(self, nb: int) -> None:
        self.nb = check_whole("nbr_processes", nb, low=1)
        self._running: list[_Worker] = []
        self._lifeline: tuple[int, int] | None = None

    def start(self) -> Workers:
        """Start processes now, one for each core at most, so that they import while this process does.

        The others are started when it is known how much work there is.
        """
        while len(self._running) < min(self.nb, os.cpu_count() or 1) and self.nb > 1:
            self._start()
        return self

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for worker in self._running:
            worker.end()
        self._running = []
        if self._lifeline is not None:
            for descriptor in self._lifeline:
                os.close(descriptor)
            self._lifeline = None

    def run(
        self, function: Callable[[Any], Any], items: Sequence[Any], name: Callable[[Any], str]
    ) -> Iterator[Outcome]:
        """Call a function for each item, and yield the outcomes as they come.

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
            One for each item, in any order. The messages of a process are logged in this one.

        Raises
        ------
        ResourceError
            If a process was killed.
        """
        if self.nb == 1 or len(items) < 2:
            for index, item in enumerate(items):
                yield _done(function, item, index)
            return
        waiting = list(enumerate(items))[::-1]
        while len(self._running) < min(self.nb, len(items)):
            self._start()
        busy: dict[Any, tuple[_Worker, str]] = {}

        def give_next(worker: _Worker) -> None:
            if waiting:
                index, item = waiting.pop()
                busy[worker.connection] = (worker, name(item))
                # A process that has just been killed is noticed below.
                with suppress(OSError):
                    worker.connection.send((function, item, index, logging.getLogger("dwiml").getEffectiveLevel()))

        for worker in self._running:
            give_next(worker)
        while busy:
            for connection in wait(list(busy)):
                worker, named = busy.pop(connection)
                try:
                    outcome = worker.connection.recv()
                except (EOFError, OSError):
                    raise worker.failure(named) from None
                # Before the caller works on the outcome.
                give_next(worker)
                for record in outcome.messages:
                    logging.getLogger(record.name).handle(record)
                yield outcome

    def _start(self) -> None:
        if self._lifeline is None:
            self._lifeline = os.pipe()
        self._running.append(_Worker(self._lifeline[0]))


class _Worker:
    """One process, and the connection to it."""

    def __init__(self, lifeline: int) -> None:
        self.connection, theirs = Pipe()
        words = [json.dumps([str(folder) for folder in sys.path]), str(theirs.fileno()), str(lifeline)]
        # Blocked signals stay so in the new process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, *(signal.Signals[name] for name in ENDING)])
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _PROGRAM, *words],
                # As many threads as cores in each process would only wait for each other.
                env={**dict.fromkeys(_THREADS, "1"), **os.environ},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lifeline),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    def end(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.wait()

    def failure(self, named: str) -> ResourceError:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            how = "was killed (SIGKILL), usually by the system because the memory is full"
        elif code < 0:
            how = f"was ended by a signal ({signal.Signals(-code).name})"
        else:
            how = f"ended with exit code {code}; its own messages are above"
        return ResourceError(f"The process that worked on {named} {how}; {_ADVICE}.", WORKER)


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
