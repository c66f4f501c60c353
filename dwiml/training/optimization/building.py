"""Building the optimizer and the other objects that change a model's weights, from the settings of a training."""

from __future__ import annotations

import inspect
import logging
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from dwiml.arguments import kind_shown, quoted
from dwiml.params import qualified_name
from dwiml.training.optimization.averaging import AveragedWeights
from dwiml.training.optimization.compiling import compile_layers
from dwiml.training.optimization.nonfinite import NonFinitePolicy
from dwiml.training.optimization.optimizers import OPTIMIZERS, build_optimizer, check_learning_rates, to_python
from dwiml.training.optimization.schedule_base import LR_RATIO, Schedule
from dwiml.training.optimization.schedules import build_schedule
from dwiml.training.optimization.updates import WeightUpdater

if TYPE_CHECKING:
    from dwiml.training.settings import TrainerSettings

logger = logging.getLogger(__name__)


class Optimization(NamedTuple):
    """The objects that change a model's weights; see :class:`~dwiml.training.trainer.DWIMLTrainer`."""

    optimizer: torch.optim.Optimizer
    schedule: Schedule
    averaged: AveragedWeights | None
    updater: WeightUpdater
    nonfinite: NonFinitePolicy


def build_optimization(
    model: Any, settings: TrainerSettings, *, device: torch.device, planned_epochs: int
) -> Optimization:
    """Move a model to its device, and build the objects that change its weights.

    Parameters
    ----------
    model
        The model; it is moved, and compiled if ``compile_model`` is set.
    settings
        Settings of the training.
    device
        Device of the training.
    planned_epochs
        Number of epochs for which the schedule is built.

    Raises
    ------
    ValueError, TypeError
        If the optimizer or the schedule does not exist, or contradicts the other settings.
    """
    # Before the optimizer is built, which would otherwise keep the old weights.
    model.to(device)
    if settings.compile_model:
        compile_layers(model.layers_by_point)
    rates = check_learning_rates(settings.learning_rates)
    optimizer = _optimizer(model, settings, rates[0])
    schedule = build_schedule(
        settings.lr_scheduler,
        settings.lr_scheduler_args,
        optimizer=optimizer,
        learning_rates=rates,
        planned_epochs=planned_epochs,
    )
    averaged = None if settings.ema_decay is None else AveragedWeights(model, settings.ema_decay)
    # Not those of the model: a gradient that the optimizer never clears must not count in the norm.
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    updater = WeightUpdater(
        trained,
        optimizer,
        device=device,
        precision=settings.precision,
        clip_grad=settings.clip_grad,
        accumulate_batches=settings.accumulate_batches,
        averaged=averaged,
    )
    nonfinite = NonFinitePolicy(settings.nan_policy, device, updater)
    return Optimization(optimizer, schedule, averaged, updater, nonfinite)


def _optimizer(model: Any, settings: TrainerSettings, learning_rate: float) -> torch.optim.Optimizer:
    """Return the optimizer, given by name or by a function, after checking it against the other settings."""
    if isinstance(settings.optimizer, str):
        return build_optimizer(
            settings.optimizer, model.parameters(), learning_rate=learning_rate, weight_decay=settings.weight_decay
        )
    if not callable(settings.optimizer):
        raise TypeError(
            f"optimizer must be one of {quoted(OPTIMIZERS)}, or a function that creates one, as "
            f"lambda parameters: torch.optim.SGD(parameters, lr=0.1); got {kind_shown(settings.optimizer)}."
        )
    name = qualified_name(settings.optimizer)
    optimizer = settings.optimizer([each for each in model.parameters() if each.requires_grad])
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must return a torch optimizer, got {kind_shown(optimizer)} from {name}.")
    if settings.weight_decay:
        raise ValueError(
            f"weight_decay applies to optimizers given by name, got {settings.weight_decay:g}: set it in {name}."
        )
    _check_parameters(model, optimizer, name)
    _check_step(optimizer, name)
    for group in optimizer.param_groups:
        # The values are saved in checkpoints.
        group.update(to_python({key: value for key, value in group.items() if key != "params"}))
        if type(group.get("lr")) not in (int, float):
            raise ValueError(f"The optimizer of {name} must have a number as the lr of each group of parameters.")
    rate = float(optimizer.param_groups[0]["lr"])
    # A learning rate in float32 is the same number.
    if not math.isclose(rate, learning_rate, rel_tol=1e-6):
        raise ValueError(
            f"The optimizer of {name} starts with a learning rate of {rate:g}, and learning_rates with "
            f"{learning_rate:g}: give the same value to both."
        )
    for group in optimizer.param_groups:
        if group["lr"] != rate:
            group[LR_RATIO] = float(group["lr"]) / rate
    return optimizer


def _check_step(optimizer: torch.optim.Optimizer, name: str) -> None:
    """Refuse an optimizer that cannot take a step with the gradients of a batch alone."""
    parameters = inspect.signature(optimizer.step).parameters.values()
    if any(each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD for each in parameters):
        reason = "evaluates the loss several times in a step (closure)"
    elif isinstance(optimizer, torch.optim.SparseAdam):
        reason = "accepts only sparse gradients"
    else:
        return
    raise ValueError(
        f"The optimizer of {name} is of class {type(optimizer).__name__}, which {reason}: the trainer does not support "
        "it. Use another optimizer, such as torch.optim.Adam."
    )


def _check_parameters(model: Any, optimizer: torch.optim.Optimizer, name: str) -> None:
    """Refuse an optimizer of parameters that are not the model's; warn if it leaves some of the model's out."""
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    own = {id(parameter) for parameter in model.parameters()}
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if not trained <= own:
        raise ValueError(
            f"The optimizer of {name} has {len(trained - own)} parameters that are not the model's: use those that the "
            "function receives."
        )
    if not trainable <= trained:
        logger.warning(
            "The optimizer of %s trains %d of the %d parameters of the model.",
            name,
            len(trained & trainable),
            len(trainable),
        )
