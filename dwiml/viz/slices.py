"""Slices of images along the axes of rasmm space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import map_coordinates

from dwiml.files import check_file
from dwiml.files.images import open_numbers, read_voxels, readable
from dwiml.tractograms.grid import Grid

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]

AXES = "xyz"
# Letters at the lower and upper ends of each rasmm axis.
ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
# Maximal number of pixels along a side; otherwise, the pixel size is half of the voxel size.
_MAX_PIXELS = 1000
# Percentiles of the values of an image that are displayed in black and white.
_WINDOW = (1.0, 99.5)


@dataclass(frozen=True)
class View:
    """The orientation of a slice in rasmm space (x to the right, y to the front, z up), and the direction of view.

    Attributes
    ----------
    name
        ``"axial"``, ``"coronal"`` or ``"sagittal"``.
    axes
        The axes that point to the right and up in the figure: left is left (neurological convention).
    across
        The axis perpendicular to the slice, along which it is viewed.
    nearest
        1 if larger coordinates on this axis are nearer to the viewer, -1 if they are farther.
    seen
        Position of the viewer, in words.
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
    """An image whose slices are drawn behind streamlines.

    Attributes
    ----------
    data
        Shape (X, Y, Z), float32.
    affine
        Shape (4, 4), float64: from voxel space (center origin) to rasmm.
    """

    data: Floats
    affine: Doubles

    @classmethod
    def from_file(cls, path: str | Path, volume: int | None = None) -> Background:
        """Read an image.

        Parameters
        ----------
        path
            A 3D or 4D image in a format that nibabel reads.
        volume
            Index of the volume along the fourth axis, from 0. None: the first volume.

        Returns
        -------
        Background

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the image is damaged, is not 3D or 4D, or does not have this volume.
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
            data = read_voxels(image, label, dtype=np.float32, volume=(volume or 0) if len(shape) == 4 else None)
        return cls(data, grid.affine)

    def box(self) -> tuple[Doubles, Doubles]:
        """Return the bounding box of the voxels that are not black (see :meth:`window`), or of all if all are black.

        Returns
        -------
        lowest, highest
            Shape (3,), float64, rasmm: opposite corners of the box, which contains whole voxels.
        """
        light = self.data > self.window()[0]
        if not light.any():
            light = np.ones(self.data.shape, dtype=bool)
        # The extreme voxels in any direction are at the ends of rows.
        x, y = np.nonzero(light.any(axis=2))
        rows = light[x, y]
        ends = [rows.argmax(axis=1), rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1)]
        voxels = np.concatenate([np.stack([x, y, z], axis=1) for z in ends])
        centers = voxels @ self.affine[:3, :3].T + self.affine[:3, 3]
        half_voxel = np.abs(self.affine[:3, :3]).sum(axis=1) / 2
        return centers.min(axis=0) - half_voxel, centers.max(axis=0) + half_voxel

    def to_voxels(self, points: npt.NDArray[Any]) -> Doubles:
        """Transform points (..., 3) from rasmm to voxel space (center origin), float64."""
        inverse = np.linalg.inv(self.affine)
        voxels: Doubles = points @ inverse[:3, :3].T + inverse[:3, 3]
        return voxels

    def contains(self, points: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return whether points, shape (..., 3), rasmm, are inside the image: shape (...), bool."""
        voxels = self.to_voxels(points)
        inside = (voxels >= -0.5) & (voxels <= np.array(self.data.shape) - 0.5)
        return np.asarray(inside.all(axis=-1))

    def window(self) -> tuple[float, float]:
        """Return the values that are displayed in black and in white, from percentiles of the finite values."""
        finite = self.data[np.isfinite(self.data)]
        if not finite.size:
            return 0.0, 1.0
        low, high = np.percentile(finite, _WINDOW).tolist()
        if low == high:
            low, high = float(finite.min()), float(finite.max())
        return (low, high) if high > low else (low, low + 1.0)


def resample_slice(
    background: Background, view: View, position: float
) -> tuple[Floats, tuple[float, float, float, float]]:
    """Resample an image on a slice along the rasmm axes, whatever the orientation of its own axes.

    Parameters
    ----------
    background
        The image.
    view
        The orientation of the slice.
    position
        Coordinate of the slice on the axis perpendicular to it, rasmm.

    Returns
    -------
    pixels
        Shape (H, W), float32: values at the centers of the pixels, by trilinear interpolation, with the lowest row
        first; NaN outside of the image.
    extent
        Left, right, bottom and top edges of the pixels, rasmm.
    """
    lowest, highest = background.box()
    step = float(np.linalg.norm(background.affine[:3, :3], axis=0).min()) / 2
    sides = (highest - lowest)[list(view.axes)]
    step = max(step, float(sides.max()) / _MAX_PIXELS)
    counts = np.ceil(sides / step - 1e-6).astype(int)
    right, up = (lowest[axis] + step * (np.arange(count) + 0.5) for axis, count in zip(view.axes, counts, strict=True))
    points = np.empty((len(up), len(right), 3))
    points[..., view.axes[0]] = right
    points[..., view.axes[1]] = up[:, None]
    points[..., view.across] = position
    pixels = map_coordinates(
        background.data, np.moveaxis(background.to_voxels(points), -1, 0), order=1, mode="nearest", output=np.float32
    )
    pixels[~background.contains(points)] = np.nan
    left, bottom = lowest[list(view.axes)].tolist()
    return pixels, (left, left + step * len(right), bottom, bottom + step * len(up))
