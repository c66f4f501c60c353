"""Curate one bundle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dwiml.curation.confidence import cluster_confidence
from dwiml.curation.drawing import VoxelsCrossed, coverage_weights, draw
from dwiml.curation.reading import BundleStreamlines
from dwiml.curation.settings import CurationSettings, Progress, no_progress
from dwiml.ops.randomness import keyed_generator
from dwiml.ops.resampling import lengths_mm
from dwiml.tractograms.grid import Grid


@dataclass(frozen=True)
class BundleCount:
    """What a curation did with a bundle.

    Attributes
    ----------
    name
        Name of the bundle; its ``bundle_id`` is its index in :attr:`~dwiml.curation.curating.Curation.bundles`.
    nb_valid
        Number of its streamlines in all tractograms.
    nb_outliers
        Number of them that were removed as outliers.
    nb_kept
        Number of those that were kept.
    nb_written
        Number of streamlines that were written: more than `nb_kept` if they are repeated.
    mm_written
        Total length of these, in mm.
    overlap_before, overlap_after
        Share (0 to 1) of the voxels of the bundle that its valid streamlines cross, and that those kept cross. The
        voxels of the bundle are those of its mask; with ``labelled``, those that its streamlines cross. None: there are
        none.
    """

    name: str
    nb_valid: int
    nb_outliers: int
    nb_kept: int
    nb_written: int
    mm_written: float
    overlap_before: float | None
    overlap_after: float | None


def curate_bundle(
    bundle: BundleStreamlines, grid: Grid, settings: CurationSettings, progress: Progress = no_progress
) -> tuple[NDArray[np.int64], BundleCount]:
    """Choose the streamlines of a bundle: remove the outliers, then draw those that are kept.

    All random choices depend only on the seed, the name of the bundle and its streamlines.

    Parameters
    ----------
    bundle
        The valid streamlines of the bundle.
    grid
        The voxel grid of their points.
    settings
        What to remove and how many to keep.
    progress
        Shows the progress.

    Returns
    -------
    ids : (K,) int64
        Indices of the chosen streamlines, in ascending order; repeated ones are in it several times.
    count
        What was done.
    """
    crossed = VoxelsCrossed.of(bundle.points, bundle.lengths, grid)
    mm = lengths_mm(bundle.points, bundle.lengths, grid.voxel_sizes)
    inliers = np.arange(len(bundle.lengths))
    if settings.min_confidence is not None:
        with progress(f"Confidence of {bundle.name}", len(bundle.lengths)) as advance:
            confidence = cluster_confidence(
                bundle.points,
                bundle.lengths,
                grid.voxel_sizes,
                rng=keyed_generator(settings.seed, "curation", "confidence", bundle.name),
                max_mdf=settings.max_mdf,
                power=settings.power,
                on_progress=advance,
            )
        inliers = np.flatnonzero(confidence >= settings.min_confidence)
    is_random = settings.choose == "random"
    drawn = draw(
        np.ones(len(inliers)) if is_random else coverage_weights(crossed.select(inliers)),
        mm[inliers],
        rng=keyed_generator(settings.seed, "curation", "draw", bundle.name),
        max_streamlines=settings.max_streamlines,
        max_mm=settings.max_mm,
        min_streamlines=settings.min_streamlines,
    )
    ids = inliers[drawn]
    kept = np.unique(ids)
    before, after = crossed.distinct(), crossed.select(kept).distinct()
    mask = before if bundle.mask is None else bundle.mask
    count = BundleCount(
        name=bundle.name,
        nb_valid=len(bundle.lengths),
        nb_outliers=len(bundle.lengths) - len(inliers),
        nb_kept=len(kept),
        nb_written=len(ids),
        mm_written=float(mm[ids].sum(dtype=np.float64)),
        overlap_before=_overlap(before, mask),
        overlap_after=_overlap(after, mask),
    )
    return ids, count


def _overlap(crossed: NDArray[np.int64], mask: NDArray[np.int64]) -> float | None:
    return float(np.isin(mask, crossed).mean()) if len(mask) else None
