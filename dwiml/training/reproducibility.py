"""The same results each time: torch's random generators (dropout and whatever a model draws) and algorithms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Have torch use deterministic algorithms within the block, where it is wanted."""
    if not wanted:
        yield
        return
    # cuBLAS reads it when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def seed_generators(seed: int, rank: int) -> None:
    """Seed torch's generators, each rank with another seed."""
    torch.manual_seed((seed + rank) % 2**63)


def generators_state(device: torch.device) -> dict[str, Any]:
    """Return the state of the generators of the CPU and of a device."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


@contextmanager
def generators_as_they_were(state: dict[str, Any], device: torch.device) -> Iterator[None]:
    """Have the generators, within the block, in a state that :func:`generators_state` returned before."""
    now = generators_state(device)
    restore_generators([state], rank=0, seed=0, device=device)
    try:
        yield
    finally:
        restore_generators([now], rank=0, seed=0, device=device)


def restore_generators(states: list[dict[str, Any]], *, rank: int, seed: int, device: torch.device) -> None:
    """Put the generators where they were.

    Parameters
    ----------
    states
        One for each rank of the run that was stopped. A rank that had no part in it starts from the seed.
    rank, seed, device
        Of this process.
    """
    if rank >= len(states):
        seed_generators(seed, rank)
        return
    torch.set_rng_state(states[rank]["cpu"])
    if device.type == "cuda" and states[rank]["cuda"] is not None:
        torch.cuda.set_rng_state(states[rank]["cuda"], device)
