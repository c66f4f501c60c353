"""Batches from a loader's workers to the model's device, and what became of workers that give none."""

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
from dwiml.batching.workers import UNSENT
from dwiml.ops.sequences import TensorSequence

Batch = TypeVar("Batch")

_CAUGHT = re.compile(r"^'?Caught (\w+) in DataLoader worker process \d+\.")
_DEAD = re.compile(r"^DataLoader worker \(pid.* exited unexpectedly")
_SECONDS_TO_SEE_A_DEATH = 1.0
_TORCH_HANDLER = "torch.utils.data._utils.signal_handling"
# The functions in which a worker is waited for: they can be left by an error at any moment.
_WAITING = {("selectors", "select"), ("multiprocessing.connection", "_recv"), ("threading", "wait")}
_SECONDS_TO_ASK_AGAIN = 0.05


def delivered(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Give the batches of a loader, and tell in plain words why there are no more.

    - An error of a worker is raised as it was there, of the same class and with its own sentence.
    - That a worker has died is told where its batch is waited for. torch tells it from a signal handler, in the middle
      of whatever is running: a step of the optimizer, or the writing of a checkpoint.
    - A worker that could not send its batch is told with the reason of the system.

    Parameters
    ----------
    batches
        A torch ``DataLoader``, with workers or without.

    Raises
    ------
    RuntimeError, OSError
        When a worker died; :func:`dwiml.failures.resource_error` knows what to do.
    """
    iterator, deaths = None, _Deaths()
    try:
        while True:
            try:
                with deaths.told():
                    # Starts the workers, and the first time torch's handler.
                    iterator = iterator or iter(batches)
                    deaths.take_over()
                    batch = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                # Workers that are kept may have died between two epochs.
                started = iterator or getattr(batches, "_iterator", None)
                explained = _own_error(error) or _death(error, started)
                _end_workers(started)
                if explained is None:
                    raise
                raise explained from error
            yield batch
    finally:
        deaths.give_back()


def on_device(
    batches: Iterable[tuple[TensorSequence, BatchSlices]], device: torch.device
) -> Iterator[tuple[TensorSequence, BatchSlices]]:
    """Give batches on a device.

    To a GPU they go from page-locked memory on a stream of their own: the copy of a batch overlaps with the step
    before, which the GPU is still working at when the next batch is asked for. Nothing waits on the host.

    Parameters
    ----------
    batches
        On the CPU, in ordinary memory.
    device
        The model's.
    """
    if device.type != "cuda":
        for streamlines, ids_per_subj in delivered(batches):
            yield streamlines.to(device), ids_per_subj.to(device)
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for streamlines, ids_per_subj in delivered(batches):
        with torch.cuda.stream(copying):
            streamlines = streamlines.pin_memory().to(device, non_blocking=True)
            ids_per_subj = ids_per_subj.pin_memory().to(device, non_blocking=True)
        working = torch.cuda.current_stream(device)
        working.wait_stream(copying)
        for tensor in (streamlines.data, *ids_per_subj.data_per_streamline.values()):
            # Its memory may be used again only once the work that reads it is done.
            tensor.record_stream(working)
        yield streamlines, ids_per_subj


class _Deaths:
    """Holds back torch's handler of SIGCHLD until it may raise.

    It may where a worker's answer is waited for. Elsewhere an error would cut a step in two, or be lost: what is raised
    in the callback of a weak reference is printed by Python and forgotten.
    """

    def __init__(self) -> None:
        self._tell: Callable[[int, FrameType | None], Any] | None = None
        self._is_awaited = self._held_back = False
        self._again: threading.Timer | None = None

    def take_over(self) -> None:
        handler = signal.getsignal(signal.SIGCHLD)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and callable(handler) and getattr(handler, "__module__", "") == _TORCH_HANDLER:
            self._tell = handler
            signal.signal(signal.SIGCHLD, self._handle)

    def give_back(self) -> None:
        if self._again is not None:
            self._again.cancel()
        if self._tell is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, self._tell)

    @contextmanager
    def told(self) -> Iterator[None]:
        self._is_awaited = True
        try:
            if self._held_back and self._tell is not None:
                self._held_back = False
                self._tell(signal.SIGCHLD, None)
            yield
        finally:
            self._is_awaited = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_awaited and self._tell is not None and _is_waiting(frame):
            self._held_back = False
            self._tell(number, frame)
            return
        self._held_back = True
        if self._is_awaited:
            # A worker that died while it sent is waited for without end.
            self._again = threading.Timer(_SECONDS_TO_ASK_AGAIN, os.kill, (os.getpid(), number))
            self._again.daemon = True
            self._again.start()


def _is_waiting(frame: FrameType | None) -> bool:
    return frame is not None and (frame.f_globals.get("__name__"), frame.f_code.co_name) in _WAITING


def _end_workers(iterator: Any) -> None:
    """End the workers that are left now: when Python finds them later, each takes ten seconds."""
    workers = list(getattr(iterator, "_workers", []))
    with suppress(Exception):
        iterator._shutdown_workers()
    for worker in workers:
        # torch's own terminate() does not reach those that leave signals to the main process.
        if worker.is_alive():
            worker.kill()


def _own_error(error: Exception) -> Exception | None:
    """Return the error that a worker had, from torch's account of it; None for any other error."""
    text = str(error.args[0]) if error.args else ""
    caught = _CAUGHT.match(text)
    if caught is None:
        return None
    kind = caught.group(1)
    # The last line of the traceback that begins with the error's class, and what follows: its message.
    found = list(re.finditer(rf"^(?:[\w.]+\.)?{kind}(?:: |$)", text, re.MULTILINE))
    sentence = text[found[-1].end() :].strip() if found else text
    # KeyError's message is written as repr.
    if kind == "KeyError" and len(sentence) > 1 and sentence[0] == sentence[-1] and sentence[0] in "'\"":
        sentence = sentence[1:-1]
    try:
        return type(error)(sentence)
    except Exception:
        return RuntimeError(sentence)


def _death(error: Exception, iterator: Any) -> Exception | None:
    """Return how a worker died, where torch does not say it: by a signal, or because it could not send its batch.

    A worker that dies while its batch is fetched shows as a connection that is reset, before the system says so.
    """
    is_told, broken = bool(_DEAD.match(str(error))), isinstance(error, (EOFError, OSError))
    deadline = time.monotonic() + _SECONDS_TO_SEE_A_DEATH
    while is_told or broken:
        for worker in getattr(iterator, "_workers", []):
            code = worker.exitcode
            if code is not None and code < 0:
                name = signal.strsignal(-code)
                return RuntimeError(f"DataLoader worker (pid {worker.pid}) is killed by signal: {name}.")
            if code is not None and code > UNSENT:
                return OSError(code - UNSENT, os.strerror(code - UNSENT), "/dev/shm")
            if code:
                return RuntimeError(f"DataLoader worker (pid {worker.pid}) exited unexpectedly")
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)
    return None
