"""Building the learning-rate schedule from the parameters of a training."""

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

# Arguments of torch's schedulers that the user may not give.
_OWN_ARGUMENTS = {"optimizer", "last_epoch", "verbose"}


def build_schedule(
    name: str | SchedulerFactory | None,
    args: Mapping[str, Any] | None,
    *,
    optimizer: torch.optim.Optimizer,
    learning_rates: Sequence[float],
    planned_epochs: int,
) -> Schedule:
    """Return the learning-rate schedule of a training; a resumed run restores its state afterwards.

    Parameters
    ----------
    name
        None: ``learning_rates`` by epoch. ``"warmup_cosine"``: :func:`warmup_cosine`. A class of
        ``torch.optim.lr_scheduler`` such as ``"StepLR"`` or ``"ReduceLROnPlateau"``, stepped at the end of each epoch
        (:class:`TorchSchedule`). Or a function that returns a torch scheduler for an optimizer, such as a
        ``SequentialLR``; it is called more than once, and must be given again when the run is resumed.
    args
        Arguments of the schedule, by name: numbers, strings, and lists of them. None for no arguments.
    optimizer
        Optimizer whose learning rate is set.
    learning_rates
        Positive learning rates; a single one if there is a ``name``: the initial one, or the highest after a warm-up.
    planned_epochs
        Number of epochs of the training when it started; a resumed run may add some.

    Raises
    ------
    ValueError
        If the name is unknown, or the schedule does not take the arguments or would fail before ``planned_epochs``.
    """
    if name is None:
        if args:
            raise ValueError(f"lr_scheduler_args ({quoted(map(str, args))}) need an lr_scheduler, got None.")
        rates = list(learning_rates)
        return Schedule(None, optimizer, planned_epochs, lambda epoch, fraction: rates[min(epoch, len(rates) - 1)])
    title = getattr(name, "__qualname__", type(name).__name__) if callable(name) else _known(name)
    if args is not None and not isinstance(args, Mapping):
        raise ValueError(f"The arguments of the schedule {title} must be a dictionary, got {shown(args)}.")
    if len(learning_rates) != 1:
        raise ValueError(
            f"The schedule {title} computes the learning rates of all epochs from one; got {len(learning_rates)} "
            "learning_rates. Give a single one, or no schedule."
        )
    given = {key: _plain(title, key, value) for key, value in (args or {}).items()}
    if name == WARMUP_COSINE:
        _check_names(title, given, warmup_cosine, own={"base_rate", "max_epochs"})
        return Schedule(title, optimizer, planned_epochs, warmup_cosine(learning_rates[0], planned_epochs, **given))
    if not callable(name):
        _check_names(title, given, scheduler_classes()[title], own=_OWN_ARGUMENTS)
    else:
        _check_factory(title, name, given)

    def make(optimizer: torch.optim.Optimizer) -> LRScheduler:
        # A copy, because schedulers keep and change the lists that they receive.
        return name(optimizer) if callable(name) else scheduler_classes()[title](optimizer, **copy.deepcopy(given))

    try:
        return TorchSchedule(title, make, optimizer, learning_rates[0], planned_epochs)
    except ValueError as error:
        if "momentum" in str(error) and not {"momentum", "betas"} & optimizer.defaults.keys():
            raise ValueError(
                f"The schedule {title} changes the momentum, which the optimizer {type(optimizer).__name__} does not "
                "have: give cycle_momentum=False among the arguments of the schedule, or use another optimizer."
            ) from error
        how = f"cannot work with {_listed(given)}" if given else "failed"
        raise ValueError(f"The schedule {title} {how}: {error}.") from error


def _known(name: Any) -> str:
    if isinstance(name, str) and name in NEEDS_OBJECTS:
        raise ValueError(
            f"The schedule {name} takes other schedulers or functions, which cannot be recorded: give a function that "
            "creates it, or use another schedule."
        )
    known = [WARMUP_COSINE, *scheduler_classes()]
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"The learning-rate schedule must be None or one of {', '.join(known)}, got {shown(name)}.")
    return name


def _check_factory(title: str, made_by: Callable[..., Any], args: Mapping[str, Any]) -> None:
    """Check that a function or a class is given without arguments, and can be called with the optimizer alone."""
    kind = "class" if isinstance(made_by, type) else "function"
    if args:
        reason = f"got {_listed(args)}"
    elif missing := _required(made_by)[1:]:
        reason, args = f"needs {quoted(missing)}", dict.fromkeys(missing)
    else:
        return
    by_name = f"its name '{title}' with lr_scheduler_args, or " if scheduler_classes().get(title) is made_by else ""
    given = ", ".join(f"{key}={'...' if value is None else shown(value)}" for key, value in args.items())
    raise ValueError(
        f"The schedule {title} is a {kind}, which is called with the optimizer alone, and {reason}: give {by_name}"
        f"functools.partial({title if title.isidentifier() else 'your_function'}, {given})."
    )


def _required(made_by: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters without a default; none for a function of C, whose parameters are unknown."""
    try:
        parameters = inspect.signature(made_by).parameters.values()
    except (TypeError, ValueError):
        return []
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in several]


def _plain(name: str, key: Any, value: Any) -> Any:
    """Convert an argument to Python numbers and lists, so that it can be recorded and saved."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(name, key, each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"The argument '{key}' of the schedule {name} must be a number, a string, or a list of them, got "
        f"{shown(value)}."
    )


def _check_names(name: str, args: Mapping[str, Any], made_by: Callable[..., Any], *, own: set[str]) -> None:
    """Check that no name among a schedule's arguments is unknown, none is missing, and a class gets the right types."""
    parameters = inspect.signature(made_by).parameters
    taken = [key for key in parameters if key not in own]
    unknown = [key for key in args if key not in taken]
    if unknown:
        raise ValueError(f"The schedule {name} takes {quoted(taken)}; got {quoted(unknown)}.")
    missing = [key for key in taken if parameters[key].default is inspect.Parameter.empty and key not in args]
    if missing:
        raise ValueError(f"The schedule {name} needs {quoted(missing)} among its arguments; got {_listed(args)}.")
    if isinstance(made_by, type):
        _check_types(name, args, parameters)


def _check_types(name: str, args: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> None:
    """Check flags, texts and numbers of a torch scheduler: torch takes ``"false"`` for true, and True for 1."""
    for key, value in args.items():
        default = parameters[key].default
        if isinstance(default, bool):
            expected, is_right = "True or False", isinstance(value, bool)
        elif isinstance(default, str):
            expected, is_right = "a string", isinstance(value, str)
        elif value is None and default is None:
            continue
        else:
            expected, is_right = _check_numbers(value, parameters[key].annotation)
        if not is_right:
            raise ValueError(f"The argument '{key}' of the schedule {name} must be {expected}, got {shown(value)}.")


def _check_numbers(value: Any, annotation: Any) -> tuple[str, bool]:
    """Return which numbers an annotation of torch, such as ``int`` or ``Iterable[int]``, allows, and if a value is one.

    Some versions of torch have no annotations: any number, and a list of any numbers, are then allowed.
    """
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    if annotation is inspect.Parameter.empty:
        text = "float | list[float]"
    is_whole = "int" in text and "float" not in text
    kinds, noun = ((int,), "whole number") if is_whole else ((int, float), "number")
    is_list, may_be_list = text.endswith("Iterable[int]"), "[" in text.replace("Optional[", "")
    if is_list:
        expected = f"a list of {noun}s"
    else:
        expected = f"a {noun}, or a list of {noun}s" if may_be_list else f"a {noun}"
    if isinstance(value, list):
        return expected, may_be_list and all(type(each) in kinds for each in value)
    return expected, not is_list and type(value) in kinds


def _listed(args: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={shown(value)}" for key, value in args.items()) or "no argument"
