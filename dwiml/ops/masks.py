"""Interpretation of mask images: 0/1 images, labels, and probability maps, by one rule everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DEFAULT_THRESHOLD = 0.5
"""Voxels of a probability map are inside if their value is at least this."""
# Interpolating a 0/1 mask with splines gives values a little below 0 and above 1.
_OVERSHOOT = 0.25


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask, and how its image was interpreted.

    Attributes
    ----------
    inside
        Shape (X, Y, Z), bool.
    probabilities
        Shape (X, Y, Z), float32, from 0 to 1: the values of a probability map; None for a 0/1 mask or labels.
    note
        A warning for the user when the image is not a 0/1 mask: how it was interpreted. Empty otherwise.
    """

    inside: NDArray[np.bool_]
    probabilities: NDArray[np.float32] | None = None
    note: str = ""

    @property
    def values(self) -> NDArray[np.float32] | NDArray[np.bool_]:
        """The values to interpolate: the probabilities, float32, or the mask, bool; shape (X, Y, Z)."""
        return self.inside if self.probabilities is None else self.probabilities


def as_mask(values: ArrayLike, name: str, *, threshold: float = DEFAULT_THRESHOLD) -> Mask:
    """Decide which voxels are inside a mask.

    - Values of 0 and one other (1, 255, ...), or a single value: the non-zero voxels.
    - Several non-negative integers: labels; the non-zero voxels, with a note.
    - Other values from 0 to 1 (with the overshoot of an interpolation): a probability map; the voxels whose value is at
      least ``threshold``, with a note.

    A probability map in whole numbers (percentages, 0 to 255) looks like labels; the note says to threshold it.

    Parameters
    ----------
    values
        Shape (X, Y, Z), any numeric dtype or bool.
    name
        Start of the note and of the error, for instance ``"The mask 'wm.nii.gz'"``.
    threshold
        Smallest probability, from 0 to 1, of a voxel inside a probability map.

    Returns
    -------
    Mask
        The voxels that are inside, and how the image was interpreted.

    Raises
    ------
    ValueError
        If the image is none of these, or contains NaN or infinite values.
    """
    volume = np.asarray(values)
    if volume.dtype == np.bool_ or not volume.size:
        return Mask(volume.astype(bool))
    if volume.dtype.kind == "f":
        # The interpolated map is compared with the threshold in float32.
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


def border_voxels(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the voxels of a mask that share a face with a voxel outside the mask, or with the edge of the volume.

    Parameters
    ----------
    inside
        Shape (X, Y, Z), bool.

    Returns
    -------
    numpy.ndarray
        Shape (X, Y, Z), bool.
    """
    # Slow to import: a third of the imports of each process that creates an HDF5 file.
    from scipy.ndimage import binary_erosion

    # Its default structuring element has the six neighbors, and the outside of the volume is not in the mask.
    border: NDArray[np.bool_] = inside & ~binary_erosion(inside, border_value=0)
    return border
