"""Schedulers of torch, stepped once per epoch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.optim import lr_scheduler

from dwiml.arguments import quoted
from dwiml.training.experiment.plain import value_or_type
from dwiml.training.optimization.optimizers import LARGEST_RATE, OPTIMIZERS, check_group_value, to_python
from dwiml.training.optimization.schedule_base import LR_RATIO, MAX_EPOCHS_CHECKED, Schedule

SchedulerFactory = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]
# Schedulers that take other schedulers or functions, which cannot be recorded with the parameters of a run.
NEEDS_OBJECTS = frozenset({"SequentialLR", "ChainedScheduler", "LambdaLR", "MultiplicativeLR"})
# Entries of a group that are not values of the optimizer.
_PARAMETERS = frozenset({"params", "param_names"})
_LR = "lr"
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

    It works on a copy of the values of the optimizer's groups, without the parameters. After each step, the learning
    rates and all other values that it has ever changed, such as the momentum or the weight decay, are copied to the
    optimizer. The optimizer itself (whose ``step`` torch would wrap) and its state in a checkpoint are not affected:
    values that the scheduler adds for itself are not copied. The state is the losses of the past epochs: a resumed run
    steps a new scheduler with them, so that any scheduler is resumed exactly.

    Parameters
    ----------
    name
        Name of the scheduler in error messages.
    factory
        Function that returns the scheduler for an optimizer; called more than once. The steps of ``OneCycleLR`` and
        ``CyclicLR`` are epochs; these also change the momentum unless ``cycle_momentum`` is False.
    optimizer
        Optimizer whose values are changed.
    learning_rate
        Initial learning rate.
    planned_epochs
        Number of epochs in which the scheduler must not fail. After them, a scheduler with an end keeps its last
        learning rate.

    Raises
    ------
    ValueError
        If the scheduler cannot be created, fails, has a learning rate outside of 0 to 100 or another invalid value, or
        is not the same when it is created again.
    """

    def __init__(
        self,
        name: str,
        factory: SchedulerFactory,
        optimizer: torch.optim.Optimizer,
        learning_rate: float,
        planned_epochs: int,
    ) -> None:
        self.name, self.planned_epochs, self._optimizer = name, planned_epochs, optimizer
        self._factory, self._initial = factory, _Settings(optimizer, learning_rate)
        try:
            self._replay()
            nb_epochs = min(planned_epochs, MAX_EPOCHS_CHECKED)
            first, second = self._rehearse(nb_epochs), self._rehearse(nb_epochs)
            if first != second:
                different = {key for pair in zip(first, second, strict=True) for key in _differences(*pair)}
                values = "learning rates" if _LR in different else f"values of {quoted(sorted(different))}"
                raise ValueError(f"its {values} are not the same each time it is created, so that no run could resume")
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise ValueError(str(error).rstrip(".!") or type(error).__name__) from error
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

        Raises
        ------
        ValueError
            If a learning rate is outside of 0 to 100, or another value is invalid; the message is the reason only.
        """
        rehearsed = self._rehearse(nb_epochs)
        return None if self._needs_loss else [float(groups[0][_LR]) for groups in rehearsed]

    def _rehearse(self, nb_epochs: int) -> list[list[dict[str, Any]]]:
        """Return the values of each group in each epoch, after checking them (see :meth:`rates`)."""
        rehearsed = copy.copy(self)
        rehearsed._replay()
        epochs = []
        for epoch in range(nb_epochs):
            values = rehearsed._values()
            self._check_values(values, epoch)
            epochs.append(values)
            # A rising loss, for schedulers that depend on it.
            rehearsed._step(float(epoch), holds=nb_epochs > self.planned_epochs)
        return epochs

    def _check_values(self, groups: list[dict[str, Any]], epoch: int) -> None:
        is_known = type(self._optimizer) in OPTIMIZERS.values()
        for group, initial in zip(groups, self._initial.param_groups, strict=True):
            if not 0 <= group[_LR] <= LARGEST_RATE:
                raise ValueError(f"its learning rate would be {group[_LR]:g} in epoch {epoch}")
            # A checkpoint with other values could not be resumed. Those of other optimizers are not known, but all of
            # them use the weight decay as a penalty.
            known = group.keys() - {_LR} if is_known else group.keys() & {"weight_decay"}
            for key in known:
                try:
                    check_group_value(key, group[key], initial[key])
                except ValueError as error:
                    raise ValueError(f"{error} in epoch {epoch}") from error

    def begin_epoch(self, epoch: int) -> None:
        """Set the learning rate of an epoch; raise ValueError if the previous epochs were not ended."""
        if epoch != len(self._losses):
            raise ValueError(
                f"Epoch {epoch} cannot start: the state of the learning-rate schedule {self.name} is that of epoch "
                f"{len(self._losses)}."
            )
        self._update_optimizer()

    def begin_step(self, epoch: int, fraction: float) -> None:
        """Do nothing: the learning rate is constant within an epoch."""

    def end_epoch(self, selection_loss: float | None) -> None:
        """Step the scheduler, with the loss if it depends on it; raise ValueError if there is none."""
        if selection_loss is None and self._needs_loss:
            raise ValueError(f"The schedule {self.name} needs the loss of each epoch, and this epoch has none.")
        self._step(None if selection_loss is None else float(selection_loss))
        self._update_optimizer()

    def skip_epoch(self) -> None:
        """Step the scheduler, unless it depends on the loss: then it is unchanged for this epoch."""
        self._step(None)
        self._update_optimizer()

    def state_dict(self) -> dict[str, Any]:
        """Return the name, and the loss of each past epoch; None for an epoch without a comparable one."""
        return super().state_dict() | {"losses": list(self._losses)}

    def check_state(self, state: Any) -> None:
        """Check that a state belongs to this schedule; raise ValueError with the reason otherwise."""
        losses = state.get("losses") if type(state) is dict else None
        super().check_state(state | {"losses": self._losses} if type(losses) is list else state)
        for each in losses or []:
            if type(each) not in (type(None), float):
                raise ValueError(f"'losses' of its state should be numbers but has {value_or_type(each)}")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, and update the settings of the optimizer."""
        super().load_state_dict(state)
        self._replay(state["losses"])
        self._update_optimizer()

    def _replay(self, losses: Iterable[float | None] = ()) -> None:
        """Create the scheduler, and step it with the losses of the past epochs."""
        self._losses: list[float | None] = []
        # Names of the values that the scheduler has changed.
        self._changed = {_LR}
        self._settings = copy.deepcopy(self._initial)
        self._scheduler: Any = self._factory(self._settings)
        if getattr(self._scheduler, "optimizer", None) is not self._settings:
            raise ValueError("it is not a torch scheduler of the given optimizer")
        self._note_changes()
        for each in losses:
            self._step(each)

    def _step(self, loss: float | None, *, holds: bool = True) -> None:
        self._losses.append(loss)
        is_held = holds and self.has_end and len(self._losses) >= self.planned_epochs
        if not is_held and not (self._needs_loss and loss is None):
            # torch warns about a scheduler that is stepped before its optimizer.
            self._settings.step()
            self._scheduler.step(*([loss] if self._needs_loss else []))
            self._note_changes()

    def _note_changes(self) -> None:
        self._changed |= _differences(self._initial.param_groups, self._settings.param_groups)

    def _values(self) -> list[dict[str, Any]]:
        """Return the values of each group that the optimizer takes over, as Python numbers."""
        pairs = zip(self._initial.param_groups, self._settings.param_groups, strict=True)
        return [to_python({key: now[key] for key in self._changed if key in initial}) for initial, now in pairs]

    def _update_optimizer(self) -> None:
        for group, values in zip(self._optimizer.param_groups, self._values(), strict=True):
            group.update(values)


class _Settings(torch.optim.Optimizer):
    """An optimizer's groups without its parameters, for a scheduler to change."""

    def __init__(self, optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
        groups = [
            {**_plain(group), "params": [torch.empty(0)], _LR: learning_rate * group.get(LR_RATIO, 1.0)}
            for group in optimizer.param_groups
        ]
        super().__init__(groups, _plain(optimizer.defaults))

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Do nothing; torch expects this call before that of a scheduler."""


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the values that are numbers or strings, also in lists; they can be compared."""
    found = {key: to_python(value) for key, value in values.items() if key not in _PARAMETERS}
    return {key: value for key, value in found.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _differences(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the names of the values of the first groups that the second ones have with another value."""
    return {
        key
        for one, other in zip(first, second, strict=True)
        for key in one
        if key not in _PARAMETERS and key in other and to_python(other[key]) != one[key]
    }
