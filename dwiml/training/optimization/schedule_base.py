"""What the trainer asks of a learning-rate schedule, and how a schedule's arguments and state are checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from dwiml.arguments import shown
from dwiml.hdf5.schema import quoted

# No training has more epochs.
_MOST_LOOKED_AT = 10_000


class Schedule:
    """What the trainer asks for the learning rate.

    The order of the calls::

        load_state_dict(state)                (when resuming, after the optimizer's own)
        for each epoch:
            begin_epoch(epoch)                (when resuming in mid-epoch, too)
            for each step of the optimizer:
                begin_step(epoch, fraction)
            end_epoch(selection_loss)            (before the checkpoint of the epoch's end)
            or pass_epoch()                   (the same, of an epoch that is not judged)

    Parameters
    ----------
    name
        Of the schedule; None for ``learning_rates`` by epoch.
    optimizer
        The one whose learning rate is set.
    planned_epochs
        Of the training when it began; a resumed run may have more or fewer, and the schedule keeps its shape.
    """

    def __init__(self, name: str | None, optimizer: torch.optim.Optimizer, planned_epochs: int) -> None:
        self.name = name
        self.planned_epochs = planned_epochs
        self._optimizer = optimizer

    @property
    def has_end(self) -> bool:
        """Whether its shape is made for a number of epochs: those that are added keep its last learning rate."""
        return False

    def rates(self, nb_epochs: int) -> list[float] | None:
        """Return the learning rate that each of the first epochs begins with; None when that depends on the losses."""
        raise NotImplementedError

    def begin_epoch(self, epoch: int) -> None:
        """Give the optimizer the learning rate that an epoch (from 0) begins with."""
        raise NotImplementedError

    def begin_step(self, epoch: int, fraction: float) -> None:
        """Give the optimizer the learning rate of its next step; ``fraction``, in [0, 1), of the epoch is done."""

    def end_epoch(self, selection_loss: float | None) -> None:
        """Learn that an epoch is over, and the loss by which models are judged; None when there is none."""

    def pass_epoch(self) -> None:
        """Learn that an epoch is over that is not judged: its loss is not that of all batches."""
        self.end_epoch(None)

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
        planned, nb = self.planned_epochs, min(max_epochs, _MOST_LOOKED_AT)
        rates = self.rates(nb) if self.name is not None else None
        if rates is None:
            if self.name is None or max_epochs <= planned:
                return []
            return [f"{_added(planned, max_epochs)}: the schedule {self.name} goes on by the loss."]
        notes = []
        if planned < nb and self.has_end:
            if rates[planned] == 0:
                raise ValueError(
                    f"The schedule {self.name} was planned for {planned} epochs and ends at a learning rate of 0: no "
                    f"weight would change in epochs {planned} to {max_epochs - 1}. Train another experiment with "
                    f"max_epochs={max_epochs} from the start."
                )
            notes.append(
                f"{_added(planned, max_epochs)}: the schedule {self.name} was planned for {planned} epochs, and its "
                f"last learning rate is kept, {rates[planned]:.4g}."
            )
        elif planned < nb:
            between = f"from {rates[planned]:.4g} to {rates[-1]:.4g}"
            notes.append(f"{_added(planned, max_epochs)}: the schedule {self.name} goes on in them, {between}.")
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

    def current(self) -> float:
        """Return the learning rate of the optimizer's first group of parameters."""
        return float(self._optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Return the name, and what evolves: numbers, texts, and lists and dictionaries of them."""
        return {"name": self.name, "planned_epochs": self.planned_epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned; raise ValueError, and change nothing, when it does not fit."""
        if isinstance(state, Mapping) and state.get("name", self.name) != self.name:
            raise ValueError(
                f"The state is of the learning-rate schedule {shown(state['name'])}, this run has {shown(self.name)}: "
                "resume with the schedule that it began with."
            )
        _check_like("the state of the learning-rate schedule", state, self.state_dict())


def planned_epochs_of(state: Any, otherwise: int) -> int:
    """Return the number of epochs that a schedule's state was planned for.

    Parameters
    ----------
    state
        What :meth:`Schedule.state_dict` returned, from a checkpoint.
    otherwise
        The number where the state has none that can be.
    """
    planned = state.get("planned_epochs") if isinstance(state, Mapping) else None
    return planned if type(planned) is int and planned > 0 else otherwise


def _added(planned: int, max_epochs: int) -> str:
    last = max_epochs - 1
    return f"Epoch {last} was added" if planned == last else f"Epochs {planned} to {last} were added"


def plain_argument(name: str, key: Any, value: Any) -> Any:
    """Return an argument with Python's own numbers and lists, so that it can be recorded and its results saved."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain_argument(name, key, each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"The argument '{key}' of the schedule {name} must be a number, a text, or a list of them, got {shown(value)}."
    )


def check_names(name: str, args: Mapping[str, Any], made_by: Callable[..., Any], *, own: set[str]) -> set[str]:
    """Refuse arguments that a schedule does not take, and their absence without a default; return all that it takes."""
    parameters = inspect.signature(made_by).parameters
    taken = [key for key in parameters if key not in own]
    unknown = [key for key in args if key not in taken]
    if unknown:
        raise ValueError(f"The schedule {name} takes {quoted(taken)}; got {quoted(unknown)}.")
    missing = [key for key in taken if parameters[key].default is inspect.Parameter.empty and key not in args]
    if missing:
        raise ValueError(f"The schedule {name} needs {quoted(missing)} among its arguments; got {listed(args)}.")
    return set(taken)


def listed(args: Mapping[str, Any]) -> str:
    """Return arguments as a sentence has them."""
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
