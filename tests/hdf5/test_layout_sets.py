from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dwiml.hdf5.inputs.subjects import SubjectFolder
from dwiml.hdf5.layouts.finding import FoundSubject
from dwiml.hdf5.layouts.sets import by_fractions


def found(nb_persons: int, nb_sessions: int = 1) -> list[FoundSubject]:
    subjects = []
    for k in range(nb_persons):
        for session in range(nb_sessions):
            source = SubjectFolder(f"sub-{k:03d}_ses-{session}", Path("x"), Path(), {"subject": f"{k:03d}"})
            subjects.append(FoundSubject(source, f"sub-{k:03d}", None))
    return subjects


def test_the_split_follows_its_rule() -> None:
    chosen = by_fractions(found(20, 2), [0.7, 0.2, 0.1], 5)
    names = [f"sub-{k:03d}" for k in range(20)]
    names.sort(key=lambda name: hashlib.blake2b(f"5:{name}".encode(), digest_size=16).digest())
    expected = {"training": names[:14], "validation": names[14:18], "testing": names[18:]}
    for subset, persons in expected.items():
        assert chosen.sets[subset] == [f"{name}_ses-{k}" for name in sorted(persons) for k in range(2)]
    assert [folder.name for folder in chosen.folders] == [name for listed in chosen.sets.values() for name in listed]
    assert not chosen.unused


@pytest.mark.parametrize(
    ("nb_persons", "fractions", "expected"),
    [
        (3, (0.8, 0.1, 0.1), [1, 1, 1]),
        (10, (0.8, 0.1, 0.1), [8, 1, 1]),
        (11, (0.8, 0.1, 0.1), [9, 1, 1]),
        (284, (0.8, 0.1, 0.1), [227, 29, 28]),
        (2, (0.5, 0.5), [1, 1, 0]),
        (7, (1,), [7, 0, 0]),
        (5, (0.9, 0.0, 0.1), [4, 0, 1]),
        (9, (1 / 3, 1 / 3, 1 / 3), [3, 3, 3]),
    ],
)
def test_the_numbers_of_a_split(nb_persons: int, fractions: tuple[float, ...], expected: list[int]) -> None:
    sets = by_fractions(found(nb_persons), fractions, 0).sets
    assert list(map(len, sets.values())) == expected


@pytest.mark.parametrize(
    ("fractions", "seed", "sentence"),
    [
        ((0.8, 0.1), 0, r"The fractions of split must have the sum 1, got \(0.8, 0.1\)"),
        ((0.8, 0.3, -0.1), 0, "split must be a number from 0 to 1, got -0.1"),
        ((0.0, 0.5, 0.5), 0, "that of the training subjects, must be above 0"),
        ((), 0, "split must be the fractions of subjects for training, validation and testing"),
        ((0.25,) * 4, 0, "split must be the fractions"),
        ((0.8, 0.1, 0.1), -1, "split_seed must be a whole number of at least 0, got -1"),
        ((0.8, 0.1, 0.1), 0, "split has 3 sets, but there are only 2 subjects"),
    ],
)
def test_a_bad_split(fractions: tuple[float, ...], seed: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        by_fractions(found(2), fractions, seed)


def test_another_seed_gives_another_split_and_the_order_of_subjects_changes_none() -> None:
    first, second = (by_fractions(found(40), (0.5, 0.25, 0.25), seed).sets for seed in (0, 1))
    assert first != second
    assert by_fractions(found(40)[::-1], (0.5, 0.25, 0.25), 0).sets["testing"][::-1] == first["testing"]
