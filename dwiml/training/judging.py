"""What the best model of a training is chosen by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

VALID_LOSS, TRAIN_LOSS = LOSSES = ("valid_loss", "train_loss")
DISTANCE, LENGTH_RATIO, LEFT_MASK = "gv_endpoint_distance_mm", "gv_length_ratio", "gv_left_mask"
INVALID_CONNECTIONS, VALID_CONNECTIONS = "gv_invalid_connections", "gv_valid_connections"


def _itself(value: float) -> float:
    return value


BADNESS: Mapping[str, Callable[[float], float]] = {
    VALID_LOSS: _itself,
    DISTANCE: _itself,
    LENGTH_RATIO: lambda value: abs(value - 1.0),
    LEFT_MASK: _itself,
    INVALID_CONNECTIONS: _itself,
    VALID_CONNECTIONS: lambda value: 1.0 - value,
}
"""For each metric, how far a value is from the best that there can be."""


def skipped_batches(metrics: Mapping[str, Any]) -> int:
    """Return how many batches an epoch's loss lacks: validation's, or training's where there is no validation."""
    phase = "valid" if VALID_LOSS in metrics else "train"
    return int(metrics.get(f"{phase}_skipped_batches", 0))
