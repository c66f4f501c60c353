"""The metrics that select the best model, and the names of metrics for the user."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dwiml.training.trainer import DWIMLTrainer

VALID_LOSS, TRAIN_LOSS = LOSSES = ("valid_loss", "train_loss")
DISTANCE, LENGTH_RATIO, LEFT_MASK = "gv_endpoint_distance_mm", "gv_length_ratio", "gv_left_mask"
INVALID_CONNECTIONS, VALID_CONNECTIONS = "gv_invalid_connections", "gv_valid_connections"
SELECTION_VALUE = "selection_value"
"""The metric, lower is better, that is logged if a user's trainer has its own selection of the best model."""

_UNITS = {"_per_s": "/s", "_s": " (s)", "_mm": " (mm)", "_deg": " (degrees)"}


def _itself(value: float) -> float:
    return value


LOWER_IS_BETTER: Mapping[str, Callable[[float], float]] = {
    VALID_LOSS: _itself,
    DISTANCE: _itself,
    LENGTH_RATIO: lambda value: abs(value - 1.0),
    LEFT_MASK: _itself,
    INVALID_CONNECTIONS: _itself,
    VALID_CONNECTIONS: lambda value: 1.0 - value,
}
"""For each metric, the difference of a value from its best possible value."""


def skipped_batches(metrics: Mapping[str, Any]) -> int:
    """Return the number of batches skipped in the loss of an epoch (validation, or training without a validation)."""
    phase = "valid" if VALID_LOSS in metrics else "train"
    return int(metrics.get(f"{phase}_skipped_batches", 0))


def is_comparable(metric: str | None, metrics: Mapping[str, Any]) -> bool:
    """Return whether a metric (None: the loss) of an epoch can be compared with that of other epochs.

    A mean over the batches without those that were skipped cannot: it may be lower because hard batches are missing.
    """
    return not skipped_batches(metrics) or (metric is not None and not metric.startswith(("train_", "valid_")))


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


def loss_of(metrics: Mapping[str, float], epoch: int, *, has_validation: bool) -> float:
    """Return the validation loss, or the training loss if there is no validation set.

    Raises
    ------
    ValueError
        If the epoch has no loss.
    """
    name = VALID_LOSS if has_validation else TRAIN_LOSS
    if name not in metrics:
        raise ValueError(
            f"Epoch {epoch} has no {name}: run_one_batch counted no point (n) in any of its batches, or all were "
            "skipped as NaN."
        )
    return metrics[name]


def name_of(metric: str) -> str:
    """Return a metric's name for the user: ``GV endpoint distance (mm)`` for ``gv_endpoint_distance_mm``."""
    words = _with_unit(metric).replace("_", " ")
    return f"GV{words[2:]}" if words.startswith("gv ") else words


def _with_unit(quantity: str) -> str:
    for suffix, unit in _UNITS.items():
        if quantity.endswith(suffix) and quantity != suffix:
            return quantity.removesuffix(suffix) + unit
    return quantity
