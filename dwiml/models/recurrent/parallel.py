"""Parallel computation of the parts of a batch, one thread each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def map_parts(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Return ``[work(part) for part in parts]``, computed in parallel.

    Torch's own threads synchronize at the end of every operation. A loop over time steps has thousands of small
    operations, and each waits for the slowest thread: on a machine with other load (loader workers, other users) a step
    was measured to take ten times as long. Here the threads synchronize once. Torch's operations release Python's lock,
    so that the threads run concurrently.

    Parameters
    ----------
    work
        Function of one part. Gradients are not recorded, because it is called inside an autograd function.
    parts
        The parts, at most one per thread of torch.

    Returns
    -------
    list
        The results, in the order of the parts.
    """
    if len(parts) == 1:
        return [work(parts[0])]
    inference = torch.is_inference_mode_enabled()

    def run(part: Part) -> Result:
        # Both modes are per thread.
        with torch.inference_mode(inference), torch.no_grad():
            return work(part)

    return list(_pool(len(parts)).map(run, parts))


def _pool(nb_threads: int) -> ThreadPoolExecutor:
    # By process: a fork copies the pool, not its threads.
    key = (os.getpid(), nb_threads)
    if key not in _pools:
        chosen = torch.get_num_threads()
        everyone = Barrier(nb_threads + 1)
        pool = ThreadPoolExecutor(nb_threads, "dwiml", initializer=_work_alone)
        # Wait until every thread is set up.
        for _ in range(nb_threads):
            pool.submit(everyone.wait)
        everyone.wait()
        # A thread's choice is also the default of later threads: restore it.
        torch.set_num_threads(chosen)
        _pools[key] = pool
    return _pools[key]


def _work_alone() -> None:
    """Make torch use a single thread for the operations called in this one."""
    # The first call initializes the thread; done later, it would restore the default number.
    torch.get_num_threads()
    torch.set_num_threads(1)
