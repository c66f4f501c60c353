"""The learning-rate schedule that a training's parameters ask for."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler

from dwiml.arguments import quoted, shown
from dwiml.training.optimization.schedule_base import WARMUP_COSINE, Schedule, warmup_cosine
from dwiml.training.optimization.torch_schedules import (
    NEEDS_OBJECTS,
    SchedulerFactory,
    TorchSchedule,
    scheduler_classes,
)

# Arguments of torch's schedulers that are not the user's.
_OWN_ARGUMENTS = {"optimizer", "last_epoch", "verbose"}


def build_schedule(
    name: str | SchedulerFactory | None,
    args: Mapping[str, Any] | None,
    *,
    optimizer: torch.optim.Optimizer,
    learning_rates: Sequence[float],
    planned_epochs: int,
) -> Schedule:
    """Return the schedule of a training that begins; one that is resumed takes up its state afterwards.

    Parameters
    ----------
    name
        None: ``learning_rates`` by epoch, the last one holds. ``"warmup_cosine"``: :func:`warmup_cosine`. Or a class
        of ``torch.optim.lr_scheduler``, stepped at each epoch's end (:class:`TorchSchedule`): ``"StepLR"``,
        ``"ReduceLROnPlateau"``, ... Or a function that makes a scheduler of torch for the optimizer that it is given, a
        ``SequentialLR`` for instance; it is called more than once, and has to be given again when a run is resumed.
    args
        The schedule's arguments by name: numbers, texts, and lists of them. None for none.
    optimizer
        The one whose learning rate is set.
    learning_rates
        Positive; only one where there is a ``name``: that which the schedule begins with, or warms up to.
    planned_epochs
        Of the whole training, as it was when it began: a resumed run may add some.

    Raises
    ------
    ValueError
        For an unknown name, arguments that the schedule does not take, or that would fail before ``planned_epochs``.
    """
    if name is None:
        if args:
            raise ValueError(f"The arguments {quoted(map(str, args))} need the name of the schedule that they are for.")
        rates = list(learning_rates)
        return Schedule(None, optimizer, planned_epochs, lambda epoch, fraction: rates[min(epoch, len(rates) - 1)])
    title = getattr(name, "__qualname__", type(name).__name__) if callable(name) else _known(name)
    if args is not None and not isinstance(args, Mapping):
        raise ValueError(f"The arguments of the schedule {title} must be a dictionary, got {shown(args)}.")
    if len(learning_rates) != 1:
        raise ValueError(
            f"The schedule {title} makes the learning rates of all epochs from one; got {len(learning_rates)} "
            "learning_rates. Give one, or no schedule."
        )
    given = {key: _plain(title, key, value) for key, value in (args or {}).items()}
    if name == WARMUP_COSINE:
        _check_names(title, given, warmup_cosine, own={"base_rate", "max_epochs"})
        return Schedule(title, optimizer, planned_epochs, warmup_cosine(learning_rates[0], planned_epochs, **given))
    chosen: list[str] = []
    if not callable(name):
        chosen = _check_names(title, given, scheduler_classes()[title], own=_OWN_ARGUMENTS)
    elif given:
        raise ValueError(f"The schedule {title} is a function, which takes no arguments; got {_listed(given)}.")

    def make(optimizer: torch.optim.Optimizer) -> LRScheduler:
        # A copy: schedulers keep the lists that they are given, and change them.
        return name(optimizer) if callable(name) else scheduler_classes()[title](optimizer, **copy.deepcopy(given))

    try:
        return TorchSchedule(title, make, optimizer, learning_rates[0], planned_epochs, chosen=chosen)
    except ValueError as error:
        raise ValueError(f"The schedule {title} cannot work with {_listed(given)}: {error}.") from error


def _known(name: Any) -> str:
    if isinstance(name, str) and name in NEEDS_OBJECTS:
        raise ValueError(
            f"The schedule {name} takes other schedulers or functions, which cannot be recorded: give a function that "
            "makes it, or use another."
        )
    known = [WARMUP_COSINE, *scheduler_classes()]
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"The learning-rate schedule must be None or one of {', '.join(known)}, got {shown(name)}.")
    return name


def _plain(name: str, key: Any, value: Any) -> Any:
    """Return an argument with Python's own numbers and lists, so that it can be recorded and its results saved."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(name, key, each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"The argument '{key}' of the schedule {name} must be a number, a text, or a list of them, got {shown(value)}."
    )


def _check_names(name: str, args: Mapping[str, Any], made_by: Callable[..., Any], *, own: set[str]) -> list[str]:
    """Refuse arguments that a schedule does not take, and their absence without a default; return all that it takes."""
    parameters = inspect.signature(made_by).parameters
    taken = [key for key in parameters if key not in own]
    unknown = [key for key in args if key not in taken]
    if unknown:
        raise ValueError(f"The schedule {name} takes {quoted(taken)}; got {quoted(unknown)}.")
    missing = [key for key in taken if parameters[key].default is inspect.Parameter.empty and key not in args]
    if missing:
        raise ValueError(f"The schedule {name} needs {quoted(missing)} among its arguments; got {_listed(args)}.")
    return taken


def _listed(args: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={shown(value)}" for key, value in args.items()) or "no argument"
