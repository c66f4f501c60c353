"""Several HDF5 files that are one data set: their subjects are united in the order of the files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dwiml.arguments import quoted, shown
from dwiml.files.opening import explained
from dwiml.hdf5 import schema
from dwiml.hdf5.stored.identity import FileIdentity
from dwiml.hdf5.stored.layout import checked_group, groups_of_type, open_hdf5, subject_lists
from dwiml.hdf5.stored.nodes import StoredFile, StoredGroup
from dwiml.hdf5.stored.provenance import recorded_config, united_ranges

PathLike = str | os.PathLike[str]
HDF5Files = PathLike | Sequence[PathLike]
"""A file, a folder of files, or a list of both; see :func:`files_of`."""
SUFFIX = ".hdf5"
"""Extension of the files that are used in a folder."""
# Resampling of the streamlines, which all files must share.
_RESAMPLING = (schema.STEP_SIZE, schema.NB_POINTS, schema.COMPRESS)


@dataclass(frozen=True)
class Structure:
    """What is known of a data set before its data are read.

    Attributes
    ----------
    files, identities
        The files, and the identity of each when it was read.
    subjects
        {subset: its subjects} for each file.
    volume_groups, streamline_groups
        Names of the groups, which all subjects have.
    nb_features
        {volume group: its number of features}.
    groups_config
        The groups config of the first file that records one; empty if none does. The ranges of means and standard
        deviations are those of all files (:func:`~dwiml.hdf5.stored.provenance.recorded_config`).
    directions
        {volume group: for each subject, its file, its name, and the convention of its directional features as recorded
        (JSON); None if nothing is recorded}.
    """

    files: tuple[Path, ...]
    identities: tuple[FileIdentity, ...]
    subjects: tuple[dict[str, list[str]], ...]
    volume_groups: list[str]
    streamline_groups: list[str]
    nb_features: dict[str, int]
    groups_config: dict[str, dict[str, Any]]
    directions: dict[str, list[tuple[Path, str, str | None]]]

    @property
    def is_current(self) -> bool:
        """Whether all files are still those that were read."""
        try:
            return all(FileIdentity.of(path) == known for path, known in zip(self.files, self.identities, strict=True))
        except OSError:
            return False

    def check_files(self) -> None:
        """Check that all files are still those that were read.

        Raises
        ------
        ValueError
            If a file was removed, replaced or modified.
        """
        for path, identity in zip(self.files, self.identities, strict=True):
            identity.check(path)


def files_of(hdf5_file: HDF5Files) -> list[Path]:
    """Return the files of a data set.

    Parameters
    ----------
    hdf5_file
        An HDF5 file; a folder, for its files ``*.hdf5`` in the order of their names, without hidden ones; or a list of
        files and folders.

    Raises
    ------
    FileNotFoundError
        If a folder has no such file.
    TypeError, ValueError
        If it is something else, or an empty list.
    """
    if isinstance(hdf5_file, (str, os.PathLike)):
        path = Path(hdf5_file)
        return _files_in(path) if path.is_dir() else [path]
    if not isinstance(hdf5_file, Sequence) or not all(isinstance(each, (str, os.PathLike)) for each in hdf5_file):
        raise TypeError(f"hdf5_file must be a file, a folder or a list of files, got {shown(hdf5_file)}.")
    if not hdf5_file:
        raise ValueError("hdf5_file is an empty list; give at least one HDF5 file.")
    return [path for each in hdf5_file for path in files_of(each)]


def _files_in(folder: Path) -> list[Path]:
    with explained(folder, "Folder", errors=(OSError,)):
        names = sorted(os.listdir(folder))
    found = [folder / name for name in names if name.endswith(SUFFIX) and not name.startswith(".")]
    if not found:
        raise FileNotFoundError(
            f"The folder '{folder}' has no file *{SUFFIX}; create one with 'dwiml create_hdf5', or give a file."
        )
    return found


def files_shown(files: Sequence[Path]) -> str:
    """Return the names of the files of a data set for a message: the first one, and the number of the others."""
    return f"{files[0]}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def file_of_subject(files: Sequence[Path], subject: str) -> Path:
    """Return the file of a data set that has a subject; the first file if none has it."""
    for path in files if len(files) > 1 else ():
        with open_hdf5(path) as file:
            if any(subject in names for names in subject_lists(file).values()):
                return path
    return files[0]


def read_structure(files: Sequence[Path]) -> Structure:
    """Read the structure of a data set, and check that its subjects fit together.

    Parameters
    ----------
    files
        The files; each is opened and closed in turn.

    Raises
    ------
    FileNotFoundError, OSError
        If a file does not exist or cannot be opened.
    ValueError
        If a file is invalid or is given twice, a subject is in two files, or groups, numbers of features, resampling or
        standardization differ. The message names the files.
    """
    read = [_read_file(path) for path in files]
    with_subjects = [each for each in read if any(each.structure.subjects[0].values())] or read[:1]
    _check_subjects([each.structure for each in read])
    for other in with_subjects[1:]:
        _check_same(with_subjects[0], other)
    recorded = [each for each in read if each.structure.groups_config]
    for other in recorded[1:]:
        _check_same_config(recorded[0].structure, other.structure)
    first = with_subjects[0].structure
    return Structure(
        tuple(files),
        tuple(each.structure.identities[0] for each in read),
        tuple(each.structure.subjects[0] for each in read),
        first.volume_groups,
        first.streamline_groups,
        first.nb_features,
        _united_config([each.structure.groups_config for each in recorded]),
        {
            group: [entry for each in with_subjects for entry in each.structure.directions[group]]
            for group in first.volume_groups
        },
    )


@dataclass(frozen=True)
class _OneFile:
    """The structure of one file, and how its streamlines were resampled, if it is recorded."""

    structure: Structure
    resampling: dict[str, str]


def _read_file(path: Path) -> _OneFile:
    with open_hdf5(path) as file:
        lists = subject_lists(file)
        subjects = {name: file.root.group(name) for names in lists.values() for name in names}
        volume_groups = _read_groups(file, subjects, schema.TYPE_VOLUME)
        structure = Structure(
            (path,),
            (file.identity,),
            (lists,),
            volume_groups,
            _read_groups(file, subjects, schema.TYPE_STREAMLINES),
            _read_nb_features(file, subjects, volume_groups),
            recorded_config(file),
            {group: _read_directions(file, subjects, group) for group in volume_groups},
        )
        resampling = {
            name: schema.read_text(file.root.attribute(name)) for name in _RESAMPLING if file.root.has_attribute(name)
        }
        return _OneFile(structure, resampling)


def _read_groups(file: StoredFile, subjects: Mapping[str, StoredGroup], group_type: str) -> list[str]:
    groups = {name: groups_of_type(subject, group_type) for name, subject in subjects.items()}
    first = next(iter(subjects), None)
    for name, found in groups.items():
        if found != groups[first or name]:
            raise ValueError(
                f"'{file.path}': subject '{name}' has the {group_type} groups {quoted(found)}, but subject '{first}' "
                f"has {quoted(groups[first or name])}; all subjects must have the same groups."
            )
    return groups[first] if first is not None else []


def _read_nb_features(
    file: StoredFile, subjects: Mapping[str, StoredGroup], volume_groups: Sequence[str]
) -> dict[str, int]:
    nb_features: dict[str, int] = {}
    for name, subject in subjects.items():
        for group in volume_groups:
            # The digest is compared when the group is loaded.
            node = checked_group(subject, group, [schema.DATA], [], verify=False)
            shape = node.dataset(schema.DATA).shape
            found = shape[-1] if shape else 0
            expected = nb_features.setdefault(group, found)
            if found != expected:
                raise ValueError(
                    f"'{file.path}': volume group '{group}' has {found} features for subject '{name}' and "
                    f"{expected} for the subjects before it; all subjects must have the same number."
                )
    return nb_features


def _read_directions(
    file: StoredFile, subjects: Mapping[str, StoredGroup], group: str
) -> list[tuple[Path, str, str | None]]:
    found = {name: subject.group(group).attribute(schema.DIRECTIONS) for name, subject in subjects.items()}
    return [(file.path, name, None if text is None else schema.read_text(text)) for name, text in found.items()]


def _check_subjects(structures: Sequence[Structure]) -> None:
    """Check that no file is given twice, and that no subject is in two files."""
    seen: dict[tuple[int, int], Path] = {}
    owners: dict[str, Path] = {}
    for each in structures:
        path, identity = each.files[0], (each.identities[0].device, each.identities[0].inode)
        if identity in seen:
            also = "" if seen[identity] == path else f" (also as '{path}')"
            raise ValueError(f"The HDF5 file '{seen[identity]}' is given twice{also}; give it once.")
        seen[identity] = path
        for name in [name for names in each.subjects[0].values() for name in names]:
            if name in owners:
                raise ValueError(
                    f"Subject '{name}' is in '{owners[name]}' and in '{path}'; a subject must be in one file only: "
                    "leave out one of the files, or recreate one without this subject."
                )
            owners[name] = path


def _check_same(first: _OneFile, other: _OneFile) -> None:
    """Check that two files have the same groups, features and resampling."""
    here, there = first.structure, other.structure
    both = f"'{here.files[0]}' and '{there.files[0]}' cannot be one data set"
    kinds = {schema.TYPE_VOLUME: "volume_groups", schema.TYPE_STREAMLINES: "streamline_groups"}
    for kind, name in kinds.items():
        one, two = getattr(here, name), getattr(there, name)
        if one != two:
            raise ValueError(
                f"{both}: the {kind} groups are {quoted(one)} in the first and {quoted(two)} in the second; all "
                "subjects must have the same groups."
            )
    for group, nb in here.nb_features.items():
        if there.nb_features[group] != nb:
            raise ValueError(
                f"{both}: volume group '{group}' has {nb} features in the first and {there.nb_features[group]} in the "
                "second; all subjects must have the same number."
            )
    for name in _RESAMPLING:
        if name in first.resampling.keys() & other.resampling.keys():
            before, after = first.resampling[name], other.resampling[name]
            if before != after:
                raise ValueError(
                    f"{both}: their streamlines were resampled in different ways, '{name}' is {before} in the first "
                    f"and {after} in the second; recreate one of them with the options of the other."
                )


def _check_same_config(here: Structure, there: Structure) -> None:
    """Check that volumes were standardized in the same way, and put together from files of the same sizes."""
    both = f"'{here.files[0]}' and '{there.files[0]}' cannot be one data set"
    for group in [name for name in here.groups_config if name in there.groups_config and name in here.nb_features]:
        entries = here.groups_config[group], there.groups_config[group]
        pairs: dict[str, list[Any]] = {
            "standardization": [entry.get("standardization", "none") for entry in entries],
            "std_mask": ["given" if entry.get("std_mask") else "not given" for entry in entries],
            "numbers of features of its files": [_features(entry) for entry in entries],
        }
        for what, (one, two) in pairs.items():
            if one != two and None not in (one, two):
                raise ValueError(
                    f"{both}: volume group '{group}' was created in different ways, its {what}: {shown(one)} in the "
                    f"first and {shown(two)} in the second; recreate one of them with the config of the other."
                )


def _united_config(configs: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return the first config, with the lowest and highest means, standard deviations and voxel sizes of all."""
    for group, entry in configs[0].items() if configs else ():
        grids = [found for each in configs if (found := each.get(group, {}).get(schema.GRIDS))]
        if grids:
            entry[schema.GRIDS] = united_ranges(grids)
        for place, found in enumerate(entry.get(schema.FILES_FOUND) or []):
            others = [
                files[place] for files in (_files(each.get(group, {})) for each in configs[1:]) if len(files) > place
            ]
            known = [found.get(schema.DIRECTIONS), *found.get(schema.OTHER_DIRECTIONS, [])]
            for each in others:
                read = [each.get(schema.DIRECTIONS), *each.get(schema.OTHER_DIRECTIONS, [])]
                known += [convention for convention in read if convention is not None and convention not in known]
            if len(known) > 1:
                found[schema.OTHER_DIRECTIONS] = known[1:]
            same = [_files(each.get(group, {})) for each in configs]
            for key in (schema.MEAN, schema.STD):
                ranges = [files[place][key] for files in same if len(files) > place and key in files[place]]
                if ranges:
                    found[key] = [min(low for low, _ in ranges), max(high for _, high in ranges)]
            for key in (schema.FEATURES, schema.FEATURES_BEFORE):
                features = [files[place][key] for files in same if len(files) > place and key in files[place]]
                if features:
                    found[key] = united_ranges(features)
    return configs[0] if configs else {}


def _files(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the files of a volume group, as far as they are recorded."""
    files = entry.get(schema.FILES_FOUND)
    return files if isinstance(files, list) and all(isinstance(file, dict) for file in files) else []


def _features(entry: Mapping[str, Any]) -> list[int] | None:
    """Return the number of features of each file of a volume group; None if it is not recorded."""
    files = entry.get(schema.FILES_FOUND)
    return [file[schema.NB_FEATURES] for file in files] if files else None


def united_attributes(files: Sequence[PathLike]) -> dict[str, Any]:
    """Return the root attributes of files that are one data set, as those of one file with all subjects.

    Parameters
    ----------
    files
        The files; their structure was checked by :func:`read_structure`.

    Returns
    -------
    dict
        Attributes by name, without the digest. The lists of subjects are united in the order of the files. Of any
        other attribute, the value of the first file that has it.
    """
    united: dict[str, Any] = {}
    lists: dict[str, list[str]] = {name: [] for name in schema.SUBJECT_LISTS.values()}
    for path in files:
        with open_hdf5(path) as file:
            for name, value in file.root.attributes().items():
                united.setdefault(name, value)
            for subset, subjects in subject_lists(file).items():
                lists[schema.SUBJECT_LISTS[subset]] += subjects
    if len(files) > 1:
        chosen = {schema.CHOSEN_SUBJS: [name for names in lists.values() for name in names]}
        for name, names in {**lists, **chosen}.items():
            if name in united:
                united[name] = np.array(names, dtype=object)
    return united
