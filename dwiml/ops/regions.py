"""Find the region of a point: a bloc of a volume that is divided into equal boxes, or a label of a label volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

NO_REGION = -1
"""The value for a point that is in no region."""


@dataclass(frozen=True)
class BlocRegions:
    """A volume divided into equal boxes, called blocs as in dwi_ml.

    The bloc at (i, j, k) is region ``(i * by + j) * bz + k``, as in ``numpy.arange(bx * by * bz).reshape(bx, by, bz)``.
    It covers the coordinates from ``i * X / bx`` to ``(i + 1) * X / bx``, excluding the latter. The size of a bloc need
    not be a whole number of voxels.

    Attributes
    ----------
    shape
        (X, Y, Z): number of voxels of the volume along each axis.
    nb_blocs
        (bx, by, bz): number of blocs along each axis.

    Raises
    ------
    ValueError
        If a number is not an integer of at least 1.
    """

    shape: tuple[int, int, int]
    nb_blocs: tuple[int, int, int]

    def __post_init__(self) -> None:
        for name, sizes in (("The volume's shape", self.shape), ("The number of blocs", self.nb_blocs)):
            if len(sizes) != 3 or min(sizes) < 1:
                raise ValueError(f"{name} must be three whole numbers of at least 1, got {tuple(sizes)}.")

    @property
    def nb_regions(self) -> int:
        """The number of blocs."""
        x, y, z = (int(nb) for nb in self.nb_blocs)
        return x * y * z

    def of_points(self, points: Any) -> NDArray[np.int64]:
        """Return the region of each point.

        Parameters
        ----------
        points : array or tensor of shape (S, 3)
            Voxel space, corner origin, in voxels.

        Returns
        -------
        array of shape (S,), int64
            :data:`NO_REGION` for a point outside the volume, or with NaN.
        """

        def lookup(inside: NDArray[np.float64]) -> NDArray[np.int64]:
            blocs = np.array(self.nb_blocs, dtype=np.int64)
            # Multiply first: points on the edge of a bloc are then exact if the edge is at a whole number of voxels.
            index = (inside * blocs / np.array(self.shape)).astype(np.int64)
            # A coordinate just below the end of the volume may be rounded up to it.
            x, y, z = np.minimum(index, blocs - 1).T
            return np.asarray((x * blocs[1] + y) * blocs[2] + z, dtype=np.int64)

        return _where_inside(points, self.shape, lookup)

    def name(self, region: int) -> str:
        """Return the name of a region: its number, from 0."""
        return str(region)


@dataclass(frozen=True, eq=False)
class LabelRegions:
    """The regions of a label volume: region i contains the voxels of the i-th smallest label other than 0.

    Attributes
    ----------
    index
        Shape (X, Y, Z), int32: the region of each voxel; :data:`NO_REGION` if its label is 0.
    values
        Shape (n,), int64: the label of each region, ascending.
    """

    index: NDArray[np.int32]
    values: NDArray[np.int64]

    @classmethod
    def from_volume(cls, labels: ArrayLike) -> LabelRegions:
        """Create the regions of a label volume.

        Parameters
        ----------
        labels : array of shape (X, Y, Z)
            Non-negative integers; 0 is no region.

        Raises
        ------
        ValueError
            If the shape is wrong, a label is not a non-negative integer or is too large, or all labels are 0.
        """
        volume = np.asarray(labels)
        if volume.ndim == 4 and volume.shape[3] == 1:
            volume = volume[..., 0]
        if volume.ndim != 3:
            raise ValueError(f"Labels must be one volume, of shape (X, Y, Z), got shape {volume.shape}.")
        found, inverse = np.unique(volume, return_inverse=True)
        whole = np.isfinite(found) & (found >= 0) & (found == np.floor(found)) if found.dtype.kind in "fiub" else False
        if not np.all(whole):
            wrong = found[~np.broadcast_to(whole, found.shape)][0]
            raise ValueError(f"Labels must be whole numbers, 0 (no region) or more, got {wrong}.")
        if len(found) and float(found[-1]) >= 2**53:
            raise ValueError(f"Labels must be below 2^53, got {found[-1]}.")
        values = found[found != 0].astype(np.int64)
        if not len(values):
            raise ValueError("All labels are 0, so there is no region; at least one other label is expected.")
        # If there are labels of 0, they come first.
        shift = len(found) - len(values)
        index = inverse.reshape(volume.shape).astype(np.int32) - np.int32(shift)
        return cls(index, values)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z): number of voxels of the volume along each axis."""
        x, y, z = self.index.shape
        return x, y, z

    @property
    def nb_regions(self) -> int:
        """The number of labels that are not 0."""
        return len(self.values)

    @property
    def has_background(self) -> bool:
        """Whether some voxels have label 0, which is no region."""
        return bool((self.index == NO_REGION).any())

    def of_points(self, points: Any) -> NDArray[np.int64]:
        """Return the region of each point: that of the voxel that contains it, ``floor(point)``.

        Parameters
        ----------
        points : array or tensor of shape (S, 3)
            Voxel space, corner origin, in voxels.

        Returns
        -------
        array of shape (S,), int64
            :data:`NO_REGION` for a point on label 0, outside the volume, or with NaN.
        """

        def lookup(inside: NDArray[np.float64]) -> NDArray[np.int64]:
            x, y, z = inside.astype(np.int64).T
            return np.asarray(self.index[x, y, z], dtype=np.int64)

        return _where_inside(points, self.shape, lookup)

    def name(self, region: int) -> str:
        """Return the name of a region: its label."""
        return str(self.values[region])


Regions = BlocRegions | LabelRegions


def _where_inside(
    points: Any, shape: tuple[int, int, int], lookup: Callable[[NDArray[np.float64]], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Look up the points inside the volume; points outside or with NaN are in no region."""
    given = as_points(points).astype(np.float64)
    inside = ((given >= 0) & (given < np.array(shape))).all(axis=1)
    found = np.full(len(given), NO_REGION, dtype=np.int64)
    found[inside] = lookup(given[inside])
    return found


def as_points(points: Any) -> NDArray[Any]:
    """Convert points, an array or a tensor on any device, to an array.

    Raises
    ------
    ValueError
        If its shape is not (S, 3).
    """
    # A tensor may be on a GPU or need gradients; torch is not imported for arrays.
    array = points.detach().cpu().numpy() if hasattr(points, "detach") else np.asarray(points)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"Points must have shape (S, 3), got {array.shape}.")
    return np.asarray(array)
