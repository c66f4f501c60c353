"""Torch's random generators: dropout and whatever a model draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


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
