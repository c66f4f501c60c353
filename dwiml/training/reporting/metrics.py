"""The metrics of a training: their names in the log and for the user, and how their values are compared.

It imports neither torch nor the rest of the training, since figures are drawn without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

LOSS, SKIPPED_BATCHES, DURATION, SPEED, DATA_WAIT, PADDING = PHASE_METRICS = (
    "loss",
    "skipped_batches",
    "duration_s",
    "points_per_s",
    "data_wait_s",
    "padding_share",
)
"""The trainer's metrics of each phase. In the log, their names start with ``train_`` or ``valid_``."""
GRAD_NORM, GRAD_NORM_CLIPPED, LEARNING_RATE = TRAINING_METRICS = ("grad_norm", "grad_norm_clipped", "learning_rate")
"""The trainer's metrics of the training alone."""
MEMORY, GPU_MEMORY = MEMORY_METRICS = ("peak_memory_mb", "gpu_peak_memory_mb")
"""The largest memory, of the first process and on its GPU."""
WEIGHT_CHANGE, WEIGHT_NORM = WEIGHT_METRICS = ("weight_change/", "weight_norm/")
"""The beginnings of the names of the metrics of each layer's weights (``log_weights``); the layer's name follows."""
EPOCH, BATCH, STEP = "epoch", "batch", "step"
"""Where a training is: epoch and batch from 0, and number of batches in all epochs, from 1."""
EPOCH_TIME = "epoch_time"
"""The panel of the durations in a figure."""
RESERVED = frozenset({*PHASE_METRICS, *TRAINING_METRICS, *MEMORY_METRICS, EPOCH, BATCH, STEP, EPOCH_TIME})
"""Names that a user's metric cannot have."""

VALID_LOSS, TRAIN_LOSS = LOSSES = ("valid_loss", "train_loss")
DISTANCE, LENGTH_RATIO, LEFT_MASK = "gv_endpoint_distance_mm", "gv_length_ratio", "gv_left_mask"
INVALID_CONNECTIONS, VALID_CONNECTIONS = "gv_invalid_connections", "gv_valid_connections"
SELECTION_VALUE = "selection_value"
"""The metric, lower is better, that is logged if a user's trainer has its own selection of the best model."""

_UNITS = {"_per_s": "/s", "_s": " (s)", "_mm": " (mm)", "_mb": " (MB)", "_deg": " (degrees)"}


def _itself(value: float) -> float:
    return value


DIFFERENCE_FROM_BEST: Mapping[str, Callable[[float], float]] = {
    VALID_LOSS: _itself,
    DISTANCE: _itself,
    LENGTH_RATIO: lambda value: abs(value - 1.0),
    LEFT_MASK: _itself,
    INVALID_CONNECTIONS: _itself,
    VALID_CONNECTIONS: lambda value: 1.0 - value,
}
"""For each metric that can select the best model: the difference of a value from its best possible value."""


def skipped_batches(metrics: Mapping[str, Any]) -> int:
    """Return the number of batches skipped in the loss of an epoch (validation, or training without a validation)."""
    phase = "valid" if VALID_LOSS in metrics else "train"
    value = metrics.get(f"{phase}_{SKIPPED_BATCHES}", 0)
    # A log may hold anything.
    return int(value) if isinstance(value, (int, float)) else 0


def is_comparable(metric: str | None, metrics: Mapping[str, Any]) -> bool:
    """Return whether a metric (None: the loss) of an epoch can be compared with that of other epochs.

    A mean over the batches without those that were skipped cannot: it may be lower because hard batches are missing.
    """
    return not skipped_batches(metrics) or (metric is not None and not metric.startswith(("train_", "valid_")))


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
