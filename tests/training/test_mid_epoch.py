"""A training that is stopped inside an epoch ends as one that never was."""

from __future__ import annotations

import os
import shlex
import signal
import warnings
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from small_training import batch_logs, interrupt, logs, same_weights, signal_at, small_trainer
from tests_support import write_hdf5

from dwiml import DWIMLTrainerOneInput
from dwiml.cli import resume
from dwiml.training.cluster.stopping import TrainingInterrupted
from dwiml.training.experiment.checkpoint import load_checkpoint
from dwiml.training.experiment.lock import ExperimentInUseError
from dwiml.training.running import running

EVERYTHING: dict[str, Any] = {
    "max_epochs": 3,
    "log_batches": 3,
    "accumulate_batches": 3,
    "ema_decay": 0.9,
    "learning_rates": 0.01,
    "lr_scheduler": "warmup_cosine",
    "lr_scheduler_args": {"warmup_epochs": 0.5, "min_ratio": 0.1},
}


# An epoch has 4 batches of training and 1 of validation.
@pytest.mark.first(2)
@pytest.mark.parametrize("options", [{"max_epochs": 3}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("stops", [[2, 2, 2], [4], [0], [1], [3], [5], [6, 1, 0]])
def test_stopped_anywhere_and_resumed_is_the_same_to_the_last_bit(
    tiny_hdf5: Path, tmp_path: Path, stops: list[int], options: dict[str, Any]
) -> None:
    whole = small_trainer(tiny_hdf5, tmp_path, "whole", **options)
    nb_batches = signal_at(whole, -1)
    whole.train_and_validate()
    nb_done = 0
    for nth in stops:
        part = small_trainer(tiny_hdf5, tmp_path, "parts", resume="auto", **options)
        seen = signal_at(part, nth)
        with pytest.raises(TrainingInterrupted):
            part.train_and_validate()
        nb_done += len(seen)
    last = small_trainer(tiny_hdf5, tmp_path, "parts", resume="auto", **options)
    seen = signal_at(last, -1)
    last.train_and_validate()
    assert nb_done + len(seen) == len(nb_batches) == 15, "Nothing is repeated, nothing is left out."
    assert same_weights(whole.model, last.model)
    assert logs(tmp_path / "whole") == logs(tmp_path / "parts")
    assert batch_logs(tmp_path / "whole") == batch_logs(tmp_path / "parts")
    states = [load_checkpoint(tmp_path / name / "checkpoint") for name in ("whole", "parts")]
    for key in ("position", "best", "schedule"):
        assert states[0][key] == states[1][key]
    best = [torch.load(tmp_path / name / "best_model/model_state.pt", weights_only=True) for name in ("whole", "parts")]
    assert all(torch.equal(best[0][key], best[1][key]) for key in best[0])


@pytest.mark.first(1)
@pytest.mark.parametrize(("lazy", "nb_cpu_processes"), [(True, 0), (True, 2), (False, 2)])
def test_workers_and_lazy_data_are_resumed_as_well(
    tiny_hdf5: Path, tmp_path: Path, lazy: bool, nb_cpu_processes: int
) -> None:
    small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=2).train_and_validate()
    loading: dict[str, Any] = {"max_epochs": 2, "lazy": lazy, "nb_cpu_processes": nb_cpu_processes}
    interrupt(small_trainer(tiny_hdf5, tmp_path, **loading), 2)
    small_trainer(tiny_hdf5, tmp_path, resume="must", **loading).train_and_validate()
    assert logs(tmp_path / "whole") == logs(tmp_path / "exp")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_process_with_its_code(
    tiny_hdf5: Path, tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    interrupted = interrupt(small_trainer(tiny_hdf5, tmp_path, max_epochs=2, verbose=True), 1, number)
    assert (interrupted.reason, interrupted.code) == (number.name, 128 + number)
    assert f"Stopped ({number.name}): a checkpoint is written." in capsys.readouterr().err
    assert load_checkpoint(tmp_path / "exp" / "checkpoint")["position"]["batch"] == 2
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == handlers
    assert not (tmp_path / "exp" / "lock.json").exists()


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("nth", "expected"),
    [
        (1, "epoch 0, training: 2 of 4 batches are done"),
        (5, "epoch 1, training: 1 of 4 batches are done"),
        (3, "epoch 0, training: 4 of 4 batches are done"),
    ],
)
def test_it_says_where_it_goes_on(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], nth: int, expected: str
) -> None:
    interrupt(small_trainer(tiny_hdf5, tmp_path, max_epochs=2, verbose=True), nth)
    assert "Resuming" not in capsys.readouterr().err
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, verbose=True, resume="auto").train_and_validate()
    assert f"Resuming at {expected}" in capsys.readouterr().err
    small_trainer(tiny_hdf5, tmp_path, max_epochs=3, verbose=True, resume="auto").train_and_validate()
    assert "\nResuming at epoch 2\n" in capsys.readouterr().err


def test_it_says_that_only_tracking_is_left(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, tracking=True, tracking_phase_theta=180.0)
    with running(trainer):
        trainer.position.end_training({"train_loss": 1.0})
        trainer.position.end_validation({"valid_loss": 1.0})
        trainer.checkpointer.save(trainer)
    resumed = small_trainer(
        tiny_hdf5, tmp_path, max_epochs=1, tracking=True, tracking_phase_theta=180.0, resume="must", verbose=True
    )
    resumed.train_and_validate()
    assert "\nResuming at epoch 0, after its validation\n" in capsys.readouterr().err
    assert "gv_length_ratio" in logs(tmp_path / "exp")[0]


class SomebodysTrainer(DWIMLTrainerOneInput):
    """One that dwiml resume does not know."""


@pytest.mark.parametrize("own", [False, True])
def test_the_command_is_recommended_where_it_works(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], own: bool
) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path / "of me", max_epochs=2)
    if own:
        trainer.__class__ = SomebodysTrainer
    interrupt(trainer, 1)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Stopped")]
    assert "Continue with the same script and resume='auto'" in line
    command = line.partition(", or dwiml resume ")[2].removesuffix(".")
    assert bool(command) != own
    if command:
        assert resume.main([*shlex.split(command), "-q"]) == 0
        assert len(logs(tmp_path / "of me" / "exp")) == 2


def test_the_same_trainer_may_go_on_after_a_stop(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=2).train_and_validate()
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2)
    interrupt(trainer, 1)
    trainer.train_and_validate()
    assert logs(tmp_path / "whole") == logs(tmp_path / "exp")


def test_max_time_stops_in_time_by_itself(tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2, max_time="00:00:01")
    with pytest.raises(TrainingInterrupted) as caught:
        trainer.train_and_validate()
    assert (caught.value.reason, caught.value.code) == ("max_time", 0)
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, resume="auto").train_and_validate()
    small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=2).train_and_validate()
    assert logs(tmp_path / "whole") == logs(tmp_path / "exp")


def test_checkpoints_every_so_many_minutes(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, checkpoint_minutes=1e-9)
    positions = []
    save = trainer.checkpointer.save

    def note(*args: Any) -> bool:
        positions.append((trainer.position.phase, trainer.position.batch))
        return save(*args)

    trainer.checkpointer.save = note  # type: ignore[method-assign]
    trainer.train_and_validate()
    batches = [("training", i) for i in (1, 2, 3, 4)]
    assert positions == [*batches, ("validation", 1), ("training", 0)]


def test_changed_data_are_refused_or_begin_the_epoch_anew(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 40}, {"sub-b": 10})
    interrupt(small_trainer(path, tmp_path, max_epochs=2), 1)
    with h5py.File(path, "r+") as handle:
        handle["sub-a/input/data"][...] += 0.5
    with pytest.raises(ValueError, match=r"data.fingerprint was .* \(or allow_changed_data=True\)"):
        small_trainer(path, tmp_path, max_epochs=2, resume="auto")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = small_trainer(path, tmp_path, max_epochs=2, resume="auto", allow_changed_data=True)
    assert "epoch 0 starts over" in str(caught[0].message)
    trainer.train_and_validate()
    assert [line["epoch"] for line in logs(tmp_path / "exp")] == [0, 1]


def test_another_process_has_trained_in_between(tiny_hdf5: Path, tmp_path: Path) -> None:
    interrupt(small_trainer(tiny_hdf5, tmp_path, max_epochs=2), 1)
    late = small_trainer(tiny_hdf5, tmp_path, max_epochs=2, resume="auto")
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, resume="auto").train_and_validate()
    with pytest.raises(ExperimentInUseError, match="since this trainer was created: create it again"):
        late.train_and_validate()
    assert len(logs(tmp_path / "exp")) == 2


def test_two_processes_on_one_experiment(tiny_hdf5: Path, tmp_path: Path) -> None:
    first = small_trainer(tiny_hdf5, tmp_path, max_epochs=1)
    refused: list[str] = []
    run = first.run_one_batch

    def run_beside_another(*batch: Any) -> Any:
        with pytest.raises(ExperimentInUseError) as caught:
            small_trainer(tiny_hdf5, tmp_path, max_epochs=1, resume="auto").train_and_validate()
        refused.append(str(caught.value))
        return run(*batch)

    first.run_one_batch = run_beside_another  # type: ignore[method-assign]
    first.train_and_validate()
    assert f"is already in use by this process {os.getpid()} on host" in refused[0]
    assert len(logs(tmp_path / "exp")) == 1
