"""Create one HDF5 file from the folders of many subjects."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from dwiml import __version__
from dwiml.hdf5 import file_writer, schema
from dwiml.hdf5.config import GroupsConfig, load_config
from dwiml.hdf5.inputs.connectivity import plan_connectivity
from dwiml.hdf5.inputs.inspection import SubjectPlan, plan_subjects
from dwiml.hdf5.inputs.provenance import add_statistics, streamlines_sources, volume_sources
from dwiml.hdf5.inputs.streamlines import read_streamlines_group
from dwiml.hdf5.inputs.subjects import SubjectList, folders_of_subjects, read_subject_lists
from dwiml.hdf5.inputs.volumes import read_volume_group
from dwiml.ops.resampling import Resampling
from dwiml.params import checks_arguments
from dwiml.signals import ended_by_signals

logger = logging.getLogger(__name__)

# One micrometer: a streamline of 200 mm would have 200 000 points.
_MIN_STEP_MM = 1e-3


@dataclass
class StreamlinesCount:
    """Counts of one streamlines group, over all subjects.

    Attributes
    ----------
    nb_streamlines, nb_points
        Number of streamlines written, and of their points.
    nb_files
        Number of tractograms read.
    nb_removed
        Number of invalid streamlines that were removed.
    nb_of_two_points
        Number of streamlines that have two points only, after resampling.
    """

    nb_streamlines: int = 0
    nb_points: int = 0
    nb_files: int = 0
    nb_removed: int = 0
    nb_of_two_points: int = 0


@dataclass
class CreationSummary:
    """Summary of the HDF5 file that was written.

    Attributes
    ----------
    path
        The HDF5 file.
    nb_bytes
        Its size in bytes.
    subjects
        {"training": [...], "validation": [...], "testing": [...]}.
    nb_features
        {volume group: number of features}.
    streamlines
        {streamlines group: its counts}.
    files
        {volume group: [(file, number of features), ...]}, in the order of the features, for the first subject.
    """

    path: Path
    nb_bytes: int = 0
    subjects: dict[str, list[str]] = field(default_factory=dict)
    nb_features: dict[str, int] = field(default_factory=dict)
    streamlines: dict[str, StreamlinesCount] = field(default_factory=dict)
    files: dict[str, list[tuple[str, int]]] = field(default_factory=dict)


@checks_arguments
@ended_by_signals(activity="creating the HDF5 file; the unfinished file is removed, and an existing one is kept")
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
    command: str = "Python",
) -> CreationSummary:
    """Create one HDF5 file from the volumes and streamlines of many subjects.

    The headers of all files are checked before the first subject is read. Subjects are then read one at a time. The
    file is written atomically: it gets its name once it is complete, and until then an existing file is kept.

    Parameters
    ----------
    subjects_folder
        Folder that contains one folder per subject.
    out_hdf5
        The file to write.
    config
        Which files go into which group: a JSON file, or its content as a dict. See :mod:`dwiml.hdf5.config`.
    training, validation, testing
        For each subset, a text file with one subject per line, or a list of subjects.
    step_size
        Resample streamlines to points at this distance, in mm. Give at most one of `step_size`, `nb_points` and
        `compress`.
    nb_points
        Resample streamlines to this number of points.
    compress
        Remove points as long as the curve moves by less than this distance, in mm.
    overwrite
        Replace ``out_hdf5`` if it exists and is an HDF5 file or an empty file.
    remove_invalid
        Remove invalid streamlines (one point, zero length, NaN, or outside the volume) instead of raising an error.
    allow_missing
        Allow tractograms to be missing or empty; a group may then hold no streamlines.
    on_progress
        Called with (number of subjects done, total number, name of the subject just done), first with (0, total, "").
    command
        Command line that the file records as its origin.

    Returns
    -------
    CreationSummary
        A summary of the file that was written.

    Raises
    ------
    FileNotFoundError, FileExistsError, IsADirectoryError
        If an input is missing, or the output cannot be replaced.
    ValueError
        If an input is invalid. The message names the subject, the group and the file.
    """
    resample = Resampling(step_size=step_size, nb_points=nb_points, compress=compress)
    if step_size is not None and step_size < _MIN_STEP_MM:
        raise ValueError(
            f"step_size, the distance between two points, must be at least {_MIN_STEP_MM:g} mm, got {step_size:g}."
        )
    groups = load_config(config)
    subjects = read_subject_lists({"training": training, "validation": validation, "testing": testing})
    inputs: list[Any] = [config, training, validation, testing]
    target = file_writer.checked_output(Path(out_hdf5), inputs, overwrite=overwrite)
    names = [name for listed in subjects.values() for name in listed]
    plans = plan_subjects(folders_of_subjects(Path(subjects_folder), names), groups, allow_missing=allow_missing)
    matrices = plan_connectivity(plans, groups)
    inputs += [path for plan in plans for path in plan.files]
    inputs += [path for group in matrices.values() for matrix in group.values() for path in matrix.files]
    file_writer.checked_output(Path(out_hdf5), inputs, overwrite=overwrite, warn=False)
    file_writer.refuse_other_kind(target)
    _warn_of_unused(subjects, groups)

    summary = CreationSummary(Path(out_hdf5), subjects=subjects, nb_features=dict(plans[0].nb_features))
    summary.files = _files_of(plans[0])
    summary.streamlines = {group.name: StreamlinesCount() for group in groups.streamlines}
    report_progress = on_progress or (lambda done, total, name: None)
    report_progress(0, len(plans), "")
    with file_writer.atomic_hdf5(target, sum(plan.nb_bytes for plan in plans), overwrite=overwrite) as handle:
        file_writer.write_root(handle, subjects, groups, resample, summary.files, plans[0].directions)
        options = {"remove_invalid": remove_invalid, "allow_missing": allow_missing}
        file_writer.write_provenance(
            handle, {schema.DWIML_VERSION: __version__, schema.COMMAND: command, schema.OPTIONS: options}
        )
        for done, plan in enumerate(plans, 1):
            subject = handle.create_group(plan.name)
            _write_volumes(subject, plan, groups)
            recorded = {
                group: streamlines_sources(plan, group, matrices[plan.name].get(group)) for group in plan.tractograms
            }
            _write_streamlines(
                subject, plan, groups, summary, resample, remove_invalid=remove_invalid, allow_missing=allow_missing
            )
            for group, matrix in matrices[plan.name].items():
                file_writer.write_connectivity(subject[group], matrix)
            for group, sources in recorded.items():
                file_writer.write_provenance(subject[group], sources)
            file_writer.write_group_digests(subject)
            report_progress(done, len(plans), plan.name)
    _warn_of_resampling(summary, resample, [plan.grid.voxel_sizes.min() for plan in plans])
    summary.nb_bytes = target.stat().st_size
    return summary


def _files_of(plan: SubjectPlan) -> dict[str, list[tuple[str, int]]]:
    return {
        group: [(plan.shown(path), nb) for path, nb in zip(plan.volumes[group], features, strict=True)]
        for group, features in plan.features.items()
    }


def _warn_of_unused(subjects: Mapping[str, list[str]], groups: GroupsConfig) -> None:
    if not subjects["validation"]:
        logger.warning("There is no validation subject: training on this file will not report a validation loss.")
    for group in groups.volumes:
        if group.std_mask and group.standardization == "none":
            logger.warning("Group '%s': std_mask is ignored, because the standardization is 'none'.", group.name)


def _warn_of_resampling(summary: CreationSummary, resample: Resampling, voxel_sizes: Sequence[float]) -> None:
    """Warn if resampling simplified the streamlines too much."""
    for name, count in summary.streamlines.items():
        if resample.step_size is not None and 2 * count.nb_of_two_points > count.nb_streamlines:
            logger.warning(
                "Group '%s': %d of %d streamlines were reduced to their two endpoints by the step size of %g mm.",
                *(name, count.nb_of_two_points, count.nb_streamlines, resample.step_size),
            )
    if resample.compress is not None and resample.compress > min(voxel_sizes):
        logger.warning(
            "The compression tolerance of %g mm is larger than a voxel (%.3g mm); a usual value is compress=0.1.",
            *(resample.compress, min(voxel_sizes)),
        )


def _write_volumes(subject: h5py.Group, plan: SubjectPlan, groups: GroupsConfig) -> None:
    for group in groups.volumes:
        directions = list(zip(plan.features[group.name], plan.directions[group.name], strict=True))
        recorded = volume_sources(plan, group)
        file_writer.write_volume(subject, group.name, read_volume_group(plan, group), plan.grid, directions)
        report = plan.statistics[group.name]
        file_writer.write_provenance(subject[group.name], add_statistics(recorded, report.files, report.applied))


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
