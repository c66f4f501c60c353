"""Damaged files of subjects end in a sentence, or are read: no traceback, hang, lost file, or memory for nothing."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from pathlib import Path

import pytest
from fuzzing import run_watched
from subject_files import CREATE, TARGETS, make_files, run_case

from dwiml.cli.main import main

_NB_SHORT = 2 * len(TARGETS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Imported before the processes are forked.
    for module in ("hdf5.creator", "scoring.scores", "viz.tractograms"):
        importlib.import_module(f"dwiml.{module}")
    folder = tmp_path_factory.mktemp("subject_files")
    make_files(folder)
    return folder


def _run_all(made: Path, numbers: range) -> Counter[str]:
    counts, faults = Counter[str](), []
    for number in numbers:
        case, outcome = run_case(number, made)
        counts[outcome.kind] += 1
        if outcome.is_fault:
            faults.append(f"#{number} {outcome.kind}: {case}\n{outcome.err[-1500:]}")
    assert not faults, "\n".join(faults)
    return counts


def test_files_without_damage_are_read(made: Path) -> None:
    """Otherwise damaged ones would be refused for another reason than the damage."""
    for command in {tuple(command): command for _, command in TARGETS}.values():
        words = [*command, "-f"] if command is CREATE else list(command)
        outcome = run_watched(lambda words=words: main(words), watched=[made], outputs=[made / "out"], cwd=made)
        assert outcome.kind == "read", f"{command}\n{outcome.err}"
    for path in (made / "out").iterdir():
        path.unlink()


@pytest.mark.slow
def test_some_damaged_files(made: Path) -> None:
    counts = _run_all(made, range(_NB_SHORT))
    assert counts["sentence"] > counts["read"] > 0


@pytest.mark.slow
def test_many_damaged_files(made: Path) -> None:
    nb = int(os.environ.get("DWIML_FUZZ_RUNS", "1000"))
    counts = _run_all(made, range(nb))
    assert counts["read"] > nb // 20, counts
