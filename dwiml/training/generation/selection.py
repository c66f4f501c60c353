"""The metrics that select the best model, and the names of metrics for the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

VALID_LOSS, TRAIN_LOSS = LOSSES = ("valid_loss", "train_loss")
DISTANCE, LENGTH_RATIO, LEFT_MASK = "gv_endpoint_distance_mm", "gv_length_ratio", "gv_left_mask"
INVALID_CONNECTIONS, VALID_CONNECTIONS = "gv_invalid_connections", "gv_valid_connections"

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
