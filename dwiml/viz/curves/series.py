"""The points of a curve: selected, smoothed, with gaps, and few enough to be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dwiml.arguments import grouped
from dwiml.training.reporting.metrics import LEARNING_RATE
from dwiml.viz.curves.log import IN_BATCHES, Floats, Log
from dwiml.viz.curves.options import CurveOptions

# More points than a figure has pixels are drawn as the range of each few of them.
_MOST_DRAWN = 4000
# Distance to the quartiles, in interquartile ranges, beyond which a value is an outlier (Tukey, 1977: "far out").
_FAR_OUT = 3.0


@dataclass(frozen=True)
class Curve:
    """The points of a curve.

    Attributes
    ----------
    x, y
        Shape (N,): the points, NaN at gaps.
    raw
        Shape (N,): the values before smoothing, if they were smoothed; otherwise None.
    """

    x: Floats
    y: Floats
    raw: Floats | None = None


def curve_of(log: Log, metric: str, options: CurveOptions) -> Curve:
    """Return the curve of a metric or an expression.

    Parameters
    ----------
    log
        The log.
    metric
        Name of the metric of the epochs; with ``per_batch``, the values of batches take its place, if there are any.
    options
        What to draw.
    """
    x, values, places = points_of(log, metric, options)
    if not len(values):
        return Curve(x, values)
    # Of batches only, if these are drawn; and never of fewer values than would be seen as a curve.
    is_smoothed = 1 < options.smooth <= len(values) / 2 and (not options.per_batch or is_of_batches(log, metric))
    # It is chosen, not measured: means would show rates that were never used.
    is_smoothed = is_smoothed and metric != LEARNING_RATE
    smoothed = smooth(values, options.smooth) if is_smoothed else values
    is_new = np.zeros(len(places), dtype=bool)
    if len(places) > 2:
        steps = np.diff(places)
        is_new[1:] = steps > 1.5 * np.median(steps)
    at = np.flatnonzero(is_new)
    # The gap is beside its first value, so that the line is interrupted.
    x, smoothed, raw = (np.insert(each, at, fill) for each, fill in ((x, x[at]), (smoothed, np.nan), (values, np.nan)))
    x, smoothed, raw = thinned(x, smoothed, raw)
    return Curve(x, smoothed, raw if is_smoothed else None)


def points_of(log: Log, metric: str, options: CurveOptions) -> tuple[Floats, Floats, Floats]:
    """Return the places on the x axis, the values, and the numbers of epochs done (with parts): arrays (N,)."""
    first, end = options.epoch_range
    if options.per_batch and is_of_batches(log, metric):
        column = log.batches[IN_BATCHES[metric]]
        done = log.batch_epochs()
        inside = np.isfinite(column) & (done > first) & (done <= (np.inf if end is None else end))
        done, values = done[inside], column[inside]
        return x_of(log, done, options), values, done
    epochs, values = log.columns(metric)
    inside = (epochs >= first) & (epochs < (np.inf if end is None else end))
    epochs, values = epochs[inside], values[inside]
    return (x_of(log, epochs + 1, options) if options.counts_done else epochs), values, epochs + 1


def is_of_batches(log: Log, metric: str) -> bool:
    """Return whether the log of batches has a metric of epochs."""
    return len(log.batches.get(IN_BATCHES.get(metric, ""), ())) > 0


def x_of(log: Log, done: Floats, options: CurveOptions) -> Floats:
    """Return the places on the x axis of numbers of epochs done: themselves, seconds, or points."""
    if options.x == "time":
        return log.seconds(done)
    return log.points(done) if options.x == "points" else done


def unit_of(x: str, largest: float) -> tuple[float, str]:
    """Return what the values of the x axis are divided by, and the label of the axis."""
    if x == "time":
        for seconds, unit in ((3600.0, "hours"), (60.0, "minutes")):
            if largest >= 2 * seconds:
                return seconds, f"Time of the training ({unit})"
        return 1.0, "Time of the training (seconds)"
    if x == "points":
        return (1e6, "Streamline points seen (millions)") if largest >= 1e6 else (1.0, "Streamline points seen")
    return 1.0, "Epochs done"


def smooth(values: Floats, width: int) -> Floats:
    """Return the mean of each value and its neighbors, `width` values in all; at the ends, of those that there are."""
    if width < 2 or len(values) < 2:
        return values
    before, after = (width - 1) // 2, width // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - before, 0), np.minimum(index + after + 1, len(values))
    means: Floats = (sums[high] - sums[low]) / (high - low)
    return means


def thinned(x: Floats, y: Floats, raw: Floats) -> tuple[Floats, Floats, Floats]:
    """Return at most about 4000 points, among them the lowest and highest values of each few neighbors."""
    if len(x) <= _MOST_DRAWN:
        return x, y, raw
    size = -(-2 * len(x) // _MOST_DRAWN)
    parts = [np.arange(start, min(start + size, len(x))) for start in range(0, len(x), size)]
    kept = []
    for part in parts:
        values = raw[part]
        ends = part[[0, -1]] if np.isnan(values).all() else part[[np.nanargmin(values), np.nanargmax(values)]]
        kept += sorted({*ends.tolist(), *part[np.isnan(values)][:1].tolist()})
    return x[kept], y[kept], raw[kept]


def usual_range(curves: Sequence[Curve]) -> tuple[float, float, str] | None:
    """Return the range of the values that are not outliers, and a note on the number of the others; None without any.

    Outliers are farther than three interquartile ranges from the quartiles. A curve whose median is one is not hidden:
    the range contains all its values but its own outliers.
    """
    each = [curve.y if curve.raw is None else curve.raw for curve in curves]
    each = [values[np.isfinite(values)] for values in each]
    values = np.concatenate([np.zeros(0), *each])
    if not len(values):
        return None
    low, high = _fences(values)
    if low == high:
        return None
    shown = [values[(values >= low) & (values <= high)]]
    for own in each:
        if len(own) and not low <= np.median(own) <= high:
            first, last = _fences(own)
            shown.append(own[(own >= first) & (own <= last)])
    inside = np.concatenate(shown)
    low, high = inside.min(), inside.max()
    nb = int(((values < low) | (values > high)).sum())
    if not nb:
        return None
    return float(low), float(high), f"{grouped(nb)} {'value' if nb == 1 else 'values'} outside"


def _fences(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.25, 0.75])
    spread = _FAR_OUT * (high - low)
    return float(low - spread), float(high + spread)
