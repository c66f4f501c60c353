"""What the learning rate is at each moment of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from dwiml.arguments import check_number, shown
from dwiml.hdf5.schema import quoted
from dwiml.training.optimization.optimizers import set_learning_rate
from dwiml.training.optimization.schedule_base import Schedule, check_names, plain_argument
from dwiml.training.optimization.torch_schedules import NEEDS_OBJECTS, TorchSchedule, scheduler_classes

__all__ = ["ClockSchedule", "Schedule", "TorchSchedule", "build_schedule", "scheduler_classes", "warmup_cosine"]

WARMUP_COSINE = "warmup_cosine"
# The share of the learning rate that a warm-up begins with: a first step at zero would be a batch for nothing.
WARMUP_START = 0.01


def build_schedule(
    name: str | None,
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
        ``"ReduceLROnPlateau"``, ...
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
        return ClockSchedule(None, optimizer, planned_epochs, lambda epoch, fraction: rates[min(epoch, len(rates) - 1)])
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
    given = {key: plain_argument(name, key, value) for key, value in (args or {}).items()}
    if name == WARMUP_COSINE:
        check_names(name, given, warmup_cosine, own={"base_rate", "max_epochs"})
        return ClockSchedule(name, optimizer, planned_epochs, warmup_cosine(learning_rates[0], planned_epochs, **given))
    return TorchSchedule(name, given, optimizer, learning_rates[0], planned_epochs)


class ClockSchedule(Schedule):
    """A learning rate that follows from the moment alone: nothing evolves, so a resume at any moment is exact.

    Parameters
    ----------
    name, planned_epochs
        As in :class:`Schedule`.
    optimizer
        All its groups get the same learning rate.
    rate
        From the epoch and the fraction of it that is done, in [0, 1), to the learning rate.
    """

    def __init__(
        self,
        name: str | None,
        optimizer: torch.optim.Optimizer,
        planned_epochs: int,
        rate: Callable[[int, float], float],
    ) -> None:
        super().__init__(name, optimizer, planned_epochs)
        self._rate = rate
        self.begin_epoch(0)

    @property
    def has_end(self) -> bool:
        """Whether it is the cosine."""
        return self.name == WARMUP_COSINE

    def rates(self, nb_epochs: int) -> list[float]:
        """Return the learning rate that each of the first epochs begins with."""
        return [self._rate(epoch, 0.0) for epoch in range(nb_epochs)]

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
        Where the minimum is reached, and held from there on.
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
