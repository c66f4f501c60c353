"""What is measured while training, kept on the device until it is read."""

from __future__ import annotations

import math
import time
from typing import Any

import torch


class NonFiniteValueError(FloatingPointError):
    """A loss or a gradient is NaN or infinite.

    Attributes
    ----------
    batch
        The index of the batch in its epoch.
    """

    def __init__(self, name: str, batch: int, value: float) -> None:
        super().__init__(f"The {name} of batch {batch} is {value}.")
        self.batch = batch


class MeanMonitor:
    """The mean of a value over batches, each weighted by its number of points.

    Values stay on their device: an update waits for nothing. :meth:`check` and :meth:`mean` read them.

    Parameters
    ----------
    name
        How messages call the value.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._values: list[torch.Tensor] = []
        self._weights: list[int] = []
        self._batches: list[int] = []
        self._nb_checked = 0

    def update(self, value: torch.Tensor, weight: int, batch: int) -> None:
        """Take a batch's value, a 0-d tensor; ``batch`` is its index in the epoch."""
        self._values.append(value.detach())
        self._weights.append(weight)
        self._batches.append(batch)

    def check(self) -> None:
        """Read the values that came since the last check.

        Raises
        ------
        NonFiniteValueError
            When one is NaN or infinite; the message names the batch.
        """
        new = self._values[self._nb_checked :]
        if not new:
            return
        finite = torch.isfinite(torch.stack(new)).cpu()
        if not bool(finite.all()):
            first = int(finite.logical_not().nonzero()[0])
            raise NonFiniteValueError(self.name, self._batches[self._nb_checked + first], float(new[first]))
        self._nb_checked = len(self._values)

    @property
    def nb(self) -> int:
        """The number of points that the mean is over."""
        return sum(self._weights)

    def mean(self) -> float | None:
        """Return the weighted mean, None when nothing was measured."""
        total = self.nb
        if not total:
            return None
        values = torch.stack(self._values).double().cpu()
        weights = torch.tensor(self._weights, dtype=torch.float64)
        return float((values * weights).sum() / total)

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured so far."""
        values = torch.stack(self._values).cpu() if self._values else torch.empty(0)
        return {"values": values, "weights": list(self._weights), "batches": list(self._batches)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self._values = list(state["values"].unbind())
        self._weights, self._batches = list(state["weights"]), list(state["batches"])
        self._nb_checked = len(self._values)


class BestMonitor:
    """The best value so far, and how long ago it was: what early stopping looks at.

    Parameters
    ----------
    patience
        Epochs without improvement after which training stops; None for never.
    delta
        A value is better when it is lower than the best one by more than this.
    """

    def __init__(self, patience: int | None, delta: float) -> None:
        self.patience = patience
        self.delta = delta
        self.best_value: float | None = None
        self.best_epoch: int | None = None
        self.nb_bad_epochs = 0

    def update(self, value: float, epoch: int) -> bool:
        """Take an epoch's value; return whether it is the best one."""
        if not math.isfinite(value):
            raise FloatingPointError(f"The value of epoch {epoch} is {value}; it can be no best value.")
        if self.best_value is None or value < self.best_value - self.delta:
            self.best_value, self.best_epoch, self.nb_bad_epochs = value, epoch, 0
            return True
        self.nb_bad_epochs += 1
        return False

    @property
    def is_exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.nb_bad_epochs >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return what evolves."""
        return {"best_value": self.best_value, "best_epoch": self.best_epoch, "nb_bad_epochs": self.nb_bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.best_value = state["best_value"]
        self.best_epoch = state["best_epoch"]
        self.nb_bad_epochs = state["nb_bad_epochs"]


class PhaseMonitor:
    """All that is measured in one pass over the training or the validation batches.

    Parameters
    ----------
    phase
        ``"training"`` or ``"validation"``.
    epoch
        From 0.
    """

    def __init__(self, phase: str, epoch: int) -> None:
        where = f"in epoch {epoch} of {phase}"
        self.prefix = {"training": "train", "validation": "valid"}[phase]
        self.means = {
            "loss": MeanMonitor(f"loss {where}"),
            "grad_norm": MeanMonitor(f"gradient norm {where}"),
            "grad_norm_clipped": MeanMonitor(f"clipped gradient norm {where}"),
        }
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
        """Seconds spent in the phase, those before a stop included."""
        return self._before_s + time.perf_counter() - self._start

    @property
    def points_per_s(self) -> float:
        """Streamline points seen in a second so far."""
        return self.nb_points / max(self.duration_s, 1e-9)

    def check(self) -> None:
        """Raise NonFiniteValueError when a loss or a gradient was NaN or infinite."""
        for mean in self.means.values():
            mean.check()

    def metrics(self) -> dict[str, float]:
        """Return what was measured, by the names of the log; what was not is absent."""
        self.check()
        metrics = {
            f"{self.prefix}_loss": self.loss.mean(),
            "grad_norm": self.means["grad_norm"].mean(),
            "grad_norm_clipped": self.means["grad_norm_clipped"].mean(),
            f"{self.prefix}_skipped_batches": self.nb_skipped or None,
            f"{self.prefix}_duration_s": self.duration_s,
            f"{self.prefix}_points_per_s": self.points_per_s,
            f"{self.prefix}_data_wait_s": self.data_wait_s,
        }
        return {name: value for name, value in metrics.items() if value is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured so far in the phase."""
        return {
            "means": {name: mean.state_dict() for name, mean in self.means.items()},
            "nb_points": self.nb_points,
            "nb_skipped": self.nb_skipped,
            "data_wait_s": self.data_wait_s,
            "duration_s": self.duration_s,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        for name, mean in self.means.items():
            mean.load_state_dict(state["means"][name])
        self.nb_points, self.nb_skipped = state["nb_points"], state["nb_skipped"]
        self.data_wait_s, self._before_s = state["data_wait_s"], state["duration_s"]
