"""Which metrics of a log go in which panel of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dwiml.training.generation.selection import (
    DISTANCE,
    INVALID_CONNECTIONS,
    LEFT_MASK,
    LENGTH_RATIO,
    LOSSES,
    LOWER_IS_BETTER,
    VALID_CONNECTIONS,
    VALID_LOSS,
    name_of,
    skipped_batches,
)

Style = Literal["-", "--", ":"]
LOSS = "loss"
# Largest to smallest value: on a linear axis, the later epochs then lie on its bottom.
_STEEP = 30.0


@dataclass(frozen=True)
class Line:
    """One metric in a panel.

    Attributes
    ----------
    metric
        Its name in the log.
    label
        Its name in the panel's legend.
    style
        Matplotlib's line style.
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
        What a user calls it.
    axis
        The y axis: the quantity and its unit.
    lines
        The metrics, the most important one first.
    """

    key: str
    axis: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Log:
    """What is drawn of an experiment.

    Attributes
    ----------
    label
        The experiment's name in the figure.
    records
        Its epochs: ``epoch`` (from 0) and the metrics by name.
    selection_metric
        The metric that its best model is chosen by.
    """

    label: str
    records: Sequence[dict[str, Any]]
    selection_metric: str = VALID_LOSS

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Return the epochs in which a metric was computed, and its values."""
        found = [(each["epoch"], each[metric]) for each in self.records if _is_number(each.get(metric))]
        return [epoch for epoch, _ in found], [value for _, value in found]

    def best(self) -> tuple[int, float] | None:
        """Return the first epoch that is the best by :attr:`selection_metric`, and its value; None without any.

        It is the epoch whose model the training keeps: a loss that lacks skipped batches is not judged.
        """
        judged = [each for each in self.records if self.selection_metric not in LOSSES or not skipped_batches(each)]
        epochs, values = Log(self.label, judged, self.selection_metric).series(self.selection_metric)
        badness = LOWER_IS_BETTER.get(self.selection_metric, float)
        return min(zip(epochs, values, strict=True), key=lambda pair: badness(pair[1]), default=None)


def _training_and_validation(name: str) -> tuple[Line, ...]:
    return (Line(f"train_{name}", "training"), Line(f"valid_{name}", "validation", "--"))


STANDARD_PANELS = (
    Panel(LOSS, "Loss", _training_and_validation("loss")),
    Panel(
        "grad_norm",
        "Gradient norm",
        (Line("grad_norm", "before clipping"), Line("grad_norm_clipped", "after clipping", "--")),
    ),
    Panel("learning_rate", "Learning rate", (Line("learning_rate", "learning rate"),)),
    Panel(
        "epoch_time",
        "Time per epoch (s)",
        (*_training_and_validation("duration_s"), Line("train_data_wait_s", "training, waiting for data", ":")),
    ),
    Panel("points_per_s", "Speed (points/s)", _training_and_validation("points_per_s")),
)
# Too small or already drawn otherwise.
_NOT_DRAWN = frozenset({"epoch", "valid_data_wait_s", "best_valid_loss", "best_epoch"})
_TRACKED = {
    VALID_CONNECTIONS: "Tracked: valid connections (share)",
    INVALID_CONNECTIONS: "Tracked: invalid connections (share)",
    LEFT_MASK: "Tracked: left the mask too soon (share)",
    LENGTH_RATIO: "Tracked: length / true length",
    DISTANCE: "Tracked: distance to true end (mm)",
}


def choose_panels(logs: Sequence[Log]) -> list[Panel]:
    """Return the panels that have something to show: the standard ones, then one for each other quantity.

    ``train_`` and ``valid_`` metrics of one quantity share a panel.
    """
    computed = {
        name: None for log in logs for record in log.records for name, value in record.items() if _is_number(value)
    }
    panels = []
    known = set(_NOT_DRAWN)
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
