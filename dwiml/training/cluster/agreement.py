"""Comparison of states between the processes that train together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from dwiml.training.cluster.ranks import Ranks


def differing_states(ranks: Ranks, states: Mapping[str, Any]) -> list[str]:
    """Return the names of the states that are not the same in all processes; all ranks call it.

    Parameters
    ----------
    ranks
        The processes.
    states
        States of this process, by name: numbers, strings, tensors, and lists and dictionaries of them. All processes
        have the same names. Only digests are exchanged.

    Raises
    ------
    ResourceError
        If another rank has ended or does not respond.
    """
    if ranks.alone:
        return []
    first, *others = ranks.gather({name: digest_of(state) for name, state in states.items()})
    return [name for name in first if any(other.get(name) != first[name] for other in others)]


def digest_of(state: Any) -> str:
    """Return the SHA-256 digest of a state; two states have the same one if they have the same types and values.

    Parameters
    ----------
    state
        Numbers, strings, tensors, and lists, tuples, sets and dictionaries of them. The order of a set or of a
        dictionary, and the device of a tensor, make no difference. NaN is equal to itself.
    """
    return _digest(state).hex()


def _digest(state: Any) -> bytes:
    parts: list[bytes]
    if isinstance(state, Mapping):
        parts = sorted(_digest(key) + _digest(value) for key, value in state.items())
    elif isinstance(state, (set, frozenset)):
        parts = sorted(map(_digest, state))
    elif isinstance(state, (list, tuple)):
        parts = list(map(_digest, state))
    elif isinstance(state, torch.Tensor) and state.layout is torch.strided and not state.is_quantized:
        parts = [f"{state.dtype} {tuple(state.shape)}".encode(), _bytes_of(state)]
    else:
        parts = [repr(state).encode(errors="backslashreplace")]
    digest = hashlib.sha256(type(state).__name__.encode())
    for part in parts:
        digest.update(part)
    return digest.digest()


def _bytes_of(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().reshape(-1)
    return flat.contiguous().view(torch.uint8).numpy().tobytes()
