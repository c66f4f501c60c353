"""The schedulers of torch, stepped once an epoch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import lr_scheduler

from dwiml.training.optimization.optimizers import LARGEST_RATE
from dwiml.training.optimization.schedule_base import Schedule, check_names, listed

# They take other schedulers, or functions: neither can be recorded with the parameters of a run.
NEEDS_OBJECTS = frozenset({"SequentialLR", "ChainedScheduler", "LambdaLR", "MultiplicativeLR"})
# What schedulers of torch change in the optimizer, and their arguments that are not the user's.
_CHANGED = ("lr", "momentum", "betas")
_OWN_ARGUMENTS = {"optimizer", "last_epoch", "verbose"}
# Attributes of torch's schedulers that mean something during a step only, and differ between versions of torch.
_TRANSIENT = frozenset({"optimizer", "verbose", "_get_lr_called_within_step", "_is_initial"})
# Those that come to an end. Stepped on, some would climb again, one would stay at 0, and one would fail.
_WITH_END = frozenset({"CosineAnnealingLR", "OneCycleLR", "PolynomialLR"})
# Wrong arguments are looked for in this many epochs at most.
_MOST_REHEARSED = 10_000


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
    planned_epochs
        Arguments that fail within this many epochs are refused. After them, a schedule that has come to its end keeps
        its last learning rate.

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
        planned_epochs: int,
    ) -> None:
        super().__init__(name, optimizer, planned_epochs)
        self._args, self._learning_rate = args, learning_rate
        self._class: Any = scheduler_classes()[name]
        self._needs_loss = issubclass(self._class, lr_scheduler.ReduceLROnPlateau)
        self._chosen = check_names(name, args, self._class, own=_OWN_ARGUMENTS)
        try:
            self.rates(min(planned_epochs, _MOST_REHEARSED))
            self._build()
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            text = str(error).rstrip(".") or type(error).__name__
            raise ValueError(f"The schedule {name} cannot work with {listed(args)}: {text}.") from error
        self._hand_over()

    @property
    def has_end(self) -> bool:
        """Whether it comes to an end."""
        return self.name in _WITH_END

    def rates(self, nb_epochs: int) -> list[float] | None:
        """Go through a training without training, which also finds out now what would fail hours later."""
        rehearsed = copy.copy(self)
        rehearsed._build()
        rates = []
        for epoch in range(nb_epochs):
            for group in rehearsed._settings.param_groups:
                if not 0 <= group["lr"] <= LARGEST_RATE:
                    raise ValueError(f"its learning rate would be {group['lr']:g} in epoch {epoch}")
            rates.append(float(rehearsed._settings.param_groups[0]["lr"]))
            # A loss that rises: what goes by it lowers the learning rate then.
            rehearsed._step(float(epoch), holds=nb_epochs > self.planned_epochs)
        return None if self._needs_loss else rates

    def begin_epoch(self, epoch: int) -> None:
        """Give the optimizer the epoch's learning rate; ValueError when the epochs before it were not ended."""
        if epoch != self._scheduler.last_epoch:
            raise ValueError(
                f"Epoch {epoch} cannot begin: the learning-rate schedule {self.name} has seen "
                f"{self._scheduler.last_epoch} epochs, its state is of another moment."
            )
        self._hand_over()

    def end_epoch(self, selection_loss: float | None) -> None:
        """Step the scheduler, with the judged loss where it goes by that: ValueError when there is none then."""
        if selection_loss is None and self._needs_loss:
            raise ValueError(f"The schedule {self.name} goes by the loss of each epoch, and this one has none.")
        self._step(selection_loss)
        self._hand_over()

    def pass_epoch(self) -> None:
        """Step a scheduler that does not go by the loss; one that does stays as it is for an epoch."""
        if self._needs_loss:
            self._scheduler.last_epoch += 1
        else:
            self._step(None)
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

    def _build(self) -> None:
        self._settings = _Settings(self._optimizer, self._learning_rate)
        # Copies of the lists: schedulers keep what they are given.
        copies = {key: list(value) if isinstance(value, list) else value for key, value in self._args.items()}
        self._scheduler = self._class(self._settings, **copies)

    def _step(self, selection_loss: float | None, *, holds: bool = True) -> None:
        if holds and self.has_end and self._scheduler.last_epoch + 1 >= self.planned_epochs:
            self._scheduler.last_epoch += 1
            return
        # torch warns of a scheduler that is stepped before its optimizer.
        self._settings.step()
        if self._needs_loss:
            self._scheduler.step(selection_loss)
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


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(each, (bool, int, float)) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))
