"""Scores of a tractogram against a ground truth, in the manner of the ISMRM 2015 tractography challenge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from dwiml.arguments import check_number
from dwiml.scoring.connections import Connection, connect
from dwiml.scoring.defaults import MAX_OUTSIDE, MIN_COVERAGE
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.voxels import chunks


@dataclass(frozen=True)
class BundleScore:
    """Scores of one true bundle; None where its end regions would be needed.

    Attributes
    ----------
    name
        The bundle.
    has_ends
        Whether its end regions are known.
    found
        Whether it has a valid connection; without end regions, whether `overlap` reaches the share asked for.
    nb_valid, nb_wrong_path
        Streamlines.
    nb_in_mask
        Without end regions: streamlines that lie in the mask; else None.
    nb_voxels
        Voxels of the true mask.
    overlap
        Share of them that the streamlines pass.
    overreach
        Voxels passed outside of the true mask, over its size.
    f1
        2 x voxels passed in the mask / (voxels passed + voxels of the mask), also known as Dice.
    """

    name: str
    has_ends: bool
    found: bool
    nb_valid: int | None
    nb_wrong_path: int | None
    nb_in_mask: int | None
    nb_voxels: int
    overlap: float
    overreach: float | None
    f1: float | None


@dataclass(frozen=True)
class InvalidBundle:
    """Streamlines that join two regions that no bundle joins."""

    regions: tuple[str, str]
    nb_streamlines: int


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a tractogram.

    Attributes
    ----------
    kind : (S,) int8
        What each streamline is: a value of :class:`~dwiml.scoring.connections.Connection`.
    bundle : (S,) int64
        Index in `bundles` of valid and wrong path connections; -1 for the others.
    bundles
        The true bundles, in the order of the ground truth.
    invalid_bundles
        The most frequent first.
    """

    kind: NDArray[np.int8]
    bundle: NDArray[np.int64]
    bundles: tuple[BundleScore, ...]
    invalid_bundles: tuple[InvalidBundle, ...]

    @property
    def nb_streamlines(self) -> int:
        """Streamlines scored."""
        return len(self.kind)

    @property
    def has_ends(self) -> bool:
        """Whether there is a bundle with end regions, so that connections are available."""
        return any(bundle.has_ends for bundle in self.bundles)

    def count(self, connection: Connection) -> int | None:
        """Return how many streamlines are of this kind; None without any end region."""
        return int(np.count_nonzero(self.kind == connection)) if self.has_ends else None

    def share(self, connection: Connection) -> float | None:
        """Return the share (0 to 1) of streamlines of this kind; None without any, or without any end region."""
        count = self.count(connection)
        return count / self.nb_streamlines if count is not None and self.nb_streamlines else None

    @property
    def nb_found(self) -> int:
        """Bundles found: the valid bundles (VB)."""
        return sum(bundle.found for bundle in self.bundles)

    def mean(self, measure: str) -> float | None:
        """Return the mean of ``overlap``, ``overreach`` or ``f1`` over the bundles that have it; None if none has.

        A bundle that was not found counts, with its zeros.
        """
        values = [value for bundle in self.bundles if (value := getattr(bundle, measure)) is not None]
        return float(np.mean(values)) if values else None

    def summary(self) -> dict[str, float]:
        """Return the total scores, by name, shares from 0 to 1; those that are not available are absent."""
        told = {
            "valid_connections": self.share(Connection.VALID),
            "wrong_path_connections": self.share(Connection.WRONG_PATH),
            "invalid_connections": self.share(Connection.INVALID),
            "no_connections": self.share(Connection.NONE),
            "valid_bundles": float(self.nb_found),
            "invalid_bundles": float(len(self.invalid_bundles)) if self.has_ends else None,
            **{measure: self.mean(measure) for measure in ("overlap", "overreach", "f1")},
        }
        return {name: value for name, value in told.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return all scores but those of single streamlines, for JSON: shares from 0 to 1, null if not available."""
        return {
            "nb_streamlines": self.nb_streamlines,
            "connections": {
                connection.name.lower(): {"nb_streamlines": self.count(connection), "share": self.share(connection)}
                for connection in reversed(Connection)
            },
            "nb_bundles": len(self.bundles),
            "nb_valid_bundles": self.nb_found,
            "nb_invalid_bundles": len(self.invalid_bundles) if self.has_ends else None,
            "mean": {measure: self.mean(measure) for measure in ("overlap", "overreach", "f1")},
            "bundles": {
                bundle.name: {key: value for key, value in vars(bundle).items() if key != "name"}
                for bundle in self.bundles
            },
            "invalid_bundles": [vars(bundle) for bundle in self.invalid_bundles],
        }


def score_streamlines(
    points: NDArray[np.floating],
    lengths: NDArray[np.integer],
    ground_truth: GroundTruth,
    *,
    max_outside: float = MAX_OUTSIDE,
    min_coverage: float = MIN_COVERAGE,
    on_progress: Callable[[int], None] | None = None,
) -> Scores:
    """Score streamlines against the truth (Maier-Hein et al., 2017; Cote et al., 2013; Renauld et al., 2023).

    Each streamline is one of these, tried in this order:

    1. A *valid connection* of a bundle: its two end points lie in the bundle's two end regions, either way round, and
       at most a share `max_outside` of its length lies outside the bundle's mask widened by the ground truth's
       tolerance. If it is one of several bundles, it goes to the one in whose mask (not widened) most of it lies.
    2. A *wrong path connection*: it joins the two regions of a bundle, but leaves its mask.
    3. An *invalid connection*: its ends lie in two regions that no bundle joins. The pair is an invalid bundle. Where
       regions lie over each other, the first one counts.
    4. *No connection*: an end lies in no region, both ends lie in one region, or all its points are the same.

    Voxels are passed when a segment crosses them, however far apart the points are. Those outside the ground truth's
    volume count as outside the masks; overreach does not count them.

    Parameters
    ----------
    points : (N, 3)
        Points of all streamlines: voxel space of the ground truth, corner origin, in voxels.
    lengths : (S,)
        Points of each streamline.
    ground_truth
        What to score against.
    max_outside
        Share (0 to 1) of a streamline's length.
    min_coverage
        For bundles without end regions: the share of the mask that makes it found.
    on_progress
        Called after each part with the number of its streamlines, for a progress bar.

    Returns
    -------
    Scores

    Raises
    ------
    ValueError
        For shapes that do not fit, coordinates that are not finite, an invalid share.
    """
    max_outside = check_number("max_outside", max_outside, low=0, high=1)
    min_coverage = check_number("min_coverage", min_coverage, low=0, high=1)
    points, lengths = _checked(points, lengths)
    kind = np.full(len(lengths), Connection.NONE, dtype=np.int8)
    bundle = np.full(len(lengths), -1, dtype=np.int64)
    nb_in_mask = np.zeros(len(ground_truth.names), dtype=np.int64)
    passed = sparse.csr_array((len(ground_truth.names), ground_truth.masks.shape[0]))
    pairs: Counter[int] = Counter()
    for lines, their_points in chunks(lengths):
        part = connect(points[their_points], lengths[lines], ground_truth, max_outside)
        kind[lines], bundle[lines] = part.kind, part.bundle
        nb_in_mask += part.nb_in_mask
        passed = passed + part.passed
        first, second = part.regions[part.kind == Connection.INVALID].T
        found, counts = np.unique(first * len(ground_truth.regions) + second, return_counts=True)
        pairs.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        if on_progress is not None:
            on_progress(lines.stop - lines.start)
    return Scores(
        kind,
        bundle,
        _score_bundles(kind, bundle, nb_in_mask, passed, ground_truth, min_coverage),
        _list_invalid_bundles(pairs, ground_truth.regions),
    )


def _list_invalid_bundles(pairs: Mapping[int, int], regions: Sequence[str]) -> tuple[InvalidBundle, ...]:
    """Return the bundles of {first region x number of regions + second region: streamlines}."""
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        InvalidBundle((regions[pair // len(regions)], regions[pair % len(regions)]), count) for pair, count in ordered
    )


def _checked(
    points: NDArray[np.floating], lengths: NDArray[np.integer]
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    points = np.asarray(points)
    counts = np.asarray(lengths)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points must have shape (N, 3), got {points.shape}.")
    # An empty list makes an array of floats.
    if counts.ndim != 1 or (counts.size and counts.dtype.kind not in "iu") or (counts < 0).any():
        raise ValueError("lengths must be whole numbers, 0 or more, one a streamline.")
    if counts.sum() != len(points):
        raise ValueError(f"lengths announce {int(counts.sum())} points, there are {len(points)}.")
    if not np.isfinite(points).all():
        raise ValueError("points hold NaN or infinite coordinates; remove these streamlines.")
    return points, counts.astype(np.int64)


def _score_bundles(
    kind: NDArray[np.int8],
    bundle: NDArray[np.int64],
    nb_in_mask: NDArray[np.int64],
    passed: sparse.csr_array,
    truth: GroundTruth,
    min_coverage: float,
) -> tuple[BundleScore, ...]:
    nb_bundles = len(truth.names)
    nb_passed = np.diff(passed.indptr)
    nb_right = np.diff(passed.multiply(truth.masks.T.tocsr()).tocsr().indptr)
    sizes = truth.mask_sizes
    nb_valid = np.bincount(bundle[kind == Connection.VALID], minlength=nb_bundles)
    nb_wrong = np.bincount(bundle[kind == Connection.WRONG_PATH], minlength=nb_bundles)
    scores = []
    for b, name in enumerate(truth.names):
        has_ends = bool(truth.has_ends[b])
        overlap = float(nb_right[b] / sizes[b])
        scores.append(
            BundleScore(
                name=name,
                has_ends=has_ends,
                found=bool(nb_valid[b] > 0) if has_ends else 0 < overlap >= min_coverage,
                nb_valid=int(nb_valid[b]) if has_ends else None,
                nb_wrong_path=int(nb_wrong[b]) if has_ends else None,
                nb_in_mask=None if has_ends else int(nb_in_mask[b]),
                nb_voxels=int(sizes[b]),
                overlap=overlap,
                overreach=float((nb_passed[b] - nb_right[b]) / sizes[b]) if has_ends else None,
                f1=float(2 * nb_right[b] / (nb_passed[b] + sizes[b])) if has_ends else None,
            )
        )
    return tuple(scores)
