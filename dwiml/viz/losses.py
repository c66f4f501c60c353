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
    _draw(panels[0], {"": loss}, "Loss at a point", "points")
    _draw(panels[1], {"": streamline_means}, "Mean loss of a streamline", "streamlines")
    if eos is not None:
        last, others = eos
        shares = {"last points": last, "other points": others}
        _draw(panels[2], shares, "Probability that the streamline ends", "points", between=(0.0, 1.0))
    figure.suptitle(title)
    return figure


def _draw(
    ax: Axes, groups: dict[str, Values], axis: str, what: str, between: tuple[float, float] | None = None
) -> None:
    groups = {name: values[~np.isnan(values)] for name, values in groups.items()}
    every = np.concatenate(list(groups.values()))
    low, high = between or (min(0.0, float(every.min())), float(every.max()))
    edges = np.linspace(low, high if high > low else low + 1.0, _NB_BINS + 1)
    counts = []
    for number, (name, values) in enumerate(groups.items()):
        counts.append(np.histogram(values, edges)[0])
        ax.stairs(counts[-1], edges, fill=True, alpha=0.65, color=f"C{number}", label=name or None)
    found = np.concatenate(counts)
    found = found[found > 0]
    is_log = len(found) > 0 and found.max() > _UNEVEN * np.median(found)
    if is_log:
        ax.set_yscale("log")
        # A bin of a single one has a height too.
        ax.set_ylim(bottom=0.7)
    if between is None:
        ax.axvline(float(every.mean()), color="black", label=f"mean {every.mean():.3g}")
        for share, style in ((0.5, "--"), (0.95, ":")):
            value = float(np.quantile(every, share))
            name = "median" if share == 0.5 else f"{share:.0%} are below"
            ax.axvline(value, color="black", linestyle=style, label=f"{name} {value:.3g}")
    ax.legend()
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xlabel(axis)
    ax.set_ylabel(f"Number of {what}{' (log scale)' if is_log else ''}")
