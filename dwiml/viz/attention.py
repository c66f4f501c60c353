"""Draw the attention of a model within streamlines: as matrices, and as colors along the streamlines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from dwiml.ops.ragged import first_rows
from dwiml.viz.pieces import DrawnTractogram
from dwiml.viz.slices import VIEWS
from dwiml.viz.tractograms import plot_tractograms

if TYPE_CHECKING:
    import numpy.typing as npt

    Matrices = Mapping[str, Mapping[str, npt.NDArray[Any]]]

DPI = 130
_LARGEST_IN, _SMALLEST_IN, _WIDTH_IN = 3.2, 1.5, 14.0
# Weights below this fraction of the largest one have the same color.
_LOWEST = 1e-4
# Largest number of panels in a row, and in the only row.
_MOST_COLUMNS, _MOST_IN_ONE_ROW = 8, 4
# A label beyond this fraction of the width is right-aligned.
_AT_THE_EDGE = 0.75
_NB_TICKS, _FEW_TICKS, _ROOM_FOR_TICKS_IN = 4, 2, 2.2


def plot_attention(matrices: Matrices, mm: npt.NDArray[np.float64], *, title: str) -> Figure:
    """Draw the attention within one streamline: one matrix per panel, all with the same logarithmic color scale.

    A row is a point that attends, a column a point that it attends to. The cells of later points, to which no point can
    attend, are white.

    Parameters
    ----------
    matrices
        {name of the row of panels: {name of the panel: matrix}}, each of shape (L, L): row i has the weights that point
        i gives to the points 0 to i.
    mm
        Shape (L,): distance of each point from the first one along the streamline, in mm.
    title
        Title of the figure.

    Returns
    -------
    Figure
    """
    rows = _wrapped(matrices)
    nb_columns = max(map(len, rows))
    size = float(np.clip(_WIDTH_IN / nb_columns, _SMALLEST_IN, _LARGEST_IN))
    # Wide and high enough for the labels.
    figure = Figure(figsize=(max(size * nb_columns + 1.8, 6.5), max(size * len(rows) + 1.5, 5.0)), layout="constrained")
    panels = figure.subplots(len(rows), nb_columns, squeeze=False, sharex=True, sharey=True)
    low, high = _range_of(matrices)
    image = None
    for axes, row in zip(panels, rows, strict=True):
        for ax in axes[len(row) :]:
            ax.set_visible(False)
        for ax, (name, matrix) in zip(axes, row.items(), strict=False):
            hidden = np.triu(np.ones(matrix.shape, dtype=bool), k=1)
            image = ax.imshow(
                np.ma.masked_array(np.clip(matrix, low, None), hidden),
                norm=LogNorm(low, high),
                cmap=colormaps["viridis"],
                interpolation="nearest",
            )
            ax.set_title(name, fontsize="small", parse_math=False)
            ax.spines[["top", "right"]].set_visible(False)
    _label_points(panels, mm, _NB_TICKS if size >= _ROOM_FOR_TICKS_IN else _FEW_TICKS)
    figure.supxlabel("Point that is attended to: index and distance from the start", fontsize="medium")
    figure.supylabel("Point that attends: index and distance from the start", fontsize="medium")
    assert image is not None
    bar = figure.colorbar(
        image,
        ax=panels.ravel().tolist(),
        label="Weight of attention (log scale; white: later points)",
        extend="min" if _is_cut(matrices, low) else "neither",
        ticks=LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)),
        format=StrMethodFormatter("{x:g}"),
        aspect=30,
    )
    bar.ax.yaxis.set_minor_locator(NullLocator())
    # A `$` in a name does not start a formula.
    figure.suptitle(title, fontsize="medium", parse_math=False)
    return figure


def plot_attended_streamlines(drawn: DrawnTractogram, *, color: str, title: str) -> Figure:
    """Draw streamlines colored by attention, with a white dot at the first point of each.

    Parameters
    ----------
    drawn
        The streamlines, in rasmm, with a value at each point; NaN is gray.
    color
        What the values are.
    title
        Title of the figure.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there are no streamlines.
    """
    figure = plot_tractograms([drawn], color=color, title=f"{title}\nwhite dot: first point")
    starts = drawn.points[first_rows(drawn.lengths)]
    for ax, view in zip(figure.axes, VIEWS.values(), strict=False):
        first, second = view.axes
        ax.scatter(
            starts[:, first], starts[:, second], s=14, color="white", edgecolors="black", linewidths=0.5, zorder=4
        )
    return figure


def _wrapped(matrices: Matrices) -> list[dict[str, npt.NDArray[Any]]]:
    """Return the rows of panels, by their titles; rows that are too long are continued in the next one."""
    most = _MOST_IN_ONE_ROW if len(matrices) == 1 else _MOST_COLUMNS
    rows = []
    for name, of_row in matrices.items():
        titled = [(f"{name}, {panel}", matrix) for panel, matrix in of_row.items()]
        rows += [dict(titled[start : start + most]) for start in range(0, len(titled), most)]
    return rows


def _range_of(matrices: Matrices) -> tuple[float, float]:
    """Return the weights at the ends of the color scale."""
    highest = max(float(matrix.max()) for row in matrices.values() for matrix in row.values())
    lowest = min(_smallest(matrix) for row in matrices.values() for matrix in row.values())
    low = max(lowest, _LOWEST * highest)
    # The ends must differ, even if all weights are equal.
    return (low, highest) if low < highest else (0.5 * highest, highest)


def _smallest(matrix: npt.NDArray[Any]) -> float:
    return float(matrix[np.tril_indices(len(matrix))].min())


def _is_cut(matrices: Matrices, low: float) -> bool:
    return any(_smallest(matrix) < low for row in matrices.values() for matrix in row.values())


def _label_points(panels: npt.NDArray[Any], mm: npt.NDArray[np.float64], nb_ticks: int) -> None:
    """Label the points with their index and distance; all panels share the axes."""
    nb = len(mm)
    ticks = [int(tick) for tick in MaxNLocator(nb_ticks, integer=True).tick_values(0, nb - 1) if 0 <= tick < nb]
    ticks = [ticks[0], ticks[-1]] if nb_ticks == _FEW_TICKS and len(ticks) > _FEW_TICKS else ticks
    panels[-1][0].set_xticks(ticks, [f"{tick}\n{mm[tick]:.0f} mm" for tick in ticks])
    panels[-1][0].set_yticks(ticks, [f"{tick} ({mm[tick]:.0f} mm)" for tick in ticks])
    for column in panels.T:
        shown = [ax for ax in column if ax.get_visible()]
        for ax in shown:
            # The axes are shared, and the last panel of a column may be above the last row.
            ax.tick_params(labelsize="small", labelbottom=ax is shown[-1])
            # Labels at the edges must not touch those of the next panel.
            labels = [tick.label1 for tick in ax.xaxis.get_major_ticks(len(ticks))]
            labels[0].set_horizontalalignment("left")
            if len(ticks) > 1 and ticks[-1] > _AT_THE_EDGE * nb:
                labels[-1].set_horizontalalignment("right")
