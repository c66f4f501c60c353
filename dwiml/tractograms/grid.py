"""The voxel grid that all of a subject's files share, and how two grids are compared."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.files import check_file
from dwiml.files.images import open_image
from dwiml.ops.spaces import voxel_order_of, voxel_sizes_of

GRID_TOLERANCE_VOXELS = 0.05
"""Largest distance, in voxels, between the corners of two grids that count as the same (headers round affines)."""
HOW_TO_RESAMPLE = (
    "for instance with nibabel.processing.resample_from_to (masks and labels: order=0) or MRtrix's 'mrgrid A.nii.gz "
    "regrid -template B.nii.gz OUT.nii.gz' (masks and labels: -interp nearest)"
)


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid of voxels in scanner space.

    Attributes
    ----------
    affine : (4, 4) float64
        From voxel indices (center origin) to rasmm.
    shape
        Number of voxels along x, y and z.
    source
        The file that the grid was read from, used in error messages.

    Raises
    ------
    ValueError
        If the affine does not have shape (4, 4), is not finite or not invertible, or if its axes are not orthogonal;
        if the shape does not have three numbers.
    """

    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    source: str | Path = ""

    def __post_init__(self) -> None:
        affine = np.asarray(self.affine, dtype=np.float64)
        voxel_sizes_of(affine)
        if len(self.shape) != 3 or not all(map(_is_finite, self.shape)):
            raise ValueError(f"The shape of a grid must have three numbers of voxels, got {self.shape}.")
        x, y, z = (int(size) for size in self.shape)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", (x, y, z))

    @classmethod
    def from_header(cls, affine: ArrayLike, shape: Any, source: Path) -> Grid:
        """Return the grid described by the header of a file.

        Parameters
        ----------
        affine : (4, 4)
            From voxel indices (center origin) to rasmm.
        shape
            Number of voxels along x, y and z.
        source
            The file.

        Raises
        ------
        ValueError
            If the affine or the shape is invalid; the message names the file.
        """
        try:
            return cls(np.asarray(affine, dtype=np.float64), tuple(shape), source)
        except ValueError as error:
            raise ValueError(f"The header of '{source}' is wrong: {error}") from error

    @property
    def voxel_sizes(self) -> NDArray[np.float64]:
        """Shape (3,), float64, mm."""
        return voxel_sizes_of(self.affine)

    @property
    def voxel_order(self) -> str:
        """Anatomical directions of the voxel axes, for example ``RAS``."""
        return voxel_order_of(self.affine)

    def difference(self, other: Grid) -> str:
        """Describe how another grid differs from this one.

        Two grids are the same if they have the same shape and if the two affines place each corner of the volume
        within :data:`GRID_TOLERANCE_VOXELS` times the smallest voxel size of each other.

        Returns
        -------
        str
            Empty if the grids are the same; otherwise ``"different shapes, (10, 12, 8) and (10, 12, 9) voxels"`` or
            ``"different affines, up to 1.5 mm apart"``.
        """
        if self.shape != other.shape:
            return f"different shapes, {self.shape} and {other.shape} voxels"
        apart = self.affine - other.affine
        corners = np.array(list(itertools.product(*[(-0.5, size - 0.5) for size in self.shape])))
        farthest = np.linalg.norm(corners @ apart[:3, :3].T + apart[:3, 3], axis=1).max()
        if farthest > GRID_TOLERANCE_VOXELS * self.voxel_sizes.min():
            return f"different affines, up to {farthest:.3g} mm apart"
        return ""

    def check_same(self, other: Grid, label: str) -> None:
        """Check that another file is on this grid (see :meth:`difference`).

        Parameters
        ----------
        other
            The grid of the other file.
        label
            Start of the error message.

        Raises
        ------
        ValueError
            If the grids differ.
        """
        difference = self.difference(other)
        if difference:
            raise ValueError(
                f"{label}: '{self.source}' and '{other.source}' have {difference}. Images in one space: "
                f"resample one to the grid of the other, {HOW_TO_RESAMPLE}; in different spaces, register them first. "
                "A tractogram: save it with the header of the image that it belongs to."
            )


def read_image_grid(path: str | Path) -> Grid:
    """Return the voxel grid of an image, without reading its voxels.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is damaged or not an image, or has fewer than three axes.
    """
    image = open_image(check_file(path, "The image"), "The image")
    if len(image.shape) < 3:
        raise ValueError(f"The image '{path}' has shape {image.shape}; three axes or more are expected.")
    return Grid.from_header(image.affine, image.shape[:3], Path(path))


def _is_finite(size: Any) -> bool:
    return isinstance(size, (int, float, np.integer, np.floating)) and math.isfinite(size)
