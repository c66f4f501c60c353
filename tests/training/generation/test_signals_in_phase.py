"""A training that is told to stop in its generation-validation phase leaves at once and keeps the epoch's training."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import logs, same_weights, signal_at, small_trainer
from tests_support import write_hdf5

from dwiml.training.cluster import slurm, stopping
from dwiml.training.cluster.stopping import TrainingInterrupted
from dwiml.training.experiment.checkpoint import load_checkpoint

OPTIONS: dict[str, Any] = {"tracking": True, "tracking_phase_theta": 180.0, "max_epochs": 3, "ema_decay": 0.9}
NB_TRAINING, NB_VALIDATION = 2, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hdf5(tmp_path_factory.mktemp("gv") / "data.hdf5", {"sub-a": 30}, {"sub-b": 12, "sub-c": 12})


def on_step(trainer: Any, nth: int, act: Any) -> list[int]:
    """Have something done at the nth propagation step of the first phase; return the list that counts the steps."""
    steps: list[int] = []
    track_step = trainer.model.track_step

    def track_and_act(*args: Any) -> Any:
        steps.append(trainer.position.epoch)
        if len(steps) == nth + 1:
            act()
        return track_step(*args)

    trainer.model.track_step = track_and_act
    return steps


def stop_in_phase(trainer: Any, nth: int, number: signal.Signals = signal.SIGTERM) -> list[int]:
    steps = on_step(trainer, nth, lambda: os.kill(os.getpid(), number))
    with pytest.raises(TrainingInterrupted) as caught:
        trainer.train_and_validate()
    assert (caught.value.reason, caught.value.code) == (number.name, 128 + number)
    return steps


@pytest.mark.first(1)
@pytest.mark.parametrize(("nth", "number"), [(0, signal.SIGTERM), (3, signal.SIGINT), (25, signal.SIGUSR1)])
def test_stopped_between_steps_and_resumed_is_the_same_to_the_last_bit(
    data: Path, tmp_path: Path, nth: int, number: signal.Signals
) -> None:
    whole = small_trainer(data, tmp_path, "whole", **OPTIONS)
    whole.train_and_validate()
    part = small_trainer(data, tmp_path, "parts", **OPTIONS)
    batches = signal_at(part, -1)
    steps = stop_in_phase(part, nth, number)
    assert len(steps) == nth + 1, "It leaves before the next step."
    assert len(batches) == NB_TRAINING + NB_VALIDATION
    position = load_checkpoint(tmp_path / "parts" / "checkpoint")["position"]
    assert (position["epoch"], position["phase"], position["batch"]) == (0, "generation", 0)
    assert {"train_loss", "valid_loss"} <= set(position["metrics"])
    resumed = small_trainer(data, tmp_path, "parts", resume="must", **OPTIONS)
    batches = signal_at(resumed, -1)
    resumed.train_and_validate()
    assert len(batches) == 2 * (NB_TRAINING + NB_VALIDATION), "Nothing is trained or validated twice."
    assert same_weights(whole.model, resumed.model)
    assert logs(tmp_path / "whole") == logs(tmp_path / "parts")
    best = [torch.load(tmp_path / name / "best_model/model_state.pt", weights_only=True) for name in ("whole", "parts")]
    assert all(torch.equal(best[0][key], best[1][key]) for key in best[0])


@pytest.mark.slow
def test_stopped_twice_in_the_same_phase(data: Path, tmp_path: Path) -> None:
    small_trainer(data, tmp_path, "whole", **OPTIONS).train_and_validate()
    stop_in_phase(small_trainer(data, tmp_path, "parts", **OPTIONS), 4)
    stop_in_phase(small_trainer(data, tmp_path, "parts", resume="must", **OPTIONS), 9)
    small_trainer(data, tmp_path, "parts", resume="must", **OPTIONS).train_and_validate()
    assert logs(tmp_path / "whole") == logs(tmp_path / "parts")


@pytest.mark.slow
def test_the_same_trainer_may_go_on(data: Path, tmp_path: Path) -> None:
    small_trainer(data, tmp_path, "whole", **OPTIONS).train_and_validate()
    trainer = small_trainer(data, tmp_path, "parts", **OPTIONS)
    stop_in_phase(trainer, 4)
    trainer.train_and_validate()
    assert logs(tmp_path / "whole") == logs(tmp_path / "parts")


@pytest.mark.slow
def test_a_phase_that_draws_begins_again_with_the_same_draws(data: Path, tmp_path: Path) -> None:
    def trainer(name: str, **options: Any) -> Any:
        made = small_trainer(data, tmp_path, name, **OPTIONS, **options)
        track_step = made.model.track_step

        def track_and_draw(*args: Any) -> Any:
            torch.rand(1)
            return track_step(*args)

        made.model.track_step = track_and_draw
        return made

    whole = trainer("whole")
    whole.train_and_validate()
    stop_in_phase(trainer("parts"), 7)
    resumed = trainer("parts", resume="must")
    resumed.train_and_validate()
    assert same_weights(whole.model, resumed.model)
    assert logs(tmp_path / "whole") == logs(tmp_path / "parts")


def test_max_time_ends_the_phase_too(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = small_trainer(data, tmp_path, max_time="99:00:00", **OPTIONS)
    steps = on_step(trainer, 3, lambda: monkeypatch.setattr(stopping, "process_seconds", lambda: 1e9))
    with pytest.raises(TrainingInterrupted) as caught:
        trainer.train_and_validate()
    assert (caught.value.reason, caught.value.code, len(steps)) == ("max_time", 0, 4)
    assert load_checkpoint(tmp_path / "exp" / "checkpoint")["position"]["phase"] == "generation"


def test_the_job_is_requeued(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("dwiml.training.cluster.process.requeue", lambda: asked.append(True))
    assert callable(slurm.requeue)
    stop_in_phase(small_trainer(data, tmp_path, requeue=True, **OPTIONS), 2, signal.SIGUSR1)
    assert asked == [True]


def test_outside_of_slurm_the_requeue_is_warned_of_at_the_start(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    stop_in_phase(small_trainer(data, tmp_path, requeue=True, **OPTIONS), 2, signal.SIGUSR1)
    warnings = [record.message for record in caplog.records if "SLURM" in record.message]
    assert warnings == [
        f"{what}: this is not a SLURM job (SLURM_JOB_ID is not set)."
        for what in ("requeue has no effect here", "Not requeued")
    ]
    assert "SLURM is asked" not in capsys.readouterr().err


class KilledError(Exception):
    """In the place of kill -9: nothing is written any more."""


@pytest.mark.slow
def test_checkpoints_every_so_many_minutes_in_the_phase_too(data: Path, tmp_path: Path) -> None:
    small_trainer(data, tmp_path, "whole", **OPTIONS).train_and_validate()
    trainer = small_trainer(data, tmp_path, "parts", checkpoint_minutes=1e-9, **OPTIONS)
    steps: list[int] = []
    sums = trainer.tracking_phase_sums  # type: ignore[attr-defined]

    def kill_in_second_batch(*batch: Any) -> Any:
        steps.append(0)
        if len(steps) == 2:
            raise KilledError
        return sums(*batch)

    trainer.tracking_phase_sums = kill_in_second_batch  # type: ignore[attr-defined]
    with pytest.raises(KilledError):
        trainer.train_and_validate()
    assert load_checkpoint(tmp_path / "parts" / "checkpoint")["position"]["phase"] == "generation"
    small_trainer(data, tmp_path, "parts", resume="must", **OPTIONS).train_and_validate()
    assert logs(tmp_path / "whole") == logs(tmp_path / "parts")


def test_a_phase_that_is_run_by_itself_is_not_interrupted(data: Path, tmp_path: Path) -> None:
    trainer = small_trainer(data, tmp_path, **OPTIONS)
    stop_in_phase(trainer, 2)
    trainer.position.end_epoch()
    assert "gv_length_ratio" in trainer.run_tracking_phase()  # type: ignore[attr-defined]


def test_it_is_gone_within_a_step_and_some_seconds(data: Path, tmp_path: Path) -> None:
    trainer = small_trainer(data, tmp_path, **OPTIONS)
    track_step, sent = trainer.model.track_step, []

    def slowly(*args: Any) -> Any:
        time.sleep(0.3)
        if not sent:
            os.kill(os.getpid(), signal.SIGTERM)
            sent.append(time.monotonic())
        return track_step(*args)

    trainer.model.track_step = slowly
    with pytest.raises(TrainingInterrupted):
        trainer.train_and_validate()
    assert time.monotonic() - sent[0] < 5.3
