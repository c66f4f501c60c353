"""Histograms of a model's loss along streamlines."""

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
# Largest to median count of the bins that are not empty: on a linear axis, most bars then have no height.
_UNEVEN = 20.0
# A loss axis ends there, where the rest of the losses would take most of it.
_SHOWN_QUANTILE = 0.99
_MOST_OF_AXIS = 0.5
# An axis begins at 0 where the smallest loss is below this share of the largest.
_NEAR_ZERO = 0.3


def plot_loss_histograms(
    loss: Values, streamline_means: Values, *, title: str, eos: tuple[Values, Values] | None = None
) -> Figure:
    """Draw how a loss is spread over points and over streamlines.

    Parameters
    ----------
    loss
        Shape (P,): at each point; NaN where there is none.
    streamline_means
        Shape (S,): the mean of each streamline; NaN where there is none.
    title
        What the figure is about.
    eos
        The probability of an end at the streamlines' last points, (S,), and at all other points; None to leave it out.

    Returns
    -------
    Figure
        An axis of counts that are very uneven is logarithmic, and says so.
    """
    figure = Figure(figsize=(5.2 * (2 if eos is None else 3), 4.0), layout="constrained")
    panels = list(figure.subplots(1, 2 if eos is None else 3))
    _draw_losses(panels[0], loss, "Loss at a point", "points")
    _draw_losses(panels[1], streamline_means, "Mean loss of a streamline", "streamlines")
    if eos is not None:
        _draw_ends(panels[2], *eos)
    # A `$` in a name is no formula.
    figure.suptitle(title, parse_math=False)
    return figure


def _draw_losses(ax: Axes, values: Values, axis: str, what: str) -> None:
    values = values[~np.isnan(values)]
    low, high = float(values.min()), float(values.max())
    if 0 <= low <= _NEAR_ZERO * high:
        low = 0.0
    highest, shown = high, float(np.quantile(values, _SHOWN_QUANTILE))
    if low < shown < low + _MOST_OF_AXIS * (high - low):
        high = shown
    counts, edges = np.histogram(values, np.linspace(low, high if high > low else low + 1.0, _NB_BINS + 1))
    ax.stairs(counts, edges, fill=True, alpha=0.65, color="C0")
    scale = _choose_scale(ax, counts)
    ax.axvline(float(values.mean()), color="black", label=f"mean {values.mean():.3g}")
    for share, style in ((0.5, "--"), (0.95, ":")):
        value = float(np.quantile(values, share))
        name = "median" if share == 0.5 else f"{share:.0%} are below"
        ax.axvline(value, color="black", linestyle=style, label=f"{name} {value:.3g}")
    if high < highest:
        ax.plot([], [], " ", label=f"not shown: 1%, up to {highest:.3g}")
    _add_legend(ax)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xlabel(axis)
    ax.set_ylabel(f"Number of {what}{scale}")


def _draw_ends(ax: Axes, last: Values, others: Values) -> None:
    """Draw shares of each kind of points: of the last ones, there are few."""
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
    ax.set_ylabel(f"Share of these points (%){scale}")


def _choose_scale(ax: Axes, heights: npt.NDArray[Any]) -> str:
    """Make an axis of very uneven bars logarithmic, and return what to say of it."""
    found = heights[heights > 0]
    if not len(found) or found.max() <= _UNEVEN * np.median(found):
        return ""
    ax.set_yscale("log")
    # The lowest bar has a height too.
    ax.set_ylim(bottom=0.7 * found.min())
    return " (log scale)"


def _add_legend(ax: Axes) -> None:
    # Above the panel: inside, it would lie over bars.
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=2, fontsize=9, frameon=False)
