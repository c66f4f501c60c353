"""Odd command lines end in a sentence or in what was asked for: no traceback, no hang, no file lost."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import command_lines
import pytest
from command_lines import BASES, CommandLine, CommandLines, described, run

# Numbers of lines that are run in each test of the default suite.
_NB_SHORT = 70


def _run_all(world: Path, numbers: range) -> Counter[str]:
    lines, counts, faults = CommandLines(world), Counter[str](), []
    for number in numbers:
        line = lines.line(number)
        outcome = run(world, line)
        counts[outcome.kind] += 1
        if outcome.is_fault:
            faults.append(f"#{number} {described(line, outcome)}")
    assert not faults, "\n".join(faults)
    return counts


@pytest.mark.slow
def test_lines_without_a_change_are_right(world: Path) -> None:
    """Otherwise changed ones would be refused for another reason than the change."""
    for base in BASES:
        # These three take seconds; tests of their own run them.
        if not base.startswith(("phantom", "train", "resume")):
            outcome = run(world, CommandLine(tuple(base.split())))
            assert outcome.kind == "read", described(CommandLine((base,)), outcome)


def test_a_line_is_a_function_of_its_number(world: Path) -> None:
    first, second = CommandLines(world), CommandLines(world)
    numbers = range(len(BASES), len(BASES) + 300)
    lines = [str(first.line(number)) for number in numbers]
    assert lines == [str(second.line(number)) for number in reversed(numbers)][::-1]
    assert len(set(lines)) > 250


def test_faults_are_seen(world: Path) -> None:
    """What must not happen is told apart from what may."""

    def act(name: str) -> int:
        if name == "raise":
            raise RuntimeError("not caught")
        Path(name).write_text("lost")
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_lines, "main", lambda words: act(words[0]))
        kinds = {name: run(world, CommandLine((name,))).kind for name in ("raise", "out/new", "new", "config.json")}
    assert kinds == {"raise": "traceback", "out/new": "read", "new": "read", "config.json": "touched"}
    command_lines.make_again(world, "config.json")


@pytest.mark.slow
def test_some_odd_lines(world: Path) -> None:
    counts = _run_all(world, range(len(BASES), len(BASES) + _NB_SHORT))
    assert counts["sentence"] > counts["read"] > 0


@pytest.mark.slow
def test_many_odd_lines(world: Path) -> None:
    nb = int(os.environ.get("DWIML_FUZZ_RUNS", "3000"))
    counts = _run_all(world, range(len(BASES), len(BASES) + nb))
    assert counts["read"] > nb // 50, counts
