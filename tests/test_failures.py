"""What a machine runs out of, said in one sentence."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from dwiml.failures import FILES, GPU, MEMORY, RANKS, SHARED, WORKER, ResourceError, resource_error
from dwiml.files import open_regular


def raised(make: object) -> BaseException:
    try:
        make()  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError("Nothing was raised.")


def test_memory_as_numpy_and_torch_say_it() -> None:
    for make in (lambda: np.empty(2**50), lambda: torch.empty(2**50)):
        failure = resource_error(raised(make), {MEMORY: "use a smaller batch"})
        assert failure is not None
        assert failure.kind == MEMORY
        assert str(failure).startswith("There is not enough memory (")
        assert str(failure).endswith("; use a smaller batch.")
    assert "8.00 PiB for an array with shape (1125899906842624,)" in str(
        resource_error(raised(lambda: np.empty(2**50)))
    )
    assert "4.5e+06 GB more were requested" in str(resource_error(raised(lambda: torch.empty(2**50))))


def test_the_part_of_dwiml_that_was_at_work_is_named() -> None:
    from dwiml.ops.sequences import TensorSequence

    error = raised(lambda: TensorSequence(torch.zeros(1, 3), torch.full((1,), 2**60)).padded())
    if resource_error(error) is not None:
        assert ", in dwiml.ops.sequences" in str(resource_error(error))
    else:
        assert isinstance(error, (RuntimeError, ValueError))


@contextmanager
def few_open_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_open_files_and_the_sentence_of_a_file_is_left_to_it() -> None:
    with few_open_files():
        error = raised(lambda: os.open("/dev/null", os.O_RDONLY))
        named = raised(lambda: open_regular(__file__, "The mask").__enter__())
    failure = resource_error(error)
    assert failure is not None
    assert failure.kind == FILES
    assert "ulimit -n" in str(failure)
    assert resource_error(named) is None
    assert "The mask" in str(named)
    assert "too many files are open" in str(named)


class OutOfMemoryError(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79 GiB."),
            GPU,
            "The GPU memory is full (2.50 GiB more were requested)",
        ),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), GPU, "The GPU memory is full"),
        (
            RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:2"),
            RANKS,
            "Another process of this training ended",
        ),
        (MemoryError(), MEMORY, "There is not enough memory; "),
        (RuntimeError("received 0 items of ancdata"), FILES, "Too many files are open"),
        (RuntimeError("Too many open files. Communication with the workers"), FILES, "Too many files are open"),
        (
            RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"),
            SHARED,
            "The shared memory (/dev/shm)",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "/dev/shm"), SHARED, "The shared memory (/dev/shm)"),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), WORKER, "was killed (SIGKILL)"),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Bus error. It"), WORKER, "truncated while"),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Aborted."), WORKER, "a signal (Aborted)"),
        (RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"), WORKER, "ended for an unknown reason"),
    ],
)
def test_words_of_torch_and_of_the_system(error: Exception, kind: str, words: str) -> None:
    failure = resource_error(error)
    assert failure is not None
    assert failure.kind == kind
    assert words in str(failure)
    assert resource_error(failure) is failure


@pytest.mark.parametrize(
    "error",
    [
        ValueError("too many open files is what this says"),
        RuntimeError("The size of tensor a (3) must match"),
        OSError(errno.ENOSPC, "No space left on device", "/home/me/out.trk"),
        KeyError("memory"),
    ],
)
def test_other_errors_say_nothing_of_it(error: Exception) -> None:
    assert resource_error(error) is None
    assert not isinstance(error, ResourceError)
