"""The metrics of a training, kept on the device until they are read."""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Any

import torch

from dwiml.training.reporting.metrics import (
    DATA_WAIT,
    DURATION,
    GRAD_NORM,
    GRAD_NORM_CLIPPED,
    LOSS,
    PADDING,
    SKIPPED_BATCHES,
    SPEED,
)
from dwiml.training.reporting.user_metrics import BatchMetrics, check_metric_name
from dwiml.training.reporting.windows import BatchWindows

logger = logging.getLogger(__name__)


class NonFiniteValueError(FloatingPointError):
    """A loss, a gradient or a metric is NaN or infinite.

    Attributes
    ----------
    batch
        Index of the batch in its epoch.
    is_user_metric
        Whether it is a metric that the user logs.
    """

    def __init__(self, sentence: str, batch: int, *, is_user_metric: bool = False) -> None:
        super().__init__(f"{sentence}.")
        self.batch, self.is_user_metric = batch, is_user_metric


class MeanMonitor:
    """The mean of a value over batches, each weighted by its number of points.

    Values stay on their device, so that an update does not wait. :meth:`check` and :meth:`mean` read them.

    Parameters
    ----------
    name, where
        Names of the value and of the phase in messages, such as ``"loss"`` and ``"the training of epoch 0"``.
    is_user_metric
        Whether it is a metric that the user logs.
    """

    def __init__(self, name: str, where: str, *, is_user_metric: bool = False) -> None:
        self._name, self._where, self._is_own = name, where, is_user_metric
        self._values: list[torch.Tensor] = []
        self._weights: list[int] = []
        self._batches: list[int] = []
        self._nb_checked = 0

    def update(self, value: torch.Tensor, weight: int, batch: int) -> None:
        """Add the value of a batch, a 0-d tensor; ``batch`` is its index in the epoch."""
        self._values.append(value.detach())
        self._weights.append(weight)
        self._batches.append(batch)

    def check(self) -> None:
        """Read the values added since the last check.

        Raises
        ------
        NonFiniteValueError
            If one is NaN or infinite; the message names the batch.
        """
        new = self._values[self._nb_checked :]
        if not new:
            return
        finite = torch.isfinite(torch.stack(new)).cpu()
        if not bool(finite.all()):
            first = int(finite.logical_not().nonzero()[0])
            raise self.error(self._batches[self._nb_checked + first], new[first])
        self._nb_checked = len(self._values)

    def nonfinite_message(self, batch: int, value: torch.Tensor) -> str:
        """Return the message that the value of a batch is NaN or infinite (reads the device)."""
        kind = "NaN" if math.isnan(float(value)) else "infinite"
        return f"The {self._name} is {kind} in batch {batch} of {self._where}"

    def error(self, batch: int, value: torch.Tensor) -> NonFiniteValueError:
        """Return the error for a NaN or infinite value of a batch."""
        return NonFiniteValueError(self.nonfinite_message(batch, value), batch, is_user_metric=self._is_own)

    @property
    def nb(self) -> int:
        """Number of points in the mean."""
        return sum(self._weights)

    def mean(self) -> float | None:
        """Return the weighted mean; None if there is no value."""
        total = self.nb
        if not total:
            return None
        values = torch.stack(self._values).double().cpu()
        weights = torch.tensor(self._weights, dtype=torch.float64)
        return float((values * weights).sum() / total)

    def mean_between(self, first: int, last: int) -> float | None:
        """Return the weighted mean over the batches from `first` to `last` (reads the device); None without a value."""
        rows = slice(bisect_left(self._batches, first), bisect_right(self._batches, last))
        weights = torch.tensor(self._weights[rows], dtype=torch.float64)
        if not len(weights):
            return None
        return float((torch.stack(self._values[rows]).double().cpu() * weights).sum() / weights.sum())

    def state_dict(self) -> dict[str, Any]:
        """Return the values so far, with their weights and batches."""
        values = torch.stack(self._values).cpu() if self._values else torch.empty(0)
        return {"values": values, "weights": list(self._weights), "batches": list(self._batches)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore what :meth:`state_dict` returned, on the device of further values."""
        self._values, self._weights, self._batches = [], [], []
        self.extend(state, device)

    def extend(self, state: dict[str, Any], device: torch.device) -> None:
        """Add the values that the :meth:`state_dict` of another rank returned."""
        self._values += state["values"].to(device).unbind()
        self._weights += state["weights"]
        self._batches += state["batches"]
        self._nb_checked = len(self._values)


class BestMonitor:
    """Tracks the lowest value, which selects the best model, and the progress for early stopping.

    Parameters
    ----------
    patience
        Number of epochs without progress after which the training stops; None to never stop early.
    delta
        A value counts as progress if it is lower than that of the last progress by more than this. It does not affect
        which value is the best.
    """

    def __init__(self, patience: int | None, delta: float) -> None:
        self.patience = patience
        self.delta = delta
        self.best_value: float | None = None
        self.best_epoch: int | None = None
        self.progress_value: float | None = None
        self.nb_bad_epochs = 0

    def update(self, value: float, epoch: int) -> bool:
        """Add the value of an epoch; return whether it is the new best (strictly lower than all before).

        Raises
        ------
        FloatingPointError
            If the value is NaN or infinite.
        """
        if not math.isfinite(value):
            raise FloatingPointError(f"The value of epoch {epoch} must be finite to be the best, got {value}.")
        if self.progress_value is None or value < self.progress_value - self.delta:
            self.progress_value, self.nb_bad_epochs = value, 0
        else:
            self.nb_bad_epochs += 1
        if self.best_value is not None and value >= self.best_value:
            return False
        self.best_value, self.best_epoch = value, epoch
        return True

    @property
    def is_exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.nb_bad_epochs >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, and the progress."""
        return {
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "progress_value": self.progress_value,
            "nb_bad_epochs": self.nb_bad_epochs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.best_value = state["best_value"]
        self.best_epoch = state["best_epoch"]
        self.progress_value = state["progress_value"]
        self.nb_bad_epochs = state["nb_bad_epochs"]


class UserMetrics:
    """The metrics that the user logs in one phase of an epoch, as means over its batches, weighted by ``n``.

    Each rank keeps the values of its share of the batches; they are combined at the end of the phase and for a
    checkpoint. So ranks may log different names, and different numbers of values.

    Parameters
    ----------
    prefix
        ``"train"`` or ``"valid"``.
    where
        Name of the phase in messages, such as ``"the training of epoch 0"``.
    """

    def __init__(self, prefix: str, where: str) -> None:
        self._prefix, self._where = prefix, where
        self._means: dict[str, MeanMonitor] = {}

    def update(self, batch: BatchMetrics, index: int, *, skip_bad: bool) -> None:
        """Add the values of a batch.

        Parameters
        ----------
        batch
            The logged values.
        index
            Index of the batch in the epoch.
        skip_bad
            Leave out NaN and infinite values, with a warning (reads the device); otherwise :meth:`check` raises.
        """
        for name, value, n in batch.values:
            if skip_bad and not bool(torch.isfinite(value)):
                logger.warning("%s: left out of the mean.", self._mean(name).nonfinite_message(index, value))
                continue
            self._mean(name).update(value, n, index)

    def check(self) -> None:
        """Raise NonFiniteValueError if a value is NaN or infinite."""
        for mean in self._means.values():
            mean.check()

    def means(self) -> dict[str, float]:
        """Return the means of this rank so far, by the logged names, in alphabetical order."""
        return {name: value for name in sorted(self._means) if (value := self._means[name].mean()) is not None}

    def metrics(self, gather: Callable[[Any], list[Any]]) -> dict[str, float]:
        """Return the means over all ranks, by the names of the log, in alphabetical order.

        Parameters
        ----------
        gather
            Returns the values of all ranks (:meth:`dwiml.training.cluster.ranks.Ranks.gather`); called once by each.
        """
        self.check()
        products: dict[str, list[float]] = {}
        counts: dict[str, int] = {}
        for state in gather(self.state_dict()):
            for name, each in state.items():
                weights = torch.tensor(each["weights"], dtype=torch.float64)
                products.setdefault(name, []).extend((each["values"] * weights).tolist())
                counts[name] = counts.get(name, 0) + sum(each["weights"])
        # fsum gives the same mean in any order, and so for any number of ranks, also before and after a resume.
        return {f"{self._prefix}_{name}": math.fsum(products[name]) / counts[name] for name in sorted(products)}

    def state_dict(self) -> dict[str, Any]:
        """Return the values logged by the batches of this rank."""
        return {name: mean.state_dict() for name, mean in self._means.items()}

    def load_state_dicts(self, states: list[dict[str, Any]], device: torch.device) -> None:
        """Restore the states of all ranks; one rank takes all of them, the others start empty."""
        for state in states:
            for name, each in state.items():
                self._mean(check_metric_name(name)).extend(each, device)

    def _mean(self, name: str) -> MeanMonitor:
        if name not in self._means:
            self._means[name] = MeanMonitor(f"metric '{name}'", self._where, is_user_metric=True)
        return self._means[name]


class PhaseMonitor:
    """The metrics of one pass over the training or validation batches.

    Parameters
    ----------
    phase
        ``"training"`` or ``"validation"``.
    epoch
        From 0.
    """

    def __init__(self, phase: str, epoch: int) -> None:
        where = f"the {phase} of epoch {epoch}"
        self.prefix = {"training": "train", "validation": "valid"}[phase]
        self.means = {
            "loss": MeanMonitor("loss", where),
            GRAD_NORM: MeanMonitor("gradient norm", where),
            GRAD_NORM_CLIPPED: MeanMonitor("clipped gradient norm", where),
            PADDING: MeanMonitor("share of padding", where),
        }
        self.epoch = epoch
        self.windows: BatchWindows | None = None
        self.own = UserMetrics(self.prefix, where)
        self.nb_points = 0
        self.nb_skipped = 0
        self.data_wait_s = 0.0
        self._before_s = 0.0
        self._start = time.perf_counter()

    @property
    def loss(self) -> MeanMonitor:
        """The loss."""
        return self.means["loss"]

    @property
    def duration_s(self) -> float:
        """Time spent in the phase, in seconds, including that before a stop."""
        return self._before_s + time.perf_counter() - self._start

    @property
    def points_per_s(self) -> float:
        """Streamline points processed per second so far."""
        return self.nb_points / max(self.duration_s, 1e-9)

    def read(self) -> None:
        """Read the values on the device: check them, and record the windows of batches that are complete.

        Raises
        ------
        NonFiniteValueError
            If a loss, a gradient or a user's metric is NaN or infinite.
        """
        for mean in self.means.values():
            mean.check()
        self.own.check()
        if self.windows is not None:
            self.windows.write(self)

    def metrics(self, gather: Callable[[Any], list[Any]]) -> dict[str, float]:
        """Return the metrics by their names in the log; those without a value are absent.

        Parameters
        ----------
        gather
            As in :meth:`UserMetrics.metrics`: all ranks call this method.
        """
        self.read()
        metrics = {
            f"{self.prefix}_{LOSS}": self.loss.mean(),
            GRAD_NORM: self.means[GRAD_NORM].mean(),
            GRAD_NORM_CLIPPED: self.means[GRAD_NORM_CLIPPED].mean(),
            f"{self.prefix}_{SKIPPED_BATCHES}": self.nb_skipped or None,
            f"{self.prefix}_{DURATION}": self.duration_s,
            f"{self.prefix}_{SPEED}": self.points_per_s,
            f"{self.prefix}_{DATA_WAIT}": self.data_wait_s,
            f"{self.prefix}_{PADDING}": self.means[PADDING].mean(),
        }
        measured = {name: value for name, value in metrics.items() if value is not None}
        return measured | self.own.metrics(gather)

    def state_dict(self, gather: Callable[[Any], list[Any]]) -> dict[str, Any]:
        """Return the measurements of the phase so far; all ranks call it."""
        return {
            "means": {name: mean.state_dict() for name, mean in self.means.items()},
            "own": gather(self.own.state_dict()),
            "nb_points": self.nb_points,
            "nb_skipped": self.nb_skipped,
            "data_wait_s": self.data_wait_s,
            "duration_s": self.duration_s,
        }

    def load_state_dict(self, state: dict[str, Any], *, device: torch.device, is_first_rank: bool = True) -> None:
        """Restore what :meth:`state_dict` returned; the first rank takes the user's metrics of all ranks.

        Parameters
        ----------
        state
            The state, with its tensors on the CPU.
        device
            Device of further values.
        is_first_rank
            Whether this is the first rank.
        """
        for name, mean in self.means.items():
            # That of an earlier version has no share of padding.
            if name in state["means"]:
                mean.load_state_dict(state["means"][name], device)
        if is_first_rank:
            self.own.load_state_dicts(state["own"], device)
        self.nb_points, self.nb_skipped = state["nb_points"], state["nb_skipped"]
        self.data_wait_s, self._before_s = state["data_wait_s"], state["duration_s"]
