"""What a mask is, wherever one is taken: a 0/1 image, labels, or a map of probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DEFAULT_THRESHOLD = 0.5
"""Voxels of a map of probabilities are inside if their value is at least this."""
# Interpolating a 0/1 mask with splines gives values a little below 0 and above 1.
_OVERSHOOT = 0.25


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask, and how its image was understood.

    Attributes
    ----------
    inside
        Shape (X, Y, Z), bool.
    probabilities
        Shape (X, Y, Z), float32: the values of a map of probabilities; None for a 0/1 mask or labels.
    note
        A warning for the user when the image is not a 0/1 mask: how it was understood. Empty otherwise.
    """

    inside: NDArray[np.bool_]
    probabilities: NDArray[np.float32] | None = None
    note: str = ""

    @property
    def values(self) -> NDArray[np.float32] | NDArray[np.bool_]:
        """What to interpolate between voxels, shape (X, Y, Z): the probabilities, or what is inside."""
        return self.inside if self.probabilities is None else self.probabilities


def as_mask(values: ArrayLike, name: str, *, threshold: float = DEFAULT_THRESHOLD) -> Mask:
    """Decide which voxels are inside a mask.

    - Values of 0 and one other (1, 255, ...), or a single value: the voxels that are not 0.
    - Several whole numbers, none negative: labels; the voxels that are not 0, with a note.
    - Other values from 0 to 1 (with the overshoot of an interpolation): a map of probabilities; the voxels whose value
      is at least ``threshold``, with a note.

    A map of probabilities in whole numbers (percentages, 0 to 255) looks like labels; the note says to threshold it.

    Parameters
    ----------
    values
        Shape (X, Y, Z).
    name
        How a sentence begins, for instance ``"The mask 'wm.nii.gz'"``.
    threshold
        For maps of probabilities.

    Raises
    ------
    ValueError
        When it is none of these, or holds NaN or infinite values.
    """
    volume = np.asarray(values)
    if volume.dtype == np.bool_ or not volume.size:
        return Mask(volume.astype(bool))
    if volume.dtype.kind == "f":
        # What interpolates the map compares float32 with the threshold.
        volume = volume.astype(np.float32, copy=False)
    low, high = float(volume.min()), float(volume.max())
    if not np.isfinite([low, high]).all():
        count = int(np.count_nonzero(~np.isfinite(volume)))
        raise ValueError(
            f"{name} holds {count} NaN or infinite values, which are neither inside nor outside; set them to 0."
        )
    other = high if high > 0 else low
    if low == high or ((volume == 0) | (volume == other)).all():
        return Mask(volume != 0)
    found = f"values from {low:g} to {high:g}"
    if low >= 0 and (volume.dtype.kind in "iu" or bool((volume == np.rint(volume)).all())):
        note = (
            f"{name} is not a 0/1 mask but holds whole numbers ({found}), which are taken as labels: all non-zero "
            "voxels are inside. If they are percentages or another scale of probabilities, threshold it first."
        )
        return Mask(volume != 0, note=note)
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        raise ValueError(
            f"{name} is not a mask: it has {found}; expected are 0 and 1, labels (whole numbers, none negative), or "
            "probabilities (from 0 to 1). Threshold it first; if it was standardized, use the original mask."
        )
    note = f"{name} is not a 0/1 mask ({found}): voxels of at least {threshold:g} are inside."
    return Mask(volume >= np.float32(threshold), volume.astype(np.float32, copy=False), note)
