"""The voxel grid that all of a subject's files share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.ops.spaces import grid_difference, voxel_sizes_of

HOW_TO_RESAMPLE = (
    "for instance with nibabel.processing.resample_from_to (masks and labels: order=0) or MRtrix's 'mrgrid A.nii.gz "
    "regrid -template B.nii.gz OUT.nii.gz' (masks and labels: -interp nearest)"
)


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid of voxels in the scanner's space.

    Attributes
    ----------
    affine
        Shape (4, 4), float64: from voxel indices (origin at the first voxel's centre) to rasmm.
    shape
        Number of voxels along x, y and z.
    source
        The file that it was read from.
    """

    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    source: Path

    @classmethod
    def from_header(cls, affine: ArrayLike, shape: Any, source: Path) -> Grid:
        """Check what a header says.

        Raises
        ------
        ValueError
            When the affine has no inverse, or holds NaN; the message names the file.
        """
        matrix = np.asarray(affine, dtype=np.float64)
        try:
            voxel_sizes_of(matrix)
        except ValueError as error:
            raise ValueError(f"The header of '{source}' is wrong: {error}") from error
        x, y, z = (int(size) for size in shape)
        return cls(matrix, (x, y, z), source)

    @property
    def voxel_sizes(self) -> NDArray[np.float64]:
        """Shape (3,), mm."""
        return voxel_sizes_of(self.affine)

    @property
    def voxel_order(self) -> str:
        """The directions to which the voxel axes point, for example ``RAS``."""
        from nibabel.orientations import aff2axcodes

        return "".join(aff2axcodes(self.affine))

    def check_same(self, other: Grid, label: str) -> None:
        """Check that another file is on this grid; ``label`` (as ``"Subject 'x'"``) begins the sentence.

        Raises
        ------
        ValueError
            When shapes differ, or affines put a corner of the grid in places more than a twentieth of a voxel apart.
        """
        difference = grid_difference(self.shape, self.affine, other.shape, other.affine)
        if difference:
            raise ValueError(
                f"{label}: '{self.source}' and '{other.source}' have {difference}. Images in one space: "
                f"resample one to the grid of the other, {HOW_TO_RESAMPLE}; in different spaces, register them first. "
                "A tractogram: save it with the header of the image that it belongs to."
            )
