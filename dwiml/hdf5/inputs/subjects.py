"""Read the lists of subjects, and find the folders and files of each subject."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dwiml.arguments import quoted
from dwiml.files import check_file, identity_of, open_regular
from dwiml.files.images import partner_of
from dwiml.hdf5.layouts.patterns import ROOT, SUBJECT
from dwiml.hdf5.schema import check_name

logger = logging.getLogger(__name__)

SubjectList = str | os.PathLike[str] | Iterable[str]

_NAMES_SHOWN = 5
_MAX_LIST_BYTES = 2**24


@dataclass(frozen=True)
class SubjectFolder:
    """Where the files of a subject are.

    Attributes
    ----------
    name
        The subject's name in the HDF5 file; with sessions, that of one session, such as ``sub-01_ses-1``.
    folder
        The folder of its files.
    root
        The folder of all subjects.
    values
        {name of a placeholder: what it stands for in file names}; at least that of ``subject``.
    """

    name: str
    folder: Path
    root: Path
    values: Mapping[str, str]


class MissingFileError(FileNotFoundError):
    """A subject does not have a file that the config names.

    Attributes
    ----------
    pattern
        Name of the file or pattern, relative to the subject's folder.
    """

    pattern = ""


def read_subject_lists(lists: Mapping[str, SubjectList], *, may_lack: bool = False) -> dict[str, list[str]]:
    """Return the subjects of each subset.

    Parameters
    ----------
    lists
        {"training": ..., "validation": ..., "testing": ...}; each value is a text file with one subject per line, or a
        list of names. In a file, blank lines and comments (``#``) are ignored; ``/dev/null`` is an empty list.
    may_lack
        Whether there may be no training subject, but only others.

    Returns
    -------
    dict
        {subset: names of its subjects}.

    Raises
    ------
    FileNotFoundError
        If the file of a list does not exist.
    ValueError
        If there is no training subject, a subject is listed twice, or a name is not a valid folder name.
    """
    subjects = {subset: _read_list(subset, source) for subset, source in lists.items()}
    if may_lack and not any(subjects.values()):
        raise ValueError("There is no subject: list at least one.")
    if not subjects["training"] and not may_lack:
        raise ValueError("There is no training subject: list at least one.")
    every = [(name, subset) for subset, names in subjects.items() for name in names]
    for name, subset in every:
        check_name(name, f"A {subset} subject")
    for name, count in Counter(name for name, _ in every).items():
        if count > 1:
            places = " and ".join(subset for listed, subset in every if listed == name)
            raise ValueError(f"Subject '{name}' is listed {count} times ({places}); list each subject once.")
    return subjects


def _read_list(subset: str, source: SubjectList) -> list[str]:
    if not isinstance(source, (str, os.PathLike)):
        return list(source)
    path = Path(source)
    if os.path.realpath(path) == os.devnull:
        return []
    what = f"The list of {subset} subjects"
    with open_regular(path, what) as stream:
        content = stream.read(_MAX_LIST_BYTES + 1)
    if len(content) > _MAX_LIST_BYTES:
        raise ValueError(
            f"{what}, '{path}', is larger than {_MAX_LIST_BYTES // 2**20} MB; give a file with one subject per line."
        )
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{what}, '{path}', is not a text file; give a text file with one subject per line."
        ) from error
    # In "sub#2", it is part of the name.
    names = [re.split(r"(?:^|\s)#", line)[0].strip() for line in lines]
    return [name for name in names if name]


def folders_of_subjects(
    subjects_folder: Path, subjects: Sequence[str], *, may_lack: bool = False
) -> list[SubjectFolder]:
    """Return the folders of subjects, each of which has the subject's name; see :func:`check_folders`.

    With `may_lack`, only the folder of all subjects must exist.
    """
    check_folders(subjects_folder, [] if may_lack else subjects)
    return [SubjectFolder(name, subjects_folder / name, subjects_folder, {SUBJECT: name}) for name in subjects]


def check_folders(subjects_folder: Path, subjects: Iterable[str]) -> None:
    """Check that every subject has a folder.

    Raises
    ------
    FileNotFoundError
        If a folder is missing. The message names the missing folders and those that exist.
    """
    if not subjects_folder.is_dir():
        raise FileNotFoundError(f"subjects_folder '{subjects_folder}' was not found.")
    missing = [name for name in subjects if not (subjects_folder / name).is_dir()]
    if missing:
        existing = sorted(path.name for path in subjects_folder.iterdir() if path.is_dir())
        raise FileNotFoundError(
            f"'{subjects_folder}' has no folder for {quoted(missing, _NAMES_SHOWN)}; "
            f"it has: {quoted(existing, _NAMES_SHOWN)}."
        )


def find_files(
    folder: Path, patterns: Sequence[str], label: str, *, allow_missing: bool = False, root: Path | None = None
) -> list[Path]:
    """Return the files of a subject, in the order of the patterns; the matches of a pattern are sorted by name.

    A file that a pattern matches under several names (a symbolic or hard link, or the .hdr and .img files of an image)
    is returned once, with a warning.

    Parameters
    ----------
    folder
        The subject's folder.
    patterns
        Paths relative to this folder, or to `root` if they begin with ``{root}/``; otherwise, only ``*`` is special.
    label
        Beginning of error messages.
    allow_missing
        Ignore patterns that match no file.
    root
        The folder of all subjects; None if it is unknown.

    Raises
    ------
    FileNotFoundError
        If a pattern matches no file (the message names files that exist in the folder), or a broken link.
    IsADirectoryError, PermissionError
        If a pattern matches a folder (other than a ``.trx``) or a file that cannot be read.
    ValueError
        If two patterns match the same file, under the same name or another, or a pattern matches a device, a pipe or a
        socket.
    """
    found = find_by_pattern(folder, patterns, label, allow_missing=allow_missing, root=root)
    return [path for paths in found.values() for path in paths]


def find_by_pattern(
    folder: Path, patterns: Sequence[str], label: str, *, allow_missing: bool = False, root: Path | None = None
) -> dict[str, list[Path]]:
    """Return {pattern: the files of a subject that it matches}; see :func:`find_files`."""
    files: dict[str, list[Path]] = {}
    earlier: dict[object, Path] = {}
    for pattern in patterns:
        base, name = place_of(folder, pattern, root)
        found = [_checked(path, label) for path in matches(base, name)]
        if not found and not allow_missing:
            missing = MissingFileError(f"{label}: '{base / name}' was not found; {_nearby(base, name)}.")
            missing.pattern = pattern
            raise missing
        names = _names_of_files(found)
        for identity, (path, *_) in names.items():
            if identity in earlier:
                raise ValueError(f"{label}: {_repeated(path, earlier[identity])}")
        kept = {identity: _own_name(base, paths) for identity, paths in names.items()}
        for identity, paths in names.items():
            if len(paths) > 1:
                logger.warning(
                    "%s: '%s' %s the same %s as '%s', which is read once.",
                    label,
                    "', '".join(str(path) for path in paths if path != kept[identity]),
                    "is" if len(paths) == 2 else "are",
                    "file" if partner_of(paths[0]) is None else "image",
                    kept[identity],
                )
        files[pattern] = sorted(kept.values())
        earlier.update(kept)
    return files


def _names_of_files(paths: Iterable[Path]) -> dict[object, list[Path]]:
    """Return {file: its names among the paths}; an .hdr file is a name of the .img file of the same image."""
    names: dict[object, list[Path]] = {}
    for path in paths:
        partner = partner_of(path) if path.suffix.lower() == ".hdr" else None
        image = path if partner is None else partner
        names.setdefault(identity_of(image) or identity_of(path), []).append(path)
    return names


def _own_name(folder: Path, paths: Sequence[Path]) -> Path:
    """Return the name of a file that is not a link, if there is one: it sorts in the same place in all subjects."""
    real = os.path.realpath(folder)

    def is_link(path: Path) -> bool:
        # A path from the command line may be absolute, outside the folder.
        return os.path.realpath(path) != os.path.normpath(os.path.join(real, os.path.relpath(path, folder)))

    return min(paths, key=is_link)


def _repeated(path: Path, other: Path) -> str:
    if path == other:
        return f"'{path}' is matched by two entries of the list; list it once."
    return f"'{path}' and '{other}', matched by two entries of the list, are the same file or image; list it once."


def place_of(folder: Path, pattern: str, root: Path | None) -> tuple[Path, str]:
    """Return the folder in which a pattern is looked for, and the pattern relative to it."""
    if root is not None and pattern.startswith(ROOT):
        return root, pattern.removeprefix(ROOT)
    return folder, pattern


def matches(folder: Path, pattern: str) -> list[Path]:
    """Return what has the name of a pattern in a folder, sorted; only ``*`` is special."""
    if "*" not in pattern:
        return [folder / pattern] if os.path.lexists(folder / pattern) else []
    literal = pattern.replace("[", "[[]").replace("?", "[?]")
    return sorted(folder / name for name in glob.glob(literal, root_dir=folder))


def _checked(path: Path, label: str) -> Path:
    """Return a path that was found, if it is a readable file; a ``.trx`` may be a folder."""
    if path.suffix.lower() == ".trx" and path.is_dir():
        return path
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{label}: '{path}' is a link to '{os.readlink(path)}', which was not found.")
    return check_file(path, f"{label}:")


def _nearby(folder: Path, pattern: str) -> str:
    """Describe what is there instead of a missing file: the same image of MRtrix, or the nearest existing folder."""
    stem = pattern.removesuffix(".nii.gz")
    for suffix in (".mif.gz", ".mif"):
        images = matches(folder, f"{stem}{suffix}") if stem != pattern else []
        if images:
            name = images[0].name
            converted = f"{name.removesuffix(suffix)}.nii.gz"
            return f"convert '{images[0]}' first, in its folder: mrconvert {name} {converted}"
    parent = (folder / pattern).parent
    while not parent.is_dir():
        parent = parent.parent
    return f"'{parent}' has: {quoted(sorted(path.name for path in parent.iterdir()), _NAMES_SHOWN)}"
