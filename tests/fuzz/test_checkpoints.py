"""Crafted checkpoints, weights and parameters end in a sentence, or in the training that was never stopped."""

from __future__ import annotations

import os
from pathlib import Path

import checkpoints
import numpy as np
import parameter_files
import pytest
from checkpoints import World, run_all

# Runs of each kind in the default suite.
_NB_SHORT = 8


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("experiments"))


def test_without_a_change_it_ends_as_one_that_was_never_stopped(experiments: World) -> None:
    experiment = experiments.experiment()
    outcome = checkpoints.run_watched(lambda: checkpoints.main(["resume", str(experiment), "-q"]), cwd=experiment)
    assert outcome.kind == "read", outcome.err
    assert checkpoints.same_end(experiments, experiment)


def test_some_crafted_checkpoints_and_weights(experiments: World) -> None:
    counts = run_all(checkpoints.run, experiments, range(_NB_SHORT))
    assert counts["sentence"] > 0


def test_some_changed_parameters(experiments: World) -> None:
    counts = run_all(parameter_files.run, experiments, range(_NB_SHORT))
    assert counts["sentence"] > 0


def test_faults_are_seen(experiments: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(argv: list[str]) -> int:
        raise RuntimeError("not caught")

    monkeypatch.setattr(checkpoints, "main", act)
    with pytest.raises(AssertionError, match="traceback"):
        run_all(checkpoints.run, experiments, range(1))


@pytest.mark.parametrize("craft", checkpoints.ARCHIVES)
def test_an_archive_is_a_function_of_its_number(experiments: World, craft: object) -> None:
    good = (experiments.good / "stopped" / "checkpoint" / "latest.pt").read_bytes()
    small = len(good) < 10**6
    assert small
    first, second = (craft(good, np.random.default_rng(3)) for _ in range(2))  # type: ignore[operator]
    # An archive that is written anew has the time of its writing.
    assert len(first) == len(second)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [checkpoints, parameter_files])
def test_many(experiments: World, kind: object) -> None:
    nb = int(os.environ.get("DWIML_FUZZ_RUNS", "500"))
    counts = run_all(kind.run, experiments, range(_NB_SHORT, _NB_SHORT + nb))  # type: ignore[attr-defined]
    assert counts["sentence"] > nb // 3, counts


def test_nothing_is_left_beside(experiments: World) -> None:
    left = {path.name for path in Path(experiments.path).iterdir() if not path.name.startswith("run_")}
    assert left == {"data.hdf5", "good"}
