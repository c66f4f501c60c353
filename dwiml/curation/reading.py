"""Read the streamlines of each bundle from tractograms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dwiml.curation.settings import Progress
from dwiml.ops.ragged import offsets, run_rows
from dwiml.ops.resampling import lengths_mm
from dwiml.scoring.connections import Connection
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.scores import score_streamlines
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.reading import read_streamlines

OnScored = Callable[[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]], None]


@dataclass(frozen=True)
class TractogramCount:
    """How many streamlines a tractogram gives.

    Attributes
    ----------
    file
        The tractogram.
    nb_streamlines, nb_valid
        Number of its streamlines, and of those that are valid.
    """

    file: str
    nb_streamlines: int
    nb_valid: int


@dataclass(frozen=True, eq=False)
class BundleStreamlines:
    """The valid streamlines of a bundle.

    Attributes
    ----------
    name
        Name of the bundle.
    points : (N, 3) float32
        Points of all streamlines, concatenated; voxel space of the grid, corner origin, in voxels.
    lengths : (S,) int64
        Number of points of each streamline, at least 2.
    mask : (M,) int64, optional
        Flat indices (C order) of the voxels of the bundle; None: those that its streamlines cross.
    """

    name: str
    points: NDArray[np.float32]
    lengths: NDArray[np.int64]
    mask: NDArray[np.int64] | None = None

    def select(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the points and lengths of some streamlines, (K,) int64, which may be repeated."""
        return _selected(self.points, self.lengths, ids)


def read_labelled(
    tractograms: Mapping[str, Path], grid: Grid, counts: list[TractogramCount]
) -> Iterator[BundleStreamlines]:
    """Read tractograms that are one bundle each, one after another.

    Parameters
    ----------
    tractograms
        {name of the bundle: file}.
    grid
        The voxel grid of the points.
    counts
        The count of each tractogram is appended to it. Streamlines without length (a single point, or equal points) are
        not valid.

    Raises
    ------
    FileNotFoundError, ValueError
        See :func:`dwiml.tractograms.reading.read_streamlines`.
    """
    for name, path in tractograms.items():
        points, lengths = read_streamlines(path, grid.affine)
        ids = np.flatnonzero(lengths_mm(points, lengths, grid.voxel_sizes) > 0)
        counts.append(TractogramCount(str(path), len(lengths), len(ids)))
        yield BundleStreamlines(name, *_selected(points, lengths, ids))


def read_valid(
    tractograms: Sequence[Path],
    truth: GroundTruth,
    counts: list[TractogramCount],
    progress: Progress,
    *,
    max_outside: float | None,
    on_scored: OnScored | None = None,
) -> Iterator[BundleStreamlines]:
    """Read the valid connections of the bundles that have end regions, from tractograms of any bundles.

    The tractograms are read one after another, and only valid connections stay in memory.

    Parameters
    ----------
    tractograms
        The files, in any format and on any grid.
    truth
        The bundles.
    counts
        The count of each tractogram is appended to it.
    progress
        Shows the progress.
    max_outside
        Share (0 to 1) of the length of a valid connection that may lie outside the mask, or None; see
        :func:`dwiml.scoring.scores.score_streamlines`.
    on_scored
        Called for each tractogram with its points (N, 3), in the voxel space of the bundles, corner origin, its
        lengths (S,), and which streamlines are valid (S,).

    Raises
    ------
    FileNotFoundError, ValueError
        See :func:`dwiml.tractograms.reading.read_streamlines`.
    """
    bundles = np.flatnonzero(truth.has_ends)
    parts: dict[int, list[tuple[NDArray[np.float32], NDArray[np.int64]]]] = {int(b): [] for b in bundles}
    for path in tractograms:
        points, lengths = read_streamlines(path, truth.grid.affine)
        with progress(path.name, len(lengths)) as advance:
            scores = score_streamlines(
                points, lengths, truth, max_outside=max_outside, adjacency=False, on_progress=advance
            )
        if on_scored is not None:
            on_scored(points, lengths, scores.kind == Connection.VALID)
        valid = np.flatnonzero(scores.kind == Connection.VALID)
        counts.append(TractogramCount(str(path), len(lengths), len(valid)))
        valid = valid[np.argsort(scores.bundle[valid], kind="stable")]
        starts = np.searchsorted(scores.bundle[valid], bundles)
        stops = np.searchsorted(scores.bundle[valid], bundles, side="right")
        for b, start, stop in zip(parts, starts, stops, strict=True):
            parts[b].append(_selected(points, lengths, valid[start:stop]))
    masks = truth.masks.tocsc()
    for b, found in parts.items():
        points = np.concatenate([np.zeros((0, 3), dtype=np.float32), *(part for part, _ in found)])
        lengths = np.concatenate([np.zeros(0, dtype=np.int64), *(part for _, part in found)])
        found.clear()
        mask = masks.indices[masks.indptr[b] : masks.indptr[b + 1]].astype(np.int64)
        yield BundleStreamlines(truth.names[b], points, lengths, mask)


def _selected(
    points: NDArray[np.float32], lengths: NDArray[np.int64], ids: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return points[run_rows(offsets(lengths)[ids], lengths[ids])], lengths[ids]
