"""From a subject's tractograms to one flat array of points, in voxel space with the corner as origin."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dwiml.files import check_memory
from dwiml.hdf5.config import StreamlinesGroup
from dwiml.hdf5.inspection import SubjectPlan, check_dps_keys, open_tractogram
from dwiml.ops import spaces
from dwiml.ops.ragged import offsets, sequence_ids
from dwiml.ops.resampling import Resampling
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.tck import check_tck_whole
from dwiml.tractograms.trk import check_trk_whole

logger = logging.getLogger(__name__)

# float32 coordinates that went to mm and back may leave the grid by rounding.
_TOLERANCE_VOXELS = 1e-3


@dataclass(eq=False)
class StreamlinesData:
    """Streamlines of one group of one subject.

    Attributes
    ----------
    points
        Shape (N, 3), float32, voxel space, corner origin, in voxels.
    lengths
        Shape (S,), int64: points of each streamline.
    dps
        {key: data per streamline, shape (S, K), float32}.
    nb_removed
        How many invalid streamlines were dropped.
    """

    points: NDArray[np.float32]
    lengths: NDArray[np.int64]
    dps: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    nb_removed: int = 0


def read_streamlines_group(
    plan: SubjectPlan, group: StreamlinesGroup, *, resample: Resampling, remove_invalid: bool, allow_missing: bool
) -> StreamlinesData:
    """Read the tractograms of one group, put them together, and resample.

    Raises
    ------
    ValueError
        When a file is damaged, when streamlines are invalid and ``remove_invalid`` is False, or when none is left and
        ``allow_missing`` is False.
    """
    label = plan.label(group.name)
    parts = [_read_tractogram(path, group, plan.grid, label) for path in plan.tractograms[group.name]]
    parts = [
        _without_invalid(part, path, plan.grid, label, remove=remove_invalid)
        for part, path in zip(parts, plan.tractograms[group.name], strict=True)
    ]
    data = _union(parts, group, label)
    if not len(data.lengths) and not allow_missing:
        raise ValueError(f"{label} has no streamline left; check the tractograms, or allow it with --allow_missing.")
    if resample.nb_points is not None:
        check_memory(12 * resample.nb_points * len(data.lengths), f"{label}, resampled to {resample.nb_points} points,")
    try:
        data.points, data.lengths = resample.apply(data.points, data.lengths, plan.grid.voxel_sizes)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error
    return data


def _read_tractogram(path: Path, group: StreamlinesGroup, grid: Grid, label: str) -> StreamlinesData:
    """Read one file; streamlines without any point, which nibabel leaves out, count as removed."""
    is_trk = path.suffix.lower() == ".trk"
    if is_trk:
        check_trk_whole(path, label)
    file = open_tractogram(path, label, lazy=False)
    if not is_trk:
        check_tck_whole(path, file.header, label)
    streamlines = file.tractogram.streamlines
    points = spaces.to_vox_corner(
        streamlines.get_data().reshape(-1, 3),
        space="rasmm",
        origin="center",
        affine=grid.affine,
        voxel_sizes=grid.voxel_sizes,
    )
    lengths = np.fromiter(map(len, streamlines), dtype=np.int64, count=len(streamlines))
    per_streamline = file.tractogram.data_per_streamline
    if len(lengths):
        check_dps_keys(list(per_streamline), group, path, label)
    dps = {key: np.asarray(per_streamline[key], dtype=np.float32) for key in group.dps_keys if len(lengths)}
    nb_read = int(file.header["nb_streamlines"]) if is_trk else 0
    logger.info("%s: %d streamlines from '%s'.", label, len(lengths), path)
    return StreamlinesData(points, lengths, dps, nb_removed=max(nb_read - len(lengths), 0))


def _without_invalid(data: StreamlinesData, path: Path, grid: Grid, label: str, *, remove: bool) -> StreamlinesData:
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
        raise ValueError(f"{sentence}; fix the file, or drop them with --remove_invalid.")
    logger.warning("%s; they were dropped.", sentence)
    keep = ~np.logical_or.reduce(list(faults.values()))
    return StreamlinesData(
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


def _union(parts: list[StreamlinesData], group: StreamlinesGroup, label: str) -> StreamlinesData:
    """Put the streamlines of all files together, in the order of the files."""
    nb_removed = sum(part.nb_removed for part in parts)
    parts = [part for part in parts if len(part.lengths)]
    if not parts:
        nothing = {key: np.zeros((0, 1), dtype=np.float32) for key in group.dps_keys}
        return StreamlinesData(np.zeros((0, 3), np.float32), np.zeros(0, np.int64), nothing, nb_removed)
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
    return StreamlinesData(points, np.concatenate([part.lengths for part in parts]), dps, nb_removed)
