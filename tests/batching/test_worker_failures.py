"""Errors in the workers of a loader, and the report of their death."""

from __future__ import annotations

import os
import signal
import sys
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from dwiml.batching.fetcher import iterate_batches
from dwiml.batching.workers import SEND_FAILED, ignore_stop_signals
from dwiml.failures import FILES, WORKER, resource_error


class Numbers(Dataset[torch.Tensor]):
    """The numbers 0 to 7; at item 4 it calls a function of the test."""

    def __init__(self, at_four: Any = None) -> None:
        self.at_four = at_four

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 4 and self.at_four is not None:
            self.at_four()
        return torch.tensor(index)


def loader(at_four: Any = None, nb_workers: int = 2) -> DataLoader[torch.Tensor]:
    return DataLoader(
        Numbers(at_four),
        batch_size=None,
        num_workers=nb_workers,
        worker_init_fn=ignore_stop_signals if nb_workers else None,
    )


def fail(error: BaseException) -> Any:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("nb_workers", [0, 2])
def test_batches_are_unchanged(nb_workers: int) -> None:
    assert [int(batch) for batch in iterate_batches(loader(nb_workers=nb_workers))] == list(range(8))
    assert list(iterate_batches([1, 2])) == [1, 2]


class OwnError(ValueError):
    """An exception class of a user."""


@pytest.mark.parametrize("nb_workers", [0, 2])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("Subject 'a' holds NaN: in 'x'."), "Subject 'a' holds NaN: in 'x'."),
        (OwnError("Two lines:\nthe second."), "Two lines:\nthe second."),
        (KeyError("fodf"), "'fodf'"),
        (FileNotFoundError("'data.hdf5' was not found."), "'data.hdf5' was not found."),
        (MemoryError(), ""),
    ],
)
def test_a_workers_error_keeps_its_class_and_message(error: Exception, message: str, nb_workers: int) -> None:
    got = []
    with pytest.raises(type(error)) as caught:
        got.extend(int(batch) for batch in iterate_batches(loader(fail(error), nb_workers)))
    assert type(caught.value) is type(error)
    assert str(caught.value) == message
    assert nb_workers == 0 or "Original Traceback" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("at_four", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed (SIGKILL)"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), "SIGBUS"),
        (lambda: os._exit(3), "ended for an unknown reason"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_workers_death_is_reported(at_four: Any, words: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        list(iterate_batches(loader(at_four)))
    failure = resource_error(caught.value)
    assert failure is not None
    assert failure.kind == WORKER
    assert words in str(failure)


def test_a_worker_that_cannot_send_gives_the_reason() -> None:
    with pytest.raises(OSError, match="Too many open files") as caught:
        list(iterate_batches(loader(lambda: os._exit(SEND_FAILED + 24))))
    assert getattr(resource_error(caught.value), "kind", None) == FILES


class Unsendable:
    """Fails in the thread that sends it, after which torch would wait forever."""

    def __reduce__(self) -> Any:
        raise OSError(24, "Too many open files")


class SendsNothing(Numbers):
    def __getitem__(self, index: int) -> Any:
        return Unsendable() if index == 4 else torch.tensor(index)


def test_a_batch_that_cannot_be_sent_is_not_waited_for() -> None:
    batches = DataLoader(SendsNothing(), batch_size=None, num_workers=2, worker_init_fn=ignore_stop_signals)
    start = time.monotonic()
    with pytest.raises(OSError, match="Too many open files"):
        list(iterate_batches(batches))
    assert time.monotonic() - start < 15


def test_a_death_is_reported_between_steps_and_never_within_one() -> None:
    batches: Iterator[torch.Tensor] = iterate_batches(loader())
    next(batches)
    workers = batches.gi_frame.f_locals["iterator"]._workers  # type: ignore[attr-defined]
    os.kill(workers[0].pid, signal.SIGKILL)
    workers[0].join(10)
    # torch would raise here, in the middle of a step.
    time.sleep(0.2)
    with pytest.raises(RuntimeError, match="killed by signal: Killed"):
        list(batches)


class Released:
    """An object that supports weak references."""


class KillsWithinACallback:
    """Kills a worker of a loader while the callback of a weak reference runs, where Python ignores exceptions."""

    def __init__(self) -> None:
        self.batches = loader(lambda: time.sleep(1))
        self._iterator: Any = None

    def __iter__(self) -> KillsWithinACallback:
        self._iterator = iter(self.batches)
        return self

    def __next__(self) -> torch.Tensor:
        released = Released()
        reference = weakref.ref(released, self._kill)
        del released
        assert reference() is None
        batch: torch.Tensor = next(self._iterator)
        return batch

    def _kill(self, reference: object) -> None:
        os.kill(self._iterator._workers[0].pid, signal.SIGKILL)
        # No join(): torch's handler sees only workers whose exit code was not collected yet.
        time.sleep(0.2)

    def _shutdown_workers(self) -> None:
        self._iterator._shutdown_workers()

    @property
    def _workers(self) -> Any:
        return self._iterator._workers


def test_a_death_within_a_callback_is_reported_once() -> None:
    unraisable: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", unraisable.append)
        with pytest.raises(RuntimeError, match="killed by signal: Killed"):
            list(iterate_batches(KillsWithinACallback()))
    assert not unraisable
