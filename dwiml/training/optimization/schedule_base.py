"""The interface of learning-rate schedules, and schedules without a state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from dwiml.arguments import check_number
from dwiml.training.experiment.plain import check_like, value_or_type

WARMUP_COSINE = "warmup_cosine"
# Fraction of the learning rate at which a warm-up starts; at zero, the first batch would be wasted.
WARMUP_START = 0.01
# Key in a group of a user's optimizer: its learning rate, relative to that of the first group.
LR_RATIO = "lr_ratio"
# Number of epochs up to which a schedule is checked.
MAX_EPOCHS_CHECKED = 10_000


class Schedule:
    """A learning rate that is a function of the epoch and of the part of it that is done, without a state.

    The trainer makes these calls, in this order::

        load_state_dict(state)                (when resuming, after the optimizer's own)
        for each epoch:
            begin_epoch(epoch)                (also when resuming within an epoch)
            for each step of the optimizer:
                begin_step(epoch, fraction)
            end_epoch(selection_loss)         (before the checkpoint at the end of the epoch)
            or skip_epoch()                   (instead, if the loss of the epoch is not comparable)

    Parameters
    ----------
    name
        Name of the schedule; None for ``learning_rates`` by epoch.
    optimizer
        Optimizer whose groups get the learning rate, multiplied by their ratio if they have one (:data:`LR_RATIO`).
    planned_epochs
        Number of epochs of the training when it started. A resumed run may have more or fewer; the schedule keeps its
        shape.
    rate
        Function of the epoch and of the fraction of it that is done, in [0, 1), which returns the learning rate.
    """

    def __init__(
        self,
        name: str | None,
        optimizer: torch.optim.Optimizer,
        planned_epochs: int,
        rate: Callable[[int, float], float],
    ) -> None:
        self.name, self.planned_epochs = name, planned_epochs
        self._optimizer, self._rate = optimizer, rate
        self.begin_epoch(0)

    @property
    def has_end(self) -> bool:
        """Whether the schedule has an end, after which additional epochs keep its last learning rate."""
        return self.name == WARMUP_COSINE

    def rates(self, nb_epochs: int) -> list[float] | None:
        """Return the learning rate at the start of each of the first epochs; None if it depends on the losses."""
        return [self._rate(epoch, 0.0) for epoch in range(nb_epochs)]

    def begin_epoch(self, epoch: int) -> None:
        """Set the learning rate at the start of an epoch (from 0)."""
        self.begin_step(epoch, 0.0)

    def begin_step(self, epoch: int, fraction: float) -> None:
        """Set the learning rate of the next step; ``fraction``, in [0, 1), is the part of the epoch that is done."""
        rate = self._rate(epoch, fraction)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get(LR_RATIO, 1.0)

    def end_epoch(self, selection_loss: float | None) -> None:
        """End an epoch, with the loss that selects the best model; None if there is none."""

    def skip_epoch(self) -> None:
        """End an epoch whose loss is not comparable, because batches were skipped."""

    def current(self) -> float:
        """Return the learning rate of the optimizer's first group of parameters."""
        return float(self._optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Return the name and the state: numbers, strings, and lists and dictionaries of them."""
        return {"name": self.name, "planned_epochs": self.planned_epochs}

    def check_state(self, state: Any) -> None:
        """Check that a state belongs to this schedule; raise ValueError with the reason otherwise."""
        name = state.get("name") if type(state) is dict else None
        if type(name) is not type(self.name) or name != self.name:
            raise ValueError(f"the schedule should be {value_or_type(self.name)} but is {value_or_type(name)}")
        check_like("its state", state, self.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; raise ValueError, and change nothing, if it does not fit."""
        self.check_state(state)

    def notes(self, max_epochs: int) -> list[str]:
        """Return warnings about the learning rate, to be shown before the training starts.

        Parameters
        ----------
        max_epochs
            Current number of epochs of the training.

        Raises
        ------
        ValueError
            If epochs were added in which the learning rate would be 0.
        """
        planned, nb = self.planned_epochs, min(max_epochs, MAX_EPOCHS_CHECKED)
        if self.name is None:
            return []
        rates, last = self.rates(nb), max_epochs - 1
        added = f"Epoch {last} was added" if planned == last else f"Epochs {planned} to {last} were added"
        if rates is None:
            return [f"{added}: the schedule {self.name} continues with the loss."] if planned < max_epochs else []
        notes = []
        if planned < nb and self.has_end:
            if rates[planned] == 0:
                raise ValueError(
                    f"The schedule {self.name} was planned for {planned} epochs and ends at a learning rate of 0: no "
                    f"weight would change in epochs {planned} to {last}. Train another experiment with "
                    f"max_epochs={max_epochs} from the start."
                )
            notes.append(
                f"{added}: the schedule {self.name} was planned for {planned} epochs, and its last learning rate is "
                f"kept, {rates[planned]:.4g}."
            )
        elif planned < nb:
            between = f"from {rates[planned]:.4g} to {rates[-1]:.4g}"
            notes.append(f"{added}: the schedule {self.name} continues in them, {between}.")
        elif max_epochs < planned and self.has_end:
            notes.append(
                f"The schedule {self.name} was planned for {planned} epochs and keeps its shape: the last of the "
                f"{max_epochs} epochs starts with a learning rate of {rates[-1]:.4g}."
            )
        zeros = [epoch for epoch, rate in enumerate(rates) if rate == 0]
        if zeros:
            which = f"epoch {zeros[0]}" if len(zeros) == 1 else f"{len(zeros)} epochs, from epoch {zeros[0]} on"
            notes.append(f"The schedule {self.name} has a learning rate of 0 in {which}: no weight changes there.")
        return notes


def planned_epochs_of(checkpoint: Mapping[str, Any] | None, *, otherwise: int) -> int:
    """Return the number of epochs planned in the schedule's state of a checkpoint; ``otherwise`` if there is none."""
    planned = None if checkpoint is None else checkpoint["schedule"].get("planned_epochs")
    return planned if type(planned) is int and planned > 0 else otherwise


def warmup_cosine(
    base_rate: float, max_epochs: int, *, warmup_epochs: float | None = None, min_ratio: float = 0.0
) -> Callable[[int, float], float]:
    """Return a schedule with a linear warm-up followed by half a cosine, updated at each step.

    With ``t = epoch + fraction``, ``w = warmup_epochs``, the base rate ``r``, and 0.01 for ``s``::

        t < w                  r * (s + (1 - s) * t / w)
        w <= t < max_epochs    r * (m + (1 - m) * (1 + cos(pi * (t - w) / (max_epochs - w))) / 2)    m = min_ratio
        t >= max_epochs        r * m

    This equals torch's ``LinearLR`` with ``start_factor=0.01`` and ``CosineAnnealingLR``, at each step instead of each
    epoch.

    Parameters
    ----------
    base_rate
        The highest learning rate.
    max_epochs
        Number of epochs after which the minimum is reached and kept.
    warmup_epochs
        Number of epochs of the warm-up, from 0 and below ``max_epochs``; may be fractional. None: 1, or 0 if there is
        only one epoch.
    min_ratio
        Last learning rate, as a fraction of the highest, from 0 to 1.

    Returns
    -------
    callable
        Function of the epoch and of the fraction of it that is done, which returns the learning rate.

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    Goyal et al., 2017, "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour" (arXiv:1706.02677).
    Loshchilov and Hutter, 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR (arXiv:1608.03983).
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
