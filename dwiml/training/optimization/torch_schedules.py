"""Schedulers of torch, stepped once per epoch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import torch
from torch.optim import lr_scheduler

from dwiml.training.optimization.optimizers import LARGEST_RATE
from dwiml.training.optimization.schedule_base import LR_RATIO, MOST_EPOCHS, Schedule

SchedulerFactory = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]
# Schedulers that take other schedulers or functions, which cannot be recorded with the parameters of a run.
NEEDS_OBJECTS = frozenset({"SequentialLR", "ChainedScheduler", "LambdaLR", "MultiplicativeLR"})
# Values of the optimizer's groups that torch's schedulers change.
_CHANGED = ("lr", "momentum", "betas")
# Attributes of torch's schedulers that have a meaning only during a step, and differ between versions of torch.
_TRANSIENT = frozenset({"optimizer", "verbose", "_get_lr_called_within_step", "_is_initial"})
# Attribute of SequentialLR and ChainedScheduler with the schedulers that they combine.
_COMBINED = "_schedulers"
# Schedulers with an end. Beyond it, some would rise again, one would stay at 0, and one would fail.
_WITH_END = frozenset({"CosineAnnealingLR", "OneCycleLR", "PolynomialLR"})


def scheduler_classes() -> dict[str, type[lr_scheduler.LRScheduler]]:
    """Return the torch schedulers that can be given by name."""
    return {
        name: each
        for name, each in sorted(vars(lr_scheduler).items())
        if isinstance(each, type)
        and issubclass(each, lr_scheduler.LRScheduler)
        and name.lstrip("_") == name != "LRScheduler"
        and name not in NEEDS_OBJECTS
    }


class TorchSchedule(Schedule):
    """A scheduler of ``torch.optim.lr_scheduler``, stepped once at the end of each epoch.

    It works on a copy of the settings of the optimizer, copied to the optimizer after each step. The optimizer
    itself (whose ``step`` torch would wrap) and its state in a checkpoint are not affected.

    Parameters
    ----------
    name
        Name of the scheduler in error messages.
    factory
        Function that returns the scheduler for an optimizer; called more than once. The steps of ``OneCycleLR`` and
        ``CyclicLR`` are epochs; these also change the momentum unless ``cycle_momentum`` is False.
    optimizer
        Optimizer whose settings are changed.
    learning_rate
        Initial learning rate.
    planned_epochs
        Number of epochs in which the scheduler must not fail. After them, a scheduler with an end keeps its last
        learning rate.
    chosen
        Attributes of the scheduler that the factory sets, which are not part of the state.

    Raises
    ------
    ValueError
        If the scheduler cannot be created, fails, or has a learning rate outside of 0 to 100.
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
        self._update_optimizer()

    @property
    def has_end(self) -> bool:
        """Whether the scheduler has an end, after which its last learning rate is kept."""
        return type(self._scheduler).__name__ in _WITH_END

    @property
    def _needs_loss(self) -> bool:
        return isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau)

    def rates(self, nb_epochs: int) -> list[float] | None:
        """Return the learning rate of each epoch, from a rehearsal, which also finds errors of later epochs early.

        Returns
        -------
        list of float or None
            One per epoch; None if the scheduler depends on the losses.
        """
        rehearsed = copy.copy(self)
        rehearsed._build()
        rates = []
        for epoch in range(nb_epochs):
            for group in rehearsed._settings.param_groups:
                if not 0 <= group["lr"] <= LARGEST_RATE:
                    raise ValueError(f"its learning rate would be {group['lr']:g} in epoch {epoch}")
            rates.append(float(rehearsed._settings.param_groups[0]["lr"]))
            # A rising loss, for schedulers that depend on it.
            rehearsed._step(float(epoch), holds=nb_epochs > self.planned_epochs)
        return None if self._needs_loss else rates

    def begin_epoch(self, epoch: int) -> None:
        """Set the learning rate of an epoch; raise ValueError if the previous epochs were not ended."""
        if epoch != self._scheduler.last_epoch:
            raise ValueError(
                f"Epoch {epoch} cannot start: the state of the learning-rate schedule {self.name} is that of epoch "
                f"{self._scheduler.last_epoch}."
            )
        self._update_optimizer()

    def begin_step(self, epoch: int, fraction: float) -> None:
        """Do nothing: the learning rate is constant within an epoch."""

    def end_epoch(self, selection_loss: float | None) -> None:
        """Step the scheduler, with the loss if it depends on it; raise ValueError if there is none."""
        if selection_loss is None and self._needs_loss:
            raise ValueError(f"The schedule {self.name} needs the loss of each epoch, and this epoch has none.")
        self._step(selection_loss)
        self._update_optimizer()

    def skip_epoch(self) -> None:
        """Step the scheduler, unless it depends on the loss: then it is unchanged for this epoch."""
        if self._needs_loss:
            self._scheduler.last_epoch += 1
        else:
            self._step(None)
        self._update_optimizer()

    def state_dict(self) -> dict[str, Any]:
        """Return the values of the scheduler that do not follow from its arguments, and the changed settings."""
        groups = [_changed(group) for group in self._settings.param_groups]
        return super().state_dict() | {"scheduler": _state_of(self._scheduler, self._unsaved), "groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, and update the settings of the optimizer."""
        super().load_state_dict(state)
        _restore(self._scheduler, state["scheduler"])
        for group, values in zip(self._settings.param_groups, state["groups"], strict=True):
            group.update(values)
        self._update_optimizer()

    def _build(self) -> None:
        self._settings = _Settings(self._optimizer, self._learning_rate)
        self._scheduler: Any = self._factory(self._settings)
        if getattr(self._scheduler, "optimizer", None) is not self._settings:
            raise ValueError("it is not a torch scheduler of the given optimizer")
        vars(self._scheduler).setdefault("last_epoch", 0)

    def _step(self, selection_loss: float | None, *, holds: bool = True) -> None:
        following = self._scheduler.last_epoch + 1
        if not (holds and self.has_end and following >= self.planned_epochs):
            # torch warns about a scheduler that is stepped before its optimizer.
            self._settings.step()
            self._scheduler.step(*([selection_loss] if self._needs_loss else []))
        # A ChainedScheduler does not count its steps.
        self._scheduler.last_epoch = following

    def _update_optimizer(self) -> None:
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
        """Do nothing; torch expects this call before that of a scheduler."""


def _changed(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: group[key] for key in _CHANGED if key in group}


def _state_of(scheduler: Any, unsaved: Set[str] = _TRANSIENT) -> dict[str, Any]:
    """Return the plain values of a scheduler, and of those that it combines."""
    state = {key: value for key, value in vars(scheduler).items() if key not in unsaved and _is_plain(value)}
    combined = getattr(scheduler, _COMBINED, ())
    return state | {_COMBINED: [_state_of(each) for each in combined]} if combined else state


def _restore(scheduler: Any, state: Mapping[str, Any]) -> None:
    vars(scheduler).update({key: value for key, value in state.items() if key != _COMBINED})
    for each, own in zip(getattr(scheduler, _COMBINED, ()), state.get(_COMBINED, ()), strict=True):
        _restore(each, own)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(each, (bool, int, float)) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))
