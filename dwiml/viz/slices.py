"""Planes of the scanner's space, and what an image holds on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import map_coordinates

from dwiml.files import check_file
from dwiml.files.images import check_image_end, open_numbers, readable
from dwiml.tractograms.grid import Grid

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]

AXES = "xyz"
# What is at the lower and at the upper end of each axis of the scanner.
ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
# Pixels are half a voxel; along one side there are no more than these.
_MOST_PIXELS = 1000
# Of an image's values: those that are black and white.
_WINDOW = (1.0, 99.5)


@dataclass(frozen=True)
class View:
    """A plane of the scanner's space (rasmm: mm to the right, to the front, up), and how it is looked at.

    Attributes
    ----------
    name
        As users call it.
    axes
        The axes that go to the right and up in the figure: left is left (neurological convention).
    across
        The axis that is looked along.
    nearest
        1 where what has the larger coordinate on it is nearer to the eye, -1 where it is farther.
    seen
        From where.
    """

    name: str
    axes: tuple[int, int]
    across: int
    nearest: int
    seen: str


VIEWS = {
    view.name: view
    for view in (
        View("axial", (0, 1), 2, 1, "from above"),
        View("coronal", (0, 2), 1, -1, "from behind"),
        View("sagittal", (1, 2), 0, 1, "from the right"),
    )
}


@dataclass(frozen=True)
class Background:
    """An image to see slices of.

    Attributes
    ----------
    data
        Shape (X, Y, Z), float32.
    affine
        Shape (4, 4), float64: from voxel indices (center origin) to rasmm.
    """

    data: Floats
    affine: Doubles

    @classmethod
    def from_file(cls, path: str | Path, volume: int | None = None) -> Background:
        """Read the image to see slices of.

        Parameters
        ----------
        path
            What nibabel reads, of 3 or 4 axes.
        volume
            Which one of the fourth axis, from 0; None: the first.

        Raises
        ------
        FileNotFoundError, ValueError
            When it is missing, damaged, or has no such volume.
        """
        label = "The background"
        path = check_file(path, label)
        image = open_numbers(path, label)
        shape = image.shape
        grid = Grid.from_header(image.affine, shape[:3], path)
        nb_volumes = shape[3] if len(shape) == 4 else 1
        if not 0 <= (volume or 0) < nb_volumes:
            raise ValueError(f"background_volume must be from 0 to {nb_volumes - 1} in '{path}', got {volume}.")
        with readable(path, label):
            data = np.asarray(image.dataobj[..., volume or 0] if len(shape) == 4 else image.dataobj, dtype=np.float32)
            check_image_end(image, label)
        return cls(data, grid.affine)

    def box(self) -> tuple[Doubles, Doubles]:
        """Return the lowest and the highest corner of the scanner's box around the image, (3,) each, rasmm.

        Around its voxels that are not black (see :meth:`window`), where there are any.
        """
        light = self.data > self.window()[0]
        if not light.any():
            light = np.ones(self.data.shape, dtype=bool)
        # Of a row of voxels, one of its ends is the farthest in any direction.
        x, y = np.nonzero(light.any(axis=2))
        rows = light[x, y]
        ends = [rows.argmax(axis=1), rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1)]
        voxels = np.concatenate([np.stack([x, y, z], axis=1) for z in ends])
        centers = voxels @ self.affine[:3, :3].T + self.affine[:3, 3]
        half_voxel = np.abs(self.affine[:3, :3]).sum(axis=1) / 2
        return centers.min(axis=0) - half_voxel, centers.max(axis=0) + half_voxel

    def voxels_of(self, points: npt.NDArray[Any]) -> Doubles:
        """Return the voxel coordinates (..., 3), center origin, of points (..., 3) in rasmm."""
        inverse = np.linalg.inv(self.affine)
        voxels: Doubles = points @ inverse[:3, :3].T + inverse[:3, 3]
        return voxels

    def contains(self, points: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which of the points (..., 3), rasmm, are in a voxel of the image, (...)."""
        voxels = self.voxels_of(points)
        inside = (voxels >= -0.5) & (voxels <= np.array(self.data.shape) - 0.5)
        return np.asarray(inside.all(axis=-1))

    def window(self) -> tuple[float, float]:
        """Return the values that are black and white."""
        finite = self.data[np.isfinite(self.data)]
        if not finite.size:
            return 0.0, 1.0
        low, high = np.percentile(finite, _WINDOW).tolist()
        if low == high:
            low, high = float(finite.min()), float(finite.max())
        return (low, high) if high > low else (low, low + 1.0)


def slice_of(background: Background, view: View, position: float) -> tuple[Floats, tuple[float, float, float, float]]:
    """Return what an image holds on a plane of the scanner, whatever the image's own axes.

    Parameters
    ----------
    background
        The image.
    view
        The plane.
    position
        Where it is on the axis that is looked along, mm.

    Returns
    -------
    pixels
        Shape (H, W), float32: trilinear values at the pixels' centres, the lowest row first; NaN outside of the image.
    extent
        Left, right, bottom and top edge of the pixels, mm.
    """
    lowest, highest = background.box()
    step = float(np.linalg.norm(background.affine[:3, :3], axis=0).min()) / 2
    sides = (highest - lowest)[list(view.axes)]
    step = max(step, float(sides.max()) / _MOST_PIXELS)
    counts = np.ceil(sides / step - 1e-6).astype(int)
    right, up = (lowest[axis] + step * (np.arange(count) + 0.5) for axis, count in zip(view.axes, counts, strict=True))
    points = np.empty((len(up), len(right), 3))
    points[..., view.axes[0]] = right
    points[..., view.axes[1]] = up[:, None]
    points[..., view.across] = position
    pixels = map_coordinates(
        background.data, np.moveaxis(background.voxels_of(points), -1, 0), order=1, mode="nearest", output=np.float32
    )
    pixels[~background.contains(points)] = np.nan
    left, bottom = lowest[list(view.axes)].tolist()
    return pixels, (left, left + step * len(right), bottom, bottom + step * len(up))
