"""Figure of a connectivity matrix: the number of streamlines that connect each pair of regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

if TYPE_CHECKING:
    import numpy.typing as npt

DPI = 150
# With more cells, the few that are not 0 in a sparse matrix would be too small to be visible.
_MAX_CELLS = 200
_MAX_NAMES = 40
# Above this value, only the powers of ten are labeled on the color bar.
_LARGE = 10_000
# Without the lightest yellow of the color map, which is too similar to the white of 0.
_COLORS = ListedColormap(colormaps["viridis_r"](np.linspace(0.12, 1, 256)))


def plot_connectivity(
    pairs: npt.NDArray[np.int64],
    values: npt.NDArray[Any],
    nb_regions: int,
    *,
    axis: str,
    title: str,
    names: Sequence[str] | None = None,
) -> Figure:
    """Draw the symmetric matrix of the numbers of streamlines with a logarithmic color scale; 0 is white.

    The full matrix is never created. With more than 200 regions, neighboring regions share a cell, which has the color
    of the largest number among its pairs.

    Parameters
    ----------
    pairs
        Shape (K, 2), int64: rows of the connected regions, each pair once.
    values
        Shape (K,): number of streamlines of each pair, at least 1.
    nb_regions
        Number of rows.
    axis
        Label of both axes: what a row is.
    title
        Title of the figure.
    names
        Names of the rows, shown instead of their indices. Above 40 rows, only some are shown, at equal distances.

    Returns
    -------
    Figure
    """
    cells = max_by_cell(pairs, values, nb_regions)
    figure = Figure(figsize=(7.6, 6.6), layout="constrained")
    ax = figure.subplots()
    largest = float(values.max()) if len(values) else 1.0
    image = ax.imshow(
        np.ma.masked_equal(cells, 0),
        # The limits of the scale must differ, even if all numbers are 1.
        norm=LogNorm(1, max(largest, 2.0)),
        cmap=_COLORS,
        extent=(-0.5, nb_regions - 0.5, nb_regions - 0.5, -0.5),
        interpolation="nearest",
    )
    side = f"{nb_regions / len(cells):.3g}"
    quantity = "Number of streamlines" if side == "1" else f"Largest number of streamlines in {side} x {side} pairs"
    bar = figure.colorbar(
        image,
        ax=ax,
        label=f"{quantity} (log scale)",
        shrink=0.9,
        ticks=LogLocator(subs=(1, 2, 5) if largest < _LARGE else (1,)),
        format=StrMethodFormatter("{x:.0f}"),
    )
    bar.ax.yaxis.set_minor_locator(NullLocator())
    if names is not None:
        _name_rows(ax, names)
    ax.set_xlabel(axis)
    ax.set_ylabel(axis)
    ax.set_title(title)
    if not len(values):
        ax.text(0.5, 0.5, "no streamline connects two regions", transform=ax.transAxes, ha="center", va="center")
    return figure


def max_by_cell(
    pairs: npt.NDArray[np.int64], values: npt.NDArray[Any], nb_regions: int, max_cells: int = _MAX_CELLS
) -> npt.NDArray[np.float64]:
    """Return the symmetric matrix at a lower resolution, with the largest value in each cell.

    Parameters
    ----------
    pairs, values, nb_regions
        As in :func:`plot_connectivity`.
    max_cells
        Maximal number of cells along each axis.

    Returns
    -------
    array
        Shape (C, C), float64, with ``C = min(nb_regions, max_cells)``.
    """
    nb_cells = min(nb_regions, max_cells)
    cells = np.zeros((nb_cells, nb_cells))
    first, last = (pairs * nb_cells // max(nb_regions, 1)).T
    np.maximum.at(cells, (first, last), values)
    return np.maximum(cells, cells.T)


def _name_rows(ax: Axes, names: Sequence[str]) -> None:
    step = -(-len(names) // _MAX_NAMES)
    rows = range(0, len(names), step)
    shown = [names[row] for row in rows]
    if step == 1:
        edges = np.arange(len(names) - 1) + 0.5
        ax.set_xticks(edges, minor=True)
        ax.set_yticks(edges, minor=True)
        ax.grid(which="minor", color="0.88", linewidth=0.6)
        ax.tick_params(which="minor", length=0)
        ax.set_axisbelow(True)
    size = 10 if len(shown) <= 20 else 7
    vertical = len(shown) > 10 or max(map(len, shown), default=0) > 4
    ax.set_xticks(rows, shown, rotation=90 if vertical else 0, fontsize=size)
    ax.set_yticks(rows, shown, fontsize=size)
