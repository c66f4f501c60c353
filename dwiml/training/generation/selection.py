"""The value that selects the best model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dwiml.training.reporting.metrics import SELECTION_VALUE, is_comparable

if TYPE_CHECKING:
    from dwiml.training.trainer import DWIMLTrainer


def has_own_selection(trainer: DWIMLTrainer) -> bool:
    """Return whether a class outside dwiml defines what selects the best model."""
    cls = type(trainer)
    names = ("selection_metric", "selection_value")
    owners = [next(each for each in cls.__mro__ if name in vars(each)) for name in names]
    return any(not owner.__module__.startswith("dwiml.") for owner in owners)


def selection_name(trainer: DWIMLTrainer) -> str | None:
    """Return the name of the metric that selects the best model, for messages; None for the loss.

    Raises
    ------
    TypeError
        If ``selection_metric`` is neither a string nor None.
    """
    metric: Any = trainer.selection_metric
    if metric is not None and not isinstance(metric, str):
        kind = type(trainer).__name__
        raise TypeError(f"{kind}.selection_metric must be the name of a metric (a string) or None, got {metric!r}.")
    return SELECTION_VALUE if metric is None and has_own_selection(trainer) else metric


def select(trainer: DWIMLTrainer, metrics: dict[str, float]) -> tuple[float | None, dict[str, float]]:
    """Return the value that selects the best model, and the metrics to log.

    Parameters
    ----------
    trainer
        The trainer, at the end of an epoch.
    metrics
        Metrics of the epoch, by name.

    Returns
    -------
    value
        The value, lower is better; None if the epoch does not count.
    metrics
        The metrics, with :data:`SELECTION_VALUE` if a user's trainer has its own selection.

    Raises
    ------
    ValueError
        If the trainer's ``selection_value`` is not a finite number.
    """
    if not is_comparable(trainer.selection_metric, metrics):
        return None, metrics
    value: Any = trainer.selection_value(dict(metrics))
    if not has_own_selection(trainer):
        return value, metrics
    # A checkpoint cannot hold values of numpy and torch.
    value = value.item() if hasattr(value, "item") and math.prod(value.shape) == 1 else value
    # All processes must stop in the same epoch.
    value = trainer.ranks.broadcast(value)
    if value is None:
        return None, metrics
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(
            f"{type(trainer).__name__}.selection_value must return a finite number (lower is better), or None for an "
            f"epoch that does not count, got {value!r}."
        )
    return float(value), {**metrics, SELECTION_VALUE: float(value)}


def metric_of(metrics: Mapping[str, float], metric: str, epoch: int) -> float:
    """Return the metric that selects the best model.

    Raises
    ------
    ValueError
        If the epoch has no such metric.
    """
    if metric not in metrics:
        raise ValueError(
            f"Epoch {epoch} has no metric '{metric}', which selects the best model (selection_metric); it has: "
            f"{', '.join(metrics)}. For a metric that is not computed in each epoch, override selection_value and "
            "return None in the others."
        )
    return metrics[metric]
