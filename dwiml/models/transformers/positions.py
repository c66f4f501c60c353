"""Encodings of the position of a point in its streamline."""

from __future__ import annotations

import torch
from torch import Tensor

POSITIONAL_ENCODINGS = ("sinusoidal", "rotary")

_BASE = 10_000.0


def sinusoidal(positions: Tensor, size: int) -> Tensor:
    """Return the sinusoidal encoding of positions.

    Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762, section 3.5.

    Parameters
    ----------
    positions
        Shape (N,), int64: number of each point in its streamline, from 0.
    size
        Number of columns: sines in the even ones, cosines in the odd ones.

    Returns
    -------
    Tensor
        Shape (N, size), float64.
    """
    angles = _angles(positions, size)
    encoding = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
    return encoding[:, :size]


def rotation(positions: Tensor, size: int) -> Tensor:
    """Return the cosines and sines by which :func:`rotated` rotates.

    Parameters
    ----------
    positions
        Shape (N,), int64: number of each point in its streamline, from 0.
    size
        Number of columns of a head (D); even.

    Returns
    -------
    Tensor
        Shape (N, 2, 1, D / 2), float64.
    """
    angles = _angles(positions, size)
    return torch.stack([angles.cos(), angles.sin()], dim=1)[:, :, None]


def rotated(heads: Tensor, rotations: Tensor) -> Tensor:
    """Rotate each pair of columns of queries or keys by an angle proportional to the position.

    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, arXiv:2104.09864, section 3.2: the
    product of a query and a key then depends on the distance between their positions.

    Parameters
    ----------
    heads
        Shape (N, H, D): queries or keys.
    rotations
        What :func:`rotation` returned, (N, 2, 1, D / 2), in the dtype to compute in.

    Returns
    -------
    Tensor
        Shape (N, H, D), in the dtype of ``heads``.
    """
    cosines, sines = rotations.unbind(1)
    even, odd = heads[..., 0::2], heads[..., 1::2]
    pairs = torch.stack([even * cosines - odd * sines, even * sines + odd * cosines], dim=-1)
    return pairs.flatten(-2).to(heads.dtype)


def _angles(positions: Tensor, size: int) -> Tensor:
    """Return position / 10000 ** (2 i / size) for each pair i of columns, (N, ceil(size / 2))."""
    # float32 would lose 1e-4 rad at position 1000.
    pairs = torch.arange(0, size, 2, dtype=torch.float64, device=positions.device)
    return positions[:, None] * _BASE ** (-pairs / size)
