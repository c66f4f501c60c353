"""Random numbers as a function of what they are for, so that no order of calls changes them."""

from __future__ import annotations

import secrets
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_GOLDEN, _MIX_1, _MIX_2 = (word - 2**64 for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class BatchKey:
    """Which batch this is: with the seed, all that its random draws may depend on.

    Attributes
    ----------
    phase
        ``"training"``, ``"validation"`` or ``"testing"``.
    epoch, batch_index
        From 0.
    first, total
        Of the batch's ``total`` streamlines, those from number ``first`` on are here: the share of one of several
        processes. A total of None: all of them.
    """

    phase: str
    epoch: int
    batch_index: int
    first: int = 0
    total: int | None = None


def keyed_generator(seed: int, *key: int | str) -> np.random.Generator:
    """Return the generator that belongs to a seed and a key, for instance (epoch, batch index, purpose).

    Two different keys give independent streams, the same key always the same one, in any process. Counter-based:
    Philox (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3"), seeded through a SeedSequence.

    Parameters
    ----------
    seed
        A non-negative integer.
    *key
        Non-negative integers or short texts.
    """
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=words)
    return np.random.Generator(np.random.Philox(sequence))


def keyed_uniform(seed: int, keys: Tensor, counter: int) -> Tensor:
    """Return, for each key, a number that is a function of (seed, key, counter) only, on the keys' device.

    SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators"): each key has a stream of
    its own, whose start is a hash of seed and key, and ``counter`` is the place in it.

    Parameters
    ----------
    seed
        A non-negative integer.
    keys
        Shape (N,), int64.
    counter
        From 0; less than 2**32.

    Returns
    -------
    Tensor
        Shape (N,), float64, uniform in [0, 1).
    """
    start = _mixed(_mixed(torch.full_like(keys, seed) + _GOLDEN) ^ keys)
    words = _mixed(start + torch.full_like(keys, counter + 1) * _GOLDEN)
    return _shifted(words, 11).to(torch.float64) * 2.0**-53


def _mixed(words: Tensor) -> Tensor:
    """Return each word of 64 bits in another place, so that neighbours end far apart."""
    words = (words ^ _shifted(words, 30)) * _MIX_1
    words = (words ^ _shifted(words, 27)) * _MIX_2
    mixed: Tensor = words ^ _shifted(words, 31)
    return mixed


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Shift signed words to the right as if they had no sign."""
    shifted: Tensor = (words >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def draw_seed() -> int:
    """Return a seed from the system's entropy, for a run that was given none."""
    return secrets.randbelow(2**31)


def check_seed(seed: int | None) -> int | None:
    """Return a seed that generators accept.

    Raises
    ------
    ValueError
        When it is no integer from 0 to 2**63 - 1.
    """
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be an integer from 0 to 2**63 - 1, or None to draw one, got {seed!r}.")
    return int(seed)
