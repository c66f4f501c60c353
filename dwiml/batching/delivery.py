"""Transfer of batches from the worker processes to the device of the model, and clear errors when a worker fails."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

import torch

from dwiml.batching.fetcher import BatchSlices
from dwiml.batching.workers import SEND_FAILED
from dwiml.ops.sequences import TensorSequence

Batch = TypeVar("Batch")

_WORKER_ERROR = re.compile(r"^'?Caught (\w+) in DataLoader worker process \d+\.")
_WORKER_DEATH = re.compile(r"^DataLoader worker \(pid.* exited unexpectedly")
_EXIT_CODE_TIMEOUT_S = 1.0
_RETRY_DELAY_S = 0.05
_TORCH_HANDLER = "torch.utils.data._utils.signal_handling"
# Functions (module, name) that wait for a worker: an error may be raised in them at any moment.
_WAITING = {("selectors", "select"), ("multiprocessing.connection", "_recv"), ("threading", "wait")}


def iterate_batches(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches of a loader, and report the failure of a worker clearly.

    - An error in a worker is raised here with its original class and message.
    - The death of a worker is raised only while a batch is awaited. torch raises it from a signal handler, which may
      interrupt an optimizer step or the writing of a checkpoint.
    - If a worker could not send its batch, the error states the reason given by the system.

    Parameters
    ----------
    batches
        A torch ``DataLoader``, with or without workers.

    Raises
    ------
    RuntimeError, OSError
        If a worker died; :func:`dwiml.failures.resource_error` converts these to an error that advises the user.
    """
    iterator, deaths = None, _WorkerDeaths()
    try:
        while True:
            try:
                with deaths.raising():
                    # The first iter() starts the workers and installs torch's handler.
                    iterator = iterator or iter(batches)
                    deaths.install()
                    batch = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                # Persistent workers may have died between two epochs.
                started = iterator or getattr(batches, "_iterator", None)
                explained = _original_error(error) or _death_error(error, started)
                _kill_workers(started)
                if explained is None:
                    raise
                raise explained from error
            yield batch
    finally:
        deaths.uninstall()


def on_device(
    batches: Iterable[tuple[TensorSequence, BatchSlices]], device: torch.device
) -> Iterator[tuple[TensorSequence, BatchSlices]]:
    """Yield batches on a device.

    Batches are copied to a GPU from page-locked memory, on a separate CUDA stream: the copy of a batch overlaps with
    the computation on the previous one. The host never waits for the GPU.

    Parameters
    ----------
    batches
        Streamlines and their slices, on the CPU, in pageable memory. Values, shapes and dtypes do not change.
    device
        Device of the model.

    Raises
    ------
    RuntimeError, OSError
        See :func:`iterate_batches`.
    """
    if device.type != "cuda":
        for streamlines, ids_per_subj in iterate_batches(batches):
            yield streamlines.to(device), ids_per_subj.to(device)
        return
    copy_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for streamlines, ids_per_subj in iterate_batches(batches):
        with torch.cuda.stream(copy_stream):
            streamlines = streamlines.pin_memory().to(device, non_blocking=True)
            ids_per_subj = ids_per_subj.pin_memory().to(device, non_blocking=True)
        compute_stream = torch.cuda.current_stream(device)
        compute_stream.wait_stream(copy_stream)
        for tensor in (streamlines.data, *ids_per_subj.data_per_streamline.values()):
            # The memory must not be reused before the computation that reads it has finished.
            tensor.record_stream(compute_stream)
        yield streamlines, ids_per_subj


class _WorkerDeaths:
    """Delays torch's SIGCHLD handler until it is safe to raise an error.

    It is safe while a worker's answer is awaited. Elsewhere the error would interrupt a training step or be lost:
    Python prints and ignores exceptions raised in the callback of a weak reference.
    """

    def __init__(self) -> None:
        self._handler: Callable[[int, FrameType | None], Any] | None = None
        self._can_raise = self._is_pending = False
        self._retry: threading.Timer | None = None

    def install(self) -> None:
        """Replace torch's handler, if it is installed and this is the main thread."""
        handler = signal.getsignal(signal.SIGCHLD)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and callable(handler) and getattr(handler, "__module__", "") == _TORCH_HANDLER:
            self._handler = handler
            signal.signal(signal.SIGCHLD, self._on_signal)

    def uninstall(self) -> None:
        """Restore torch's handler."""
        if self._retry is not None:
            self._retry.cancel()
        if self._handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, self._handler)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Allow errors in this context; raise immediately if a worker died before it."""
        self._can_raise = True
        try:
            if self._is_pending and self._handler is not None:
                self._is_pending = False
                self._handler(signal.SIGCHLD, None)
            yield
        finally:
            self._can_raise = False

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
