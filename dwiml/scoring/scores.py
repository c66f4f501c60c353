"""Score a tractogram against a ground truth, like the ISMRM 2015 tractography challenge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from dwiml.arguments import check_number
from dwiml.ops.ragged import first_not_finite
from dwiml.scoring.adjacency import bundle_adjacency
from dwiml.scoring.connections import Connection, connect
from dwiml.scoring.defaults import MIN_COVERAGE
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.voxels import chunks

VOLUME_MEASURES = ("overlap", "overreach", "f1", "adjacency")


@dataclass(frozen=True)
class BundleScore:
    """Scores of one true bundle; scores that need its end regions are None if they are not known.

    Attributes
    ----------
    name
        Name of the bundle.
    has_ends
        Whether its end regions are known.
    found
        Whether it has a valid connection; without end regions, whether `overlap` is at least the requested share.
    nb_valid, nb_wrong_path
        Number of valid and wrong path connections.
    nb_in_mask
        Without end regions, number of streamlines that lie in the mask; otherwise None.
    nb_voxels
        Number of voxels in the true mask; without a mask, 0, and the scores of its volume are None.
    overlap
        Share (0 to 1) of the voxels in the true mask that the streamlines pass.
    overreach
        Number of voxels passed outside the true mask, divided by the number of voxels in it; may exceed 1.
    f1
        2 x voxels passed in the mask / (voxels passed + voxels in the mask), from 0 to 1: the coefficient of Dice
        (1945, doi:10.2307/1932409).
    adjacency
        Bundle adjacency of the voxels passed and the true mask, in mm; see
        :func:`~dwiml.scoring.adjacency.bundle_adjacency`. None for a bundle that was not found.
    valid_share
        Valid connections of the bundle, divided by all streamlines of the tractogram (0 to 1).
    right_path_share
        Valid connections of the bundle, divided by its valid and wrong path connections (0 to 1); None without either.
    """

    name: str
    has_ends: bool
    found: bool
    nb_valid: int | None
    nb_wrong_path: int | None
    nb_in_mask: int | None
    nb_voxels: int
    overlap: float | None
    overreach: float | None
    f1: float | None
    adjacency: float | None = None
    valid_share: float | None = None
    right_path_share: float | None = None


@dataclass(frozen=True)
class InvalidBundle:
    """Streamlines that join two end regions that no true bundle joins.

    Attributes
    ----------
    regions
        Names of the two regions.
    nb_streamlines
        Number of streamlines.
    """

    regions: tuple[str, str]
    nb_streamlines: int


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a tractogram with S streamlines.

    Attributes
    ----------
    kind : (S,) int8
        Kind of each streamline, a value of :class:`~dwiml.scoring.connections.Connection`.
    bundle : (S,) int64
        Index in `bundles` of the bundle of valid and wrong path connections; -1 for the others.
    bundles
        Scores of the true bundles, in the order of the ground truth.
    invalid_bundles
        The invalid bundles, in descending order of their number of streamlines.
    """

    kind: NDArray[np.int8]
    bundle: NDArray[np.int64]
    bundles: tuple[BundleScore, ...]
    invalid_bundles: tuple[InvalidBundle, ...]

    @property
    def nb_streamlines(self) -> int:
        """Number of streamlines."""
        return len(self.kind)

    @property
    def has_ends(self) -> bool:
        """Whether any bundle has end regions; otherwise connections are not available."""
        return any(bundle.has_ends for bundle in self.bundles)

    def count(self, connection: Connection) -> int | None:
        """Return the number of streamlines of this kind; None if no bundle has end regions."""
        return int(np.count_nonzero(self.kind == connection)) if self.has_ends else None

    def share(self, connection: Connection) -> float | None:
        """Return the share (0 to 1) of this kind; None if there are no streamlines, or no bundle has end regions."""
        count = self.count(connection)
        return count / self.nb_streamlines if count is not None and self.nb_streamlines else None

    @property
    def nb_found(self) -> int:
        """Number of valid bundles (VB): true bundles that were found."""
        return sum(bundle.found for bundle in self.bundles)

    def mean(self, measure: str) -> float | None:
        """Return the mean of a measure over the bundles.

        Parameters
        ----------
        measure
            ``"overlap"``, ``"overreach"``, ``"f1"`` or ``"adjacency"``.

        Returns
        -------
        float or None
            The mean over the bundles for which the measure is available; None if there are none. Bundles that were not
            found are included, except in the adjacency, which they do not have.
        """
        values = self.values(measure)
        return float(np.mean(values)) if values else None

    def values(self, measure: str) -> list[float]:
        """Return a measure of each bundle for which it is available; see :meth:`mean`."""
        return [value for bundle in self.bundles if (value := getattr(bundle, measure)) is not None]

    def summary(self) -> dict[str, float]:
        """Return {name: total score}, without the scores that are not available; shares are from 0 to 1."""
        totals = {
            "valid_connections": self.share(Connection.VALID),
            "wrong_path_connections": self.share(Connection.WRONG_PATH),
            "invalid_connections": self.share(Connection.INVALID),
            "no_connections": self.share(Connection.NONE),
            "valid_bundles": float(self.nb_found),
            "invalid_bundles": float(len(self.invalid_bundles)) if self.has_ends else None,
            **{measure: self.mean(measure) for measure in ("overlap", "overreach", "f1")},
        }
        return {name: value for name, value in totals.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return all scores, except those of each streamline, for JSON: shares from 0 to 1, None if not available."""
        return {
            "nb_streamlines": self.nb_streamlines,
            "connections": {
                connection.name.lower(): {"nb_streamlines": self.count(connection), "share": self.share(connection)}
                for connection in reversed(Connection)
            },
            "nb_bundles": len(self.bundles),
            "nb_valid_bundles": self.nb_found,
            "nb_invalid_bundles": len(self.invalid_bundles) if self.has_ends else None,
            "mean": {measure: self.mean(measure) for measure in VOLUME_MEASURES},
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
    max_outside: float | None = None,
    min_coverage: float = MIN_COVERAGE,
    adjacency: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> Scores:
    """Score streamlines against a ground truth (Cote et al., 2013; Maier-Hein et al., 2017; Renauld et al., 2023).

    The kind of each streamline is the first of these that applies:

    1. *Valid connection* of a bundle: its two end points lie in the two end regions of the bundle, in either order, and
       at most a share `max_outside` of its length lies outside the widened mask of the bundle (see
       :meth:`GroundTruth.from_volumes`). If this is the case for several bundles, it is assigned to the one whose
       mask (not widened) contains most of its length. A ground truth in scilpy's format has more criteria, see
       :class:`~dwiml.scoring.paths.BundlePath`, and assigns the streamline to the first of these bundles.
    2. *Wrong path connection*: it joins the two end regions of a bundle, but does not meet the other criteria.
    3. *Invalid connection*: its end points lie in two regions that no bundle joins. The two regions form an invalid
       bundle. Where regions overlap, the first one counts.
    4. *No connection*: an end point lies in no region, both lie in the same region, or all points are equal.

    A voxel is passed if a segment crosses it, even if no point lies in it. Voxels outside the volume of the ground
    truth count as outside the masks, but not in the overreach.

    Parameters
    ----------
    points : (N, 3)
        Points of all streamlines, concatenated; voxel space of the ground truth, corner origin, in voxels.
    lengths : (S,)
        Number of points of each streamline, integers.
    ground_truth
        The true bundles.
    max_outside
        Share (0 to 1) of the length of a valid connection that may lie outside the mask; None for that of the ground
        truth: 0.05, or 0 in scilpy's format.
    min_coverage
        A bundle without end regions is found if its overlap is above 0 and at least this share (0 to 1).
    adjacency
        Whether to compute the bundle adjacency, which takes longer than the other scores on a large grid.
    on_progress
        Called after each chunk with its number of streamlines, for a progress bar.

    Returns
    -------
    Scores
        Kind and bundle of each streamline, and the scores of the bundles.

    Raises
    ------
    ValueError
        If shapes do not match, a coordinate is not finite, or a share is invalid.

    References
    ----------
    Cote et al. (2013), "Tractometer: towards validation of tractography pipelines", doi:10.1016/j.media.2013.03.009.
    Maier-Hein et al. (2017), "The challenge of mapping the human connectome based on diffusion tractography",
    doi:10.1038/s41467-017-01285-x.
    Renauld et al. (2023), "Validate your white matter tractography algorithms with a reappraised ISMRM 2015
    Tractography Challenge scoring system", doi:10.1038/s41598-023-28560-w.
    """
    max_outside = ground_truth.max_outside if max_outside is None else max_outside
    max_outside = check_number("max_outside", max_outside, low=0, high=1)
    min_coverage = check_number("min_coverage", min_coverage, low=0, high=1)
    points, lengths = _checked(points, lengths)
    kind = np.full(len(lengths), Connection.NONE, dtype=np.int8)
    bundle = np.full(len(lengths), -1, dtype=np.int64)
    nb_in_mask = np.zeros(len(ground_truth.names), dtype=np.int64)
    passed = sparse.csr_array((len(ground_truth.names), ground_truth.masks.shape[0]))
    pairs: Counter[int] = Counter()
    for lines, rows in chunks(lengths):
        part = connect(points[rows], lengths[lines], ground_truth, max_outside)
        kind[lines], bundle[lines] = part.kind, part.bundle
        nb_in_mask += part.nb_in_mask
        passed = passed + part.passed
        first, second = part.regions[part.kind == Connection.INVALID].T
        found, counts = np.unique(first * len(ground_truth.regions) + second, return_counts=True)
        pairs.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        if on_progress is not None:
            on_progress(lines.stop - lines.start)
    scored = _score_bundles(kind, bundle, nb_in_mask, passed, ground_truth, min_coverage)
    if adjacency:
        scored = _with_adjacency(scored, passed, ground_truth)
    return Scores(
        kind,
        bundle,
        scored,
        _list_invalid_bundles(pairs, ground_truth.regions),
    )


def _list_invalid_bundles(pairs: Mapping[int, int], regions: Sequence[str]) -> tuple[InvalidBundle, ...]:
    """Return the invalid bundles, given {first region * number of regions + second region: number of streamlines}."""
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
    # An empty list becomes an array of floats.
    if counts.ndim != 1 or (counts.size and counts.dtype.kind not in "iu") or (counts < 0).any():
        raise ValueError("lengths must be whole numbers, 0 or more, one per streamline.")
    if counts.sum() != len(points):
        raise ValueError(f"lengths add up to {int(counts.sum())} points, but points has {len(points)} rows.")
    wrong = first_not_finite(points, counts)
    if wrong is not None:
        raise ValueError(
            "points contains NaN or infinite coordinates; remove these streamlines, the first of which is number "
            f"{wrong} (counted from 0)."
        )
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
        has_ends, size = bool(truth.has_ends[b]), int(sizes[b])
        both = has_ends and size > 0
        overlap = float(nb_right[b] / size) if size else None
        nb_joining = int(nb_valid[b] + nb_wrong[b])
        scores.append(
            BundleScore(
                name=name,
                has_ends=has_ends,
                found=bool(nb_valid[b] > 0) if has_ends else 0 < (overlap or 0) >= min_coverage,
                nb_valid=int(nb_valid[b]) if has_ends else None,
                nb_wrong_path=int(nb_wrong[b]) if has_ends else None,
                nb_in_mask=None if has_ends else int(nb_in_mask[b]),
                nb_voxels=size,
                overlap=overlap,
                overreach=float((nb_passed[b] - nb_right[b]) / size) if both else None,
                f1=float(2 * nb_right[b] / (nb_passed[b] + size)) if both else None,
                valid_share=float(nb_valid[b] / len(kind)) if has_ends and len(kind) else None,
                right_path_share=float(nb_valid[b] / nb_joining) if has_ends and nb_joining else None,
            )
        )
    return tuple(scores)


def _with_adjacency(
    scores: Sequence[BundleScore], passed: sparse.csr_array, truth: GroundTruth
) -> tuple[BundleScore, ...]:
    """Return the scores of the bundles with the adjacency of those that were found."""
    true = truth.masks.T.tocsr()
    completed = []
    for b, score in enumerate(scores):
        voxels, true_voxels = (rows.indices[rows.indptr[b] : rows.indptr[b + 1]] for rows in (passed, true))
        # Streamlines outside the volume pass no voxel of it.
        if score.has_ends and score.found and len(voxels) and len(true_voxels):
            distance = bundle_adjacency(voxels, true_voxels, truth.grid.shape, truth.grid.voxel_sizes)
            score = replace(score, adjacency=distance)
        completed.append(score)
    return tuple(completed)
