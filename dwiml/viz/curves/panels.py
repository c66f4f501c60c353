"""Assign the metrics of logs to the panels of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dwiml.training.reporting.metrics import (
    DATA_WAIT,
    DISTANCE,
    DURATION,
    EPOCH,
    EPOCH_TIME,
    GPU_MEMORY,
    GRAD_NORM,
    GRAD_NORM_CLIPPED,
    INVALID_CONNECTIONS,
    LEARNING_RATE,
    LEFT_MASK,
    LENGTH_RATIO,
    LOSS,
    MEMORY,
    SELECTION_VALUE,
    SPEED,
    VALID_CONNECTIONS,
    WEIGHT_METRICS,
    name_of,
)
from dwiml.viz.curves.log import Floats, Log

Style = Literal["-", "--", ":", "-."]
MEMORY_PANEL = "memory"
# Ratio of the largest to the smallest value, above which the later epochs are at the bottom of a linear axis.
_STEEP = 10.0


@dataclass(frozen=True)
class Line:
    """One metric in a panel.

    Attributes
    ----------
    metric
        Its name in the log.
    label
        Its name in the legend of the panel.
    style
        Line style of matplotlib.
    """

    metric: str
    label: str
    style: Style = "-"


@dataclass(frozen=True)
class Panel:
    """A plot of one quantity over the epochs.

    Attributes
    ----------
    key
        Its name in the options ``panels``, ``ylim``, ``log_scale`` and ``linear_scale``.
    axis
        Label of the y axis: the quantity and its unit.
    lines
        The metrics, the most important one first.
    """

    key: str
    axis: str
    lines: tuple[Line, ...]


def _training_and_validation(name: str) -> tuple[Line, ...]:
    return (Line(f"train_{name}", "training"), Line(f"valid_{name}", "validation", "--"))


STANDARD_PANELS = (
    Panel(LOSS, "Loss", _training_and_validation(LOSS)),
    Panel(
        GRAD_NORM,
        "Gradient norm",
        (Line(GRAD_NORM, "before clipping"), Line(GRAD_NORM_CLIPPED, "after clipping", "--")),
    ),
    Panel(LEARNING_RATE, "Learning rate", (Line(LEARNING_RATE, "learning rate"),)),
    Panel(
        EPOCH_TIME,
        "Time per epoch (s)",
        (*_training_and_validation(DURATION), Line(f"train_{DATA_WAIT}", "training, waiting for data", ":")),
    ),
    Panel(SPEED, "Speed (points/s)", _training_and_validation(SPEED)),
    Panel(MEMORY_PANEL, "Peak memory (MB)", (Line(MEMORY, "process"), Line(GPU_MEMORY, "GPU", "--"))),
)
# Negligible, or already shown otherwise.
_NOT_DRAWN = frozenset({EPOCH, f"valid_{DATA_WAIT}"})
_TRACKED = {
    VALID_CONNECTIONS: "Tracked: valid connections (fraction)",
    INVALID_CONNECTIONS: "Tracked: invalid connections (fraction)",
    LEFT_MASK: "Tracked: left the mask too early (fraction)",
    LENGTH_RATIO: "Tracked: length / true length",
    DISTANCE: "Tracked: distance to true end (mm)",
}


def choose_panels(logs: Sequence[Log]) -> list[Panel]:
    """Return the panels of the metrics that were computed: the standard panels, then one for each other quantity.

    The ``train_`` and ``valid_`` metrics of the same quantity share a panel.
    """
    # Those of the weights have a figure of their own.
    computed = {name: None for log in logs for name in log.metrics() if not name.startswith(WEIGHT_METRICS)}
    panels = []
    # Usually a metric that has its own panel, perhaps with the other sign.
    known = set(_NOT_DRAWN) | ({SELECTION_VALUE} - {log.selection_metric for log in logs})
    for panel in STANDARD_PANELS:
        known.update(line.metric for line in panel.lines)
        lines = tuple(line for line in panel.lines if line.metric in computed)
        if lines:
            panels.append(Panel(panel.key, panel.axis, lines))
    others: dict[str, list[Line]] = {}
    for metric in sorted(computed):
        if metric not in known:
            quantity, line = _describe(metric)
            others.setdefault(quantity, []).append(line)
    panels.extend(Panel(quantity, _axis_label(quantity), tuple(lines)) for quantity, lines in sorted(others.items()))
    return panels


def falls_steeply(curves: Sequence[Floats]) -> bool:
    """Return whether the values of curves, without NaN, are positive and the largest is over 10 times the smallest."""
    values = np.concatenate([np.zeros(0), *curves])
    values = values[np.isfinite(values)]
    return bool(len(values)) and bool(values.min() > 0 and values.max() > _STEEP * values.min())


def _describe(metric: str) -> tuple[str, Line]:
    for line in _training_and_validation(""):
        if metric.startswith(line.metric) and metric != line.metric:
            return metric.removeprefix(line.metric), Line(metric, line.label, line.style)
    return metric, Line(metric, name_of(metric))


def _axis_label(quantity: str) -> str:
    if quantity in _TRACKED:
        return _TRACKED[quantity]
    words = name_of(quantity)
    return words[:1].upper() + words[1:]
