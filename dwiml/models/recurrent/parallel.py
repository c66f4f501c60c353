"""Run the same work on parts of a batch, one thread each."""

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
    """Return ``[work(part) for part in parts]``, computed at the same time.

    Torch's own threads join at the end of every operation. For a loop over time steps of many small operations that is
    thousands of meetings, each of which waits for the slowest thread; on a machine that does anything else besides
    (loader workers, other users) a step was measured to take ten times as long. Here the threads meet once. Torch's
    operations let go of Python's lock, so that they do run at the same time.

    Gradients are not recorded: this is for the inside of an autograd function.
    """
    if len(parts) == 1:
        return [work(parts[0])]
    inference = torch.is_inference_mode_enabled()

    def run(part: Part) -> Result:
        # Both modes belong to a thread.
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
        # Until every thread has been set up.
        for _ in range(nb_threads):
            pool.submit(everyone.wait)
        everyone.wait()
        # A thread's choice is also the default of threads to come: put that back.
        torch.set_num_threads(chosen)
        _pools[key] = pool
    return _pools[key]


def _work_alone() -> None:
    """Have torch use this thread only for what is called in it."""
    # Asking first makes torch set the thread up; later, that would put back the default number.
    torch.get_num_threads()
    torch.set_num_threads(1)
