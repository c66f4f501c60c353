"""The voxel grid that all of a subject's files share."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.ops.spaces import voxel_sizes_of

# Headers round an affine in different ways; a twentieth of a voxel at the grid's farthest corner is no other space.
_TOLERANCE_VOXELS = 0.05


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

    def check_same(self, other: Grid, subject: str) -> None:
        """Check that another file of the subject is on this grid.

        Raises
        ------
        ValueError
            When shapes differ, or affines put a corner of the grid in places more than a twentieth of a voxel apart.
        """
        pair = f"Subject '{subject}': '{self.source}' and '{other.source}'"
        if self.shape != other.shape:
            raise ValueError(
                f"{pair} have unlike grids, {self.shape} and {other.shape} voxels; resample one to the other."
            )
        corners = np.array(list(itertools.product(*[(-0.5, size - 0.5) for size in self.shape])))
        difference = self.affine - other.affine
        apart = np.linalg.norm(corners @ difference[:3, :3].T + difference[:3, 3], axis=1).max()
        if apart > _TOLERANCE_VOXELS * self.voxel_sizes.min():
            raise ValueError(
                f"{pair} have unlike affines, up to {apart:.3g} mm apart; bring them to one space and grid."
            )
