"""The log of events: all runs of an experiment, from their start to their end, whatever that is."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from small_training import interrupt, small_trainer

from dwiml.training.cluster.stopping import TrainingInterrupted
from dwiml.training.reporting.events import EventLog, read_events


def kinds(experiment: Path) -> list[str]:
    return [event["event"] for event in read_events(experiment)]


def test_a_training_has_its_start_its_epochs_and_its_end(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2).train_and_validate()
    events = read_events(tmp_path / "exp")
    assert [event["event"] for event in events] == ["start", "checkpoint", "epoch", "checkpoint", "epoch", "end"]
    assert all(datetime.fromisoformat(event["time"]).tzinfo for event in events)
    start, checkpoint, epoch, *_, end = events
    assert (start["pid"], start["max_epochs"], start["epoch"], start["batch"]) == (os.getpid(), 2, 0, 0)
    assert start["text"].startswith("Model      Learn2TrackModel")
    assert checkpoint["seconds"] >= 0
    assert "Checkpoint written at epoch 1, in " in checkpoint["text"]
    assert epoch["text"].startswith("Epoch 0 of 2: training loss") or epoch["text"].startswith("Epoch 0 of 2: ")
    assert end["text"].startswith("Training ended: 2 epochs are done; best validation loss")


def test_a_stop_and_where_the_training_goes_on_are_recorded(tiny_hdf5: Path, tmp_path: Path) -> None:
    interrupt(small_trainer(tiny_hdf5, tmp_path, max_epochs=1), 1)
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, resume="must").train_and_validate()
    events = read_events(tmp_path / "exp")
    assert [event["event"] for event in events] == [
        "start",
        "checkpoint",
        "stop",
        "resume",
        "checkpoint",
        "epoch",
        "end",
    ]
    assert events[1]["text"].startswith("Checkpoint written at epoch 0, training, batch 2, in ")
    assert events[2]["text"].startswith("Stopped (SIGTERM): a checkpoint is written. Continue with ")
    assert events[3]["text"] == "Resuming at epoch 0, training: 2 of 4 batches are done"


def test_warnings_and_a_failure_are_recorded(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1)
    run, seen = trainer.run_one_batch, []

    def with_nan(*batch: Any) -> Any:
        loss, n = run(*batch)
        seen.append(n)
        return (loss * float("nan") if len(seen) == 2 else loss), n

    trainer.run_one_batch = with_nan  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError):
        trainer.train_and_validate()
    events = read_events(tmp_path / "exp")
    assert events[-1]["event"] == "failure"
    assert events[-1]["text"].startswith("FloatingPointError: The loss is NaN in batch 1 of the training of epoch 0")
    skipping = small_trainer(tiny_hdf5, tmp_path, "skipping", max_epochs=1, nan_policy="skip")
    run, seen = skipping.run_one_batch, []
    skipping.run_one_batch = with_nan  # type: ignore[method-assign]
    skipping.train_and_validate()
    texts = [event["text"] for event in read_events(tmp_path / "skipping") if event["event"] == "warning"]
    assert "The loss is NaN in batch 1 of the training of epoch 0: skipped." in texts


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        ("", "Beware.\n"),
        ("logging.basicConfig(format='mine: %(message)s')", "mine: Beware.\n"),
        ("logging.getLogger('dwiml').addHandler(logging.NullHandler())", ""),
    ],
)
def test_a_script_without_handlers_still_sees_warnings(tmp_path: Path, setup: str, expected: str) -> None:
    code = (
        f"import logging, pathlib\n{setup}\nfrom dwiml.training.reporting.events import EventLog\n"
        f"with EventLog(pathlib.Path({str(tmp_path)!r})).recording(KeyError):\n"
        "    logging.getLogger('dwiml.data').warning('Beware.')\n    logging.getLogger('dwiml.data').info('Hm.')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stderr == expected
    assert [event["text"] for event in read_events(tmp_path)] == ["Beware."]


def test_nothing_is_written_outside_a_run(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.add("start", "too early")
    assert not log.path.exists()
    with suppress(TrainingInterrupted), log.recording(planned=TrainingInterrupted):
        log.add("stop", "asked")
        raise TrainingInterrupted("SIGTERM", 143)
    log.add("end", "too late")
    assert kinds(tmp_path) == ["stop"]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_line_that_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    log = EventLog(tmp_path)
    log.path.parent.mkdir()
    (tmp_path / "mine").write_text("mine\n")
    if kind == "link":
        log.path.symlink_to(tmp_path / "mine")
    elif kind == "pipe":
        os.mkfifo(log.path)
    else:
        log.path.mkdir()
    with log.recording(planned=TrainingInterrupted):
        log.add("start", "one")
        log.add("end", "two")
    assert caplog.text.count("cannot be written") == 1
    assert (tmp_path / "mine").read_text() == "mine\n"


def test_a_backup_of_the_log_stays_as_it_is(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    with log.recording(planned=TrainingInterrupted):
        log.add("start", "one")
        before = log.path.read_text()
        os.link(log.path, tmp_path / "backup")
        log.add("end", "two")
    assert kinds(tmp_path) == ["start", "end"]
    assert (tmp_path / "backup").read_text() == before


def test_lines_that_are_no_events_are_left_out(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    with log.recording(planned=TrainingInterrupted):
        log.add("start", "one")
    content = log.path.read_bytes()
    log.path.write_bytes(b"7\n{}\n\xff\n" + b"[" * 100_000 + b"\n" + content + b'{"time": "2026')
    with log.recording(planned=TrainingInterrupted):
        log.add("end", "two")
    assert kinds(tmp_path) == ["start", "end"]
