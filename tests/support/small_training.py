"""A small training on the tiny file, for the tests of the trainer and of what surrounds it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests_support import NB_FEATURES

from dwiml import (
    DWIMLBatchIDSampler,
    DWIMLBatchLoaderOneInput,
    DWIMLTrainerOneInput,
    DWIMLTrainerOneInputWithGVPhase,
    Learn2TrackModel,
    MultiSubjectDataset,
    TensorSequence,
)
from dwiml.training.cluster.stopping import TrainingInterrupted


def small_trainer(
    hdf5_file: Path,
    experiments: Path,
    name: str = "exp",
    *,
    lazy: bool = False,
    from_checkpoint: bool = False,
    data_seed: int | None = 4,
    model_class: type[Any] = Learn2TrackModel,
    model_args: dict[str, Any] | None = None,
    loader_args: dict[str, Any] | None = None,
    tracking: bool = False,
    trainer_class: type[DWIMLTrainerOneInput] | None = None,
    **kwargs: Any,
) -> DWIMLTrainerOneInput:
    """Return a trainer of a small model with dropout, reversing, splitting and noise: all that is random.

    ``model_args`` are added to those of a small Learn2Track, or are all those of another ``model_class``.
    """
    dataset = MultiSubjectDataset(hdf5_file, lazy=lazy)
    dataset.load_data()
    torch.manual_seed(9)
    options: dict[str, Any] = {"dropout": 0.2, "step_size": 2.0}
    if model_class is Learn2TrackModel:
        options |= {"rnn_layer_sizes": (8, 8), "nb_previous_dirs": 1}
    model = model_class(nb_features=NB_FEATURES, **options | (model_args or {}))
    sampler = DWIMLBatchIDSampler(dataset, "streamlines", batch_size_training=16, seed=data_seed)
    augmentation = {
        "reverse_ratio": 0.5,
        "split_ratio": 0.3,
        "noise_gaussian_size_forward": 0.05,
        "noise_gaussian_size_loss": 0.02,
        **(loader_args or {}),
    }
    loader = DWIMLBatchLoaderOneInput(dataset, model, "input", "streamlines", seed=data_seed, **augmentation)
    trainer_class = trainer_class or (DWIMLTrainerOneInputWithGVPhase if tracking else DWIMLTrainerOneInput)
    build: Any = trainer_class.init_from_checkpoint if from_checkpoint else trainer_class
    if not from_checkpoint:
        kwargs = {
            "seed": data_seed,
            "learning_rates": [0.01, 0.01, 0.003],
            "clip_grad": 1.0,
            "verbose": False,
            **kwargs,
        }
    trainer: DWIMLTrainerOneInput = build(model, experiments, name, sampler, loader, **kwargs)
    return trainer


class AngleTrainer(DWIMLTrainerOneInput):
    """Logs the mean angle to the true directions, as a tensor, and the mean number of points, as a number."""

    def run_one_batch(self, targets: TensorSequence, ids_per_subj: Any) -> tuple[torch.Tensor, int]:
        batch = self.model_batch(targets, ids_per_subj)
        outputs = self.run_model(batch)
        true = targets.diff().data
        cosines = torch.nn.functional.cosine_similarity(self.model.get_tracking_directions(outputs, "det", None), true)
        self.log("angle_deg", torch.rad2deg(torch.acos(cosines.clamp(-1, 1))).mean(), len(true))
        if len(targets) > 1:
            # On a rank with one streamline or none: not logged.
            self.log("nb_points", targets.total_points / len(targets), len(targets))
        return self.compute_loss(outputs, batch)


def with_angle(trainer: DWIMLTrainerOneInput) -> DWIMLTrainerOneInput:
    """Return the trainer as one that logs metrics of its own."""
    trainer.__class__ = AngleTrainer
    return trainer


def signal_at(trainer: DWIMLTrainerOneInput, nth: int, number: signal.Signals = signal.SIGTERM) -> list[int]:
    """Have a trainer's process signalled in the middle of its nth batch; return the list that counts its batches."""
    seen: list[int] = []
    run = trainer.run_one_batch

    def run_and_signal(*batch: Any) -> Any:
        seen.append(len(seen))
        if len(seen) == nth + 1:
            os.kill(os.getpid(), number)
        return run(*batch)

    trainer.run_one_batch = run_and_signal  # type: ignore[method-assign]
    return seen


def interrupt(trainer: DWIMLTrainerOneInput, nth: int, number: signal.Signals = signal.SIGTERM) -> TrainingInterrupted:
    """Train until a signal in the middle of the nth batch ends it; return what was raised."""
    signal_at(trainer, nth, number)
    with pytest.raises(TrainingInterrupted) as caught:
        trainer.train_and_validate()
    return caught.value


def logs(experiment: Path, *, durations: bool = False) -> list[dict[str, Any]]:
    """Return an experiment's log, without what a clock measured."""
    lines = [json.loads(line) for line in (experiment / "logs" / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if durations or not k.endswith(("_s", "memory_mb"))} for line in lines]


def batch_logs(experiment: Path) -> list[dict[str, Any]]:
    """Return an experiment's log of batches, without what a clock measured."""
    lines = [json.loads(line) for line in (experiment / "logs" / "batches.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith("_s")} for line in lines]


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Tell whether two models are the same to the last bit."""
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
