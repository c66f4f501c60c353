"""Measure the exact length of streamlines in each voxel, whatever the distance between their points."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from dwiml.ops.ragged import positions, positions_from_end, sequence_ids, slabs

# At a corner or an edge of a voxel, rounding (of float32 points too) leaves pieces of almost no length.
_SHORTEST_MM = 1e-4
# Larger chunks do not fit in the processor's cache and take twice as long.
_CHUNK_POINTS = 250_000
_CHUNK_LINES = 20_000
# Limits the memory, since a segment between distant points has many pieces.
_BLOCK_PIECES = 1_000_000


@dataclass(frozen=True)
class Crossings:
    """Lengths of S streamlines in the V voxels of a volume.

    Attributes
    ----------
    mm : sparse (S, V) float64
        Length of each streamline in each voxel (flat index, C order), in mm.
    total_mm : (S,) float64
        Total length of each streamline in mm, including the parts outside the volume, but not the pieces ignored by
        :func:`crossed_voxels`.
    """

    mm: sparse.csr_array
    total_mm: NDArray[np.float64]


def crossed_voxels(
    points: NDArray[np.floating], lengths: NDArray[np.int64], shape: tuple[int, int, int], voxel_sizes: ArrayLike
) -> Crossings:
    """Cut each segment at the faces of the voxels, and measure the pieces.

    A segment from p to q meets the plane x = k at t = (k - p_x) / (q_x - p_x). The values of t of all segments and axes
    are sorted, and the piece between two of them lies in the voxel around its middle (Amanatides and Woo, 1987, "A fast
    voxel traversal algorithm for ray tracing", visit the same voxels one at a time). Only planes of the volume are
    used, so distant points cost nothing.

    Parameters
    ----------
    points : (N, 3)
        Points of all streamlines, concatenated; voxel space, corner origin, in voxels; finite.
    lengths : (S,) int64
        Number of points of each streamline.
    shape
        Number of voxels along each axis of the volume.
    voxel_sizes : (3,)
        Size of the voxels along each axis, in mm.

    Returns
    -------
    Crossings
        A streamline that only touches a voxel, for instance at a corner, or whose total length in it is less than
        0.0001 mm, does not cross it.
    """
    start, step, line = _segments(points, lengths)
    mm = np.linalg.norm(step * np.asarray(voxel_sizes, dtype=np.float64), axis=1)
    first, met = _planes_met(start, step, shape)
    crossed = sparse.csr_array((len(lengths), math.prod(shape)))
    for part, _ in slabs(met.sum(axis=1) + 1, _BLOCK_PIECES):
        segment, share, voxels = _pieces(start[part], step[part], first[part], met[part], shape)
        piece_mm = share * mm[part][segment]
        kept = (piece_mm > 0) & (voxels >= 0)
        rows = line[part][segment[kept]]
        crossed = crossed + sparse.csr_array((piece_mm[kept], (rows, voxels[kept])), shape=crossed.shape)
    total_mm = np.bincount(line, weights=mm, minlength=len(lengths)) - crossed.sum(axis=1)
    crossed.data[crossed.data < _SHORTEST_MM] = 0
    crossed.eliminate_zeros()
    return Crossings(crossed, total_mm + crossed.sum(axis=1))


def flat_voxels(points: NDArray[np.floating], shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """Return the flat index of the voxel around each point.

    Parameters
    ----------
    points : (N, 3)
        Voxel space, corner origin, in voxels.
    shape
        Number of voxels along each axis of the volume.

    Returns
    -------
    (N,) int64
        Index in the flattened volume (C order); -1 for points outside it.
    """
    # Compared before the cast to integers, which would overflow for distant points.
    inside = np.asarray(((points >= 0) & (points < np.array(shape))).all(axis=1))
    x, y, z = np.where(inside[:, None], points, 0).astype(np.int64).T
    return np.where(inside, (x * shape[1] + y) * shape[2] + z, -1)


def chunks(lengths: NDArray[np.int64]) -> Iterator[tuple[slice, slice]]:
    """Divide streamlines into chunks of limited size, to limit memory.

    Parameters
    ----------
    lengths : (S,) int64
        Number of points of each streamline.

    Yields
    ------
    lines, rows
        Slices of the streamlines and of their concatenated points.
    """
    return slabs(lengths, _CHUNK_POINTS, _CHUNK_LINES)


def _segments(
    points: NDArray[np.floating], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return the first point (M, 3), the vector to the second point (M, 3) and the streamline (M,) of each segment."""
    exact = np.asarray(points, dtype=np.float64)
    line = sequence_ids(lengths)
    same = line[1:] == line[:-1]
    return exact[:-1][same], np.diff(exact, axis=0)[same], line[:-1][same]


def _planes_met(
    start: NDArray[np.float64], step: NDArray[np.float64], shape: tuple[int, int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first plane and the number of planes that each segment crosses between its ends, per axis (M, 3)."""
    low, high = np.minimum(start, start + step), np.maximum(start, start + step)
    sizes = np.array(shape)
    # Clipped before the cast to integers, which would overflow for distant points.
    first = np.clip(np.floor(low) + 1, 0, sizes + 1).astype(np.int64)
    last = np.clip(np.ceil(high) - 1, -1, sizes).astype(np.int64)
    return first, np.maximum(last - first + 1, 0)


def _pieces(
    start: NDArray[np.float64],
    step: NDArray[np.float64],
    first: NDArray[np.int64],
    met: NDArray[np.int64],
    shape: tuple[int, int, int],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Return the segment of each piece, its share of the segment, and its voxel (-1 outside the volume)."""
    nb_pieces = met.sum(axis=1) + 1
    segment = sequence_ids(nb_pieces)
    cuts = _cuts(start, step, first, met)
    is_last, is_first = positions_from_end(nb_pieces) == 0, positions(nb_pieces) == 0
    begin, end = np.zeros(len(segment)), np.ones(len(segment))
    begin[~is_first] = cuts
    end[~is_last] = cuts
    middle = start[segment] + ((begin + end) / 2)[:, None] * step[segment]
    return segment, end - begin, flat_voxels(middle, shape)


def _cuts(
    start: NDArray[np.float64], step: NDArray[np.float64], first: NDArray[np.int64], met: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return where segments meet planes: t in [0, 1], sorted along each segment, all segments concatenated."""
    segments, cuts = [], []
    for axis in range(3):
        nb = met[:, axis]
        segment = sequence_ids(nb)
        segments.append(segment)
        cuts.append((first[segment, axis] + positions(nb) - start[segment, axis]) / step[segment, axis])
    every_segment, every_cut = np.concatenate(segments), np.concatenate(cuts)
    # Rounding may place t outside the segment.
    every_cut = np.clip(every_cut, 0, 1)
    return np.asarray(every_cut[np.lexsort((every_cut, every_segment))])
