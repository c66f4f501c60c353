"""Where a point lies: in which bloc of a volume cut in equal ones, or on which label of a label volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

NO_REGION = -1
"""The region of a point that is in none."""


@dataclass(frozen=True)
class BlocRegions:
    """The volume cut in equal blocs.

    The bloc at (i, j, k) is region ``(i * by + j) * bz + k``, as in ``numpy.arange(bx * by * bz).reshape(bx, by, bz)``.
    It covers the coordinates from ``i * X / bx`` to ``(i + 1) * X / bx``, the latter left out; a bloc need not hold a
    whole number of voxels.

    Attributes
    ----------
    shape
        (X, Y, Z): voxels of the volume.
    nb_blocs
        (bx, by, bz).
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
            # Multiplied first: a point on the edge of a bloc is exact where the edge is a whole number of voxels.
            index = (inside * blocs / np.array(self.shape)).astype(np.int64)
            # The last number before the volume's end may be rounded up to it.
            x, y, z = np.minimum(index, blocs - 1).T
            return np.asarray((x * blocs[1] + y) * blocs[2] + z, dtype=np.int64)

        return _where_inside(points, self.shape, lookup)

    def name(self, region: int) -> str:
        """Return a region's name: its number, from 0."""
        return str(region)


@dataclass(frozen=True, eq=False)
class LabelRegions:
    """The regions of a label volume: region i is the voxels of the i-th smallest label that is not 0.

    Attributes
    ----------
    index
        Shape (X, Y, Z), int32: the region of each voxel, :data:`NO_REGION` where the label is 0.
    values
        Shape (n,), int64: the label of each region, ascending.
    """

    index: NDArray[np.int32]
    values: NDArray[np.int64]

    @classmethod
    def from_volume(cls, labels: ArrayLike) -> LabelRegions:
        """Make regions of labels, shape (X, Y, Z).

        Raises
        ------
        ValueError
            When labels are not whole numbers from 0 on, or all of them are 0.
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
        values = found[found != 0].astype(np.int64)
        if not len(values):
            raise ValueError("Labels are all 0, which means no region; at least one other label is expected.")
        # Labels of 0 come first where there are any.
        shift = len(found) - len(values)
        index = inverse.reshape(volume.shape).astype(np.int32) - np.int32(shift)
        return cls(index, values)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z): voxels of the volume."""
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
        """Return the region of each point: that of the voxel that holds it, ``floor(point)``.

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
        """Return a region's name: its label."""
        return str(self.values[region])


Regions = BlocRegions | LabelRegions


def _where_inside(
    points: Any, shape: tuple[int, int, int], lookup: Callable[[NDArray[np.float64]], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Look up the points inside the volume; those outside, and those with NaN, are in no region."""
    given = as_points(points).astype(np.float64)
    inside = ((given >= 0) & (given < np.array(shape))).all(axis=1)
    found = np.full(len(given), NO_REGION, dtype=np.int64)
    found[inside] = lookup(given[inside])
    return found


def as_points(points: Any) -> NDArray[Any]:
    """Return an array or a tensor, of any device, as an array; its shape must be (S, 3)."""
    # A tensor may be on a GPU or need gradients; torch is not imported for arrays.
    array = points.detach().cpu().numpy() if hasattr(points, "detach") else np.asarray(points)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"Points must have shape (S, 3), got {array.shape}.")
    return np.asarray(array)
