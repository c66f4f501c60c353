"""Read the tractograms of a subject into one flat array of points, in voxel space, corner origin."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dwiml.files import check_memory
from dwiml.hdf5.config import StreamlinesGroup
from dwiml.hdf5.inputs.inspection import SubjectPlan
from dwiml.ops.ragged import offsets, sequence_ids
from dwiml.ops.resampling import Resampling
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.reading import open_tractogram
from dwiml.tractograms.tractogram import Streamlines

logger = logging.getLogger(__name__)

# Converting float32 coordinates to mm and back may move them out of the grid by rounding.
_TOLERANCE_VOXELS = 1e-3


def read_streamlines_group(
    plan: SubjectPlan, group: StreamlinesGroup, *, resample: Resampling, remove_invalid: bool, allow_missing: bool
) -> Streamlines:
    """Read the tractograms of one group, concatenate them, and resample the streamlines.

    Parameters
    ----------
    plan
        The files of the subject.
    group
        The streamlines group.
    resample
        How to resample the streamlines.
    remove_invalid
        Remove invalid streamlines instead of raising an error.
    allow_missing
        Allow the group to hold no streamlines.

    Returns
    -------
    Streamlines
        Points of shape (N, 3), float32, in voxel space, corner origin; lengths of shape (S,), int64.

    Raises
    ------
    ValueError
        If a file is damaged, if streamlines are invalid and `remove_invalid` is False, or if there is no streamline and
        `allow_missing` is False.
    """
    label = plan.label(group.name)
    tractograms = [
        open_tractogram(path, label, space=group.space, trx_groups=group.trx_groups)
        for path in plan.tractograms[group.name]
    ]
    parts = [tractogram.read(plan.grid.affine, group.dps_keys) for tractogram in tractograms]
    parts = [
        _without_invalid(part, tractogram.path, plan.grid, label, remove=remove_invalid)
        for part, tractogram in zip(parts, tractograms, strict=True)
    ]
    data = _union(parts, group, label)
    if not len(data.lengths) and not allow_missing:
        raise ValueError(
            f"{label} has no valid streamlines; check the tractograms, or allow this with allow_missing=True."
        )
    if resample.nb_points is not None:
        check_memory(12 * resample.nb_points * len(data.lengths), f"{label}, resampled to {resample.nb_points} points,")
    try:
        data.points, data.lengths = resample.apply(data.points, data.lengths, plan.grid.voxel_sizes)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error
    return data


def _without_invalid(data: Streamlines, path: Path, grid: Grid, label: str, *, remove: bool) -> Streamlines:
    """Refuse or remove the streamlines that cannot be used for training."""
    faults = _faults(data.points, data.lengths, grid.shape)
    counts = {"without any point": data.nb_removed}
    counts |= {reason: int(np.count_nonzero(flags)) for reason, flags in faults.items()}
    total = sum(counts.values())
    if not total:
        return data
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    nb_streamlines = len(data.lengths) + data.nb_removed
    message = f"{label}: {total} of the {nb_streamlines} streamlines in '{path}' are invalid ({reasons})"
    if not remove:
        raise ValueError(f"{message}; fix the file, or remove them with remove_invalid=True.")
    logger.warning("%s; they were removed.", message)
    keep = ~np.logical_or.reduce(list(faults.values()))
    return Streamlines(
        data.points[np.repeat(keep, data.lengths)],
        data.lengths[keep],
        {key: values[keep] for key, values in data.dps.items()},
        nb_removed=total,
    )


def _faults(
    points: NDArray[np.float32], lengths: NDArray[np.int64], shape: tuple[int, int, int]
) -> dict[str, NDArray[np.bool_]]:
    """Flag the invalid streamlines, shape (S,) for each reason; a streamline is flagged for one reason only."""
    streamline = sequence_ids(lengths)
    first_points = points[offsets(lengths)[streamline]]

    def any_point(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        # Faster than any(axis=1), for three columns.
        return np.bincount(streamline[flags[:, 0] | flags[:, 1] | flags[:, 2]], minlength=len(lengths)) > 0

    not_finite = any_point(~np.isfinite(points))
    constant = ~any_point(points != first_points)
    outside = any_point((points < -_TOLERANCE_VOXELS) | (points > np.array(shape) + _TOLERANCE_VOXELS))
    return {
        "with NaN or infinite points": not_finite,
        "of one point": constant & (lengths == 1) & ~not_finite,
        "whose points are all the same": constant & (lengths > 1) & ~not_finite,
        "outside the volume": outside & ~constant & ~not_finite,
    }


def _union(parts: list[Streamlines], group: StreamlinesGroup, label: str) -> Streamlines:
    """Concatenate the streamlines of all files, in the order of the files."""
    nb_removed = sum(part.nb_removed for part in parts)
    parts = [part for part in parts if len(part.lengths)]
    if not parts:
        nothing = {key: np.zeros((0, 1), dtype=np.float32) for key in group.dps_keys}
        return Streamlines(np.zeros((0, 3), np.float32), np.zeros(0, np.int64), nothing, nb_removed)
    dps = {}
    for key in group.dps_keys:
        widths = {part.dps[key].shape[1:] for part in parts}
        if len(widths) > 1:
            raise ValueError(
                f"{label}: data per streamline '{key}' has different sizes in the tractograms: {widths}; "
                "remove it from 'dps_keys', or give it the same size in all files."
            )
        dps[key] = np.concatenate([part.dps[key] for part in parts])
    points = np.concatenate([part.points for part in parts])
    return Streamlines(points, np.concatenate([part.lengths for part in parts]), dps, nb_removed)
