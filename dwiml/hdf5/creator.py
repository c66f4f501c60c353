"""Create one HDF5 file from the folders of many subjects."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py

from dwiml import __version__
from dwiml.hdf5 import file_writer, schema
from dwiml.hdf5.adding import FinishedFile
from dwiml.hdf5.assembling import Assembly
from dwiml.hdf5.config import GroupsConfig, load_config
from dwiml.hdf5.directions.alignment import Alignment
from dwiml.hdf5.inputs.connectivity import ConnectivityPlan, plan_connectivity
from dwiml.hdf5.inputs.inspection import SubjectPlan, leave_out, plan_subjects
from dwiml.hdf5.inputs.subjects import SubjectList
from dwiml.hdf5.layouts.choosing import choose_subjects
from dwiml.hdf5.layouts.layout import LayoutSource, load_layout
from dwiml.hdf5.layouts.sets import LISTS
from dwiml.hdf5.parts import PartOptions, StreamlinesCount
from dwiml.hdf5.workers import Workers, is_bad_input
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
    added
        The subjects that were read from their folders; `streamlines` counts these only.
    skipped
        {subject left out: the reason}.
    nb_reused
        Number of subjects that a stopped creation had finished, and that were used again.
    origin
        What decided which subjects are in which set.
    unused
        Subjects that were found by a layout and are in no set.
    alignments
        How well the directional features of each subject follow its streamlines.
    """

    path: Path
    nb_bytes: int = 0
    subjects: dict[str, list[str]] = field(default_factory=dict)
    nb_features: dict[str, int] = field(default_factory=dict)
    streamlines: dict[str, StreamlinesCount] = field(default_factory=dict)
    files: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    nb_reused: int = 0
    origin: str = ""
    unused: list[str] = field(default_factory=list)
    alignments: list[Alignment] = field(default_factory=list)


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
    nbr_processes: int | Workers = 1,
    add: bool = False,
    skip_bad_subjects: bool = False,
) -> CreationSummary:
    """Create one HDF5 file from the volumes and streamlines of many subjects.

    The headers of all files are checked before the first subject is read. Subjects are then read one at a time, each
    into a part of its own, in the hidden folder ``.OUT.hdf5.parts``; the file is assembled from the parts. It gets its
    name once it is complete, and until then an existing file is kept. If the creation is stopped, the finished parts
    remain, and the next call can use them (`resume`). Finally, it is measured whether the directional features of the
    new subjects follow their streamlines; a warning names those that fit better in other axes.

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
        or with the number of subjects of the previous creation that are used again. With several processes, it is
        called for those of the others when this one has finished a subject.
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
    nbr_processes
        Number of subjects that are read, converted and written at the same time, each in a process of its own, and of
        headers that are checked. This process is one of them. The file is the same for any number. With 1, no process
        is started. Processes that are already started (:class:`dwiml.hdf5.workers.Workers`, a context manager) are used
        as they are, and ended.
    add
        Add the subjects to ``out_hdf5``, which must exist, and must have been created with the same config and options.
        The result is the file that one creation with all subjects would give; it replaces the file once it is complete.
    skip_bad_subjects
        Leave out subjects with missing or invalid files, with a warning, instead of raising an error.

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
        least = f"at least {_MIN_STEP_MM:g} mm, got {step_size:g}"
        raise ValueError(f"step_size, the distance between two points, must be {least}.")
    processes = nbr_processes if isinstance(nbr_processes, Workers) else Workers(nbr_processes)
    used_layout = None if layout is None else load_layout(layout)
    groups = load_config(config, base=None if used_layout is None else used_layout.groups)
    options = PartOptions(groups=groups, resample=resample, remove_invalid=remove_invalid, allow_missing=allow_missing)
    lists = {"training": training, "validation": validation, "testing": testing}
    chosen = choose_subjects(
        Path(subjects_folder),
        used_layout,
        groups,
        lists,
        split=split,
        split_seed=split_seed,
        may_lack_training=add,
        may_lack_folders=skip_bad_subjects,
    )
    inputs: list[Any] = [config, *lists.values(), *chosen.files, *([used_layout.path] if used_layout else [])]
    target = file_writer.checked_output(Path(out_hdf5), inputs, overwrite=overwrite or add)
    base = FinishedFile(target) if add else None
    if base is not None:
        base.check_new(chosen.sets)
        base.check_config(groups.text)
    old = [] if base is None else [name for names in base.subjects.values() for name in names]
    file_writer.check_nb_subjects(len(old) + sum(map(len, chosen.sets.values())))
    skipped: dict[str, str] | None = {} if skip_bad_subjects else None
    with processes as workers:
        plans = plan_subjects(chosen.folders, groups, allow_missing=allow_missing, skipped=skipped, workers=workers)
        matrices = _planned_matrices(plans, groups, skipped)
        plans = [plan for plan in plans if plan.name in matrices]
        if base is not None:
            plans = _agreeing(plans, base, skipped)
        inputs += [path for plan in plans for path in plan.files]
        inputs += [path for group in matrices.values() for matrix in group.values() for path in matrix.files]
        file_writer.checked_output(Path(out_hdf5), inputs, overwrite=overwrite or add, warn=False)
        file_writer.refuse_other_kind(target)
        assembly = Assembly(
            target=target, plans=plans, matrices=matrices, options=options, workers=workers, skipped=skipped, base=base
        )
        summary = CreationSummary(Path(out_hdf5), skipped={} if skipped is None else skipped)
        summary.origin, summary.unused = chosen.origin, chosen.unused
        _describe(summary, assembly, chosen.sets)
        _warn_of_unused(summary.subjects, groups)

        def write_root(handle: h5py.File) -> None:
            _describe(summary, assembly, chosen.sets)
            _write_root(handle, summary, assembly, command)

        if base is not None:
            base.check_options(write_root)
        order = [name for listed in summary.subjects.values() for name in listed]
        report = on_progress or (lambda done, total, name: None)
        assembly.write(order, write_root, overwrite=overwrite, resume=resume, report=report)
    _warn_of_resampling(summary, resample, [plan.grid.voxel_sizes.min() for plan in plans])
    summary.nb_bytes = target.stat().st_size
    summary.alignments = [each for name in summary.added for each in assembly.alignments[name]]
    _log_alignments(summary.alignments)
    return summary


def _write_root(handle: h5py.File, summary: CreationSummary, assembly: Assembly, command: str) -> None:
    base, options = assembly.base, assembly.options
    file_writer.write_root(
        handle,
        summary.subjects,
        options.groups if base is None else replace(options.groups, text=base.groups_config),
        options.resample,
        summary.files,
        _first(assembly.plans, summary).directions,
        text=None if base is None else base.groups_files,
    )
    recorded: dict[str, Any] = {"remove_invalid": options.remove_invalid, "allow_missing": options.allow_missing}
    if summary.origin != LISTS:
        recorded["sets"] = summary.origin
    content: dict[str, Any] = {schema.DWIML_VERSION: __version__, schema.COMMAND: command, schema.OPTIONS: recorded}
    earlier = [] if base is None else [each for each in base.history if each != content]
    if earlier:
        content[schema.EARLIER] = earlier
    file_writer.write_provenance(handle, content)


def _first(plans: Sequence[SubjectPlan], summary: CreationSummary) -> SubjectPlan:
    """Return the first subject that was not left out."""
    return next(plan for plan in plans if plan.name not in summary.skipped)


def _planned_matrices(
    plans: Sequence[SubjectPlan], groups: GroupsConfig, skipped: dict[str, str] | None
) -> dict[str, dict[str, ConnectivityPlan]]:
    """Return the connectivity matrices of all subjects that have valid ones."""
    matrices: dict[str, dict[str, ConnectivityPlan]] = {}
    for plan in plans:
        try:
            matrices |= plan_connectivity([plan], groups)
        except Exception as error:
            if skipped is None or not is_bad_input(error):
                raise
            leave_out(skipped, plan.name, error)
    return matrices


def _agreeing(plans: Sequence[SubjectPlan], base: FinishedFile, skipped: dict[str, str] | None) -> list[SubjectPlan]:
    """Return the subjects whose features are those of the file to which they are added."""
    kept = []
    for plan in plans:
        try:
            base.check_features(plan)
            kept.append(plan)
        except ValueError as error:
            if skipped is None:
                raise
            leave_out(skipped, plan.name, error)
    return kept


def _describe(summary: CreationSummary, assembly: Assembly, new: Mapping[str, list[str]]) -> None:
    """Describe in the summary what is in the file, without the subjects that were left out.

    Raises
    ------
    ValueError
        If no training subject is left, or no subject to be added.
    """
    base, skipped = assembly.base, summary.skipped
    old: Mapping[str, list[str]] = {} if base is None else base.subjects
    summary.added = [name for names in new.values() for name in names if name not in skipped]
    summary.subjects = {
        subset: [*old.get(subset, []), *(name for name in names if name not in skipped)]
        for subset, names in new.items()
    }
    if not (summary.subjects["training"] if base is None else summary.added):
        what = "no training subject" if base is None else "no subject to add"
        name, reason = next(iter(skipped.items()), ("", ""))
        raise ValueError(f"There is {what} left; '{name}' was left out because: {reason}")
    first = _first(assembly.plans, summary)
    summary.nb_features, summary.files = dict(first.nb_features), _files_of(first)
    summary.nb_reused = assembly.nb_reused
    summary.streamlines = {group.name: StreamlinesCount() for group in assembly.options.groups.streamlines}
    for counts in assembly.counts.values():
        for group, count in counts.items():
            summary.streamlines[group].add(count)


def _log_alignments(alignments: Sequence[Alignment]) -> None:
    """Warn if other axes fit directional features better than those that are stated."""
    for each in alignments:
        if each.sentence:
            logger.log(logging.INFO if each.measurement is None else logging.WARNING, "%s", each.sentence)


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
