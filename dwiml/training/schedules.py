"""What the learning rate is at each moment of a training."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.optim import lr_scheduler

from dwiml.arguments import check_number, shown
from dwiml.hdf5.schema import quoted
from dwiml.training.optimizers import set_learning_rate

WARMUP_COSINE = "warmup_cosine"
# The share of the learning rate that a warm-up begins with: a first step at zero would be a batch for nothing.
WARMUP_START = 0.01
# They take other schedulers, or functions: neither can be recorded with the parameters of a run.
NEEDS_OBJECTS = frozenset({"SequentialLR", "ChainedScheduler", "LambdaLR", "MultiplicativeLR"})
# What schedulers of torch change in the optimizer, and their arguments that are not the user's.
_CHANGED = ("lr", "momentum", "betas")
_OWN_ARGUMENTS = {"optimizer", "last_epoch", "verbose"}
# Attributes of torch's schedulers that mean something during a step only, and differ between versions of torch.
_TRANSIENT = frozenset({"optimizer", "verbose", "_get_lr_called_within_step", "_is_initial"})
# Wrong arguments are looked for in so many epochs.
_MOST_REHEARSED = 10_000


class Schedule:
    """What the trainer asks for the learning rate.

    The order of the calls::

        load_state_dict(state)                (when resuming, after the optimizer's own)
        for each epoch:
            begin_epoch(epoch)                (when resuming in mid-epoch, too)
            for each step of the optimizer:
                begin_step(epoch, fraction)
            end_epoch(judged_loss)            (before the checkpoint of the epoch's end)
    """

    def __init__(self, name: str | None, optimizer: torch.optim.Optimizer) -> None:
        self.name = name
        self._optimizer = optimizer

    def begin_epoch(self, epoch: int) -> None:
        """Give the optimizer the learning rate that an epoch (from 0) begins with."""
        raise NotImplementedError

    def begin_step(self, epoch: int, fraction: float) -> None:
        """Give the optimizer the learning rate of its next step; ``fraction``, in [0, 1), of the epoch is done."""

    def end_epoch(self, judged_loss: float | None) -> None:
        """Learn that an epoch is over, and the loss by which models are judged; None when there is none."""

    def current(self) -> float:
        """Return the learning rate of the optimizer's first group of parameters."""
        return float(self._optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Return the name, and what evolves: numbers, texts, and lists and dictionaries of them."""
        return {"name": self.name}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned; raise ValueError, and change nothing, when it does not fit."""
        if isinstance(state, Mapping) and state.get("name", self.name) != self.name:
            raise ValueError(
                f"The state is of the learning-rate schedule {shown(state['name'])}, this run has {shown(self.name)}: "
                "resume with the schedule that it began with."
            )
        _check_like("the state of the learning-rate schedule", state, self.state_dict())


def build_schedule(
    name: str | None,
    args: Mapping[str, Any] | None,
    *,
    optimizer: torch.optim.Optimizer,
    learning_rates: Sequence[float],
    max_epochs: int,
) -> Schedule:
    """Return the schedule of a training that begins; one that is resumed takes up its state afterwards.

    Parameters
    ----------
    name
        None: ``learning_rates`` by epoch, the last one holds. ``"warmup_cosine"``: :func:`warmup_cosine`. Or a class
        of ``torch.optim.lr_scheduler``, stepped at each epoch's end (:class:`TorchSchedule`): ``"StepLR"``,
        ``"ReduceLROnPlateau"``, ...
    args
        The schedule's arguments by name: numbers, texts, and lists of them. None for none.
    optimizer
        The one whose learning rate is set.
    learning_rates
        Positive; only one where there is a ``name``: that which the schedule begins with, or warms up to.
    max_epochs
        Of the whole training. Those that a resumed run had before do not count anew.

    Raises
    ------
    ValueError
        For an unknown name, arguments that the schedule does not take, or that would fail before ``max_epochs``.
    """
    if name is None:
        if args:
            raise ValueError(f"The arguments {quoted(map(str, args))} need the name of the schedule that they are for.")
        rates = list(learning_rates)
        return ClockSchedule(None, optimizer, lambda epoch, fraction: rates[min(epoch, len(rates) - 1)])
    if isinstance(name, str) and name in NEEDS_OBJECTS:
        raise ValueError(
            f"The schedule {name} takes other schedulers or functions, which cannot be recorded; use another."
        )
    known = [WARMUP_COSINE, *scheduler_classes()]
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"The learning-rate schedule must be None or one of {', '.join(known)}, got {shown(name)}.")
    if args is not None and not isinstance(args, Mapping):
        raise ValueError(f"The arguments of the schedule {name} must be a dictionary, got {shown(args)}.")
    if len(learning_rates) != 1:
        raise ValueError(
            f"The schedule {name} makes the learning rates of all epochs from one; got {len(learning_rates)} "
            "learning_rates. Give one, or no schedule."
        )
    given = {key: _plain(name, key, value) for key, value in (args or {}).items()}
    if name == WARMUP_COSINE:
        _check_names(name, given, warmup_cosine, own={"base_rate", "max_epochs"})
        return ClockSchedule(name, optimizer, warmup_cosine(learning_rates[0], max_epochs, **given))
    return TorchSchedule(name, given, optimizer, learning_rates[0], max_epochs)


def scheduler_classes() -> dict[str, type[lr_scheduler.LRScheduler]]:
    """Return the schedulers of torch that can be had by their name."""
    return {
        name: each
        for name, each in sorted(vars(lr_scheduler).items())
        if isinstance(each, type)
        and issubclass(each, lr_scheduler.LRScheduler)
        and name.lstrip("_") == name != "LRScheduler"
        and name not in NEEDS_OBJECTS
    }


class ClockSchedule(Schedule):
    """A learning rate that follows from the moment alone: nothing evolves, so a resume at any moment is exact.

    Parameters
    ----------
    name
        Of the schedule.
    optimizer
        All its groups get the same learning rate.
    rate
        From the epoch and the fraction of it that is done, in [0, 1), to the learning rate.
    """

    def __init__(self, name: str | None, optimizer: torch.optim.Optimizer, rate: Callable[[int, float], float]) -> None:
        super().__init__(name, optimizer)
        self._rate = rate
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Give the optimizer the learning rate that the epoch begins with."""
        self.begin_step(epoch, 0.0)

    def begin_step(self, epoch: int, fraction: float) -> None:
        """Give the optimizer the learning rate of this moment."""
        set_learning_rate(self._optimizer, [self._rate(epoch, fraction)], 0)


def warmup_cosine(
    base_rate: float, max_epochs: int, *, warmup_epochs: float | None = None, min_ratio: float = 0.0
) -> Callable[[int, float], float]:
    """Return a linear warm-up (Goyal et al., 2017), then half a cosine (Loshchilov and Hutter, 2017), step by step.

    With ``t = epoch + fraction``, ``w = warmup_epochs``, the base rate ``r``, and 0.01 for ``s``::

        t < w                  r * (s + (1 - s) * t / w)
        w <= t < max_epochs    r * (m + (1 - m) * (1 + cos(pi * (t - w) / (max_epochs - w))) / 2)    m = min_ratio
        t >= max_epochs        r * m

    They are torch's ``LinearLR`` with ``start_factor=0.01`` and ``CosineAnnealingLR``, at each step instead of each
    epoch.

    Parameters
    ----------
    base_rate
        The highest learning rate.
    max_epochs
        Where the minimum is reached. A run resumed with another number goes on along the new curve.
    warmup_epochs
        From 0, below ``max_epochs``; need not be whole. None: 1, or 0 in a training of one epoch.
    min_ratio
        From 0 to 1: the last learning rate, as a share of the highest.

    Raises
    ------
    ValueError
        For numbers out of these ranges.
    """
    usual = min(1, max_epochs - 1)
    warmup = check_number("warmup_epochs", usual if warmup_epochs is None else warmup_epochs, low=0)
    if warmup >= max_epochs:
        raise ValueError(f"warmup_epochs must be less than max_epochs ({max_epochs}), got {warmup:g}.")
    lowest = check_number("min_ratio", min_ratio, low=0, high=1)

    def rate(epoch: int, fraction: float) -> float:
        now = epoch + fraction
        if now < warmup:
            return base_rate * (WARMUP_START + (1 - WARMUP_START) * now / warmup)
        done = min((now - warmup) / (max_epochs - warmup), 1.0)
        return base_rate * (lowest + (1 - lowest) * (1 + math.cos(math.pi * done)) / 2)

    return rate


class TorchSchedule(Schedule):
    """A scheduler of ``torch.optim.lr_scheduler``, stepped once at each epoch's end.

    It works on a copy of the optimizer's settings, which are handed over to the optimizer after every step: so the
    optimizer itself stays as it is (torch would wrap its ``step``), and so does its state in a checkpoint.

    Parameters
    ----------
    name, args
        The class, and its arguments. ``OneCycleLR`` and ``CyclicLR`` have their rates among them, count epochs where
        they speak of steps, and change the momentum too unless ``cycle_momentum`` is False.
    optimizer
        The one whose settings are changed.
    learning_rate
        What the scheduler starts from.
    max_epochs
        Arguments that fail within so many epochs are refused.

    Raises
    ------
    ValueError
        For arguments that are unknown, missing, or that the scheduler fails with.
    """

    def __init__(
        self,
        name: str,
        args: Mapping[str, Any],
        optimizer: torch.optim.Optimizer,
        learning_rate: float,
        max_epochs: int,
    ) -> None:
        super().__init__(name, optimizer)
        self._class: Any = scheduler_classes()[name]
        self._needs_loss = issubclass(self._class, lr_scheduler.ReduceLROnPlateau)
        self._chosen = _check_names(name, args, self._class, own=_OWN_ARGUMENTS)
        try:
            self._rehearse(args, learning_rate, min(max_epochs, _MOST_REHEARSED))
            self._build(args, learning_rate)
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            text = str(error).rstrip(".") or type(error).__name__
            raise ValueError(f"The schedule {name} cannot work with {_listed(args)}: {text}.") from error
        self._hand_over()

    def begin_epoch(self, epoch: int) -> None:
        """Give the optimizer the epoch's learning rate; ValueError when the epochs before it were not ended."""
        if epoch != self._scheduler.last_epoch:
            raise ValueError(
                f"Epoch {epoch} cannot begin: the learning-rate schedule {self.name} has seen "
                f"{self._scheduler.last_epoch} epochs, its state is of another moment."
            )
        self._hand_over()

    def end_epoch(self, judged_loss: float | None) -> None:
        """Step the scheduler, with the judged loss where it goes by that: ValueError when there is none then."""
        if judged_loss is None and self._needs_loss:
            raise ValueError(f"The schedule {self.name} goes by the loss of each epoch, and this one has none.")
        self._step(judged_loss)
        self._hand_over()

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of the scheduler that its arguments do not give, and the settings that it changes."""
        scheduler = {
            key: value
            for key, value in vars(self._scheduler).items()
            if key not in _TRANSIENT | self._chosen and _is_plain(value)
        }
        groups = [{key: group[key] for key in _CHANGED if key in group} for group in self._settings.param_groups]
        return super().state_dict() | {"scheduler": scheduler, "groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned, and give the optimizer its settings."""
        super().load_state_dict(state)
        vars(self._scheduler).update(state["scheduler"])
        for group, values in zip(self._settings.param_groups, state["groups"], strict=True):
            group.update(values)
        self._hand_over()

    def _rehearse(self, args: Mapping[str, Any], learning_rate: float, nb_epochs: int) -> None:
        """Go through a whole training without training, to find out now what would fail hours later."""
        self._build(args, learning_rate)
        for epoch in range(nb_epochs):
            for group in self._settings.param_groups:
                if not 0 <= group["lr"] < math.inf:
                    raise ValueError(f"its learning rate would be {group['lr']:g} in epoch {epoch}")
            # A loss that rises: what goes by it lowers the learning rate then.
            self._step(float(epoch))

    def _build(self, args: Mapping[str, Any], learning_rate: float) -> None:
        self._settings = _Settings(self._optimizer, learning_rate)
        # Copies of the lists: schedulers keep what they are given.
        copies = {key: list(value) if isinstance(value, list) else value for key, value in args.items()}
        self._scheduler = self._class(self._settings, **copies)

    def _step(self, judged_loss: float | None) -> None:
        # torch warns of a scheduler that is stepped before its optimizer.
        self._settings.step()
        if self._needs_loss:
            self._scheduler.step(judged_loss)
        else:
            self._scheduler.step()

    def _hand_over(self) -> None:
        for group, values in zip(self._optimizer.param_groups, self._settings.param_groups, strict=True):
            group.update({key: values[key] for key in _CHANGED if key in values})


class _Settings(torch.optim.Optimizer):
    """An optimizer's groups without its parameters, for a scheduler to change."""

    def __init__(self, optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
        groups = [
            {**{key: group[key] for key in _CHANGED if key in group}, "params": [torch.empty(0)], "lr": learning_rate}
            for group in optimizer.param_groups
        ]
        super().__init__(groups, {key: optimizer.defaults[key] for key in _CHANGED if key in optimizer.defaults})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Do nothing, so that a scheduler may follow."""


def _plain(name: str, key: Any, value: Any) -> Any:
    """Return an argument with Python's own numbers and lists, so that it can be recorded and its results saved."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(name, key, each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"The argument '{key}' of the schedule {name} must be a number, a text, or a list of them, got {shown(value)}."
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(each, (bool, int, float)) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _check_names(name: str, args: Mapping[str, Any], made_by: Callable[..., Any], *, own: set[str]) -> set[str]:
    """Refuse arguments that a schedule does not take, and their absence without a default; return all that it takes."""
    parameters = inspect.signature(made_by).parameters
    taken = [key for key in parameters if key not in own]
    unknown = [key for key in args if key not in taken]
    if unknown:
        raise ValueError(f"The schedule {name} takes {quoted(taken)}; got {quoted(unknown)}.")
    missing = [key for key in taken if parameters[key].default is inspect.Parameter.empty and key not in args]
    if missing:
        raise ValueError(f"The schedule {name} needs {quoted(missing)} among its arguments; got {_listed(args)}.")
    return set(taken)


def _listed(args: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={shown(value)}" for key, value in args.items()) or "no argument"


def _check_like(what: str, state: Any, own: Any) -> None:
    if isinstance(own, dict):
        keys = list(state) if isinstance(state, Mapping) else []
        missing, unknown = [key for key in own if key not in keys], [key for key in keys if key not in own]
        if missing or unknown:
            raise ValueError(f"In {what}, {quoted(missing)} is missing and {quoted(unknown)} is unknown.")
        for key, value in own.items():
            _check_like(f"'{key}' of {what}", state[key], value)
    elif isinstance(own, (list, tuple)):
        if not isinstance(state, (list, tuple)) or len(state) != len(own):
            raise ValueError(f"{what} must have {len(own)} items, got {shown(state)}.")
        for theirs, ours in zip(state, own, strict=True):
            _check_like(what, theirs, ours)
    elif isinstance(own, (int, float)) and not isinstance(state, (int, float)):
        raise ValueError(f"{what} must be a number, got {shown(state)}.")
