"""What is measured while training, kept on the device until it is read."""

from __future__ import annotations

import math
import time
from typing import Any

import torch


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
        self._nb_checked = 0

    def update(self, value: torch.Tensor, weight: int) -> None:
        """Take a batch's value, a 0-d tensor."""
        self._values.append(value.detach())
        self._weights.append(weight)

    def check(self) -> None:
        """Read the values that came since the last check.

        Raises
        ------
        FloatingPointError
            When one is NaN or infinite; the message names the batch.
        """
        new = self._values[self._nb_checked :]
        if not new:
            return
        finite = torch.isfinite(torch.stack(new)).cpu()
        if not bool(finite.all()):
            first = int(finite.logical_not().nonzero()[0])
            raise FloatingPointError(
                f"The {self.name} of batch {self._nb_checked + first} is {float(new[first])}: look for NaN or extreme "
                "values in the data, lower the learning rate, or clip the gradient."
            )
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
        self.loss = MeanMonitor(f"loss {where}")
        self.grad_norm = MeanMonitor(f"gradient norm {where}")
        self.grad_norm_clipped = MeanMonitor(f"clipped gradient norm {where}")
        self.nb_points = 0
        self.data_wait_s = 0.0
        self._start = time.perf_counter()

    @property
    def duration_s(self) -> float:
        """Seconds since the phase began."""
        return time.perf_counter() - self._start

    @property
    def points_per_s(self) -> float:
        """Streamline points seen in a second so far."""
        return self.nb_points / max(self.duration_s, 1e-9)

    def check(self) -> None:
        """Raise FloatingPointError when a loss or a gradient was NaN or infinite."""
        self.loss.check()
        self.grad_norm.check()

    def metrics(self) -> dict[str, float]:
        """Return what was measured, by the names of the log; what was not is absent."""
        self.check()
        metrics = {
            f"{self.prefix}_loss": self.loss.mean(),
            "grad_norm": self.grad_norm.mean(),
            "grad_norm_clipped": self.grad_norm_clipped.mean(),
            f"{self.prefix}_duration_s": self.duration_s,
            f"{self.prefix}_points_per_s": self.points_per_s,
            f"{self.prefix}_data_wait_s": self.data_wait_s,
        }
        return {name: value for name, value in metrics.items() if value is not None}
