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
# Without standardization, the mean and the standard deviation are only recorded; this many voxels are enough.
_NB_SAMPLED = 2**16


def non_zero_voxels(data: Volume) -> Mask:
    """Return the voxels (X, Y, Z) where at least one feature of ``data`` (X, Y, Z, F) is not 0."""
    mask: Mask = (data != 0).any(axis=-1)
    return mask


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of the values of a volume in a mask, in the unit of the volume."""

    mean: float
    std: float


@dataclass
class StandardizationReport:
    """The means and standard deviations of a standardization, and what a user should be warned about.

    Attributes
    ----------
    constant
        Features that are constant in the mask, up to float32 rounding. Their mean was subtracted, without dividing by
        a standard deviation.
    fewest_voxels
        Smallest number of voxels used to compute a mean and a standard deviation; None if nothing was standardized.
    applied
        What was subtracted, and what the values were divided by (1 if they are constant): one for all features, for
        each feature, or for each file, as the kind of standardization says. Empty if nothing was standardized.
    files
        Statistics of all features of each file before the standardization, in the same voxels. If nothing is
        standardized: in at most 65 536 evenly spaced non-zero voxels of the file. None for a file of zeros.
    features
        Statistics of each feature after the standardization, in the same voxels; None for those of a file of zeros.
    """

    constant: list[slice] = field(default_factory=list)
    fewest_voxels: int | None = None
    applied: list[Statistics] = field(default_factory=list)
    files: list[Statistics | None] = field(default_factory=list)
    features: list[Statistics | None] = field(default_factory=list)


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
        The means and standard deviations, and what the user should be warned about.

    Raises
    ------
    ValueError
        If the mask has fewer than two voxels.
    """
    report = StandardizationReport()
    files = _blocks("per_file", features_per_file)
    if kind == "none":
        for features in files:
            pooled, of_features = _sampled_statistics(data[..., features])
            report.files.append(pooled)
            report.features += of_features
        return report
    if mask is None and kind != "per_file":
        mask = non_zero_voxels(data)
    statistics = _FeatureStatistics(data.shape[-1])
    for features in files:
        block = data[..., features]
        inside = non_zero_voxels(block) if mask is None else mask
        nb_voxels = int(np.count_nonzero(inside))
        if not nb_voxels:
            raise ValueError("there is no voxel to compute the mean and the std from (empty mask, or only zeros)")
        if nb_voxels == 1:
            raise ValueError("there is only one voxel to compute the mean and the std from; give a larger mask")
        report.fewest_voxels = min(report.fewest_voxels or nb_voxels, nb_voxels)
        statistics.compute(block, inside, features)
        report.files.append(statistics.pooled(features))
    for features in _blocks(kind, features_per_file):
        found = statistics.pooled(features)
        if found.std <= _ROUNDING * statistics.largest(features):
            report.constant.append(features)
            found = Statistics(found.mean, 1.0)
        report.applied.append(found)
        report.features += statistics.after(found, features)
        for k in range(features.start, features.stop):
            # One feature at a time, because a whole group in float64 could exceed the memory.
            data[..., k] = (data[..., k].astype(np.float64) - found.mean) / found.std
    return report


def _blocks(kind: str, features_per_file: Sequence[int]) -> list[slice]:
    """Return the slices of features that share one mean and one standard deviation."""
    total = sum(features_per_file)
    sizes = {"all": [total], "independent": [1] * total, "per_file": list(features_per_file)}[kind]
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


class _FeatureStatistics:
    """Statistics of each feature within its mask, in float64, from which those of several features are computed."""

    def __init__(self, nb_features: int) -> None:
        self._means, self._variances, self._lows, self._highs = np.zeros((4, nb_features))

    def compute(self, block: Volume, mask: Mask, features: slice) -> None:
        """Compute the statistics of the features of a block (X, Y, Z, B)."""
        for number, k in enumerate(range(features.start, features.stop)):
            values = block[..., number][mask].astype(np.float64)
            self._means[k], self._variances[k] = values.mean(), values.var()
            self._lows[k], self._highs[k] = values.min(), values.max()

    def pooled(self, features: slice) -> Statistics:
        """Return the statistics of several features together, by the law of total variance.

        All of them must have the same number of values.
        """
        means, variances = self._means[features], self._variances[features]
        mean = means.mean()
        return Statistics(float(mean), float(np.sqrt(np.mean(variances + (means - mean) ** 2))))

    def after(self, applied: Statistics, features: slice) -> list[Statistics | None]:
        """Return the statistics of each of some features after the mean and the std of `applied` were applied."""
        means = (self._means[features] - applied.mean) / applied.std
        stds = np.sqrt(self._variances[features]) / applied.std
        return [Statistics(float(mean), float(std)) for mean, std in zip(means, stds, strict=True)]

    def largest(self, features: slice) -> float:
        """Return the largest absolute value of some features."""
        return float(max(abs(self._lows[features].min()), abs(self._highs[features].max())))


def _sampled_statistics(data: Volume) -> tuple[Statistics | None, list[Statistics | None]]:
    """Return the statistics of (X, Y, Z, F) in at most :data:`_NB_SAMPLED` evenly spaced non-zero voxels.

    First those of all features together, then those of each feature.
    """
    voxels = np.flatnonzero(non_zero_voxels(data))
    voxels = voxels[:: max(1, -(-len(voxels) // _NB_SAMPLED))]
    if not len(voxels):
        return None, [None] * data.shape[-1]
    values = data[np.unravel_index(voxels, data.shape[:3])].astype(np.float64)
    each = [Statistics(float(column.mean()), float(column.std())) for column in values.T]
    return Statistics(float(values.mean()), float(values.std())), list(each)
