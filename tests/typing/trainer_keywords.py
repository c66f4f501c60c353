"""What a type checker says of a trainer's keywords: each error that it must find is an ignored one.

mypy (strict) checks this file with the library, and reports an ignore that nothing needs. It is never run.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dwiml import (
    DWIMLBatchIDSampler,
    DWIMLBatchLoaderOneInput,
    DWIMLTrainer,
    DWIMLTrainerOneInput,
    DWIMLTrainerOneInputWithGVPhase,
    Learn2TrackModel,
    Logger,
)
from dwiml.training.optimization.updates import WeightUpdater


def make_optimizer(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.001)


def make_scheduler(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.StepLR(optimizer, 2)


class Printer(Logger):
    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None: ...


def right(model: Learn2TrackModel, sampler: DWIMLBatchIDSampler, loader: DWIMLBatchLoaderOneInput) -> None:
    trainer = DWIMLTrainerOneInput(
        model, "experiments", "name", sampler, loader, learning_rates=[0.1, 0.01], patience=None, max_epochs=3
    )
    DWIMLTrainer(model, "experiments", "name", sampler, loader, optimizer=make_optimizer, lr_scheduler=make_scheduler)
    DWIMLTrainerOneInputWithGVPhase(
        model, "experiments", "name", sampler, loader, tracking_phase_theta=30.0, loggers=[Printer()], use_gpu=False
    )
    epochs: int = trainer.settings.max_epochs
    updater: WeightUpdater = trainer.updater
    resumed: DWIMLTrainerOneInput = DWIMLTrainerOneInput.init_from_checkpoint(
        model, "experiments", "name", sampler, loader, new_max_epochs=epochs, nb_cpu_processes=2
    )
    del updater, resumed


def wrong(model: Learn2TrackModel, sampler: DWIMLBatchIDSampler, loader: DWIMLBatchLoaderOneInput) -> None:
    DWIMLTrainer(model, "a", "b", sampler, loader, max_epoch=3)  # type: ignore[call-arg]
    DWIMLTrainerOneInput(model, "a", "b", sampler, loader, learning_rate=0.1)  # type: ignore[call-arg]
    DWIMLTrainerOneInput(model, "a", "b", sampler, loader, tracking_phase_theta=1.0)  # type: ignore[call-arg]
    DWIMLTrainerOneInputWithGVPhase(model, "a", "b", sampler, loader, best_metric="x")  # type: ignore[call-arg]
    DWIMLTrainer(model, "a", "b", sampler, loader, max_epochs="3")  # type: ignore[arg-type]
    DWIMLTrainerOneInput(model, "a", "b", sampler, loader, clip_grad="much")  # type: ignore[arg-type]
    DWIMLTrainerOneInput(model, "a", "b", sampler, loader, optimizer=3)  # type: ignore[arg-type]
    DWIMLTrainerOneInput(model, "a", "b", sampler, loader, loggers=[print])  # type: ignore[list-item]
    DWIMLTrainerOneInputWithGVPhase(model, "a", "b", sampler, loader, tracking_phase_theta="x")  # type: ignore[arg-type]
    DWIMLTrainerOneInput.init_from_checkpoint(model, "a", "b", sampler, loader, use_gpus=True)  # type: ignore[call-arg]


def frozen(trainer: DWIMLTrainer) -> None:
    trainer.settings.max_epochs = 3  # type: ignore[misc]
