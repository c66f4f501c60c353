"""Assign the metrics of logs to the panels of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dwiml.training.reporting.metrics import (
    DATA_WAIT,
    DIFFERENCE_FROM_BEST,
    DISTANCE,
    DURATION,
    EPOCH,
    EPOCH_TIME,
    GRAD_NORM,
    GRAD_NORM_CLIPPED,
    INVALID_CONNECTIONS,
    LEARNING_RATE,
    LEFT_MASK,
    LENGTH_RATIO,
    LOSS,
    SELECTION_VALUE,
    SPEED,
    VALID_CONNECTIONS,
    VALID_LOSS,
    WEIGHT_METRICS,
    is_comparable,
    name_of,
)

Style = Literal["-", "--", ":"]
# Ratio of the largest to the smallest value, above which the later epochs are at the bottom of a linear axis.
_STEEP = 30.0


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
        Its name in the options ``log_scale`` and ``linear_scale``.
    axis
        Label of the y axis: the quantity and its unit.
    lines
        The metrics, the most important one first.
    """

    key: str
    axis: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Log:
    """The log of an experiment.

    Attributes
    ----------
    label
        Name of the experiment in the figure.
    records
        One per epoch: ``epoch`` (from 0) and the metrics by name.
    selection_metric
        Model-selection metric: the best model is selected by its value.
    has_own_selection
        Whether a class of the user chooses the metric; the log then has ``selection_value``, which is minimized.
    """

    label: str
    records: Sequence[dict[str, Any]]
    selection_metric: str = VALID_LOSS
    has_own_selection: bool = False

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Return the epochs (from 0) in which a metric was computed, and its values."""
        found = [(record["epoch"], record[metric]) for record in self.records if _is_number(record.get(metric))]
        return [epoch for epoch, _ in found], [value for _, value in found]

    def best(self) -> tuple[int, float] | None:
        """Return the epoch (from 0) of the best model and the value of :attr:`selection_metric`, or None.

        It is the first epoch with the best value, as in the training. Epochs in which batches were skipped are not
        candidates if the metric is a loss, since their losses are not comparable.
        """
        metric = SELECTION_VALUE if self.has_own_selection else self.selection_metric
        candidates = [record for record in self.records if is_comparable(metric, record)]
        epochs, values = Log(self.label, candidates).series(metric)
        to_minimize = DIFFERENCE_FROM_BEST.get(metric, float)
        best = min(zip(epochs, values, strict=True), key=lambda pair: to_minimize(pair[1]), default=None)
        if best is None or not self.has_own_selection:
            return best
        shown = dict(zip(*self.series(self.selection_metric), strict=True))
        return best[0], shown.get(best[0], best[1])


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
    computed = {
        name: None
        for log in logs
        for record in log.records
        for name, value in record.items()
        # Those of the weights have a figure of their own.
        if _is_number(value) and not name.startswith(WEIGHT_METRICS)
    }
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


def falls_steeply(panel: Panel, logs: Sequence[Log]) -> bool:
    """Return whether a panel's values are positive and the largest is more than 30 times the smallest."""
    values = [value for log in logs for line in panel.lines for value in log.series(line.metric)[1]]
    return min(values) > 0 and max(values) > _STEEP * min(values)


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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
