"""The schedulers of torch, stepped once an epoch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import torch
from torch.optim import lr_scheduler

from dwiml.training.optimization.optimizers import LARGEST_RATE
from dwiml.training.optimization.schedule_base import LR_RATIO, MOST_EPOCHS, Schedule

SchedulerFactory = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]
# They take other schedulers, or functions: neither can be recorded with the parameters of a run.
NEEDS_OBJECTS = frozenset({"SequentialLR", "ChainedScheduler", "LambdaLR", "MultiplicativeLR"})
# What schedulers of torch change in the optimizer.
_CHANGED = ("lr", "momentum", "betas")
# Attributes of torch's schedulers that mean something during a step only, and differ between versions of torch.
_TRANSIENT = frozenset({"optimizer", "verbose", "_get_lr_called_within_step", "_is_initial"})
# Where SequentialLR and ChainedScheduler keep the schedulers that they combine.
_COMBINED = "_schedulers"
# Those that come to an end. Stepped on, some would climb again, one would stay at 0, and one would fail.
_WITH_END = frozenset({"CosineAnnealingLR", "OneCycleLR", "PolynomialLR"})


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
    name
        What the sentences of errors call it.
    factory
        Makes the scheduler for the optimizer that it is given; called more than once. ``OneCycleLR`` and ``CyclicLR``
        count epochs where they speak of steps, and change the momentum too unless ``cycle_momentum`` is False.
    optimizer
        The one whose settings are changed.
    learning_rate
        What the scheduler starts from.
    planned_epochs
        A scheduler that fails within this many epochs is refused. After them, one that has come to its end keeps its
        last learning rate.
    chosen
        Attributes of the scheduler that the factory gives it: they are not in the state.

    Raises
    ------
    ValueError
        For a scheduler that cannot be made, or fails, or whose learning rate leaves the range of 0 to 100.
    """

    def __init__(
        self,
        name: str,
        factory: SchedulerFactory,
        optimizer: torch.optim.Optimizer,
        learning_rate: float,
        planned_epochs: int,
        *,
        chosen: Iterable[str] = (),
    ) -> None:
        self.name, self.planned_epochs, self._optimizer = name, planned_epochs, optimizer
        self._factory, self._learning_rate, self._unsaved = factory, learning_rate, _TRANSIENT | set(chosen)
        try:
            self._build()
            self.rates(min(planned_epochs, MOST_EPOCHS))
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise ValueError(str(error).rstrip(".") or type(error).__name__) from error
        self._hand_over()

    @property
    def has_end(self) -> bool:
        """Whether it comes to an end."""
        return type(self._scheduler).__name__ in _WITH_END

    @property
    def _needs_loss(self) -> bool:
        return isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau)

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

    def begin_step(self, epoch: int, fraction: float) -> None:
        """Leave the learning rate as it is within an epoch."""

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
        groups = [_changed(group) for group in self._settings.param_groups]
        return super().state_dict() | {"scheduler": _state_of(self._scheduler, self._unsaved), "groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned, and give the optimizer its settings."""
        super().load_state_dict(state)
        _take_up(self._scheduler, state["scheduler"])
        for group, values in zip(self._settings.param_groups, state["groups"], strict=True):
            group.update(values)
        self._hand_over()

    def _build(self) -> None:
        self._settings = _Settings(self._optimizer, self._learning_rate)
        self._scheduler: Any = self._factory(self._settings)
        if getattr(self._scheduler, "optimizer", None) is not self._settings:
            raise ValueError("it is not a torch scheduler of the optimizer that it is made for")
        vars(self._scheduler).setdefault("last_epoch", 0)

    def _step(self, selection_loss: float | None, *, holds: bool = True) -> None:
        following = self._scheduler.last_epoch + 1
        if not (holds and self.has_end and following >= self.planned_epochs):
            # torch warns of a scheduler that is stepped before its optimizer.
            self._settings.step()
            self._scheduler.step(*([selection_loss] if self._needs_loss else []))
        # A ChainedScheduler does not count.
        self._scheduler.last_epoch = following

    def _hand_over(self) -> None:
        for group, values in zip(self._optimizer.param_groups, self._settings.param_groups, strict=True):
            group.update(_changed(values))


class _Settings(torch.optim.Optimizer):
    """An optimizer's groups without its parameters, for a scheduler to change."""

    def __init__(self, optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
        groups = [
            {**_changed(group), "params": [torch.empty(0)], "lr": learning_rate * group.get(LR_RATIO, 1.0)}
            for group in optimizer.param_groups
        ]
        super().__init__(groups, _changed(optimizer.defaults))

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Do nothing, so that a scheduler may follow."""


def _changed(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: group[key] for key in _CHANGED if key in group}


def _state_of(scheduler: Any, unsaved: Set[str] = _TRANSIENT) -> dict[str, Any]:
    """Return what is plain in a scheduler, and in those that it combines."""
    state = {key: value for key, value in vars(scheduler).items() if key not in unsaved and _is_plain(value)}
    combined = getattr(scheduler, _COMBINED, ())
    return state | {_COMBINED: [_state_of(each) for each in combined]} if combined else state


def _take_up(scheduler: Any, state: Mapping[str, Any]) -> None:
    vars(scheduler).update({key: value for key, value in state.items() if key != _COMBINED})
    for each, own in zip(getattr(scheduler, _COMBINED, ()), state.get(_COMBINED, ()), strict=True):
        _take_up(each, own)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(each, (bool, int, float)) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))
