"""Reproducibility: the state of torch's random generators, and deterministic algorithms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Make torch use deterministic algorithms within the block, if `wanted`."""
    if not wanted:
        yield
        return
    # cuBLAS reads this variable when it is first used.
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
    """Seed torch's generators, with a different seed in each rank."""
    torch.manual_seed((seed + rank) % 2**63)


def generators_state(device: torch.device) -> dict[str, Any]:
    """Return the state of torch's generators of the CPU and of a device."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


@contextmanager
def temporary_generators(state: dict[str, Any], device: torch.device) -> Iterator[None]:
    """Set the generators, within the block, to a state that :func:`generators_state` returned."""
    now = generators_state(device)
    restore_generators([state], rank=0, seed=0, device=device)
    try:
        yield
    finally:
        restore_generators([now], rank=0, seed=0, device=device)


def restore_generators(states: list[dict[str, Any]], *, rank: int, seed: int, device: torch.device) -> None:
    """Restore the state of the generators.

    Parameters
    ----------
    states
        One state for each rank of the stopped run. A rank beyond these starts from the seed.
    rank, seed, device
        Rank, seed and device of this process.
    """
    if rank >= len(states):
        seed_generators(seed, rank)
        return
    torch.set_rng_state(states[rank]["cpu"])
    if device.type == "cuda" and states[rank]["cuda"] is not None:
        torch.cuda.set_rng_state(states[rank]["cuda"], device)
