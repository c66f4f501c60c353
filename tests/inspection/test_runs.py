"""The table of experiments: their status, how far they are, and what differs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_training import interrupt, small_trainer

from dwiml.arguments import duration
from dwiml.cli import runs as command
from dwiml.cli.main import main
from dwiml.inspection import runs as module
from dwiml.inspection.runs import ORDERS, describe_runs, runs_text
from dwiml.training.experiment.lock import ExperimentLock
from dwiml.training.reporting.loggers import LocalLogger


def experiment(folder: Path, nb_epochs: int = 2, *events: str, max_epochs: int = 4, **model: Any) -> Path:
    log = LocalLogger(folder)
    for epoch in range(nb_epochs):
        log.log_metrics({"train_loss": 3.0 - epoch, "train_duration_s": 60.0 * (epoch + 1)}, epoch)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    lines = [{"time": f"2026-11-2{i}T10:00:00+00:00", "event": name, "text": ""} for i, name in enumerate(events)]
    (folder / "logs/events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    parameters = {"trainer": {"max_epochs": max_epochs, "seed": 3}, "model": {"class": "M", **model}}
    (folder / "parameters.json").write_text(json.dumps(parameters))
    return folder


@pytest.mark.parametrize(
    ("events", "status"),
    [
        (("start", "epoch", "checkpoint"), "killed"),
        (("start", "stop"), "stopped"),
        (("start", "stop", "resume", "failure"), "failed"),
        (("start", "end", "warning"), "done"),
        ((), "unfinished"),
    ],
)
def test_the_status_is_that_of_the_last_event(tmp_path: Path, events: tuple[str, ...], status: str) -> None:
    (run,) = describe_runs(experiment(tmp_path / "run", 2, *events))
    assert (run.name, run.status, run.epoch, run.max_epochs) == ("run", status, 2, 4)
    assert (run.metric, run.best, run.best_epoch) == ("train_loss", 2.0, 1)
    assert run.seconds_per_epoch == pytest.approx(90)
    assert run.seconds_left is None


def test_a_training_that_holds_its_lock_is_running(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "run", 2, "start", "stop", "resume")
    with ExperimentLock(folder):
        (run,) = describe_runs(tmp_path)
    assert run.status == "running"
    assert run.seconds_left == pytest.approx(180)
    assert run.started == "2026-11-22T10:00:00+00:00"
    assert describe_runs(tmp_path)[0].status == "killed"


def test_an_older_experiment_without_events_is_done_if_its_epochs_are(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "run", 4)
    (folder / "logs/events.jsonl").unlink()
    assert describe_runs(folder)[0].status == "done"


def test_experiments_are_found_in_subfolders_and_only_what_differs_is_shown(tmp_path: Path) -> None:
    experiment(tmp_path / "sweep/run_10", 3, dropout=0.5, size=[3, 4])
    experiment(tmp_path / "sweep/run_2", 1, dropout=0.1, size=[3, 4])
    experiment(tmp_path / "other", 0, dropout=0.1, size=[3, 4], extra="a")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/parameters.json").write_text("[]")
    os.symlink(tmp_path / "sweep", tmp_path / "linked")
    runs = describe_runs(tmp_path)
    assert [run.name for run in runs] == ["other", "sweep/run_2", "sweep/run_10"]
    assert [run.differences for run in runs] == [
        {"dropout": 0.1, "extra": "a"},
        {"dropout": 0.1, "extra": None},
        {"dropout": 0.5, "extra": None},
    ]
    assert runs[0].best is None
    text = runs_text(runs)
    assert "sweep/run_10  unfinished  3 of 4  1 (epoch 2)" in text
    assert text.endswith("  sweep/run_10  dropout 0.5")
    assert "  other         dropout 0.1, extra a\n" in text
    assert "best: train_loss" in text


def test_different_parameters_are_wrapped_and_not_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(2):
        experiment(tmp_path / f"run_{k}", 1, **{f"parameter_{i}": k + i for i in range(20)})
    experiment(tmp_path / "without", 1)
    assert main(["runs", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert f"  run_1    {', '.join(f'parameter_{i} {1 + i}' for i in range(20))}\n" in text
    assert "  without  -" in text
    assert "--json" not in text
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    lines = lines[lines.index("Different parameters") :]
    assert max(map(len, lines)) <= 60
    words = " ".join(line.strip() for line in lines)
    assert all(f"parameter_{i} {i}" in words for i in range(20))


def test_long_values_are_cut_and_the_text_says_so(tmp_path: Path) -> None:
    experiment(tmp_path / "a", 1, path="b" * 60)
    experiment(tmp_path / "b", 1, path="c")
    runs = describe_runs(tmp_path)
    text = runs_text(runs, width=100)
    assert f"path {'b' * 37}...\n" in text
    assert f"path {'b' * 60}\n" in runs_text(runs)
    assert text.endswith("--json prints the values that are cut here.")


def test_any_order(tmp_path: Path) -> None:
    experiment(tmp_path / "a", 1, "start", "end")
    experiment(tmp_path / "b", 3, "start", "resume")
    experiment(tmp_path / "c", 0)
    expected = {"name": "abc", "status": "bac", "epoch": "bac", "best": "bac", "started": "abc", "left": "abc"}
    for order in ORDERS:
        assert "".join(run.name for run in describe_runs(tmp_path, order=order)) == expected[order], order
    assert command.ORDERS == ORDERS
    with pytest.raises(ValueError, match="sort must be one of"):
        describe_runs(tmp_path, order="size")


def test_a_damaged_experiment_does_not_hide_the_others(tmp_path: Path) -> None:
    experiment(tmp_path / "good", 1)
    (experiment(tmp_path / "bad", 1) / "logs/metrics.jsonl").write_text("{\n")
    bad, good = describe_runs(tmp_path)
    assert "Line 1 of" in bad.note
    assert good.best == 3.0
    assert "bad: Line 1 of" in runs_text([bad, good])


def test_a_damaged_log_does_not_hide_how_the_run_ended(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "bad", 1, "start", "failure")
    (folder / "logs/metrics.jsonl").write_text("{\n")
    (run,) = describe_runs(tmp_path)
    assert (run.status, run.started) == ("failed", "2026-11-20T10:00:00+00:00")
    assert "Line 1 of" in run.note


def test_no_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 2
    assert "has no experiment" in capsys.readouterr().err
    assert main(["runs", str(tmp_path / "a")]) == 2
    (tmp_path / "file").touch()
    assert main(["runs", str(tmp_path / "file")]) == 2
    assert "is a file; give a folder of experiments" in capsys.readouterr().err


def test_the_command_on_real_trainings(tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_trainer(tiny_hdf5, tmp_path, "done", max_epochs=1).train_and_validate()
    interrupt(small_trainer(tiny_hdf5, tmp_path, "stopped", max_epochs=3, patience=2), 1)
    assert main(["runs", str(tmp_path), "--json"]) == 0
    done, stopped = json.loads(capsys.readouterr().out)
    assert (done["status"], done["epoch"]) == ("done", 1)
    assert (stopped["status"], stopped["epoch"], stopped["max_epochs"]) == ("stopped", 0, 3)
    assert stopped["differences"] == {"max_epochs": 3, "patience": 2}
    assert main(["runs", str(tmp_path), "--sort", "status"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("stopped  stopped  0 of 3  -")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (4.21, "4.2 s"), (720, "12 min"), (12_000, "3 h 20 min"), (190_800, "2 d 5 h"), (3599, "1 h 0 min")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_long_names_keep_their_ends() -> None:
    assert module._short("a" * 40 + "b" * 40) == "a" * 23 + "..." + "b" * 22
