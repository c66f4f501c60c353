"""Draw histograms of the loss of a model at points and over streamlines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


def plot_loss_histograms(
    loss: Values, streamline_means: Values, *, title: str, eos: tuple[Values, Values] | None = None
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

    Returns
    -------
    Figure
        The axis of very uneven counts is logarithmic, as stated in its label.
    """
    figure = Figure(figsize=(5.2 * (2 if eos is None else 3), 4.0), layout="constrained")
    panels = list(figure.subplots(1, 2 if eos is None else 3))
    _draw_losses(panels[0], loss, "Loss at a point", "points")
    _draw_losses(panels[1], streamline_means, "Mean loss of a streamline", "streamlines")
    if eos is not None:
        _draw_ends(panels[2], *eos)
    # A `$` in a name does not start a formula.
    figure.suptitle(title, parse_math=False)
    return figure


def _draw_losses(ax: Axes, values: Values, axis: str, counted: str) -> None:
    values = values[~np.isnan(values)]
    low, high = float(values.min()), float(values.max())
    if 0 <= low <= _NEAR_ZERO * high:
        low = 0.0
    highest, shown = high, float(np.quantile(values, _SHOWN_QUANTILE))
    if low < shown < low + _MAX_FRACTION_OF_AXIS * (high - low):
        high = shown
    counts, edges = np.histogram(values, np.linspace(low, high if high > low else low + 1.0, _NB_BINS + 1))
    ax.stairs(counts, edges, fill=True, alpha=0.65, color="C0")
    scale = _choose_scale(ax, counts)
    ax.axvline(float(values.mean()), color="black", label=f"mean {values.mean():.3g}")
    for share, style in ((0.5, "--"), (0.95, ":")):
        value = float(np.quantile(values, share))
        name = "median" if share == 0.5 else f"{share:.0%} below"
        ax.axvline(value, color="black", linestyle=style, label=f"{name} {value:.3g}")
    if high < highest:
        ax.plot([], [], " ", label=f"not shown: 1%, up to {highest:.3g}")
    _add_legend(ax)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xlabel(axis)
    ax.set_ylabel(f"Number of {counted}{scale}")


def _draw_ends(ax: Axes, last: Values, others: Values) -> None:
    """Draw percentages of each kind of points, since there are few last points."""
    edges = np.linspace(0, 1, _NB_BINS // 2 + 1)
    shares = []
    for number, (name, values) in enumerate({"last points": last, "other points": others}.items()):
        values = values[~np.isnan(values)]
        shares.append(100 * np.histogram(values, edges)[0] / max(len(values), 1))
        label = f"{name}, mean {values.mean():.3g}" if len(values) else name
        ax.stairs(shares[-1], edges, fill=True, alpha=0.5, color=f"C{number}")
        ax.stairs(shares[-1], edges, color=f"C{number}", linewidth=1.5, label=label)
    scale = _choose_scale(ax, np.concatenate(shares))
    _add_legend(ax)
    ax.set_xlim(0, 1)
    ax.set_xlabel("Probability that the streamline ends")
    ax.set_ylabel(f"Percentage of these points{scale}")


def _choose_scale(ax: Axes, heights: npt.NDArray[Any]) -> str:
    """Make the axis logarithmic if the bars are very uneven, and return the end of its label."""
    found = heights[heights > 0]
    if not len(found) or found.max() <= _UNEVEN * np.median(found):
        return ""
    ax.set_yscale("log")
    # The lowest bar must be visible too.
    ax.set_ylim(bottom=0.7 * found.min())
    return " (log scale)"


def _add_legend(ax: Axes) -> None:
    # Above the panel, where it hides no bar.
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=2, fontsize=9, frameon=False)
