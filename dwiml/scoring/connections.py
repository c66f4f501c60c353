"""Classify the connection that each streamline makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from dwiml.ops.ragged import first_rows, last_rows, sequence_ids
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.paths import NO_LIMITS
from dwiml.scoring.voxels import Crossings, crossed_voxels, flat_voxels

# Tolerance for rounding errors in a share of a length.
_ROUNDING = 1e-9


class Connection(IntEnum):
    """The kinds of connections; each streamline is one of these."""

    NONE = 0
    INVALID = 1
    WRONG_PATH = 2
    VALID = 3


@dataclass(frozen=True)
class StreamlineConnections:
    """The connections of S streamlines for B bundles, on a grid of V voxels.

    Attributes
    ----------
    kind : (S,) int8
        Values of :class:`Connection`.
    bundle : (S,) int64
        The bundle of valid and wrong path connections; -1 for the others.
    regions : (S, 2) int64
        The two regions of invalid connections, in ascending order; -1 for the others.
    nb_in_mask : (B,) int64
        For bundles without end regions, the number of streamlines that lie in the mask; 0 for the others.
    passed : sparse (B, V)
        Nonzero in voxels passed by the bundle's valid connections (without end regions: by the streamlines that lie
        in its mask).
    """

    kind: NDArray[np.int8]
    bundle: NDArray[np.int64]
    regions: NDArray[np.int64]
    nb_in_mask: NDArray[np.int64]
    passed: sparse.csr_array


def connect(
    points: NDArray[np.floating], lengths: NDArray[np.int64], truth: GroundTruth, max_outside: float
) -> StreamlineConnections:
    """Classify streamlines; see :func:`~dwiml.scoring.scores.score_streamlines` for the rules.

    Parameters
    ----------
    points : (N, 3)
        Points of all streamlines, concatenated; voxel space of the ground truth, corner origin, in voxels.
    lengths : (S,) int64
        Number of points of each streamline.
    truth
        The ground truth.
    max_outside
        Share (0 to 1) of the length of a valid connection that may lie outside the mask of its path.
    """
    nb_lines, nb_bundles = len(lengths), len(truth.names)
    kind = np.full(nb_lines, Connection.NONE, dtype=np.int8)
    bundle = np.full(nb_lines, -1, dtype=np.int64)
    regions = np.full((nb_lines, 2), -1, dtype=np.int64)
    at_first, at_last = _regions_of_ends(points, lengths, truth)
    joins = _joined_paths(at_first, at_last, truth)

    is_invalid = at_first.any(axis=1) & at_last.any(axis=1) & ~joins.any(axis=1) & ~(at_first & at_last).any(axis=1)
    kind[is_invalid] = Connection.INVALID
    if is_invalid.any():
        pairs = np.stack([at_first[is_invalid].argmax(axis=1), at_last[is_invalid].argmax(axis=1)], axis=1)
        regions[is_invalid] = np.sort(pairs, axis=1)

    # The path matters only for streamlines that join a bundle's ends; for all of them if a bundle has no end regions.
    chosen = joins.any(axis=1) | (not truth.has_ends.all())
    chosen &= _moves(points, lengths)
    candidates = np.flatnonzero(chosen)
    grid, owner = truth.grid, truth.bundle_of_path
    points, lengths, joins = points[np.repeat(chosen, lengths)], lengths[candidates], joins[candidates]
    crossings = crossed_voxels(points, lengths, grid.shape, grid.voxel_sizes)
    share = _shares_inside(crossings, truth)
    in_mask = share >= 1 - max_outside - _ROUNDING
    meets = joins & in_mask & _crosses(crossings, truth)
    _apply_limits(meets, points, lengths, truth)
    first = np.zeros_like(share) if truth.first_wins else None
    valid = _one_each(meets, lambda: (crossings.mm @ truth.masks).toarray()[:, owner] if first is None else first)
    wrong = _one_each(joins & ~meets.any(axis=1, keepdims=True), lambda: share if first is None else first)
    for flags, value in ((valid, Connection.VALID), (wrong, Connection.WRONG_PATH)):
        lines, paths = np.nonzero(flags)
        kind[candidates[lines]] = value
        bundle[candidates[lines]] = owner[paths]
    without_ends = in_mask & (truth.head < 0)
    of_bundle = sparse.csr_array((np.ones(len(owner)), (owner, np.arange(len(owner)))), shape=(nb_bundles, len(owner)))
    owners = of_bundle @ sparse.csr_array((valid | without_ends).astype(np.float64).T)
    passed = owners @ crossings.mm if len(candidates) else sparse.csr_array((nb_bundles, truth.masks.shape[0]))
    nb_in_mask = np.bincount(owner, weights=without_ends.sum(axis=0), minlength=nb_bundles).astype(np.int64)
    return StreamlineConnections(kind, bundle, regions, nb_in_mask, passed)


def _shares_inside(crossings: Crossings, truth: GroundTruth) -> NDArray[np.float64]:
    """Return (S, P) the share of the length of each streamline that lies in the mask of each path."""
    # The length of a streamline may underflow to 0.
    total_mm = np.maximum(crossings.total_mm, np.finfo(np.float64).tiny)
    share: NDArray[np.float64] = (crossings.mm @ truth.wide_masks).toarray() / total_mm[:, None]
    share[:, ~truth.is_inside] = 1
    return share


def _crosses(crossings: Crossings, truth: GroundTruth) -> NDArray[np.bool_]:
    """Return (S, P) whether each streamline crosses the voxels that a streamline of each path must cross."""
    crosses: NDArray[np.bool_] = (crossings.mm @ truth.crossed_masks).toarray() > 0
    return crosses | ~truth.is_crossed


def _apply_limits(
    meets: NDArray[np.bool_], points: NDArray[np.floating], lengths: NDArray[np.int64], truth: GroundTruth
) -> None:
    """Clear the flags (S, P) of the streamlines whose length or shape is outside the limits of a path."""
    for path, limits in enumerate(truth.limits):
        if limits == NO_LIMITS:
            continue
        tested = meets[:, path].copy()
        meets[tested, path] = limits.allow(points[np.repeat(tested, lengths)], lengths[tested], truth.grid.affine)


def _regions_of_ends(
    points: NDArray[np.floating], lengths: NDArray[np.int64], truth: GroundTruth
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the regions (S, R) in which each streamline's first and last point lie; none for one without points."""
    found = []
    some = lengths > 0
    for rows in (first_rows(lengths), last_rows(lengths)):
        flags = np.zeros((len(lengths), len(truth.regions)), dtype=bool)
        voxels = np.full(len(lengths), -1)
        voxels[some] = flat_voxels(points[rows], truth.grid.shape)
        inside = voxels >= 0
        flags[inside] = truth.ends[voxels[inside]].toarray() > 0
        found.append(flags)
    return found[0], found[1]


def _joined_paths(at_first: NDArray[np.bool_], at_last: NDArray[np.bool_], truth: GroundTruth) -> NDArray[np.bool_]:
    """Return (S, P) whether the ends of a streamline are in the two regions of a path, in either order."""
    joins = np.zeros((len(at_first), len(truth.head)), dtype=bool)
    known = truth.head >= 0
    head, tail = truth.head[known], truth.tail[known]
    joins[:, known] = (at_first[:, head] & at_last[:, tail]) | (at_first[:, tail] & at_last[:, head])
    return joins


def _moves(points: NDArray[np.floating], lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (S,) whether a streamline has two points that differ."""
    line = sequence_ids(lengths)
    steps = (points[1:] != points[:-1]).any(axis=1) & (line[1:] == line[:-1])
    moves: NDArray[np.bool_] = np.bincount(line[1:][steps], minlength=len(lengths)) > 0
    return moves


def _one_each(flags: NDArray[np.bool_], merit: Callable[[], NDArray[np.floating]]) -> NDArray[np.bool_]:
    """Keep one flag per row, the one with the largest merit (the first of equals)."""
    if (flags.sum(axis=1) <= 1).all():
        return flags
    best = np.where(flags, merit(), -1).argmax(axis=1)
    chosen: NDArray[np.bool_] = np.arange(flags.shape[1]) == best[:, None]
    return flags & chosen
