"""Standardization of volumes: ``(x - mean) / std``, with mean and std computed in a mask and applied everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

FEW_VOXELS = 30
"""Mean and std of fewer voxels than this are hardly those of the subject."""
# In units in the last place of the largest value: tolerance for the rounding that some operations accumulate. A std of
# so few of them leaves no signal in float32.
_ROUNDING = 8 * float(np.finfo(np.float32).eps)


def non_zero_voxels(data: Volume) -> Mask:
    """Return the voxels (X, Y, Z) where at least one feature of ``data`` (X, Y, Z, F) is not 0."""
    mask: Mask = (data != 0).any(axis=-1)
    return mask


@dataclass
class Doubts:
    """What a user should know of a standardization.

    Attributes
    ----------
    constant
        The features that are constant in the mask, up to the rounding of float32: their mean was subtracted, and they
        were divided by 1.
    fewest_voxels
        The smallest number of voxels that a mean and a std were computed from; None when nothing was standardized.
    """

    constant: list[slice] = field(default_factory=list)
    fewest_voxels: int | None = None


def standardize(data: Volume, kind: str, features_per_file: Sequence[int], mask: Mask | None) -> Doubts:
    """Standardize in place.

    Parameters
    ----------
    data
        Shape (X, Y, Z, F), float32, finite: the files, concatenated on the last axis.
    kind
        ``"all"``: one mean and one std for all features together, ``"independent"``: for each feature its own,
        ``"per_file"``: for each file its own, ``"none"``: nothing is done.
    features_per_file
        Number of features of each file; their sum is F.
    mask
        Shape (X, Y, Z): where mean and std are computed. None: the non-zero voxels of the group, or, with
        ``"per_file"``, of each file.

    Returns
    -------
    Doubts
        What the user should be warned of.

    Raises
    ------
    ValueError
        When the mask has no voxel, or one only.
    """
    doubts = Doubts()
    if kind == "none":
        return doubts
    if mask is None and kind != "per_file":
        mask = non_zero_voxels(data)
    for features in _blocks(kind, features_per_file):
        block = data[..., features]
        inside = non_zero_voxels(block) if mask is None else mask
        nb_voxels = int(np.count_nonzero(inside))
        if not nb_voxels:
            raise ValueError("no voxel to compute the mean and the std from (empty mask, or only zeros)")
        if nb_voxels == 1:
            raise ValueError("only one voxel to compute the mean and the std from; give a larger mask")
        doubts.fewest_voxels = min(doubts.fewest_voxels or nb_voxels, nb_voxels)
        if not _standardize_block(block, inside):
            doubts.constant.append(features)
    return doubts


def _blocks(kind: str, features_per_file: Sequence[int]) -> list[slice]:
    """Return the features that share one mean and one std."""
    total = sum(features_per_file)
    sizes = {"all": [total], "independent": [1] * total, "per_file": list(features_per_file)}[kind]
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _standardize_block(block: Volume, mask: Mask) -> bool:
    """Standardize (X, Y, Z, B) in place with one mean and one std; False when the values in the mask do not vary.

    They vary when their std is above the rounding of the largest of them in float32. One feature at a time, in
    float64: a whole group in float64 could be too large for the memory.
    """
    nb_features = block.shape[-1]
    means, variances, lows, highs = np.zeros((4, nb_features))
    for k in range(nb_features):
        values = block[..., k][mask].astype(np.float64)
        means[k], variances[k], lows[k], highs[k] = values.mean(), values.var(), values.min(), values.max()
    mean = means.mean()
    # Each feature has the same number of values, so the variance of all is the mean one plus that of the means.
    std = np.sqrt(np.mean(variances + (means - mean) ** 2))
    varies = bool(std > _ROUNDING * max(abs(lows.min()), abs(highs.max())))
    std = std if varies else 1.0
    for k in range(nb_features):
        block[..., k] = (block[..., k].astype(np.float64) - mean) / std
    return varies
