"""From subjects' folders to one HDF5 file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from dwiml.hdf5 import file_writer
from dwiml.hdf5.config import GroupsConfig, load_config
from dwiml.hdf5.connectivity_group import plan_connectivity
from dwiml.hdf5.inspection import SubjectPlan, plan_subjects
from dwiml.hdf5.streamlines import read_streamlines_group
from dwiml.hdf5.subjects import SubjectList, check_folders, read_subject_lists
from dwiml.hdf5.volumes import read_volume_group
from dwiml.ops.resampling import Resampling
from dwiml.signals import ended_by_signals

logger = logging.getLogger(__name__)

# A micrometre: no streamline is sampled so finely, and one of a brain's length would have 200 000 points.
_SMALLEST_STEP_MM = 1e-3


@dataclass
class StreamlinesCount:
    """What one streamlines group holds, all subjects together."""

    nb_streamlines: int = 0
    nb_points: int = 0
    nb_files: int = 0
    nb_removed: int = 0
    nb_of_two_points: int = 0


@dataclass
class CreationSummary:
    """What was written.

    Attributes
    ----------
    path
        The HDF5 file.
    nb_bytes
        Its size.
    subjects
        {"training": [...], "validation": [...], "testing": [...]}.
    nb_features
        {volume group: number of features}.
    streamlines
        {streamlines group: its counts}.
    files
        {volume group: [(file, number of features), ...]} in their order, as the first subject has them.
    """

    path: Path
    nb_bytes: int = 0
    subjects: dict[str, list[str]] = field(default_factory=dict)
    nb_features: dict[str, int] = field(default_factory=dict)
    streamlines: dict[str, StreamlinesCount] = field(default_factory=dict)
    files: dict[str, list[tuple[str, int]]] = field(default_factory=dict)


@ended_by_signals(library="the HDF5 file was made: it is removed, and what was there before stays")
def create_hdf5(
    subjects_folder: str | os.PathLike[str],
    out_hdf5: str | os.PathLike[str],
    config: str | os.PathLike[str] | Mapping[str, Any],
    training: SubjectList,
    validation: SubjectList = (),
    testing: SubjectList = (),
    *,
    step_size: float | None = None,
    nb_points: int | None = None,
    compress: float | None = None,
    overwrite: bool = False,
    remove_invalid: bool = False,
    allow_missing: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> CreationSummary:
    """Gather subjects' volumes and streamlines into one HDF5 file.

    All that can be checked from the files' headers is checked for all subjects before the first is read. Subjects are
    then read one at a time. The file appears under its name when it is whole; until then an older one stays in place.

    Parameters
    ----------
    subjects_folder
        Holds one folder a subject.
    out_hdf5
        The file to write.
    config
        Which files make which group: a JSON file, or its content. See :mod:`dwiml.hdf5.config`.
    training, validation, testing
        Each a text file with one subject a line, or a list of subjects.
    step_size
        Resample streamlines to points at this distance, in mm. At most one of this and the next two.
    nb_points
        Resample streamlines to this number of points.
    compress
        Leave out points as long as the curve moves by less than this, in mm.
    overwrite
        Replace ``out_hdf5`` if it exists: an HDF5 file or an empty one, nothing else.
    remove_invalid
        Drop streamlines of one point or of no length, with NaN, or outside the volume, rather than refuse them.
    allow_missing
        A tractogram may be missing or empty; a group without any streamline is written if need be.
    on_progress
        Called with (subjects done, subjects in all, name of the one just done), and with (0, all, "") at the start.

    Returns
    -------
    CreationSummary
        What was written.

    Raises
    ------
    FileNotFoundError, FileExistsError, IsADirectoryError
        When something is missing, or in the way.
    ValueError
        For any bad input; the sentence names the subject, the group and the file.
    """
    resample = Resampling(step_size=step_size, nb_points=nb_points, compress=compress)
    if step_size is not None and step_size < _SMALLEST_STEP_MM:
        raise ValueError(
            f"step_size must be at least {_SMALLEST_STEP_MM:g} mm, the distance between two points, got {step_size:g}."
        )
    groups = load_config(config)
    subjects = read_subject_lists({"training": training, "validation": validation, "testing": testing})
    inputs: list[Any] = [config, training, validation, testing]
    target = file_writer.checked_output(Path(out_hdf5), inputs, overwrite=overwrite)
    folder, names = Path(subjects_folder), [name for listed in subjects.values() for name in listed]
    check_folders(folder, names)
    plans = plan_subjects(folder, names, groups, allow_missing=allow_missing)
    matrices = plan_connectivity(plans, groups)
    inputs += [path for plan in plans for path in plan.files]
    inputs += [path for group in matrices.values() for matrix in group.values() for path in matrix.files]
    file_writer.checked_output(Path(out_hdf5), inputs, overwrite=overwrite, warn=False)
    file_writer.refuse_other_kind(target)
    _warn(subjects, groups)

    summary = CreationSummary(Path(out_hdf5), subjects=subjects, nb_features=dict(plans[0].nb_features))
    summary.files = _files_of(plans[0])
    summary.streamlines = {group.name: StreamlinesCount() for group in groups.streamlines}
    tell = on_progress or (lambda done, total, name: None)
    tell(0, len(plans), "")
    with file_writer.whole_hdf5(target, sum(plan.nb_bytes for plan in plans), overwrite=overwrite) as handle:
        file_writer.write_root(handle, subjects, groups, resample, summary.files)
        for done, plan in enumerate(plans, 1):
            subject = handle.create_group(plan.name)
            _write_volumes(subject, plan, groups)
            _write_streamlines(
                subject, plan, groups, summary, resample, remove_invalid=remove_invalid, allow_missing=allow_missing
            )
            for group, matrix in matrices[plan.name].items():
                file_writer.write_connectivity(subject[group], matrix)
            file_writer.write_group_digests(subject)
            tell(done, len(plans), plan.name)
    _warn_of_resampling(summary, resample, [plan.grid.voxel_sizes.min() for plan in plans])
    summary.nb_bytes = target.stat().st_size
    return summary


def _files_of(plan: SubjectPlan) -> dict[str, list[tuple[str, int]]]:
    return {
        group: [
            (path.relative_to(plan.folder).as_posix(), nb)
            for path, nb in zip(plan.volumes[group], features, strict=True)
        ]
        for group, features in plan.features.items()
    }


def _warn(subjects: Mapping[str, list[str]], groups: GroupsConfig) -> None:
    if not subjects["validation"]:
        logger.warning("There is no validation subject: a training on this file will not measure a validation loss.")
    for group in groups.volumes:
        if group.std_mask and group.standardization == "none":
            logger.warning("Group '%s' has a std_mask that is not used: its standardization is 'none'.", group.name)


def _warn_of_resampling(summary: CreationSummary, resample: Resampling, voxel_sizes: Sequence[float]) -> None:
    """Tell when resampling left little of the streamlines."""
    for name, count in summary.streamlines.items():
        if resample.step_size is not None and 2 * count.nb_of_two_points > count.nb_streamlines:
            logger.warning(
                "Group '%s': of %d of %d streamlines, the step size of %g mm left only the two ends.",
                *(name, count.nb_of_two_points, count.nb_streamlines, resample.step_size),
            )
    if resample.compress is not None and resample.compress > min(voxel_sizes):
        logger.warning(
            "Streamlines were allowed to move by %g mm, which is more than a voxel (%.3g mm); compress=0.1 is usual.",
            *(resample.compress, min(voxel_sizes)),
        )


def _write_volumes(subject: h5py.Group, plan: SubjectPlan, groups: GroupsConfig) -> None:
    for group in groups.volumes:
        file_writer.write_volume(subject, group.name, read_volume_group(plan, group), plan.grid)


def _write_streamlines(
    subject: h5py.Group,
    plan: SubjectPlan,
    groups: GroupsConfig,
    summary: CreationSummary,
    resample: Resampling,
    *,
    remove_invalid: bool,
    allow_missing: bool,
) -> None:
    for group in groups.streamlines:
        data = read_streamlines_group(
            plan, group, resample=resample, remove_invalid=remove_invalid, allow_missing=allow_missing
        )
        file_writer.write_streamlines(subject, group.name, data, plan.grid)
        count = summary.streamlines[group.name]
        count.nb_files += len(plan.tractograms[group.name])
        count.nb_streamlines += len(data.lengths)
        count.nb_points += len(data.points)
        count.nb_removed += data.nb_removed
        count.nb_of_two_points += int((data.lengths == 2).sum())
