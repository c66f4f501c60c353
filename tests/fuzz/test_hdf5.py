"""Damaged and crafted HDF5 files end in a sentence or in the right reading, eager and lazy."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from fuzzing import Outcome, run_watched
from hdf5_files import ANY, EQUAL, FOUND, KINDS, REFUSED, HDF5Files, Mutation, read_command, reading, write_bases

from dwiml.cli.main import main


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_bases(tmp_path_factory.mktemp("bases"))


def faults_of(mutation: Mutation, good: dict[str, str], counts: Counter[str]) -> list[str]:
    """Return what went wrong with one file; count the outcomes."""
    found = []
    for lazy in (False, True):
        outcome = run_watched(lambda lazy=lazy: read_command(mutation.path, lazy=lazy), watched=[mutation.path.parent])
        is_right = outcome.out.strip() == good[mutation.base]
        kind = "right reading" if outcome.kind == "read" and is_right else outcome.kind
        counts["other reading" if kind == "read" else kind] += 1
        if outcome.is_fault or not _is_expected(kind, mutation):
            found.append(f"#{mutation.number} {mutation.kind} ({mutation.base}, lazy={lazy}): {_shown(kind, outcome)}")
    outcome = run_watched(lambda: main(["info", str(mutation.path)]))
    counts[f"info: {outcome.kind}"] += 1
    if outcome.is_fault:
        found.append(f"#{mutation.number} {mutation.kind}, info: {_shown(outcome.kind, outcome)}")
    if mutation.expected == FOUND:
        outcome = run_watched(lambda: main(["check_hdf5", str(mutation.path), "--digests"]))
        counts[f"check_hdf5: {outcome.kind}"] += 1
        if outcome.kind != "sentence":
            found.append(f"#{mutation.number} {mutation.kind}, check_hdf5 --digests: {_shown(outcome.kind, outcome)}")
    return found


def _is_expected(kind: str, mutation: Mutation) -> bool:
    allowed = {EQUAL: {"right reading"}, REFUSED: set(), ANY: {"right reading", "read"}}
    return kind in {"sentence", *allowed.get(mutation.expected, {"right reading", "read"})}


def _shown(kind: str, outcome: Outcome) -> str:
    return f"{kind}, code {outcome.code}: {outcome.err[-700:].strip()}"


def run_all(folder: Path, bases: dict[str, Path], numbers: range) -> Counter[str]:
    good = {name: reading(path, lazy=True) for name, path in bases.items()}
    files, counts, faults = HDF5Files(folder, bases), Counter[str](), []
    for number in numbers:
        mutation = files.make(number)
        faults += faults_of(mutation, good, counts)
        mutation.path.unlink()
    assert not faults, f"{counts}\n" + "\n".join(faults)
    return counts


def test_good_files_read_the_same_eager_and_lazy(bases: dict[str, Path]) -> None:
    """Otherwise changed ones would be refused for another reason than the change."""
    for path in bases.values():
        assert reading(path, lazy=False) == reading(path, lazy=True)
        outcome = run_watched(lambda path=path: main(["check_hdf5", str(path), "--digests"]))
        assert outcome.kind == "read", outcome


def test_a_file_is_a_function_of_its_number(bases: dict[str, Path], tmp_path: Path) -> None:
    files = HDF5Files(tmp_path, bases)
    contents = []
    for _ in range(2):
        mutation = files.make(0)
        contents.append(mutation.path.read_bytes())
    assert contents[0] == contents[1] != bases["digests"].read_bytes()


@pytest.mark.slow
def test_each_kind_of_change(bases: dict[str, Path], tmp_path: Path) -> None:
    counts = run_all(tmp_path, bases, range(2 * len(KINDS)))
    assert counts["sentence"] > counts["right reading"] > 0


@pytest.mark.slow
def test_many_changes(bases: dict[str, Path], tmp_path: Path) -> None:
    counts = run_all(tmp_path, bases, range(int(os.environ.get("DWIML_FUZZ_RUNS", "1000"))))
    sys.stderr.write(f"{dict(counts)}\n")
    assert counts["sentence"] > counts["right reading"] > 0
