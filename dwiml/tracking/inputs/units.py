"""Compare the values of the input of tracking with those of the training: other units, other maps, other features."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwiml.hdf5.schema import FILE, FILES_FOUND, MEAN, STD

if TYPE_CHECKING:
    from dwiml.hdf5.inputs.standardization import Statistics

logger = logging.getLogger(__name__)

# Subjects of one scanner differ by less; other units, or images that are divided by the b=0 image or not, by more.
FACTOR_OF_STD = 3.0
"""A standard deviation is far if it differs from all of the training by more than this factor."""
STDS_OF_MEAN = 3.0
"""A mean is far if it is more than this many standard deviations from all of the training."""
ROUNDING = 1e-3
"""Tolerance for rounding, relative to the largest mean, for values that are constant in the mask."""


def warn_of_other_units(
    images: Sequence[str | Path], statistics: Sequence[Statistics | None], entry: Mapping[str, Any], *, of: str = ""
) -> bool:
    """Warn of images with a mean or a standard deviation that is far from those of the training subjects.

    The standard deviation is far if it is more than three times the largest one of the training, or less than a third
    of the smallest one; the mean, if it is more than three standard deviations (the largest of the training) above the
    largest mean or below the smallest one.

    Parameters
    ----------
    images
        The names of the input images, in the order of the training.
    statistics
        The mean and standard deviation of each image, before the standardization; None for an image of zeros.
    entry
        The entry of the group in the recorded groups config; see
        :func:`dwiml.hdf5.stored.provenance.recorded_config`. Without the statistics of the training, nothing is
        compared.
    of
        Whose images they are, for the message, such as ``" of subject 'sub-07'"``.

    Returns
    -------
    bool
        Whether there was a warning.
    """
    trained, warned = entry.get(FILES_FOUND) or [], False
    if len(trained) != len(images):
        return False
    for image, found, each in zip(images, statistics, trained, strict=True):
        known = _recorded(each)
        if known is None or found is None:
            continue
        means, stds = known
        if _is_far(found, means, stds):
            warned = True
            logger.warning(
                "'%s'%s has a mean of %.3g and a standard deviation of %.3g; in the training, '%s' had means of %s and "
                "standard deviations of %s. Check the units and the normalization of the image.",
                *(image, of, found.mean, found.std, each[FILE], _shown(means), _shown(stds)),
            )
    return warned


def _recorded(each: Mapping[str, Any]) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Return the ranges of means and of standard deviations of a file, if ``parameters.json`` has them."""
    try:
        (low_mean, high_mean), (low_std, high_std) = each[MEAN], each[STD]
        return (float(low_mean), float(high_mean)), (float(low_std), float(high_std))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _is_far(found: Statistics, means: tuple[float, float], stds: tuple[float, float]) -> bool:
    rounding = ROUNDING * max(abs(means[0]), abs(means[1]))
    margin = STDS_OF_MEAN * stds[1] + rounding
    is_far_mean = not means[0] - margin <= found.mean <= means[1] + margin
    is_far_std = not stds[0] / FACTOR_OF_STD - rounding <= found.std <= stds[1] * FACTOR_OF_STD + rounding
    return is_far_mean or is_far_std


def _shown(limits: tuple[float, float]) -> str:
    low, high = (f"{limit:.3g}" for limit in limits)
    return low if low == high else f"{low} to {high}"
