"""Draw one metric over another: whether they change together, within an experiment and between experiments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from dwiml.viz.curves.drawing import color_of, disable_math, legend_shape, marker_of
from dwiml.viz.curves.log import Floats, Log, check_names, in_words
from dwiml.viz.curves.options import CurveOptions
from dwiml.viz.curves.series import points_of
from dwiml.viz.figure_file import shorten

_SIZE_IN = (7.5, 5.0)
_LEGEND_ROW_IN = 0.19
_MAX_NAME_LENGTH = 60
_LEGEND_CHARACTERS = 105
_FEWEST = 3


def draw_correlation(figure: Figure, logs: Sequence[Log], names: Sequence[str], options: CurveOptions) -> None:
    """Draw one metric over another, with a point for each epoch, and a larger one for the last epoch.

    The legend has Spearman's rank correlation of each experiment, which does not depend on the scale of the metrics.

    Parameters
    ----------
    figure
        An empty figure. Its size is changed.
    logs
        The experiments.
    names
        The metrics, or expressions, of the x axis and of the y axis.
    options
        Which epochs to draw.

    Raises
    ------
    ValueError
        If a metric does not exist, or no experiment has both in an epoch.
    """
    check_names(names, logs, "correlation")
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    labels = []
    for i, log in enumerate(logs):
        x, y = _in_common(log, names, options)
        if not len(x):
            continue
        rank = _rank_correlation(x, y)
        label = shorten(log.label, _MAX_NAME_LENGTH) + ("" if rank is None else f" (rank correlation {rank:.2f})")
        labels.append(label)
        axes.plot(x, y, "-", color=color_of(i), linewidth=0.7, alpha=0.5)
        axes.plot(x, y, marker_of(i), color=color_of(i), markersize=4, linestyle="", label=label)
        axes.plot(x[-1:], y[-1:], marker_of(i), color=color_of(i), markersize=9, markeredgecolor="black")
    if not labels:
        raise ValueError(f"No experiment has both '{names[0]}' and '{names[1]}' in one epoch.")
    for set_label, name in ((axes.set_xlabel, names[0]), (axes.set_ylabel, names[1])):
        words = in_words(name)
        set_label(words[:1].upper() + words[1:], parse_math=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("One point per epoch; the largest one is the last epoch")
    nb_rows, columns = legend_shape(labels, _LEGEND_CHARACTERS)
    figure.set_size_inches(*(options.figsize or (_SIZE_IN[0], _SIZE_IN[1] + _LEGEND_ROW_IN * nb_rows)))
    disable_math(figure.legend(loc="outside lower center", fontsize=9, frameon=False, ncols=columns))


def _in_common(log: Log, names: Sequence[str], options: CurveOptions) -> tuple[Floats, Floats]:
    """Return the values of two metrics in the epochs that have both."""
    by_epoch = CurveOptions(epochs=options.epochs)
    (_, a, places), (_, b, others) = (points_of(log, name, by_epoch) for name in names)
    _, one, two = np.intersect1d(places, others, return_indices=True)
    return a[one], b[two]


def _rank_correlation(x: Floats, y: Floats) -> float | None:
    """Return Spearman's rank correlation; None for fewer than three values, or if all are equal."""
    if len(x) < _FEWEST:
        return None
    a, b = _ranks(x), _ranks(y)
    if not a.std() or not b.std():
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Floats) -> Floats:
    """Return the rank of each value, the mean rank for equal values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = ((2 * ends - counts + 1) / 2.0)[inverse]
    return ranks
