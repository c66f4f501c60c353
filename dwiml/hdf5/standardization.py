"""Standardization of volumes: ``(x - mean) / std``, with mean and std computed in a mask and applied everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]


def non_zero_voxels(data: Volume) -> Mask:
    """Return the voxels (X, Y, Z) where at least one feature of ``data`` (X, Y, Z, F) is not 0."""
    mask: Mask = (data != 0).any(axis=-1)
    return mask


def standardize(data: Volume, kind: str, features_per_file: Sequence[int], mask: Mask | None) -> list[slice]:
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
    list of slice
        The features that have a single value in the mask: their mean was subtracted, and they were divided by 1.

    Raises
    ------
    ValueError
        When the mask has no voxel.
    """
    if kind == "none":
        return []
    if mask is None and kind != "per_file":
        mask = non_zero_voxels(data)
    constant = []
    for features in _blocks(kind, features_per_file):
        block = data[..., features]
        inside = non_zero_voxels(block) if mask is None else mask
        if not inside.any():
            raise ValueError("no voxel to compute the mean and the std from (empty mask, or only zeros)")
        if not _standardize_block(block, inside):
            constant.append(features)
    return constant


def _blocks(kind: str, features_per_file: Sequence[int]) -> list[slice]:
    """Return the features that share one mean and one std."""
    total = sum(features_per_file)
    sizes = {"all": [total], "independent": [1] * total, "per_file": list(features_per_file)}[kind]
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _standardize_block(block: Volume, mask: Mask) -> bool:
    """Standardize (X, Y, Z, B) in place with one mean and one std; False when all values in the mask are the same.

    One feature at a time, in float64: a whole group in float64 could be too large for the memory.
    """
    nb_features = block.shape[-1]
    means, variances, lows, highs = np.zeros((4, nb_features))
    for k in range(nb_features):
        values = block[..., k][mask].astype(np.float64)
        means[k], variances[k], lows[k], highs[k] = values.mean(), values.var(), values.min(), values.max()
    mean = means.mean()
    varies = bool(lows.min() < highs.max())
    # Each feature has the same number of values, so the variance of all is the mean one plus that of the means.
    std = np.sqrt(np.mean(variances + (means - mean) ** 2)) if varies else 1.0
    for k in range(nb_features):
        block[..., k] = (block[..., k].astype(np.float64) - mean) / std
    return varies
