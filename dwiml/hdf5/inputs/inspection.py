"""Check the files, grids and headers of all subjects before any voxel is read."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from numpy.typing import ArrayLike

from dwiml.arguments import quoted
from dwiml.files import identity_of
from dwiml.files.images import open_image, partner_of
from dwiml.hdf5.config import GroupsConfig, StreamlinesGroup, VolumeGroup
from dwiml.hdf5.directions.sidecar import image_sidecar
from dwiml.hdf5.inputs.directions import directions_of_image
from dwiml.hdf5.inputs.standardization import StandardizationReport
from dwiml.hdf5.inputs.subjects import MissingFileError, SubjectFolder, find_by_pattern, find_files
from dwiml.hdf5.workers import Workers
from dwiml.ops.axes.conventions import Directions
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.kinds import check_kind
from dwiml.tractograms.reading import open_tractogram

logger = logging.getLogger(__name__)

DirectionsOfImage = Callable[[Path, "Directions | None", int, ArrayLike, str], "Directions | None"]
_NAMES_SHOWN = 10
# The dimensions of a tractogram are 16-bit integers.
_LONGEST_AXIS = 2**15 - 1


@dataclass
class SubjectPlan:
    """The files of one subject.

    Attributes
    ----------
    name
        The subject's name.
    folder
        The subject's folder.
    volumes, masks, tractograms
        {group: its files}.
    features
        {volume group: number of features of each of its files}.
    directions
        {volume group: convention of the directional features of each of its files}; None where it is unknown.
    matches
        {volume group: {name or pattern of the config: files that it matches}}, including the masks.
    known_grid
        The voxel grid of the files that were checked so far; None if none of them has one.
    root
        The folder of all subjects; None if it is unknown.
    values
        {name of a placeholder: what it stands for in file names}.
    statistics
        {volume group: result of its standardization}, once the group is read.
    """

    name: str
    folder: Path
    volumes: dict[str, list[Path]] = field(default_factory=dict)
    masks: dict[str, list[Path]] = field(default_factory=dict)
    tractograms: dict[str, list[Path]] = field(default_factory=dict)
    features: dict[str, list[int]] = field(default_factory=dict)
    directions: dict[str, list[Directions | None]] = field(default_factory=dict)
    matches: dict[str, dict[str, list[Path]]] = field(default_factory=dict)
    known_grid: Grid | None = None
    root: Path | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    statistics: dict[str, StandardizationReport] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The voxel grid of all files; a ValueError if no file has one."""
        if self.known_grid is None:
            raise ValueError(
                f"Subject '{self.name}' has no file that defines its voxel grid; add a volume, a mask or a .trk file."
            )
        return self.known_grid

    @property
    def nb_features(self) -> dict[str, int]:
        """{volume group: number of features}."""
        return {group: sum(features) for group, features in self.features.items()}

    @property
    def files(self) -> list[Path]:
        """All files of the subject that are read, except the connectivity matrices and labels."""
        found = [*self.volumes.values(), *self.masks.values(), *self.tractograms.values()]
        files = [path for paths in found for path in paths]
        # An .hdr and an .img file together are one image.
        pairs = [partner for path in files if (partner := partner_of(path)) is not None]
        # Their JSON sidecars state the axes of directional features.
        sidecars = [image_sidecar(path) for paths in self.volumes.values() for path in paths]
        return [*files, *pairs, *(path for path in sidecars if path.is_file())]

    @property
    def nb_bytes(self) -> int:
        """Size of the volumes in the HDF5 file, in bytes."""
        return 4 * math.prod(self.grid.shape) * sum(self.nb_features.values())

    def shown(self, path: Path) -> str:
        """Return the name of a file relative to the subject's folder, or to that of all subjects."""
        for folder in (self.folder, self.root):
            if folder is not None and path.is_relative_to(folder):
                return path.relative_to(folder).as_posix()
        return path.as_posix()

    def label(self, group: str) -> str:
        """Return the description of a group that is used in error messages."""
        return f"Group '{group}' of subject '{self.name}'"

    def add_grid(self, grid: Grid) -> None:
        """Take the grid of the first file, or check that the grid of another file is the same.

        Raises
        ------
        ValueError
            If the grids differ.
        """
        if self.known_grid is None:
            self.known_grid = grid
        else:
            self.known_grid.check_same(grid, f"Subject '{self.name}'")


def plan_subjects(
    subjects: Sequence[SubjectFolder],
    config: GroupsConfig,
    *,
    allow_missing: bool,
    skipped: dict[str, str] | None = None,
    workers: Workers | None = None,
) -> list[SubjectPlan]:
    """Find the files of all subjects and check their headers; warn if two subjects have the same tractogram.

    Parameters
    ----------
    subjects
        The folders of the subjects.
    config
        The groups config.
    allow_missing
        Allow tractograms to be missing or empty.
    skipped
        Where subjects with missing or invalid files are added, with the reason, instead of raising an error. A subject
        that differs from the others is one that differs from most.
    workers
        Processes that check the headers of several subjects at the same time.

    Raises
    ------
    FileNotFoundError
        If a file is missing. The message names all subjects that lack a file.
    ValueError
        If a file cannot be read, is empty or has an unknown format, if the files of a subject are on different grids,
        or if a group does not have the same number of features for all subjects.
    """
    plan_one = partial(_plan_subject, config=config, allow_missing=allow_missing)
    outcomes = (workers or Workers(1)).run(plan_one, subjects, lambda subject: f"subject '{subject.name}'")
    plans, missing = [], {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.index):
        name, error = subjects[outcome.index].name, outcome.error
        if error is None:
            plans.append(outcome.value)
        elif skipped is not None and outcome.is_bad_input:
            leave_out(skipped, name, error)
        elif isinstance(error, MissingFileError):
            missing[name] = error
        else:
            raise error
    if missing:
        raise _all_missing(missing, len(subjects))
    if not plans:
        return []
    first = plans[0] if skipped is None else _most_common(plans)
    alike = []
    for plan in plans:
        try:
            for group in plan.features:
                _check_alike(plan, first, group)
                _check_same_directions(plan, first, group)
            alike.append(plan)
        except ValueError as error:
            if skipped is None:
                raise
            leave_out(skipped, plan.name, error)
    plans = alike
    _warn_of_shared_tractograms(plans)
    return plans


def leave_out(skipped: dict[str, str], name: str, error: Exception) -> None:
    """Leave a subject out, with a warning."""
    skipped[name] = " ".join(str(error).split())
    logger.warning("Subject '%s' is left out: %s", name, skipped[name])


def _most_common(plans: Sequence[SubjectPlan]) -> SubjectPlan:
    """Return the first of the subjects that are like most others in their files, features and conventions."""
    kinds = [
        repr(
            (
                plan.features,
                {group: [read and read.stored for read in listed] for group, listed in plan.directions.items()},
                {group: [len(files) for files in found.values()] for group, found in plan.matches.items()},
            )
        )
        for plan in plans
    ]
    return plans[kinds.index(Counter(kinds).most_common(1)[0][0])]


def _all_missing(missing: Mapping[str, MissingFileError], nb_subjects: int) -> FileNotFoundError:
    """Return the error for subjects that lack a file, given the error for the first missing file of each."""
    first = next(iter(missing.values()))
    if len(missing) == 1:
        return first
    listed = ", ".join(f"'{name}' ({error.pattern})" for name, error in missing.items())
    return FileNotFoundError(f"{len(missing)} of {nb_subjects} subjects lack a file: {listed}. {first}")


def _warn_of_shared_tractograms(plans: Sequence[SubjectPlan]) -> None:
    """Warn if a link gives the streamlines of one subject to another one, for instance for validation."""
    owners: dict[object, tuple[SubjectPlan, Path]] = {}
    for plan in plans:
        for path in dict.fromkeys(path for paths in plan.tractograms.values() for path in paths):
            owner, own = owners.setdefault(identity_of(path), (plan, path))
            if owner is not plan:
                logger.warning(
                    "Subjects '%s' and '%s' have the same streamlines: '%s' and '%s' are the same file.",
                    *(owner.name, plan.name, own, path),
                )


def _check_alike(plan: SubjectPlan, first: SubjectPlan, group: str) -> None:
    """Check that a volume group has the same number of files and of features as that of the first subject."""
    # The patterns are in the same order, but may contain the names of the subjects.
    for (pattern, files), others in zip(plan.matches[group].items(), first.matches[group].values(), strict=True):
        if len(files) != len(others):
            raise ValueError(
                f"Group '{group}': '{pattern}' matches {_files(plan, files)} and {_files(first, others)}; all subjects "
                "must have the same number: use a more specific pattern."
            )
    if plan.nb_features[group] != first.nb_features[group]:
        raise ValueError(
            f"Group '{group}' has {plan.nb_features[group]} features for subject '{plan.name}' and "
            f"{first.nb_features[group]} for subject '{first.name}'; all subjects must have the same number."
        )
    for k, (path, other_path) in enumerate(zip(plan.volumes[group], first.volumes[group], strict=True)):
        if plan.features[group][k] != first.features[group][k]:
            raise ValueError(
                f"Group '{group}': the files are not in the same order: '{path}' of subject '{plan.name}' has "
                f"{plan.features[group][k]} features and '{other_path}' of subject '{first.name}' has "
                f"{first.features[group][k]}; list the files one by one."
            )


def _check_same_directions(plan: SubjectPlan, first: SubjectPlan, group: str) -> None:
    """Check that the features of a group have the same convention, after conversion, as those of the first subject."""
    own, other = (
        [None if read is None else read.stored.as_dict() for read in each.directions[group]] for each in (plan, first)
    )
    for k, path in enumerate(plan.volumes[group]):
        if own[k] != other[k]:
            raise ValueError(
                f"Group '{group}': the convention of the directional features of '{path}' is "
                f"{own[k] or 'unknown'}, but that of '{first.volumes[group][k]}' is {other[k] or 'unknown'}; state it "
                "as 'directions' in the groups config."
            )


def _files(plan: SubjectPlan, files: Sequence[Path]) -> str:
    names = quoted([plan.shown(path) for path in files], _NAMES_SHOWN)
    return f"{len(files)} {'file' if len(files) == 1 else 'files'} of subject '{plan.name}' ({names})"


def _plan_subject(subject: SubjectFolder, config: GroupsConfig, *, allow_missing: bool) -> SubjectPlan:
    name = subject.name
    plan = SubjectPlan(name, subject.folder, root=subject.root, values=subject.values)
    config = config.of_subject(subject.values)
    for volume_group in config.volumes:
        plan_volumes(plan, volume_group)
    for streamlines_group in config.streamlines:
        _plan_streamlines(plan, streamlines_group, allow_missing=allow_missing)
    if plan.known_grid is None:
        raise ValueError(
            f"Subject '{name}' has no volume and no .trk file, so its voxel grid is unknown; "
            "add a group of type 'volume' to the groups config."
        )
    return plan


def plan_volumes(plan: SubjectPlan, group: VolumeGroup, directions_of: DirectionsOfImage = directions_of_image) -> None:
    """Find the files of a volume group, check their headers, and add them to the plan.

    Parameters
    ----------
    plan
        The plan of the subject.
    group
        The volume group.
    directions_of
        Returns the convention of an image from the declared one; see
        :func:`dwiml.hdf5.inputs.directions.directions_of_image`.

    Raises
    ------
    FileNotFoundError, ValueError
        See :func:`plan_subjects`.
    """
    label = plan.label(group.name)
    found = find_by_pattern(plan.folder, group.files, label, root=plan.root)
    masks = find_by_pattern(plan.folder, group.std_mask, f"{label}, 'std_mask'", root=plan.root)
    plan.volumes[group.name] = [path for paths in found.values() for path in paths]
    plan.masks[group.name] = [path for paths in masks.values() for path in paths]
    plan.matches[group.name] = {
        f"{pattern}{kind}": paths
        for kind, matched in (("", found), (" (std_mask)", masks))
        for pattern, paths in matched.items()
    }
    plan.features[group.name] = [_inspect_volume(plan, path, label) for path in plan.volumes[group.name]]
    declared = dict(zip(found, group.directions, strict=True)) if group.directions else dict.fromkeys(found)
    given = [declared[pattern] for pattern, paths in found.items() for _ in paths]
    files = zip(plan.volumes[group.name], given, plan.features[group.name], strict=True)
    plan.directions[group.name] = [directions_of(path, read, nb, plan.grid.affine, label) for path, read, nb in files]
    for path in plan.masks[group.name]:
        nb_features = _inspect_volume(plan, path, label)
        if nb_features != 1:
            raise ValueError(f"{label}: the mask '{path}' must be a single volume, got {nb_features} volumes.")


def _inspect_volume(plan: SubjectPlan, path: Path, label: str) -> int:
    """Check the header of a volume against the subject's grid; return its number of features."""
    image = open_image(path, label)
    shape = image.shape
    if len(shape) not in (3, 4) or 0 in shape:
        hint = "; remove the fourth axis, as in nibabel's image.slicer[:, :, :, 0]" if shape[3:4] == (1,) else ""
        raise ValueError(f"{label}: '{path}' has shape {shape}; a volume must have 3 or 4 axes, none of size 0{hint}.")
    if max(shape[:3]) > _LONGEST_AXIS:
        raise ValueError(f"{label}: '{path}' has shape {shape}; an axis can have at most {_LONGEST_AXIS} voxels.")
    if image.get_data_dtype().kind not in "biuf":
        raise ValueError(f"{label}: '{path}' holds {image.get_data_dtype()} values; real numbers are expected.")
    plan.add_grid(Grid.from_header(image.affine, shape[:3], path))
    return int(shape[3]) if len(shape) == 4 else 1


def _plan_streamlines(plan: SubjectPlan, group: StreamlinesGroup, *, allow_missing: bool) -> None:
    label = plan.label(group.name)
    files = find_files(plan.folder, group.files, label, allow_missing=allow_missing, root=plan.root)
    kept = []
    for path in files:
        check_kind(path, f"{label}: the tractogram")
        if _inspect_tractogram(plan, path, group, label):
            kept.append(path)
        elif not allow_missing:
            raise ValueError(
                f"{label}: the tractogram '{path}' is empty; remove it, or allow it with allow_missing=True."
            )
    plan.tractograms[group.name] = kept


def _inspect_tractogram(plan: SubjectPlan, path: Path, group: StreamlinesGroup, label: str) -> bool:
    """Check the header of a tractogram; return whether it holds any streamline."""
    tractogram = open_tractogram(path, label, space=group.space, trx_groups=group.trx_groups)
    if tractogram.grid is not None:
        plan.add_grid(tractogram.grid)
    elif plan.known_grid is None:
        raise ValueError(
            f"{label}: '{path}' does not give its voxel grid; add a group of type 'volume' to the groups config."
        )
    if not tractogram.has_streamlines():
        return False
    tractogram.check_dps_keys(group.dps_keys)
    return True
