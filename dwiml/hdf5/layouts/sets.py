"""Choose which subjects are for training, validation and testing."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dwiml.arguments import check_number, check_whole, quoted, shown
from dwiml.files import open_regular
from dwiml.hdf5.inputs.subjects import SubjectFolder, SubjectList, read_subject_lists
from dwiml.hdf5.layouts.finding import FoundSubject
from dwiml.hdf5.layouts.patterns import SUBJECT
from dwiml.hdf5.schema import SUBJECT_LISTS

LISTS = "the lists"
"""What decides the sets if lists are given."""
_MAX_TABLE_BYTES = 2**24
_NAMES_SHOWN = 10
_COLUMNS = ("split", "set")
_NOT_USED = ("", "n/a")
_NAMES_OF_SETS = {
    "training": ("train", "training", "trainset"),
    "validation": ("valid", "val", "validation", "validset"),
    "testing": ("test", "testing", "testset"),
}


@dataclass
class ChosenSubjects:
    """The subjects of each set.

    Attributes
    ----------
    sets
        {"training": [names in the HDF5 file], "validation": [...], "testing": [...]}.
    folders
        Their folders, in the order of the sets.
    origin
        What decided the sets, in words.
    unused
        Names of the subjects that were found and are in no set.
    files
        Files that were read to choose the sets.
    """

    sets: dict[str, list[str]]
    folders: list[SubjectFolder]
    origin: str
    unused: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def choose(
    found: Sequence[FoundSubject],
    assign: Callable[[FoundSubject], str | None],
    origin: str,
    *,
    may_lack_training: bool = False,
) -> ChosenSubjects:
    """Return the subjects of each set, given a function that returns the set of a subject, or None to leave it out.

    Raises
    ------
    ValueError
        If there is no training subject; with `may_lack_training`, if there is no subject at all.
    """
    sets: dict[str, list[FoundSubject]] = {name: [] for name in SUBJECT_LISTS}
    unused = []
    for subject in found:
        name = assign(subject)
        if name is None:
            unused.append(subject.name)
        else:
            sets[name].append(subject)
    if not (any(sets.values()) if may_lack_training else sets["training"]):
        what = "no subject" if may_lack_training else "no training subject"
        raise ValueError(f"There is {what} ({origin}); found: {quoted(_names(found), _NAMES_SHOWN)}.")
    folders = [subject.source for subjects in sets.values() for subject in subjects]
    return ChosenSubjects({name: _names(subjects) for name, subjects in sets.items()}, folders, origin, unused)


def by_lists(
    found: Sequence[FoundSubject],
    lists: Mapping[str, SubjectList],
    *,
    may_lack_training: bool = False,
    missing_in: Path | None = None,
) -> ChosenSubjects:
    """Return the subjects of lists, in their order. A person's name stands for all sessions of the person.

    With `may_lack_training`, the lists may name no training subject, but only others. With `missing_in`, a listed
    subject that was not found is one whose folder, in `missing_in`, does not exist.

    Raises
    ------
    FileNotFoundError
        If the file of a list does not exist, or a listed subject was not found.
    ValueError
        See :func:`dwiml.hdf5.inputs.subjects.read_subject_lists`.
    """
    by_name: dict[str, list[FoundSubject]] = {}
    for subject in found:
        for name in dict.fromkeys((subject.name, subject.person)):
            by_name.setdefault(name, []).append(subject)
    names = read_subject_lists(lists, may_lack=may_lack_training)
    missing = [name for listed in names.values() for name in listed if name not in by_name]
    if missing_in is not None:
        for name in missing:
            by_name[name] = [
                FoundSubject(SubjectFolder(name, missing_in / name, missing_in, {SUBJECT: name}), name, None)
            ]
    elif missing:
        raise FileNotFoundError(
            f"There is no folder for {quoted(missing, _NAMES_SHOWN)}; found: {quoted(_names(found), _NAMES_SHOWN)}."
        )
    chosen = {subset: [each for name in listed for each in by_name[name]] for subset, listed in names.items()}
    sets = {subset: _names(subjects) for subset, subjects in chosen.items()}
    sets = read_subject_lists(sets, may_lack=may_lack_training)
    used = {name for listed in sets.values() for name in listed}
    folders = [subject.source for subjects in chosen.values() for subject in subjects]
    return ChosenSubjects(sets, folders, LISTS, [each.name for each in found if each.name not in used])


def by_fractions(found: Sequence[FoundSubject], fractions: Sequence[float], seed: int) -> ChosenSubjects:
    """Split the subjects at random; all sessions of a person are in the same set.

    The persons are sorted by the BLAKE2b digest of ``"SEED:NAME"``. The first ones are for training, the next ones for
    validation and the last ones for testing. The numbers of persons are the fractions of their total number, rounded by
    the largest remainder method; each set with a fraction above 0 has at least one person.

    Parameters
    ----------
    found
        The subjects.
    fractions
        Fractions of persons for training, validation and testing; their sum is 1.
    seed
        Another seed gives another split.

    Raises
    ------
    ValueError
        If the fractions are invalid, or there are fewer persons than sets.
    """
    fractions, seed = _checked_fractions(fractions), check_whole("split_seed", seed, low=0)
    persons = sorted({subject.person for subject in found}, key=lambda name: _digest(seed, name))
    assigned: dict[str, str] = {}
    start = 0
    for subset, count in zip(SUBJECT_LISTS, _counts(len(persons), fractions), strict=True):
        assigned |= dict.fromkeys(persons[start : start + count], subset)
        start += count
    text = " ".join(f"{fraction:g}" for fraction in fractions)
    return choose(found, lambda subject: assigned[subject.person], f"split {text}, seed {seed}")


def by_folders(
    found: Sequence[FoundSubject], sets: Mapping[str, str], *, may_lack_training: bool = False
) -> ChosenSubjects:
    """Return the subjects in the sets given by the folders that they are in; subjects in other folders are left out.

    Raises
    ------
    ValueError
        See :func:`choose`.
    """
    origin = f"the folders {quoted(sets)}"
    return choose(
        found, lambda subject: sets.get(subject.set_folder or ""), origin, may_lack_training=may_lack_training
    )


def by_participants(
    found: Sequence[FoundSubject], path: Path, *, may_lack_training: bool = False
) -> ChosenSubjects | None:
    """Return the subjects in the sets given by a table of the participants; None if it has no column of sets.

    Parameters
    ----------
    found
        The subjects.
    path
        Tab-separated table with the columns ``participant_id`` and ``split`` (or ``set``), as in BIDS. ``n/a`` leaves a
        participant out.

    Raises
    ------
    ValueError
        If the table cannot be read, names an unknown set, or lacks a subject that was found.
    """
    table = _read_table(path)
    column = next((name for name in _COLUMNS if name in table[0]), None) if table else None
    if column is None:
        return None
    sets: dict[str, str | None] = {}
    for row in table:
        name, value = row.get("participant_id") or "", (row[column] or "").strip()
        subset = next((subset for subset, names in _NAMES_OF_SETS.items() if value.lower() in names), None)
        if subset is None and value.lower() not in _NOT_USED:
            known = [text for names in _NAMES_OF_SETS.values() for text in names]
            raise ValueError(
                f"'{path}': the column '{column}' has {value!r} for '{name}'; it must be one of {quoted(known)} or "
                "'n/a'."
            )
        if sets.setdefault(name, subset) != subset:
            raise ValueError(f"'{path}': the column '{column}' has two values for '{name}'; give one.")
    unknown = [each.person for each in found if each.person not in sets]
    if unknown:
        raise ValueError(
            f"'{path}' has no row for {quoted(dict.fromkeys(unknown), _NAMES_SHOWN)}; add it (n/a in the column "
            f"'{column}' leaves a subject out)."
        )
    origin = f"the column '{column}' of {path.name}"
    chosen = choose(found, lambda subject: sets[subject.person], origin, may_lack_training=may_lack_training)
    chosen.files.append(path)
    return chosen


def _read_table(path: Path) -> list[dict[str, str]]:
    what = "The table of participants"
    with open_regular(path, what) as stream:
        content = stream.read(_MAX_TABLE_BYTES + 1)
    if len(content) > _MAX_TABLE_BYTES:
        raise ValueError(f"{what} '{path}' is larger than {_MAX_TABLE_BYTES // 2**20} MB; check that it is a table.")
    try:
        lines = io.StringIO(content.decode("utf-8-sig"), newline="")
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{what} '{path}' is not a tab-separated text file.") from error


def _checked_fractions(fractions: Sequence[float]) -> list[float]:
    if not 1 <= len(fractions) <= len(SUBJECT_LISTS):
        raise ValueError(
            "split must be the fractions of subjects for training, validation and testing, such as 0.8 0.1 0.1, got "
            f"{shown(fractions)}."
        )
    values = [check_number("split", value, low=0, high=1) for value in fractions]
    values += [0.0] * (len(SUBJECT_LISTS) - len(values))
    if not math.isclose(sum(values), 1, abs_tol=1e-6):
        raise ValueError(f"The fractions of split must have the sum 1, got {shown(fractions)}.")
    if not values[0]:
        raise ValueError("The first fraction of split, that of the training subjects, must be above 0.")
    return values


def _counts(total: int, fractions: Sequence[float]) -> list[int]:
    """Return the number of persons in each set: largest remainders, with at least one for a fraction above 0."""
    nb_sets = sum(fraction > 0 for fraction in fractions)
    if total < nb_sets:
        raise ValueError(f"split has {nb_sets} sets, but there are only {total} subjects.")
    shares = [fraction * total for fraction in fractions]
    counts = [max(math.floor(share + 1e-9), int(share > 0)) for share in shares]
    while sum(counts) < total:
        counts[max(range(len(counts)), key=lambda k: shares[k] - counts[k])] += 1
    while sum(counts) > total:
        counts[max((k for k in range(len(counts)) if counts[k] > 1), key=lambda k: counts[k] - shares[k])] -= 1
    return counts


def _digest(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(errors="surrogateescape"), digest_size=16).digest()


def _names(subjects: Iterable[FoundSubject]) -> list[str]:
    return [subject.name for subject in subjects]


def table_of_participants(root: Path, names: Iterable[str]) -> Path | None:
    """Return the first of the tables that exists; None if none does."""
    return next((root / name for name in names if os.path.lexists(root / name)), None)
