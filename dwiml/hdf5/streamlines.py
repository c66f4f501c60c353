"""From a subject's tractograms to one flat array of points, in voxel space with the corner as origin."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dwiml.files import check_memory
from dwiml.hdf5.config import StreamlinesGroup
from dwiml.hdf5.inspection import SubjectPlan
from dwiml.ops.ragged import offsets, sequence_ids
from dwiml.ops.resampling import Resampling
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.reading import open_tractogram
from dwiml.tractograms.tractogram import Streamlines

logger = logging.getLogger(__name__)

# float32 coordinates that went to mm and back may leave the grid by rounding.
_TOLERANCE_VOXELS = 1e-3


def read_streamlines_group(
    plan: SubjectPlan, group: StreamlinesGroup, *, resample: Resampling, remove_invalid: bool, allow_missing: bool
) -> Streamlines:
    """Read the tractograms of one group, put them together, and resample.

    Raises
    ------
    ValueError
        When a file is damaged, when streamlines are invalid and ``remove_invalid`` is False, or when none is left and
        ``allow_missing`` is False.
    """
    label = plan.label(group.name)
    tractograms = [open_tractogram(path, label) for path in plan.tractograms[group.name]]
    parts = [tractogram.read(plan.grid.affine, group.dps_keys) for tractogram in tractograms]
    parts = [
        _without_invalid(part, tractogram.path, plan.grid, label, remove=remove_invalid)
        for part, tractogram in zip(parts, tractograms, strict=True)
    ]
    data = _union(parts, group, label)
    if not len(data.lengths) and not allow_missing:
        raise ValueError(f"{label} has no streamline left; check the tractograms, or allow it with allow_missing=True.")
    if resample.nb_points is not None:
        check_memory(12 * resample.nb_points * len(data.lengths), f"{label}, resampled to {resample.nb_points} points,")
    try:
        data.points, data.lengths = resample.apply(data.points, data.lengths, plan.grid.voxel_sizes)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error
    return data


def _without_invalid(data: Streamlines, path: Path, grid: Grid, label: str, *, remove: bool) -> Streamlines:
    """Refuse, or drop, the streamlines that no training can use."""
    faults = _faults(data.points, data.lengths, grid.shape)
    counts = {"without any point": data.nb_removed}
    counts |= {reason: int(np.count_nonzero(flags)) for reason, flags in faults.items()}
    total = sum(counts.values())
    if not total:
        return data
    told = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    sentence = f"{label}: '{path}' holds {total} invalid of {len(data.lengths) + data.nb_removed} streamlines ({told})"
    if not remove:
        raise ValueError(f"{sentence}; fix the file, or drop them with remove_invalid=True.")
    logger.warning("%s; they were dropped.", sentence)
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
    """Flag (S,) the invalid streamlines, each for one reason only."""
    streamline = sequence_ids(lengths)
    first_points = points[offsets(lengths)[streamline]]

    def any_point(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.bincount(streamline[flags.any(axis=1)], minlength=len(lengths)) > 0

    not_finite = any_point(~np.isfinite(points))
    still = ~any_point(points != first_points)
    outside = any_point((points < -_TOLERANCE_VOXELS) | (points > np.array(shape) + _TOLERANCE_VOXELS))
    return {
        "with NaN or infinite points": not_finite,
        "of one point": still & (lengths == 1) & ~not_finite,
        "whose points are all the same": still & (lengths > 1) & ~not_finite,
        "outside the volume": outside & ~still & ~not_finite,
    }


def _union(parts: list[Streamlines], group: StreamlinesGroup, label: str) -> Streamlines:
    """Put the streamlines of all files together, in the order of the files."""
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
                f"{label}: data per streamline '{key}' has different sizes in its tractograms: {widths}; "
                "leave it out of 'dps_keys', or make the files alike."
            )
        dps[key] = np.concatenate([part.dps[key] for part in parts])
    points = np.concatenate([part.points for part in parts])
    return Streamlines(points, np.concatenate([part.lengths for part in parts]), dps, nb_removed)
