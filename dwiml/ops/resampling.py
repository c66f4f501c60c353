"""Resampling of streamlines: fixed step size, fixed number of points, compression.

Streamlines are flat: ``points`` (N, 3) holds the points of all of them, one streamline after the other, and ``lengths``
(S,) the number of points of each. Points are in voxel space, any origin; distances are in mm, each axis with its own
voxel size.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.arguments import grouped
from dwiml.ops.ragged import check_finite_points, offsets, slabs

Points = NDArray[np.float32]
Lengths = NDArray[np.int64]

# Points processed at once, so that temporary arrays fit in the processor's cache and stay small for whole tractograms.
_SLAB = 2**15

MAX_POINTS = 100_000
"""Maximum number of points of a streamline after resampling: 300 mm, long for a brain, in steps of 0.003 mm."""


def check_number_of_points(step_size: float, longest_mm: float, whose: str = "a streamline") -> None:
    """Check that a step size gives the longest streamline a plausible number of points.

    Parameters
    ----------
    step_size
        Distance between points, in mm.
    longest_mm
        Length of the longest streamline, in mm.
    whose
        Name of the streamline in the error.

    Raises
    ------
    ValueError
        If the streamline would have more than :data:`MAX_POINTS` points.
    """
    # Multiplied: a division by a tiny number overflows.
    if longest_mm > step_size * MAX_POINTS:
        nb_points = "more than 1e+15" if longest_mm > step_size * 1e15 else grouped(longest_mm / step_size)
        raise ValueError(
            f"step_size={step_size:g} mm would make {nb_points} points of {whose} of {longest_mm:.1f} mm; at most "
            f"{grouped(MAX_POINTS)} points are allowed: choose a larger step_size."
        )


def lengths_mm(points: ArrayLike, lengths: ArrayLike, voxel_sizes: ArrayLike) -> NDArray[np.float32]:
    """Return the length of each streamline along its points.

    Parameters
    ----------
    points : array of shape (N, 3)
        Points of all streamlines, voxel space, any origin, in voxels.
    lengths : array of shape (S,)
        Number of points of each streamline.
    voxel_sizes : array of shape (3,) or (S, 3)
        Voxel size along each axis in mm, the same for all streamlines or one row for each.

    Returns
    -------
    array of shape (S,), float32
        Lengths in mm; 0 for a streamline of one point or none.

    Raises
    ------
    ValueError
        If a shape or a voxel size is wrong, or a coordinate is NaN or infinite.
    """
    points, lengths, voxel_sizes = _checked(points, lengths, voxel_sizes)
    result = np.empty(len(lengths), dtype=np.float32)
    for some, theirs in slabs(lengths, _SLAB):
        traveled = _traveled_mm(points[theirs], lengths[some], _sizes_of(voxel_sizes, some))
        first, last = _ends(lengths[some])
        result[some] = traveled[last] - traveled[first]
    return result


def resample_step_size(
    points: ArrayLike, lengths: ArrayLike, step_size: float, voxel_sizes: ArrayLike
) -> tuple[Points, Lengths]:
    """Resample streamlines to equal distances along the curve, as close to `step_size` as their lengths allow.

    A streamline of length L gets ``max(round(L / step_size), 1) + 1`` points: both ends, and the others in between at
    equal distances along the curve. A streamline of one point is kept. The curve is the polyline through the points:
    new points are interpolated linearly over the cumulative chord length, as in DIPY's ``set_number_of_points``
    (Garyfallidis et al., "Dipy, a library for the analysis of diffusion MRI data", 2014,
    doi:10.3389/fninf.2014.00008).

    Parameters
    ----------
    points : array of shape (N, 3)
        Points of all streamlines, voxel space, any origin, in voxels.
    lengths : array of shape (S,)
        Number of points of each streamline.
    step_size : float
        Wanted distance between points along the curve, in mm.
    voxel_sizes : array of shape (3,) or (S, 3)
        Voxel size along each axis in mm, the same for all streamlines or one row for each.

    Returns
    -------
    points : array of shape (M, 3), float32
        New points, in the space and origin of the old ones.
    lengths : array of shape (S,), int64
        Number of new points of each streamline.

    Raises
    ------
    ValueError
        If `step_size` is not positive, or so small that a streamline would get more than :data:`MAX_POINTS`; if a
        shape or a voxel size is wrong, or a coordinate is NaN or infinite.
    """
    return _resample(points, lengths, voxel_sizes, Resampling(step_size=step_size))


def resample_nb_points(
    points: ArrayLike, lengths: ArrayLike, nb_points: int, voxel_sizes: ArrayLike
) -> tuple[Points, Lengths]:
    """Resample streamlines to the same number of points, at equal distances in mm along the curve.

    A streamline of one point is kept. The method is that of :func:`resample_step_size`.

    Parameters
    ----------
    points : array of shape (N, 3)
        Points of all streamlines, voxel space, any origin, in voxels.
    lengths : array of shape (S,)
        Number of points of each streamline.
    nb_points : int
        Wanted number of points, at least 2.
    voxel_sizes : array of shape (3,) or (S, 3)
        Voxel size along each axis in mm, the same for all streamlines or one row for each.

    Returns
    -------
    points : array of shape (M, 3), float32
        New points, in the space and origin of the old ones.
    lengths : array of shape (S,), int64
        Number of new points of each streamline.

    Raises
    ------
    ValueError
        If `nb_points` is below 2 or above :data:`MAX_POINTS`, a shape or a voxel size is wrong, or a coordinate is NaN
        or infinite.
    """
    return _resample(points, lengths, voxel_sizes, Resampling(nb_points=nb_points))


def compress(points: ArrayLike, lengths: ArrayLike, tolerance: float, voxel_sizes: ArrayLike) -> tuple[Points, Lengths]:
    """Compress streamlines: remove the points that are on the curve of the others, within a tolerance.

    Presseau et al., "A new compression format for fiber tracking datasets", 2015, NeuroImage 109,
    doi:10.1016/j.neuroimage.2014.12.058, as implemented in DIPY: every removed point is within `tolerance` of the new
    curve, and no new segment is longer than 10 mm unless it already was.

    Parameters
    ----------
    points : array of shape (N, 3)
        Points of all streamlines, voxel space, any origin, in voxels.
    lengths : array of shape (S,)
        Number of points of each streamline.
    tolerance : float
        Largest distance from a removed point to the new curve, in mm.
    voxel_sizes : array of shape (3,) or (S, 3)
        Voxel size along each axis in mm, the same for all streamlines or one row for each.

    Returns
    -------
    points : array of shape (M, 3), float32
        The remaining points, unchanged, in the space and origin of the old ones; both ends of each streamline are kept.
    lengths : array of shape (S,), int64
        Number of remaining points of each streamline.

    Raises
    ------
    ValueError
        If `tolerance` is not positive, a shape or a voxel size is wrong, or a coordinate is NaN or infinite.
    """
    if not (tolerance > 0 and np.isfinite(tolerance)):
        raise ValueError(f"The tolerance of the compression must be a positive number of mm, got {tolerance}.")
    # Imported when used: dipy takes long to load, and most runs do not compress.
    from dipy.tracking.streamlinespeed import compress_streamlines

    points, lengths, voxel_sizes = _checked(points, lengths, voxel_sizes)
    long_enough = np.flatnonzero(lengths > 2)
    if len(long_enough) == 0:
        return points.copy(), lengths.copy()
    sizes_of_points = _per_point(voxel_sizes, lengths)
    # In float64, so that the conversion to mm and back gives the same float32 coordinates.
    streamlines_mm = np.split(points.astype(np.float64) * sizes_of_points, offsets(lengths)[1:])
    compressed = compress_streamlines([streamlines_mm[i] for i in long_enough], tol_error=tolerance)
    for i, streamline_mm in zip(long_enough, compressed, strict=True):
        streamlines_mm[i] = streamline_mm
    new_lengths = np.array([len(streamline_mm) for streamline_mm in streamlines_mm], dtype=np.int64)
    new_points = np.concatenate(streamlines_mm) / _per_point(voxel_sizes, new_lengths)
    return new_points.astype(np.float32), new_lengths


def _resample(
    points: ArrayLike, lengths: ArrayLike, voxel_sizes: ArrayLike, resampling: Resampling
) -> tuple[Points, Lengths]:
    points, lengths, voxel_sizes = _checked(points, lengths, voxel_sizes)
    parts = [(points[:0], lengths[:0])]
    for part, rows in slabs(lengths, _SLAB):
        parts.append(_resample_slab(points[rows], lengths[part], _sizes_of(voxel_sizes, part), resampling))
    return np.concatenate([new for new, _ in parts]), np.concatenate([new for _, new in parts])


def _resample_slab(
    points: Points, lengths: Lengths, voxel_sizes: NDArray[np.float64], resampling: Resampling
) -> tuple[Points, Lengths]:
    """Resample one slab; streamlines of fewer than 2 points are kept.

    New points are numbered in order, and each old point is given a fractional place among these numbers. The places
    increase along the slab, so that one pass finds the new points between each two old ones.
    """
    traveled = _traveled_mm(points, lengths, voxel_sizes)
    first, last = _ends(lengths)
    total = traveled[last] - traveled[first]
    new_lengths = resampling.nb_points_after(lengths, total)
    new_first, new_last = _ends(new_lengths)
    steps_per_mm = np.divide(new_lengths - 1, total, out=np.zeros_like(total), where=total > 0)
    place = np.empty(len(points) + 1)
    place[:-1] = (traveled[:-1] - np.repeat(traveled[first], lengths)) * np.repeat(steps_per_mm, lengths)
    place[:-1] += np.repeat(new_first, lengths)
    # Rounding must not move a point past the end of its streamline; both ends are kept exactly.
    place[:-1] = np.minimum(place[:-1], np.repeat(new_last, lengths))
    place[last[lengths > 0]] = new_last[lengths > 0]
    place[-1] = new_lengths.sum()

    first_number = np.ceil(place).astype(np.int64)
    before = np.repeat(np.arange(len(points)), first_number[1:] - first_number[:-1])
    fraction = ((np.arange(len(before)) - place[before]) / np.diff(place)[before]).astype(np.float32)
    new_points = np.empty((len(before), 3), dtype=np.float32)
    for axis in range(3):
        # Axis by axis: gathering numbers from a contiguous array is faster than gathering rows.
        old = np.ascontiguousarray(points[:, axis])
        new_points[:, axis] = old[before] + fraction * np.diff(old, append=old[-1:])[before]
    return new_points, new_lengths


def _traveled_mm(points: Points, lengths: Lengths, voxel_sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cumulative length (N + 1,), in mm, at each point of all streamlines in order, jumps between included.

    Only differences within a streamline are meaningful. In float64, so that the sum over all loses no precision.
    """
    squared = np.square(np.diff(points, axis=0, append=points[-1:]), dtype=np.float64)
    if voxel_sizes.ndim == 1:
        segments = np.sqrt(squared @ voxel_sizes**2)
    else:
        segments = np.sqrt(np.einsum("ij,ij->i", squared, np.repeat(voxel_sizes**2, lengths, axis=0)))
    traveled = np.zeros(len(points) + 1)
    np.cumsum(segments, out=traveled[1:])
    return traveled


def _sizes_of(voxel_sizes: NDArray[np.float64], streamlines: slice) -> NDArray[np.float64]:
    return voxel_sizes if voxel_sizes.ndim == 1 else voxel_sizes[streamlines]


def _ends(lengths: Lengths) -> tuple[Lengths, Lengths]:
    """Return the rows (S,) of the first and the last point of each streamline; for an empty one, where it would be."""
    first = offsets(lengths)
    return first, first + np.maximum(lengths - 1, 0)


def _per_point(voxel_sizes: NDArray[np.float64], lengths: Lengths) -> NDArray[np.float64]:
    return voxel_sizes if voxel_sizes.ndim == 1 else np.repeat(voxel_sizes, lengths, axis=0)


def _checked(
    points: ArrayLike, lengths: ArrayLike, voxel_sizes: ArrayLike
) -> tuple[Points, Lengths, NDArray[np.float64]]:
    points = np.asarray(points, dtype=np.float32)
    lengths = np.asarray(lengths, dtype=np.int64)
    voxel_sizes = np.asarray(voxel_sizes, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"Points must have shape (N, 3), got {points.shape}.")
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != len(points):
        raise ValueError(
            f"lengths must be one number of points per streamline and add up to {len(points)} points, "
            f"got shape {lengths.shape} with the sum {lengths.sum()}."
        )
    if voxel_sizes.shape not in ((3,), (len(lengths), 3)):
        raise ValueError(f"Voxel sizes must have shape (3,) or ({len(lengths)}, 3), got {voxel_sizes.shape}.")
    if not (np.isfinite(voxel_sizes).all() and (voxel_sizes > 0).all()):
        raise ValueError("Voxel sizes must be positive and finite.")
    check_finite_points(points, lengths)
    return points, lengths, voxel_sizes


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """The resampling of streamlines: at most one of three types; without any, the points are kept.

    Parameters
    ----------
    step_size
        Distance between points, in mm.
    nb_points
        Number of points of each streamline.
    compress
        Tolerance of the compression, in mm (:func:`compress`).

    Raises
    ------
    ValueError
        If more than one is given, or a value is out of range.
    """

    step_size: float | None = None
    nb_points: int | None = None
    compress: float | None = None

    def __post_init__(self) -> None:
        chosen = {name: value for name, value in vars(self).items() if value is not None}
        if len(chosen) > 1:
            raise ValueError(f"At most one of step_size, nb_points and compress can be given, got {chosen}.")
        for name in ("step_size", "compress"):
            value = chosen.get(name, 1.0)
            if isinstance(value, bool) or not (isinstance(value, numbers.Real) and 0 < float(value) < math.inf):
                raise ValueError(f"{name} must be a positive number of mm, got {value!r}.")
        nb_points = chosen.get("nb_points", 2)
        if not (isinstance(nb_points, numbers.Integral) and 2 <= int(nb_points) <= MAX_POINTS):
            raise ValueError(f"nb_points must be an integer from 2 to {grouped(MAX_POINTS)}, got {self.nb_points!r}.")

    def nb_points_after(self, lengths: ArrayLike, lengths_mm: ArrayLike) -> NDArray[np.int64]:
        """Return the number of points of each streamline after resampling, without resampling any.

        Parameters
        ----------
        lengths : array of shape (S,)
            Present number of points of each streamline.
        lengths_mm : array of shape (S,)
            Length of each streamline, in mm.

        Returns
        -------
        array of shape (S,), int64
            Numbers of points; an upper bound if streamlines are compressed.

        Raises
        ------
        ValueError
            If `step_size` is so small that a streamline would get more than :data:`MAX_POINTS`.
        """
        lengths, total = np.asarray(lengths, dtype=np.int64), np.asarray(lengths_mm)
        if self.step_size is not None:
            check_number_of_points(self.step_size, float(total.max(initial=0.0)))
            wanted = np.maximum(np.rint(total / self.step_size).astype(np.int64), 1) + 1
        elif self.nb_points is not None:
            wanted = np.full(lengths.shape, self.nb_points, dtype=np.int64)
        else:
            return lengths
        return np.where(lengths < 2, lengths, wanted)

    def apply(
        self, points: ArrayLike, lengths: ArrayLike, voxel_sizes: ArrayLike
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Resample streamlines.

        Parameters
        ----------
        points, lengths, voxel_sizes
            As in :func:`resample_step_size`.

        Returns
        -------
        points : array of shape (M, 3), float32
            New points, in the space and origin of the old ones.
        lengths : array of shape (S,), int64
            Number of new points of each streamline.

        Raises
        ------
        ValueError
            If a shape or a voxel size is wrong, or a coordinate is NaN or infinite.
        """
        if self.step_size is not None:
            return resample_step_size(points, lengths, self.step_size, voxel_sizes)
        if self.nb_points is not None:
            return resample_nb_points(points, lengths, self.nb_points, voxel_sizes)
        if self.compress is not None:
            return compress(points, lengths, self.compress, voxel_sizes)
        return np.asarray(points, dtype=np.float32), np.asarray(lengths, dtype=np.int64)
