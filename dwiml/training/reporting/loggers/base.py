"""What the trainer asks of a logger."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any


class Logger:
    """Receives a training's parameters once, and its metrics at the end of each epoch: the class of all loggers.

    The trainer calls, in this order: ``load_state_dict`` (only when it resumes), ``log_parameters``,
    ``log_metrics`` once an epoch, ``state_dict`` at each checkpoint, ``close``. Under ``torchrun`` it calls the
    loggers of the first process only. A subclass has to have ``log_metrics``; the rest does nothing unless it is
    overridden.
    """

    @property
    def name(self) -> str:
        """The key of this logger's state in a checkpoint; each logger of a training has its own."""
        return type(self).__name__

    def log_parameters(self, params: Mapping[str, Any]) -> None:
        """Record what was chosen (nested, JSON-like)."""

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Record what was measured in an epoch (counted from 0). A metric that was not computed is absent."""
        raise NotImplementedError(f"{type(self).__name__} has no log_metrics.")

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs (JSON-like), so that its logs equal those of a run never stopped."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to the state of a checkpoint."""

    def close(self) -> str | None:
        """Finish; return a sentence for the user, or None."""
        return None


def plain_metrics(metrics: Mapping[str, Any], epoch: int) -> dict[str, float]:
    """Return the metrics as plain, finite Python numbers.

    Parameters
    ----------
    metrics
        Number by name: Python's own, or a numpy or torch value with a single element.
    epoch
        Only named in the errors.

    Raises
    ------
    ValueError
        For a value that is not a number, or is NaN or infinite; for a metric called ``epoch``.
    """
    if "epoch" in metrics:
        raise ValueError("A metric cannot be called 'epoch': that is the key of the epoch itself; rename it.")
    return {name: _plain_number(name, value, epoch) for name, value in metrics.items()}


def plain_epoch(epoch: Any) -> int:
    """Return the epoch as a Python integer.

    Raises
    ------
    ValueError
        When it is not an integer, or is negative.
    """
    try:
        number = operator.index(epoch)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"An epoch must be an integer from 0 on, got {epoch!r}.")
    return number


def _plain_number(name: str, value: Any, epoch: int) -> float:
    # Duck-typed, so that reading logs does not load torch.
    if hasattr(value, "item") and math.prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"Metric '{name}' of epoch {epoch} must be one number, got {value!r}.")
    if not math.isfinite(value):
        raise ValueError(f"Metric '{name}' of epoch {epoch} must be finite, got {value}; leave out what has no value.")
    return value
