"""Worker processes of the batch loader: the signals that they ignore, and clear errors when one fails."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import multiprocessing.queues
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

SEND_FAILED = 100
"""A worker that could not send a batch exits with this code plus the error number of the system."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that only the main process handles."""

_WORKER_ERROR = re.compile(r"^'?Caught (\w+) in DataLoader worker process \d+\.")
_WORKER_DEATH = re.compile(r"^DataLoader worker \(pid.* exited unexpectedly")
_EXIT_CODE_TIMEOUT_S = 1.0
_RETRY_DELAY_S = 0.05
_TORCH_HANDLER = "torch.utils.data._utils.signal_handling"
# Functions (module, name) that wait for a worker: an error may be raised in them at any moment.
_WAITING = {("selectors", "select"), ("multiprocessing.connection", "_recv"), ("threading", "wait")}


def ignore_stop_signals(worker_id: int) -> None:
    """Make a worker ignore the signals that stop a training: SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2.

    A ``worker_init_fn`` for ``torch.utils.data.DataLoader``. Ctrl-C, ``scancel`` and SLURM's time limit send their
    signal to all processes of a job. The main process then finishes its step and writes a checkpoint, for which it may
    need one more batch; the death of a worker would be an error.

    A worker still ends with its loader, within 5 seconds of the death of the main process (torch's watchdog), and at
    the exit of the main process (:func:`kill_workers_at_exit`). The signals also end a worker that has not called this
    function yet: during a few milliseconds after a fork, or during the seconds of its imports after a spawn.

    Parameters
    ----------
    worker_id
        Given by torch; not used.

    Notes
    -----
    A worker that cannot send its batch (no more open files, full shared memory) exits with a code that states the
    reason; :class:`WorkerFailures` converts it to an error.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # By default the error is only printed, and the main process waits forever for the batch.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_exit_send_failed)  # type: ignore[attr-defined]


def _exit_send_failed(error: BaseException, batch: object) -> None:
    os._exit(SEND_FAILED + error_number(error))


def error_number(error: BaseException) -> int:
    """Return the error number of the system, from the message if torch gives it only there; 0 if there is none."""
    number = getattr(error, "errno", None)
    found = re.search(r"\((\d{1,2})\)\s*$", str(error))
    return number if isinstance(number, int) else int(found.group(1)) if found else 0


@functools.cache
def kill_workers_at_exit() -> None:
    """Kill the remaining workers when this process exits, before multiprocessing waits for them forever.

    Necessary for workers that use :func:`ignore_stop_signals`. Later calls have no effect.
    """
    # Exit functions run in reverse order; multiprocessing registered its own when it was imported.
    atexit.register(_kill_remaining_workers, os.getpid())


def _kill_remaining_workers(owner: int) -> None:
    if os.getpid() != owner:
        # This process was forked later: the workers belong to its parent.
        return
    remaining = [
        child for child in multiprocessing.active_children() if child.daemon and _ignores_stop_signals(child.pid)
    ]
    if remaining:
        # torch's handler would raise an error for each killed worker.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in remaining:
        child.kill()


def _ignores_stop_signals(pid: int | None) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return False
    found = re.search(r"^SigIgn:\s*([0-9a-f]+)", status, re.MULTILINE)
    ignored = int(found.group(1), 16) if found else 0
    return all(ignored >> (number - 1) & 1 for number in STOP_SIGNALS)


class WorkerFailures:
    """Reports the failure of a worker clearly, and only while a batch is awaited.

    - An error in a worker is raised with its original class and message.
    - The death of a worker is raised only in :meth:`awaiting`. torch raises it from its SIGCHLD handler, which may
      interrupt an optimizer step or the writing of a checkpoint, or in the callback of a weak reference, where Python
      prints and ignores it.
    - If a worker could not send its batch, the error states the reason given by the system.

    Parameters
    ----------
    batches
        A torch ``DataLoader``, with or without workers.
    """

    def __init__(self, batches: Any) -> None:
        # Persistent workers, which may have died between two epochs.
        self._iterator: Any = getattr(batches, "_iterator", None)
        self._handler: Callable[[int, FrameType | None], Any] | None = None
        self._can_raise = self._is_pending = False
        self._retry: threading.Timer | None = None

    def watch(self, iterator: Any) -> None:
        """Watch the workers of an iterator over the batches, if it has any.

        torch's handler, which its first iterator with workers installs, is replaced until :meth:`close`.
        """
        self._iterator = iterator
        handler = signal.getsignal(signal.SIGCHLD)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and callable(handler) and getattr(handler, "__module__", "") == _TORCH_HANDLER:
            self._handler = handler
            signal.signal(signal.SIGCHLD, self._on_signal)

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """Explain the errors in this context, and raise that of a worker that died before it.

        Raises
        ------
        RuntimeError, OSError
            If a worker died; :func:`dwiml.failures.resource_error` converts these to an error that advises the user.
        """
        self._can_raise = True
        try:
            if self._is_pending and self._handler is not None:
                self._is_pending = False
                self._handler(signal.SIGCHLD, None)
            yield
        except Exception as error:
            self._can_raise = False
            explained = _original_error(error) or _death_error(error, self._iterator)
            _kill_workers(self._iterator)
            if explained is None:
                raise
            raise explained from error
        finally:
            self._can_raise = False

    def close(self) -> None:
        """Restore torch's handler."""
        if self._retry is not None:
            self._retry.cancel()
        if self._handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, self._handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._can_raise and self._handler is not None and _is_waiting(frame):
            self._is_pending = False
            self._handler(number, frame)
            return
        self._is_pending = True
        if self._can_raise:
            # The main process would wait forever for a worker that died while sending: repeat the signal.
            self._retry = threading.Timer(_RETRY_DELAY_S, os.kill, (os.getpid(), number))
            self._retry.daemon = True
            self._retry.start()


def _is_waiting(frame: FrameType | None) -> bool:
    return frame is not None and (frame.f_globals.get("__name__"), frame.f_code.co_name) in _WAITING


def _kill_workers(iterator: Any) -> None:
    """Kill the remaining workers now: Python would take ten seconds for each at its exit."""
    workers = list(getattr(iterator, "_workers", []))
    with suppress(Exception):
        iterator._shutdown_workers()
    for worker in workers:
        # torch uses terminate(), which has no effect on workers that ignore SIGTERM.
        if worker.is_alive():
            worker.kill()


def _original_error(error: Exception) -> Exception | None:
    """Return the original error of a worker, from the text that torch makes of it; None for any other error."""
    text = str(error.args[0]) if error.args else ""
    caught = _WORKER_ERROR.match(text)
    if caught is None:
        return None
    kind = caught.group(1)
    # The message follows the name of the class, on the last line of the traceback that starts with that name.
    found = list(re.finditer(rf"^(?:[\w.]+\.)?{kind}(?:: |$)", text, re.MULTILINE))
    message = text[found[-1].end() :].strip() if found else text
    # The traceback shows the repr of a KeyError's message.
    if kind == "KeyError" and len(message) > 1 and message[0] == message[-1] and message[0] in "'\"":
        message = message[1:-1]
    try:
        return type(error)(message)
    except Exception:
        return RuntimeError(message)


def _death_error(error: Exception, iterator: Any) -> Exception | None:
    """Return an error that states how a worker died (by a signal, or unable to send its batch), if torch's does not.

    A worker that dies while its batch is received causes a connection error before its exit code is known.
    """
    is_reported, is_broken = bool(_WORKER_DEATH.match(str(error))), isinstance(error, (EOFError, OSError))
    deadline = time.monotonic() + _EXIT_CODE_TIMEOUT_S
    while is_reported or is_broken:
        for worker in getattr(iterator, "_workers", []):
            code = worker.exitcode
            if code is not None and code < 0:
                name = signal.strsignal(-code)
                return RuntimeError(f"DataLoader worker (pid {worker.pid}) is killed by signal: {name}.")
            if code is not None and code > SEND_FAILED:
                return OSError(code - SEND_FAILED, os.strerror(code - SEND_FAILED), "/dev/shm")
            if code:
                return RuntimeError(f"DataLoader worker (pid {worker.pid}) exited unexpectedly")
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)
    return None
