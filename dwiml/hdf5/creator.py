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
from dwiml.hdf5.inputs.subjects import SubjectList
from dwiml.hdf5.layouts.choosing import choose_subjects
from dwiml.hdf5.layouts.layout import LayoutSource, load_layout
from dwiml.hdf5.part_folder import PartFolder
from dwiml.hdf5.parts import Part, PartOptions, StreamlinesCount
from dwiml.ops.resampling import Resampling
from dwiml.params import checks_arguments
from dwiml.signals import ended_by_signals

logger = logging.getLogger(__name__)

# One micrometer: a streamline of 200 mm would have 200 000 points.
_MIN_STEP_MM = 1e-3


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
    nb_reused
        Number of subjects that a stopped creation had finished, and that were used again.
    origin
        What decided which subjects are in which set.
    unused
        Subjects that were found by a layout and are in no set.
    """

    path: Path
    nb_bytes: int = 0
    subjects: dict[str, list[str]] = field(default_factory=dict)
    nb_features: dict[str, int] = field(default_factory=dict)
    streamlines: dict[str, StreamlinesCount] = field(default_factory=dict)
    files: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    nb_reused: int = 0
    origin: str = ""
    unused: list[str] = field(default_factory=list)


@checks_arguments
@ended_by_signals(activity="creating the HDF5 file; the unfinished file is removed, an existing one is kept")
def create_hdf5(
    subjects_folder: str | os.PathLike[str],
    out_hdf5: str | os.PathLike[str],
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    training: SubjectList = (),
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
    resume: bool = False,
    layout: LayoutSource | None = None,
    split: Sequence[float] | None = None,
    split_seed: int = 0,
) -> CreationSummary:
    """Create one HDF5 file from the volumes and streamlines of many subjects.

    The headers of all files are checked before the first subject is read. Subjects are then read one at a time, each
    into a part of its own, in the hidden folder ``.OUT.hdf5.parts``; the file is assembled from the parts. It gets its
    name once it is complete, and until then an existing file is kept. If the creation is stopped, the finished parts
    remain, and the next call can use them (`resume`).

    Parameters
    ----------
    subjects_folder
        Folder that contains one folder per subject.
    out_hdf5
        The file to write.
    config
        Which files go into which group: a JSON file, or its content as a dict. See :mod:`dwiml.hdf5.config`. With a
        `layout`, it may be None; otherwise, its groups are added to those of the layout, or replace them.
    training, validation, testing
        For each subset, a text file with one subject per line, or a list of subjects. They may all be empty if `layout`
        or `split` gives the sets.
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
        Called with (number of subjects done, total number, name of the subject just done), first with (0, total, ""),
        or with the number of subjects of the previous creation that are used again.
    command
        Command line that the file records as its origin.
    resume
        Continue a creation that was stopped: the subjects that it finished are used again if their files and the
        options are the same. Without such a creation, start from the beginning.
    layout
        Where the subjects and their files are: the name of a layout that is part of dwiml, a JSON file, or its content
        as a dict. See :func:`dwiml.hdf5.layouts.layout.load_layout`.
    split
        Fractions of the subjects for training, validation and testing, chosen at random instead of by lists. See
        :func:`dwiml.hdf5.layouts.sets.by_fractions`.
    split_seed
        Seed of `split`.

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
    used_layout = None if layout is None else load_layout(layout)
    groups = load_config(config, base=None if used_layout is None else used_layout.groups)
    lists = {"training": training, "validation": validation, "testing": testing}
    chosen = choose_subjects(Path(subjects_folder), used_layout, groups, lists, split=split, split_seed=split_seed)
    subjects = chosen.sets
    inputs: list[Any] = [config, *lists.values(), *chosen.files, *([used_layout.path] if used_layout else [])]
    target = file_writer.checked_output(Path(out_hdf5), inputs, overwrite=overwrite)
    plans = plan_subjects(chosen.folders, groups, allow_missing=allow_missing)
    matrices = plan_connectivity(plans, groups)
    inputs += [path for plan in plans for path in plan.files]
    inputs += [path for group in matrices.values() for matrix in group.values() for path in matrix.files]
    file_writer.checked_output(Path(out_hdf5), inputs, overwrite=overwrite, warn=False)
    file_writer.refuse_other_kind(target)
    _warn_of_unused(subjects, groups)

    summary = CreationSummary(Path(out_hdf5), subjects=subjects, nb_features=dict(plans[0].nb_features))
    summary.files = _files_of(plans[0])
    summary.origin, summary.unused = chosen.origin, chosen.unused
    summary.streamlines = {group.name: StreamlinesCount() for group in groups.streamlines}
    part_options = PartOptions(
        groups=groups, resample=resample, remove_invalid=remove_invalid, allow_missing=allow_missing
    )
    nb_bytes = sum(plan.nb_bytes for plan in plans)
    with PartFolder(target, resume=resume, discard=overwrite) as place:
        parts = [Part(plan, matrices[plan.name], part_options, place.path) for plan in plans]
        # The parts and the file take the same room, and both exist at the end.
        with file_writer.atomic_hdf5(target, 2 * nb_bytes, overwrite=overwrite, folder=place.path) as handle:
            _assemble(handle, parts, summary, on_progress or (lambda done, total, name: None))
            file_writer.write_root(handle, subjects, groups, resample, summary.files, plans[0].directions)
            options = {"remove_invalid": remove_invalid, "allow_missing": allow_missing}
            file_writer.write_provenance(
                handle, {schema.DWIML_VERSION: __version__, schema.COMMAND: command, schema.OPTIONS: options}
            )
    _warn_of_resampling(summary, resample, [plan.grid.voxel_sizes.min() for plan in plans])
    summary.nb_bytes = target.stat().st_size
    return summary


def _assemble(
    handle: h5py.File, parts: Sequence[Part], summary: CreationSummary, report: Callable[[int, int, str], None]
) -> None:
    """Make the parts that do not exist yet, and copy each into the file, in their order."""
    made = {part.name: counts for part in parts if (counts := part.counts_if_made()) is not None}
    report(len(made), len(parts), "")
    summary.nb_reused = len(made)
    nb_done = len(made)
    for part in parts:
        counts = made.get(part.name)
        is_new = counts is None
        counts = part.make() if counts is None else counts
        for group, count in counts.items():
            summary.streamlines[group].add(count)
        file_writer.copy_subject(handle, part.path, part.name)
        if is_new:
            nb_done += 1
            report(nb_done, len(parts), part.name)


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
