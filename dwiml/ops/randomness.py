"""Random numbers that depend only on their seed and purpose, not on the order of calls."""

from __future__ import annotations

import secrets
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_GOLDEN, _MIX_1, _MIX_2 = (word - 2**64 for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
# Draw i of a step has counter i * _MAX_STEPS + step: no two draws of a streamline share one.
_MAX_STEPS = 2**17


@dataclass(frozen=True)
class BatchKey:
    """The identity of a batch: together with the seed, it determines all random draws of the batch.

    Attributes
    ----------
    phase
        ``"training"``, ``"validation"`` or ``"testing"``.
    epoch, batch_index
        From 0.
    first, total
        With several processes that share a batch: the index of the first streamline of this process, and the
        number of streamlines of the whole batch. None for `total`: this process has all streamlines.
    """

    phase: str
    epoch: int
    batch_index: int
    first: int = 0
    total: int | None = None


def keyed_generator(seed: int, *key: int | str) -> np.random.Generator:
    """Return the random generator of a seed and a key, for instance (epoch, batch index, purpose).

    Different keys give independent streams; the same key gives the same one in any process. The generator is
    counter-based: Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011,
    doi:10.1145/2063384.2063405), seeded through numpy's ``SeedSequence``.

    Parameters
    ----------
    seed
        A non-negative integer.
    *key
        Non-negative integers or short texts.

    Returns
    -------
    numpy.random.Generator
        At the start of its stream.
    """
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=words)
    return np.random.Generator(np.random.Philox(sequence))


@dataclass(frozen=True)
class KeyedDraws:
    """Random numbers of one step of tracking: functions of the seed, the key of each streamline and the step only.

    Attributes
    ----------
    seed
        A non-negative integer.
    keys
        Shape (N,), int64: one key a streamline.
    step
        From 0; less than 2**17.
    """

    seed: int
    keys: Tensor
    step: int

    def uniform(self, i: int) -> Tensor:
        """Return the i-th uniform numbers of the step, (N,), float64, in [0, 1); i is from 0 and less than 2**15."""
        return keyed_uniform(self.seed, self.keys, i * _MAX_STEPS + self.step)

    def normal(self, i: int) -> Tensor:
        """Return standard normal numbers, (N,), float64, from the i-th uniform ones."""
        return standard_normal(self.uniform(i))

    def uniforms(self, nb: int) -> Tensor:
        """Return the first uniform numbers of the step, (N, nb), float64: column i is ``uniform(i)``."""
        counters = torch.arange(nb, device=self.keys.device) * _MAX_STEPS + self.step
        return keyed_uniform(self.seed, self.keys[:, None], counters)


def standard_normal(uniforms: Tensor) -> Tensor:
    """Return standard normal numbers by the inverse distribution function.

    Parameters
    ----------
    uniforms
        Any shape, float64, in [0, 1).

    Returns
    -------
    Tensor
        Same shape, finite: 0 is replaced by the middle of its interval, 2**-54.
    """
    numbers: Tensor = torch.special.ndtri(uniforms.clamp(min=2.0**-54))
    return numbers


def keyed_uniform(seed: int, keys: Tensor, counter: int | Tensor) -> Tensor:
    """Return, for each key, a random number that is a function of (seed, key, counter) only.

    SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014,
    doi:10.1145/2660193.2660195): each key has its own stream, which starts at a hash of seed and key, and ``counter``
    is the position in it.

    Parameters
    ----------
    seed
        A non-negative integer.
    keys
        Shape (N,), int64.
    counter
        From 0; less than 2**32. A tensor, int64, is broadcast with the keys.

    Returns
    -------
    Tensor
        Shape (N,), or that of the broadcast, float64, uniform in [0, 1), on the keys' device.
    """
    counters = torch.full_like(keys, counter) if isinstance(counter, int) else counter
    start = _mixed(_mixed(torch.full_like(keys, seed) + _GOLDEN) ^ keys)
    words = _mixed(start + (counters + 1) * _GOLDEN)
    return _shifted(words, 11).to(torch.float64) * 2.0**-53


def other_keys(keys: Tensor, number: int) -> Tensor:
    """Return other keys, whose draws are independent of those of the given keys and of other numbers.

    Parameters
    ----------
    keys
        Shape (N,), int64.
    number
        From 0; 0 gives the same keys.

    Returns
    -------
    Tensor
        Shape (N,), int64. Different keys stay different.
    """
    return keys if number == 0 else _mixed(keys ^ _mixed(torch.full_like(keys, number)))


def _mixed(words: Tensor) -> Tensor:
    """Apply the 64-bit finalizer of SplitMix64 to each word."""
    words = (words ^ _shifted(words, 30)) * _MIX_1
    words = (words ^ _shifted(words, 27)) * _MIX_2
    mixed: Tensor = words ^ _shifted(words, 31)
    return mixed


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Shift words to the right as unsigned integers."""
    shifted: Tensor = (words >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def draw_seed() -> int:
    """Return a seed from 0 to 2**31 - 1 from the entropy of the system, for a run without a given seed."""
    return secrets.randbelow(2**31)


def check_seed(seed: int | None) -> int | None:
    """Return a checked seed as a Python int, or None for None.

    Raises
    ------
    ValueError
        If it is not an integer from 0 to 2**63 - 1; bool is rejected.
    """
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be an integer from 0 to 2**63 - 1, or None to draw one, got {seed!r}.")
    return int(seed)
