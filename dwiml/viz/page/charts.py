"""The curves of a report, as the JSON values that its program draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dwiml.training.reporting.metrics import LOSS, LOSSES
from dwiml.viz.curves.drawing import loss_note
from dwiml.viz.curves.log import Floats, Log
from dwiml.viz.curves.panels import Panel, choose_panels, falls_steeply

# Of one curve; more would make the page slow.
_MOST_POINTS = 2000
_DIGITS = 6


def charts_of(logs: Sequence[Log]) -> dict[str, Any]:
    """Return what the program of the page draws.

    Parameters
    ----------
    logs
        The experiments; those without a finished epoch have no curves.

    Returns
    -------
    dict
        ``runs``: for each experiment, its ``name``, the ``columns`` {metric: ``x`` (epochs from 0), ``t`` (time) and
        ``y``, with None for gaps}, and ``best`` (``epoch``, ``t`` and ``value``, or None). ``panels``: each with its
        ``key``, ``axis``, ``lines`` (``metric``, ``label``, ``style``), ``log`` (whether it begins with a logarithmic
        axis), ``positive`` (whether it can have one), ``wide``, ``selection`` (whether it shows the metric that selects
        the best model) and ``note``. ``time_unit``.
    """
    panels = choose_panels(logs)
    longest = max((float(log.seconds(np.array([log.nb_epochs]))[0]) for log in logs), default=0.0)
    divisor, unit = next(
        ((each, name) for each, name in ((3600.0, "hours"), (60.0, "minutes")) if longest >= 2 * each),
        (1.0, "seconds"),
    )
    metrics = dict.fromkeys(line.metric for panel in panels for line in panel.lines)
    return {
        "runs": [_run(log, list(metrics), divisor) for log in logs],
        "panels": [_panel(panel, logs) for panel in panels],
        "time_unit": unit,
    }


def _run(log: Log, metrics: Sequence[str], divisor: float) -> dict[str, Any]:
    best = log.best()
    star = None
    if best is not None:
        place = float(log.seconds(np.array([best[0] + 1.0]))[0]) / divisor
        star = {"epoch": best[0], "t": _rounded(place), "value": best[1]}
    columns = {metric: _column(log, metric, divisor) for metric in metrics}
    return {"name": log.label, "columns": {name: each for name, each in columns.items() if each["x"]}, "best": star}


def _column(log: Log, metric: str, divisor: float) -> dict[str, list[float | None]]:
    epochs, values = log.columns(metric)
    if len(epochs) > _MOST_POINTS:
        kept = np.unique(np.linspace(0, len(epochs) - 1, _MOST_POINTS).astype(int))
        epochs, values = epochs[kept], values[kept]
    if len(epochs) > 2:
        steps = np.diff(epochs)
        at = np.flatnonzero(steps > 1.5 * np.median(steps)) + 1
        epochs, values = np.insert(epochs, at, epochs[at]), np.insert(values, at, np.nan)
    return {"x": _plain(epochs), "t": _plain(log.seconds(epochs + 1) / divisor), "y": _plain(values)}


def _panel(panel: Panel, logs: Sequence[Log]) -> dict[str, Any]:
    values = np.concatenate([np.zeros(0), *(log.columns(line.metric)[1] for log in logs for line in panel.lines)])
    positive = bool(len(values)) and bool((values > 0).all())
    return {
        "key": panel.key,
        "axis": panel.axis,
        "lines": [{"metric": line.metric, "label": line.label, "style": line.style} for line in panel.lines],
        "log": panel.key == LOSS and falls_steeply([values]),
        "positive": positive,
        "wide": panel.key == LOSS,
        "selection": any(line.metric == log.selection_metric for log in logs for line in panel.lines),
        "note": loss_note(logs) if any(line.metric in LOSSES for line in panel.lines) else "",
    }


def _plain(values: Floats) -> list[float | None]:
    return [_rounded(value) if math.isfinite(value) else None for value in values.tolist()]


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
