"""Find the folders of the subjects and sessions of a dataset by its layout."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dwiml.arguments import quoted
from dwiml.hdf5.config import GroupsConfig, VolumeGroup
from dwiml.hdf5.inputs.subjects import SubjectFolder, matches, place_of
from dwiml.hdf5.layouts.layout import Layout
from dwiml.hdf5.layouts.patterns import SESSION, SET, SUBJECT, filled, find_folders, placeholders, resolved
from dwiml.hdf5.schema import check_name

logger = logging.getLogger(__name__)

_NAMES_SHOWN = 10


@dataclass(frozen=True)
class FoundSubject:
    """A subject that was found, or one session of it.

    Attributes
    ----------
    source
        Its name in the HDF5 file, and its folder.
    person
        Its name without the session: the sessions of a person have the same one.
    set_folder
        What ``{set}`` stands for in the layout; None if it has none.
    """

    source: SubjectFolder
    person: str
    set_folder: str | None

    @property
    def name(self) -> str:
        """Its name in the HDF5 file."""
        return self.source.name


def find_subjects(root: Path, layout: Layout) -> list[FoundSubject]:
    """Find the subjects of a dataset, sorted by name.

    The name of a subject in the HDF5 file is made of the parts of the layout's pattern that have a placeholder, joined
    by ``_``: with ``sub-{subject}[/ses-{session}]/dwi``, it is ``sub-01``, or ``sub-01_ses-1`` if there are sessions.

    Parameters
    ----------
    root
        The folder of the dataset.
    layout
        Its layout.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist, or has no subject.
    ValueError
        If two folders have the same subject and session, or a name cannot be used in the HDF5 file.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"subjects_folder '{root}' was not found.")
    for pattern in layout.subjects:
        folders = find_folders(root, pattern)
        if folders:
            return _without_repeats(root, [_subject(root, pattern, *each) for each in folders])
    existing = sorted(path.name for path in root.iterdir() if path.is_dir())
    raise FileNotFoundError(
        f"{layout.name}: '{root}' has no folder {quoted(layout.subjects)}; its folders are: "
        f"{quoted(existing, _NAMES_SHOWN)}."
    )


def _subject(root: Path, pattern: str, folder: Path, values: Mapping[str, str]) -> FoundSubject:
    named = {key: value for key, value in values.items() if key != SET}
    person = {SUBJECT: values[SUBJECT]}
    name = check_name(_name(pattern, named), "A subject")
    source = SubjectFolder(name, folder, root, named)
    return FoundSubject(source, _name(pattern, person), values.get(SET))


def _name(pattern: str, values: Mapping[str, str]) -> str:
    """Return the name of a subject, or of a person if there is no session among the values."""
    parts = resolved(pattern, SESSION in values).split("/")
    named = [filled(part, values) for part in parts if {SUBJECT, SESSION} & set(placeholders(part))]
    # A person has no value for a {session} that is not optional.
    named = [name for name in named if SESSION not in placeholders(name)]
    return "_".join(named) or values[SUBJECT]


def _without_repeats(root: Path, subjects: list[FoundSubject]) -> list[FoundSubject]:
    folders: dict[str, Path] = {}
    for subject in subjects:
        other = folders.setdefault(subject.name, subject.source.folder)
        if other != subject.source.folder:
            raise ValueError(
                f"'{root}' has two folders for subject '{subject.name}': '{other.relative_to(root)}' and "
                f"'{subject.source.folder.relative_to(root)}'; move one of them elsewhere."
            )
    return sorted(subjects, key=lambda each: each.name)


def with_files(subjects: Iterable[FoundSubject], groups: GroupsConfig) -> list[FoundSubject]:
    """Return the subjects that have at least one file of a group; a warning names the others."""
    subjects = list(subjects)
    kept = [subject for subject in subjects if _has_files(subject.source, groups)]
    names = {subject.name for subject in kept}
    others = [subject.name for subject in subjects if subject.name not in names]
    if others and kept:
        logger.warning("Left out, because they have no file of any group: %s.", quoted(others, 100))
    return kept or subjects


def _has_files(source: SubjectFolder, groups: GroupsConfig) -> bool:
    for group in groups.of_subject(source.values).groups:
        patterns = [*group.files, *(group.std_mask if isinstance(group, VolumeGroup) else ())]
        if any(matches(*place_of(source.folder, pattern, source.root)) for pattern in patterns):
            return True
    return False
