"""What the trainer asks of a learning-rate schedule, and the schedules that follow from the moment alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from dwiml.arguments import check_number
from dwiml.training.experiment.plain import check_like, said

WARMUP_COSINE = "warmup_cosine"
# The share of the learning rate that a warm-up begins with: a first step at zero would be a batch for nothing.
WARMUP_START = 0.01
# In a group of an optimizer of the script's: its learning rate, as a share of that of the first group.
LR_RATIO = "lr_ratio"
# No training has more epochs.
MOST_EPOCHS = 10_000


class Schedule:
    """A learning rate that follows from the moment alone: nothing evolves, so a resume at any moment is exact.

    The order of the trainer's calls::

        load_state_dict(state)                (when resuming, after the optimizer's own)
        for each epoch:
            begin_epoch(epoch)                (when resuming in mid-epoch, too)
            for each step of the optimizer:
                begin_step(epoch, fraction)
            end_epoch(selection_loss)         (before the checkpoint of the epoch's end)
            or pass_epoch()                   (the same, of an epoch that is not judged)

    Parameters
    ----------
    name
        Of the schedule; None for ``learning_rates`` by epoch.
    optimizer
        All its groups get the same learning rate, but for those that have a ratio of their own (:data:`LR_RATIO`).
    planned_epochs
        Of the training when it began; a resumed run may have more or fewer, and the schedule keeps its shape.
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
        self.name, self.planned_epochs = name, planned_epochs
        self._optimizer, self._rate = optimizer, rate
        self.begin_epoch(0)

    @property
    def has_end(self) -> bool:
        """Whether its shape is made for a number of epochs: those that are added keep its last learning rate."""
        return self.name == WARMUP_COSINE

    def rates(self, nb_epochs: int) -> list[float] | None:
        """Return the learning rate that each of the first epochs begins with; None when that depends on the losses."""
        return [self._rate(epoch, 0.0) for epoch in range(nb_epochs)]

    def begin_epoch(self, epoch: int) -> None:
        """Give the optimizer the learning rate that an epoch (from 0) begins with."""
        self.begin_step(epoch, 0.0)

    def begin_step(self, epoch: int, fraction: float) -> None:
        """Give the optimizer the learning rate of its next step; ``fraction``, in [0, 1), of the epoch is done."""
        rate = self._rate(epoch, fraction)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get(LR_RATIO, 1.0)

    def end_epoch(self, selection_loss: float | None) -> None:
        """Learn that an epoch is over, and the loss by which models are judged; None when there is none."""

    def pass_epoch(self) -> None:
        """Learn that an epoch is over that is not judged: its loss is not that of all batches."""

    def current(self) -> float:
        """Return the learning rate of the optimizer's first group of parameters."""
        return float(self._optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Return the name, and what evolves: numbers, texts, and lists and dictionaries of them."""
        return {"name": self.name, "planned_epochs": self.planned_epochs}

    def check_state(self, state: Any) -> None:
        """Check that a state is of this schedule, and of its kinds and lengths; ValueError with the reason."""
        name = state.get("name") if type(state) is dict else None
        if type(name) is not type(self.name) or name != self.name:
            raise ValueError(f"the schedule should be {said(self.name)} and is {said(name)}")
        check_like("its state", state, self.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned; raise ValueError, and change nothing, when it does not fit."""
        self.check_state(state)

    def notes(self, max_epochs: int) -> list[str]:
        """Return what a user should know of the learning rate before the training goes on.

        Parameters
        ----------
        max_epochs
            Of the training now.

        Raises
        ------
        ValueError
            When epochs were added in which the learning rate would be 0.
        """
        planned, nb = self.planned_epochs, min(max_epochs, MOST_EPOCHS)
        if self.name is None:
            return []
        rates, last = self.rates(nb), max_epochs - 1
        added = f"Epoch {last} was added" if planned == last else f"Epochs {planned} to {last} were added"
        if rates is None:
            return [f"{added}: the schedule {self.name} goes on by the loss."] if planned < max_epochs else []
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
            notes.append(f"{added}: the schedule {self.name} goes on in them, {between}.")
        elif max_epochs < planned and self.has_end:
            notes.append(
                f"The schedule {self.name} was planned for {planned} epochs and keeps its shape: the last of the "
                f"{max_epochs} epochs begins with a learning rate of {rates[-1]:.4g}."
            )
        zeros = [epoch for epoch, rate in enumerate(rates) if rate == 0]
        if zeros:
            which = f"epoch {zeros[0]}" if len(zeros) == 1 else f"{len(zeros)} epochs, from epoch {zeros[0]} on"
            notes.append(f"The schedule {self.name} has a learning rate of 0 in {which}: no weight changes there.")
        return notes


def planned_epochs_of(state: Any, otherwise: int) -> int:
    """Return how many epochs a schedule's state, from a checkpoint, was planned for; ``otherwise`` where it is none."""
    planned = state.get("planned_epochs") if isinstance(state, Mapping) else None
    return planned if type(planned) is int and planned > 0 else otherwise


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
