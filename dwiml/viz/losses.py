"""Draw histograms of the loss of a model at points and over streamlines, and of its displacement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dwiml.viz.curves.drawing import COLORS

if TYPE_CHECKING:
    import numpy.typing as npt

    Values = npt.NDArray[np.floating[Any]]

DPI = 120
_NB_BINS = 80
# Ratio of the largest to the median count of the bins that are not empty, above which the axis is logarithmic: on a
# linear one, most bars would not be visible.
_UNEVEN = 20.0
# The axis of the loss ends at this quantile if the losses above it would take more than this fraction of the axis.
_SHOWN_QUANTILE = 0.99
_MAX_FRACTION_OF_AXIS = 0.5
# An axis starts at 0 if the smallest loss is below this fraction of the largest.
_NEAR_ZERO = 0.3
_MOST_COLUMNS = 3
_MOST_TICKS = 5
# Characters of both columns of a legend that is not wider than its panel.
_LEGEND_CHARACTERS = 55
# Blue, orange and black differ in lightness too.
_THIRDS = {"first third": (COLORS[0], "-"), "middle third": (COLORS[4], "-"), "last third": (COLORS[6], "--")}


def plot_loss_histograms(
    loss: Values,
    streamline_means: Values,
    *,
    title: str,
    eos: tuple[Values, Values] | None = None,
    loss_by_third: Sequence[Values] | None = None,
    displacement_by_third: Sequence[Values] | None = None,
) -> Figure:
    """Draw histograms of a loss at points and of its mean over streamlines.

    Parameters
    ----------
    loss
        Shape (P,), float: loss at each point; NaN where it is not defined.
    streamline_means
        Shape (S,), float: mean loss of each streamline; NaN where it is not defined.
    title
        Title of the figure.
    eos
        Probability that the streamline ends, from 0 to 1: at the last point of each streamline, shape (S,), and at all
        other points, shape (P - S,). None: no panel.
    loss_by_third, displacement_by_third
        Loss, and displacement in mm, at the points of the first, the middle and the last third of each streamline, as
        :meth:`dwiml.evaluation.point_losses.PointLosses.by_third` defines them: three arrays, not all of them empty.
        None: no panel.

    Returns
    -------
    Figure
        The axis of very uneven counts is logarithmic, as stated in its label.
    """
    given = (loss_by_third, displacement_by_third, eos)
    nb = 2 + sum(each is not None for each in given)
    nb_rows = 1 if nb <= _MOST_COLUMNS else 2
    nb_columns = -(-nb // nb_rows)
    # With space for the legend of a panel below another one.
    layout = ConstrainedLayoutEngine(hspace=0.06)
    figure = Figure(figsize=(5.2 * nb_columns, 4.0 * nb_rows), layout=layout)
    panels = [figure.add_subplot(nb_rows, nb_columns, place + 1) for place in range(nb)]
    _draw_losses(panels[0], loss, "Loss at a point", "points")
    _draw_losses(panels[1], streamline_means, "Mean loss of a streamline", "streamlines")
    others = iter(panels[2:])
    if loss_by_third is not None:
        _draw_thirds(next(others), loss_by_third, "Loss at a point")
    if displacement_by_third is not None:
        _draw_thirds(next(others), displacement_by_third, "Distance to the true next point (mm)", unit=" mm")
    if eos is not None:
        _draw_ends(next(others), *eos)
    # A `$` in a name does not start a formula.
    figure.suptitle(title, parse_math=False)
    return figure


def _draw_losses(ax: Axes, values: Values, axis: str, counted: str) -> None:
    values = values[~np.isnan(values)]
    edges, hidden = _edges(values, _NB_BINS)
    counts, _ = np.histogram(values, edges)
    ax.stairs(counts, edges, fill=True, alpha=0.65, color="C0")
    scale = _choose_scale(ax, counts)
    ax.axvline(float(values.mean()), color="black", label=f"mean {values.mean():.3g}")
    for share, style in ((0.5, "--"), (0.95, ":")):
        value = float(np.quantile(values, share))
        name = "median" if share == 0.5 else f"{share:.0%} below"
        ax.axvline(value, color="black", linestyle=style, label=f"{name} {value:.3g}")
    _finish(ax, edges, hidden)
    ax.set_xlabel(axis)
    ax.set_ylabel(f"Number of {counted}{scale}")


def _draw_thirds(ax: Axes, thirds: Sequence[Values], axis: str, *, unit: str = "") -> None:
    """Draw percentages of each third, whose numbers of points may differ."""
    edges, hidden = _edges(np.concatenate(thirds), _NB_BINS // 2)
    shares = []
    for (name, (color, style)), values in zip(_THIRDS.items(), thirds, strict=True):
        shares.append(100 * np.histogram(values, edges)[0] / max(len(values), 1))
        label = f"{name}, mean {values.mean():.3g}{unit}" if len(values) else f"{name}, no points"
        # Without a line from the first and last bin to 0, which would look like a value.
        ax.stairs(shares[-1], edges, baseline=None, color=color, linestyle=style, linewidth=1.8, label=label)
    scale = _choose_scale(ax, np.concatenate(shares))
    _finish(ax, edges, hidden)
    ax.set_xlabel(f"{axis}, by third of streamline")
    ax.set_ylabel(f"Percentage of these points{scale}")


def _edges(values: Values, nb_bins: int) -> tuple[npt.NDArray[np.float64], float | None]:
    """Return the edges of the bins, and the largest value if the last percent is not shown, otherwise None."""
    low, high = float(values.min()), float(values.max())
    if 0 <= low <= _NEAR_ZERO * high:
        low = 0.0
    highest, shown = high, float(np.quantile(values, _SHOWN_QUANTILE))
    if low < shown < low + _MAX_FRACTION_OF_AXIS * (high - low):
        high = shown
    edges = np.linspace(low, high if high > low else low + 1.0, nb_bins + 1)
    return edges, highest if high < highest else None


def _finish(ax: Axes, edges: npt.NDArray[np.float64], hidden: float | None) -> None:
    if hidden is not None:
        ax.plot([], [], " ", label=f"not shown: 1%, up to {hidden:.3g}")
    _add_legend(ax)
    ax.set_xlim(edges[0], edges[-1])
    # Neither the labels of a narrow range nor an offset at the end of the axis overlap.
    ax.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS, steps=(1, 2, 2.5, 5, 10)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.10g}".replace("-", "\N{MINUS SIGN}")))


def _draw_ends(ax: Axes, last: Values, others: Values) -> None:
    """Draw percentages of each kind of points, since there are few last points."""
    edges = np.linspace(0, 1, _NB_BINS // 2 + 1)
    shares = []
    for number, (name, values) in enumerate({"last points": last, "other points": others}.items()):
        values = values[~np.isnan(values)]
        shares.append(100 * np.histogram(values, edges)[0] / max(len(values), 1))
        label = f"{name}, mean {values.mean():.3g}" if len(values) else name
        ax.stairs(shares[-1], edges, fill=True, alpha=0.5, color=f"C{number}")
        ax.stairs(shares[-1], edges, baseline=None, color=f"C{number}", linewidth=1.5, label=label)
    scale = _choose_scale(ax, np.concatenate(shares))
    _add_legend(ax)
    ax.set_xlim(0, 1)
    ax.set_xlabel("Probability that the streamline ends")
    ax.set_ylabel(f"Percentage of these points{scale}")


def _choose_scale(ax: Axes, heights: npt.NDArray[Any]) -> str:
    """Make the axis logarithmic if the bars are very uneven, and return the end of its label."""
    found = heights[heights > 0]
    if not len(found) or found.max() <= _UNEVEN * np.median(found):
        ax.set_ylim(bottom=0)
        return ""
    ax.set_yscale("log")
    # The lowest bar must be visible too.
    ax.set_ylim(bottom=0.7 * found.min())
    return " (log scale)"


def _add_legend(ax: Axes) -> None:
    lengths = [len(label) for label in ax.get_legend_handles_labels()[1]]
    half = -(-len(lengths) // 2)
    fits = max(lengths[:half]) + max(lengths[half:], default=0) <= _LEGEND_CHARACTERS
    # Above the panel, where it hides no bar.
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        ncols=2 if fits else 1,
        columnspacing=1.0,
        handlelength=1.8,
        fontsize=8,
        frameon=False,
    )
