"""Standardization of volumes: ``(x - mean) / std``, with mean and std computed in a mask, applied to all voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

FEW_VOXELS = 30
"""With fewer voxels than this, the mean and the standard deviation are unreliable."""
# Tolerance for accumulated rounding, relative to the largest value: a smaller standard deviation is not a signal in
# float32.
_ROUNDING = 8 * float(np.finfo(np.float32).eps)


def non_zero_voxels(data: Volume) -> Mask:
    """Return the voxels (X, Y, Z) where at least one feature of ``data`` (X, Y, Z, F) is not 0."""
    mask: Mask = (data != 0).any(axis=-1)
    return mask


@dataclass
class StandardizationReport:
    """What a user should be warned about after a standardization.

    Attributes
    ----------
    constant
        Features that are constant in the mask, up to float32 rounding. Their mean was subtracted, without dividing by
        a standard deviation.
    fewest_voxels
        Smallest number of voxels used to compute a mean and a standard deviation; None if nothing was standardized.
    """

    constant: list[slice] = field(default_factory=list)
    fewest_voxels: int | None = None


def standardize(data: Volume, kind: str, features_per_file: Sequence[int], mask: Mask | None) -> StandardizationReport:
    """Standardize a volume in place: ``(x - mean) / std``.

    Parameters
    ----------
    data
        Shape (X, Y, Z, F), float32, finite: the files, concatenated on the last axis.
    kind
        ``"all"``: one mean and standard deviation for all features together; ``"independent"``: one for each feature;
        ``"per_file"``: one for each file; ``"none"``: no standardization.
    features_per_file
        Number of features of each file; their sum is F.
    mask
        Shape (X, Y, Z), bool: the voxels used to compute the mean and the standard deviation. If None, the non-zero
        voxels of the group are used, or, with ``"per_file"``, the non-zero voxels of each file.

    Returns
    -------
    StandardizationReport
        What the user should be warned about.

    Raises
    ------
    ValueError
        If the mask has fewer than two voxels.
    """
    report = StandardizationReport()
    if kind == "none":
        return report
    if mask is None and kind != "per_file":
        mask = non_zero_voxels(data)
    for features in _blocks(kind, features_per_file):
        block = data[..., features]
        inside = non_zero_voxels(block) if mask is None else mask
        nb_voxels = int(np.count_nonzero(inside))
        if not nb_voxels:
            raise ValueError("there is no voxel to compute the mean and the std from (empty mask, or only zeros)")
        if nb_voxels == 1:
            raise ValueError("there is only one voxel to compute the mean and the std from; give a larger mask")
        report.fewest_voxels = min(report.fewest_voxels or nb_voxels, nb_voxels)
        if not _standardize_block(block, inside):
            report.constant.append(features)
    return report


def _blocks(kind: str, features_per_file: Sequence[int]) -> list[slice]:
    """Return the slices of features that share one mean and one standard deviation."""
    total = sum(features_per_file)
    sizes = {"all": [total], "independent": [1] * total, "per_file": list(features_per_file)}[kind]
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _standardize_block(block: Volume, mask: Mask) -> bool:
    """Standardize (X, Y, Z, B) in place with one mean and one std; return whether the values in the mask vary.

    They vary if their standard deviation exceeds the float32 rounding of the largest value. Features are processed one
    at a time in float64, because a whole group in float64 could exceed the memory.
    """
    nb_features = block.shape[-1]
    means, variances, lows, highs = np.zeros((4, nb_features))
    for k in range(nb_features):
        values = block[..., k][mask].astype(np.float64)
        means[k], variances[k], lows[k], highs[k] = values.mean(), values.var(), values.min(), values.max()
    mean = means.mean()
    # Law of total variance: all features have the same number of values.
    std = np.sqrt(np.mean(variances + (means - mean) ** 2))
    varies = bool(std > _ROUNDING * max(abs(lows.min()), abs(highs.max())))
    std = std if varies else 1.0
    for k in range(nb_features):
        block[..., k] = (block[..., k].astype(np.float64) - mean) / std
    return varies
