"""Subjects: the three lists, the folders that they name, and the files in them."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dwiml.arguments import quoted
from dwiml.files import open_regular
from dwiml.hdf5.schema import check_name

SubjectList = str | os.PathLike[str] | Iterable[str]

_NAMES_SHOWN = 5
_MOST_LIST_BYTES = 2**24


def read_subject_lists(lists: Mapping[str, SubjectList]) -> dict[str, list[str]]:
    """Return the subjects of each subset.

    Parameters
    ----------
    lists
        {"training": ..., "validation": ..., "testing": ...}, each a text file with one subject a line, or the subjects
        themselves. In a file, blank lines and what follows ``#`` are left out; ``/dev/null`` is an empty list.

    Raises
    ------
    FileNotFoundError
        When a list's file does not exist.
    ValueError
        When there is no training subject, one is listed twice, in one list or in two, or its name leads to another
        folder.
    """
    subjects = {subset: _read_list(subset, source) for subset, source in lists.items()}
    if not subjects["training"]:
        raise ValueError("There is no training subject: list at least one.")
    every = [(name, subset) for subset, names in subjects.items() for name in names]
    for name, subset in every:
        check_name(name, f"A {subset} subject")
    for name, count in Counter(name for name, _ in every).items():
        if count > 1:
            places = " and ".join(subset for listed, subset in every if listed == name)
            raise ValueError(f"Subject '{name}' is listed {count} times ({places}); a subject has one place only.")
    return subjects


def _read_list(subset: str, source: SubjectList) -> list[str]:
    if not isinstance(source, (str, os.PathLike)):
        return list(source)
    path = Path(source)
    if os.path.realpath(path) == os.devnull:
        return []
    what = f"The list of {subset} subjects"
    with open_regular(path, what) as stream:
        content = stream.read(_MOST_LIST_BYTES + 1)
    if len(content) > _MOST_LIST_BYTES:
        raise ValueError(f"{what}, '{path}', has more than {_MOST_LIST_BYTES // 2**20} MB; give one subject a line.")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{what}, '{path}', is not a text file.") from error
    names = [line.split("#")[0].strip() for line in lines]
    return [name for name in names if name]


def check_folders(subjects_folder: Path, subjects: Iterable[str]) -> None:
    """Check that every subject has a folder.

    Raises
    ------
    FileNotFoundError
        Naming the missing ones and those that exist.
    """
    if not subjects_folder.is_dir():
        raise FileNotFoundError(f"The subjects' folder '{subjects_folder}' was not found.")
    missing = [name for name in subjects if not (subjects_folder / name).is_dir()]
    if missing:
        existing = sorted(path.name for path in subjects_folder.iterdir() if path.is_dir())
        raise FileNotFoundError(
            f"'{subjects_folder}' has no folder for {quoted(missing, _NAMES_SHOWN)}; "
            f"it has: {quoted(existing, _NAMES_SHOWN)}."
        )


def find_files(folder: Path, patterns: Sequence[str], label: str, *, allow_missing: bool = False) -> list[Path]:
    """Return a subject's files: pattern after pattern, those of one pattern sorted by name.

    Parameters
    ----------
    folder
        The subject's folder.
    patterns
        Names relative to it; only ``*`` is special.
    label
        Who asks, as an error tells it.
    allow_missing
        Leave out what matches nothing.

    Raises
    ------
    FileNotFoundError
        When a pattern matches no file; the message names files that exist there.
    ValueError
        When two patterns match the same file.
    """
    found = find_by_pattern(folder, patterns, label, allow_missing=allow_missing)
    return [path for paths in found.values() for path in paths]


def find_by_pattern(
    folder: Path, patterns: Sequence[str], label: str, *, allow_missing: bool = False
) -> dict[str, list[Path]]:
    """Return a subject's files by the pattern that they match: see :func:`find_files`."""
    files: dict[str, list[Path]] = {}
    for pattern in patterns:
        found = _matches(folder, pattern)
        if not found and not allow_missing:
            raise FileNotFoundError(f"{label}: '{folder / pattern}' was not found; {_nearby(folder, pattern)}.")
        repeated = [path for path in found if any(path in others for others in files.values())]
        if repeated:
            raise ValueError(f"{label}: '{repeated[0]}' is matched by two entries of the list; name it once.")
        files[pattern] = found
    return files


def _matches(folder: Path, pattern: str) -> list[Path]:
    if "*" not in pattern:
        return [folder / pattern] if (folder / pattern).is_file() else []
    literal = pattern.replace("[", "[[]").replace("?", "[?]")
    return sorted(folder / name for name in glob.glob(literal, root_dir=folder) if (folder / name).is_file())


def _nearby(folder: Path, pattern: str) -> str:
    """Tell what the nearest existing folder of a missing file holds."""
    parent = (folder / pattern).parent
    while not parent.is_dir():
        parent = parent.parent
    return f"'{parent}' has: {quoted(sorted(path.name for path in parent.iterdir()), _NAMES_SHOWN)}"
