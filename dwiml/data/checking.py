"""Check a whole HDF5 file, group by group, continuing after a damaged one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dwiml.arguments import quoted
from dwiml.data.connectivity import read_connectivity
from dwiml.data.remarks import remarks_on_streamlines, remarks_on_volume
from dwiml.data.streamlines import SubjectStreamlines
from dwiml.data.volumes import SubjectVolume
from dwiml.hdf5 import schema
from dwiml.hdf5.directions.alignment import measure_subject
from dwiml.hdf5.directions.recorded import check_same_directions, stored_directions
from dwiml.hdf5.stored import StoredDataset, StoredFile, StoredGroup, open_hdf5
from dwiml.hdf5.stored.layout import groups_config, groups_of_type, subject_lists
from dwiml.params import checks_arguments
from dwiml.tractograms.grid import Grid


@dataclass
class GroupReport:
    """Result of the check of one group.

    Attributes
    ----------
    subset, subject, group
        The group that was checked.
    content
        Description of its content; empty if it could not be read.
    faults
        One sentence for each fault, which makes the file unusable.
    remarks
        One clause for each thing that is unusual, such as streamlines outside the volume.
    nb_datasets, nb_with_digest
        Number of datasets, and of datasets with a digest.
    grid
        The voxel grid; None if it could not be read or is not in the file.
    nb_features
        Number of features of a volume; None for streamlines, or if it could not be read.
    directions
        What a volume records about the convention of its features, as text.
    """

    subset: str
    subject: str
    group: str
    content: str = ""
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    nb_datasets: int = 0
    nb_with_digest: int = 0
    grid: Grid | None = None
    nb_features: int | None = None
    directions: str | None = None


@dataclass
class FileReport:
    """Result of the check of a file.

    Attributes
    ----------
    groups
        The result for each group.
    faults
        Faults of a subject or of several groups, one sentence each.
    """

    groups: list[GroupReport] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def all_faults(self) -> list[str]:
        """All faults, those of the whole file first."""
        return [*self.faults, *(fault for group in self.groups for fault in group.faults)]

    @property
    def all_remarks(self) -> list[str]:
        """All remarks, each with its subject and group."""
        return [f"{group.subject}/{group.group}: {remark}" for group in self.groups for remark in group.remarks]


@checks_arguments
def check_hdf5_file(
    path: str | os.PathLike[str],
    *,
    digests: bool = False,
    quick: bool = False,
    on_group: Callable[[int, int], None] | None = None,
) -> FileReport:
    """Check every group of every subject of a file.

    The check covers links, attributes and their digests, shapes, sizes, offsets, all coordinates, the lengths of all
    streamlines, and the connectivity. Subjects must have the same groups with the same number of features, and the
    groups of a subject the same grid, and directional features the same convention. The volumes are read, compared with
    their digests, and checked for NaN and for constant features. With ``digests=True``, all other values are compared
    with their digests, too.

    What makes the file unusable is a fault; what is only unusual is a remark
    (:func:`dwiml.data.remarks.remarks_on_streamlines`, :func:`dwiml.data.remarks.remarks_on_volume`). Directional
    features that would follow the streamlines better in other axes are a remark, too
    (:func:`dwiml.hdf5.directions.alignment.measure_subject`).

    Parameters
    ----------
    path
        The HDF5 file.
    digests
        Whether to compare all values with their digests.
    quick
        Do not read the volumes, except for the alignment of directional features.
    on_group
        Called with (number of groups done, total number), first with (0, total).

    Returns
    -------
    FileReport
        The faults and remarks; a damaged group does not end the check.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        If the file cannot be opened, or its root attributes are invalid.
    """
    if digests and quick:
        raise ValueError("digests=True reads all values, and quick=True leaves out the volumes: give one of them.")
    report = FileReport()
    with open_hdf5(path) as file:
        places, config = list(_groups(file, report)), groups_config(file)
        if on_group is not None:
            on_group(0, len(places))
        for done, (place, kind) in enumerate(places, 1):
            report.groups.append(place)
            _check_group(file, place, kind, config, digests=digests, quick=quick)
            if on_group is not None:
                on_group(done, len(places))
    _compare_subjects(report, [place for place, _ in places], [kind for _, kind in places])
    _compare_grids(report)
    _compare_directions(report, Path(path))
    return report


def _groups(file: StoredFile, report: FileReport) -> Iterator[tuple[GroupReport, str]]:
    """Yield the groups of all subjects and their type."""
    for subset, subjects in subject_lists(file).items():
        for name in subjects:
            found = 0
            try:
                subject = file.root.group(name)
                for kind in (schema.TYPE_VOLUME, schema.TYPE_STREAMLINES):
                    for group in groups_of_type(subject, kind):
                        found += 1
                        yield GroupReport(subset, name, group), kind
            except ValueError as error:
                report.faults.append(str(error))
                continue
            if not found:
                report.faults.append(f"Subject '{name}' has no volume or streamlines group.")


def _check_group(
    file: StoredFile, place: GroupReport, kind: str, config: Mapping[str, Any], *, digests: bool, quick: bool
) -> None:
    def attempt(check: Callable[[], None]) -> None:
        try:
            check()
        except (ValueError, OSError) as error:
            if str(error) not in place.faults:
                place.faults.append(str(error))

    is_volume = kind == schema.TYPE_VOLUME
    check = partial(_check_volume, config=config, quick=quick) if is_volume else _check_streamlines
    attempt(lambda: check(file.root.group(place.subject), place))
    datasets: list[StoredDataset] = []
    attempt(lambda: datasets.extend(file.root.group(place.subject).group(place.group).datasets()))
    place.nb_datasets = len(datasets)
    place.nb_with_digest = sum(dataset.digest is not None for dataset in datasets)
    # The values of an undamaged volume group were already compared above.
    compared = f"{place.subject}/{place.group}/{schema.DATA}" if is_volume and place.content else ""
    for dataset in datasets if digests else []:
        if dataset.name != compared:
            attempt(dataset.check_values)


def _check_volume(subject: StoredGroup, place: GroupReport, *, config: Mapping[str, Any], quick: bool) -> None:
    volume = SubjectVolume(subject, place.group, lazy=True)
    place.content = (
        f"{' x '.join(map(str, volume.shape[:3]))} voxels, {volume.nb_features} feature{'s' * (volume.nb_features > 1)}"
    )
    place.grid, place.nb_features = volume.grid, volume.nb_features
    node = subject.group(place.group)
    text = node.attribute(schema.DIRECTIONS)
    place.directions = None if text is None else schema.read_text(text)
    stored_directions(node, f"volume group '{place.group}' of subject '{place.subject}'")
    if not quick:
        place.remarks += remarks_on_volume(volume)
    # Damaged streamlines are a fault of their own group.
    with suppress(ValueError, OSError):
        found = measure_subject(subject, config, [place.group])
        place.remarks += [each.remark for each in found if each.remark]


def _check_streamlines(subject: StoredGroup, place: GroupReport) -> None:
    streamlines = SubjectStreamlines(subject, place.group, lazy=True)
    place.content = f"{len(streamlines)} streamlines, {int(streamlines.lengths.sum())} points"
    if streamlines.dimensions.all():
        x, y, z = streamlines.dimensions.tolist()
        place.grid = Grid(streamlines.affine, (x, y, z), subject.file.path)
    streamlines.check_lengths()
    place.remarks += remarks_on_streamlines(streamlines)
    if streamlines.has_connectivity:
        read_connectivity(subject.file.path, place.subject, place.group)


def _compare_subjects(report: FileReport, places: list[GroupReport], kinds: list[str]) -> None:
    """Report the groups that only some subjects have."""
    groups: dict[tuple[str, str], set[str]] = {}
    for place, kind in zip(places, kinds, strict=True):
        groups.setdefault((kind, place.group), set()).add(place.subject)
    subjects = list(dict.fromkeys(place.subject for place in places))
    for (kind, group), having in groups.items():
        lacking = [subject for subject in subjects if subject not in having]
        if lacking:
            report.faults.append(
                f"The {kind} group '{group}' is missing for {quoted(lacking, 5)}; all subjects must have it."
            )
    first: dict[str, GroupReport] = {}
    for place in places:
        expected = first.setdefault(place.group, place) if place.nb_features is not None else place
        if place.nb_features != expected.nb_features:
            report.faults.append(
                f"Volume group '{place.group}' has {place.nb_features} features for subject '{place.subject}' and "
                f"{expected.nb_features} for '{expected.subject}'; all subjects must have the same number."
            )


def _compare_directions(report: FileReport, path: Path) -> None:
    """Report the volume groups whose directional features do not have the same convention for all subjects."""
    recorded: dict[str, list[tuple[Path, str, str | None]]] = {}
    for place in report.groups:
        # A damaged convention is reported already.
        if place.nb_features is not None and not any(schema.DIRECTIONS in fault for fault in place.faults):
            recorded.setdefault(place.group, []).append((path, place.subject, place.directions))
    for group, subjects in recorded.items():
        try:
            check_same_directions(subjects, group)
        except ValueError as error:
            report.faults.append(str(error))


def _compare_grids(report: FileReport) -> None:
    """Report the groups of a subject that are on another grid than its first group."""
    first: dict[str, GroupReport] = {}
    for place in report.groups:
        if place.grid is None:
            continue
        expected = first.setdefault(place.subject, place)
        difference = place.grid.difference(expected.grid) if expected.grid is not None else ""
        if difference:
            report.faults.append(
                f"The groups '{expected.group}' and '{place.group}' of subject '{place.subject}' have {difference}; "
                "all groups of a subject must be on one grid."
            )
