"""Which voxels streamlines cross, and over how many mm: exact, whatever the distance between their points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

# Where a line passes through a corner or an edge, rounding leaves pieces of no length.
_SHORTEST_MM = 1e-6
# Larger chunks leave the processor's cache and take twice as long.
_CHUNK_POINTS = 250_000
_CHUNK_LINES = 50_000


@dataclass(frozen=True)
class Crossings:
    """What streamlines cross.

    Attributes
    ----------
    mm : sparse (S, V), float64
        Length of each streamline in each voxel of the volume (flat index, C order), in mm.
    total_mm : (S,) float64
        Length of each streamline, outside the volume too.
    """

    mm: sparse.csr_array
    total_mm: NDArray[np.float64]


def crossed_voxels(
    points: NDArray[np.floating], lengths: NDArray[np.int64], shape: tuple[int, int, int], voxel_sizes: ArrayLike
) -> Crossings:
    """Cut each segment where it goes from one voxel to the next, and measure the pieces.

    A segment from p to q meets the plane x = k at t = (k - p_x) / (q_x - p_x). All such t of all segments and axes are
    sorted, and the piece between two of them lies in the voxel of its middle (Amanatides and Woo, 1987, visit the
    same voxels one at a time). Only the volume's planes count, so a point far away costs nothing.

    Parameters
    ----------
    points : (N, 3)
        Voxel space, corner origin, in voxels; finite.
    lengths : (S,)
        Points of each streamline.
    shape
        Voxels along each axis of the volume.
    voxel_sizes : (3,)
        In mm.

    Returns
    -------
    Crossings
        A streamline that only touches a voxel, at a corner for instance, does not cross it.
    """
    start, step, line = _segments(points, lengths)
    mm = np.linalg.norm(step * np.asarray(voxel_sizes, dtype=np.float64), axis=1)
    counts, cuts = _cuts(start, step, shape)
    piece_segment = np.repeat(np.arange(len(start)), counts + 1)
    last = np.cumsum(counts + 1) - 1
    begins, ends = np.zeros(len(piece_segment)), np.ones(len(piece_segment))
    is_inner = np.ones(len(piece_segment), dtype=bool)
    is_inner[last] = False
    ends[is_inner] = cuts
    is_inner[:] = True
    is_inner[last - counts] = False
    begins[is_inner] = cuts
    middle = start[piece_segment] + ((begins + ends) / 2)[:, None] * step[piece_segment]
    piece_mm = (ends - begins) * mm[piece_segment]
    voxels = flat_voxels(middle, shape)
    kept = (piece_mm > _SHORTEST_MM) & (voxels >= 0)
    size = (len(lengths), int(np.prod(shape)))
    total_mm = np.bincount(line, weights=mm, minlength=len(lengths)).astype(np.float64)
    return Crossings(
        sparse.csr_array((piece_mm[kept], (line[piece_segment[kept]], voxels[kept])), shape=size), total_mm
    )


def flat_voxels(points: NDArray[np.floating], shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """Return the flat index (C order) of the voxel around each point (N, 3), corner origin; -1 outside the volume."""
    # Compared before the cast to integers, which far points would overflow.
    inside = np.asarray(((points >= 0) & (points < np.array(shape))).all(axis=1))
    x, y, z = np.where(inside[:, None], points, 0).astype(np.int64).T
    return np.where(inside, (x * shape[1] + y) * shape[2] + z, -1)


def chunks(lengths: NDArray[np.int64]) -> Iterator[tuple[slice, slice]]:
    """Yield (streamlines, their points) so that the working memory of each is bounded."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        before = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, before + _CHUNK_POINTS, side="right"))
        last = min(max(last, first + 1), first + _CHUNK_LINES)
        yield slice(first, last), slice(before, int(ends[last - 1]))
        first = last


def _segments(
    points: NDArray[np.floating], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return first points (M, 3), vectors to the second (M, 3) and streamlines (M,) of all segments."""
    exact = np.asarray(points, dtype=np.float64)
    line = np.repeat(np.arange(len(lengths)), lengths)
    same = line[1:] == line[:-1]
    return exact[:-1][same], np.diff(exact, axis=0)[same], line[:-1][same]


def _cuts(
    start: NDArray[np.float64], step: NDArray[np.float64], shape: tuple[int, int, int]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return how many planes each segment meets, and where: t in (0, 1), in order along all segments."""
    counts = np.zeros(len(start), dtype=np.int64)
    segments, cuts = [], []
    for axis, size in enumerate(shape):
        one, two = start[:, axis], start[:, axis] + step[:, axis]
        first = np.clip(np.floor(np.minimum(one, two)) + 1, 0, size + 1).astype(np.int64)
        last = np.clip(np.ceil(np.maximum(one, two)) - 1, -1, size).astype(np.int64)
        met = np.maximum(last - first + 1, 0)
        segment = np.repeat(np.arange(len(start)), met)
        nth = np.arange(len(segment)) - np.repeat(np.cumsum(met) - met, met)
        segments.append(segment)
        cuts.append((first[segment] + nth - one[segment]) / step[segment, axis])
        counts += met
    every_segment, every_cut = np.concatenate(segments), np.concatenate(cuts)
    # A plane that is met is met between the ends, whatever rounding says.
    every_cut = np.clip(every_cut, 0, 1)
    return counts, every_cut[np.lexsort((every_cut, every_segment))]
