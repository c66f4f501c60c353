"""Draw the scores of one or more tractograms as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dwiml.arguments import grouped
from dwiml.viz.figure_file import shorten

if TYPE_CHECKING:
    from dwiml.scoring.scores import BundleScore, Scores

DPI = 120
_WIDTH_IN = 12.0
_BAR_IN = 0.115
_GAP_IN = 0.1
_TOTAL_ROW_IN = 0.42
_MAX_NAME_LENGTH = 45
# With more tractograms, the bars are too thin for numbers.
_MAX_NUMBERED = 3
# Key of the summary: its name, the color of its bar, and the color of the number on the bar.
_CONNECTIONS = {
    "valid_connections": ("valid", "#2f7d3f", "white"),
    "wrong_path_connections": ("wrong path", "#e3b23c", "black"),
    "invalid_connections": ("invalid", "#b93a2c", "white"),
    "no_connections": ("none", "#c4c4c4", "black"),
}


@dataclass(frozen=True)
class _Panel:
    """A quantity of each bundle.

    Attributes
    ----------
    axis
        Label of the x axis: the quantity and its unit.
    values
        For each tractogram, the mean and then one value per bundle; NaN where it is not available.
    decimals
        Number of decimals of the values.
    reaches_100
        Whether the axis goes at least to 100.
    """

    axis: str
    values: list[list[float]]
    decimals: int = 0
    reaches_100: bool = False


def plot_scores(scores: Mapping[str, Scores], *, title: str) -> Figure:
    """Draw the total connections and, for each bundle, overlap, overreach, F1, adjacency and number of streamlines.

    Parameters
    ----------
    scores
        {name of the tractogram: its scores}, all for the same ground truth. Each tractogram has the same color in all
        panels of the bundles.
    title
        Title of the figure.

    Returns
    -------
    Figure
        Its height depends on the number of bundles and tractograms. Quantities that are not available for any bundle
        are omitted: without end regions, only the overlap and the streamlines in the masks are shown.
    """
    all_scores = list(scores.values())
    panels = _choose_panels(all_scores)
    nb_rows = 1 + len(all_scores[0].bundles)
    bundles_in = nb_rows * _row_in(len(all_scores)) + 0.9
    totals_in = len(all_scores) * _TOTAL_ROW_IN + (0.9 if any(scored.has_ends for scored in all_scores) else 0.2)
    figure = Figure(figsize=(_WIDTH_IN, bundles_in + totals_in + 0.5), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[totals_in, bundles_in])
    upper, lower = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    if any(scored.has_ends for scored in all_scores):
        _draw_totals(upper.subplots(), scores)
    else:
        _write_totals(upper.subplots(), scores)
    axes = np.atleast_1d(lower.subplots(1, len(panels), sharey=True))
    for ax, panel in zip(axes, panels, strict=True):
        _draw_panel(ax, panel, nb_rows)
    if not _name_rows(axes[0], all_scores):
        where = " in any tractogram" if len(all_scores) > 1 else ""
        lower.supxlabel(f"Bundles in gray italics are not valid{where}.", fontsize=8)
    if len(all_scores) > 1:
        handles = [Patch(color=_color(i), label=shorten(name, _MAX_NAME_LENGTH)) for i, name in enumerate(scores)]
        legend = lower.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4), frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    # A `$` in a name does not start a formula.
    figure.suptitle(title, parse_math=False)
    return figure


def _choose_panels(all_scores: Sequence[Scores]) -> list[_Panel]:
    panels = []
    for measure, name in (("overlap", "Overlap"), ("overreach", "Overreach"), ("f1", "F1 = Dice")):
        values = [[_number(getattr(bundle, measure), 100) for bundle in scored.bundles] for scored in all_scores]
        means = [_number(scored.mean(measure), 100) for scored in all_scores]
        unit = "% of the true volume" if measure != "f1" else "%"
        rows = [[mean, *others] for mean, others in zip(means, values, strict=True)]
        panels.append(_Panel(f"{name} ({unit})", rows, decimals=1, reaches_100=measure != "overreach"))
    distances = [[_number(each.adjacency) for each in scored.bundles] for scored in all_scores]
    means = [_number(scored.mean("adjacency")) for scored in all_scores]
    rows = [[mean, *others] for mean, others in zip(means, distances, strict=True)]
    panels.append(_Panel("Bundle adjacency (mm)", rows, decimals=2))
    counts = [[np.nan, *(_number(_streamlines(bundle)) for bundle in scored.bundles)] for scored in all_scores]
    nb_with_ends = sum(bundle.has_ends for bundle in all_scores[0].bundles)
    kind = "valid, or in the mask" if 0 < nb_with_ends < len(all_scores[0].bundles) else "valid"
    panels.append(_Panel(f"Streamlines ({kind if nb_with_ends else 'in the mask'})", counts))
    return [panel for panel in panels if not np.isnan(panel.values).all()]


def _row_in(nb_bars: int) -> float:
    """Return the height of the row of a bundle, in inches."""
    return nb_bars * (_BAR_IN if nb_bars <= _MAX_NUMBERED else _BAR_IN / 2) + _GAP_IN


def _streamlines(bundle: BundleScore) -> int | None:
    return bundle.nb_valid if bundle.has_ends else bundle.nb_in_mask


def _draw_totals(ax: Axes, scores: Mapping[str, Scores]) -> None:
    """Draw a bar with the connections of each tractogram, and write the number of bundles at its right."""
    for row, scored in enumerate(scores.values()):
        summary, left = scored.summary(), 0.0
        for key, (_, color, text_color) in _CONNECTIONS.items():
            width = 100 * summary.get(key, 0.0)
            ax.barh(row, width, left=left, color=color, height=0.7)
            if width >= 4:
                ax.text(left + width / 2, row, f"{width:.1f}", ha="center", va="center", fontsize=9, color=text_color)
            left += width
        ax.text(101, row, _describe_bundles(scored), va="center", fontsize=9)
    names = [
        f"{shorten(name, _MAX_NAME_LENGTH)}\n{grouped(scored.nb_streamlines)} streamlines"
        for name, scored in scores.items()
    ]
    ax.set_yticks(range(len(names)), names, fontsize=9, parse_math=False)
    ax.invert_yaxis()
    ax.set_xlim(0, 100)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("Connections (% of all streamlines)")
    handles = [Patch(color=color, label=name) for name, color, _ in _CONNECTIONS.values()]
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, fontsize=9)


def _write_totals(ax: Axes, scores: Mapping[str, Scores]) -> None:
    """Write a line about each tractogram: without end regions, there are no connections to draw."""
    lines = [
        f"{shorten(name, _MAX_NAME_LENGTH)}: {grouped(scored.nb_streamlines)} streamlines; {_describe_bundles(scored)}"
        for name, scored in scores.items()
    ]
    lines.append("(no bundle has end regions: connections not available)")
    ax.text(0.5, 0.5, "\n".join(lines), ha="center", va="center", fontsize=9, parse_math=False)
    ax.set_axis_off()


def _describe_bundles(scores: Scores) -> str:
    description = f"{scores.nb_found} of {len(scores.bundles)} bundles valid"
    return description + (f", {grouped(len(scores.invalid_bundles))} invalid" if scores.has_ends else "")


def _draw_panel(ax: Axes, panel: _Panel, nb_rows: int) -> None:
    nb = len(panel.values)
    height = (1 - _GAP_IN / _row_in(nb)) / nb
    largest = np.nanmax(panel.values)
    for i, values in enumerate(panel.values):
        positions = np.arange(nb_rows) + (i - (nb - 1) / 2) * height
        ax.barh(positions, np.nan_to_num(values), height=0.9 * height, color=_color(i))
        if nb <= _MAX_NUMBERED:
            for position, value in zip(positions, values, strict=True):
                if not np.isnan(value):
                    text = grouped(value, panel.decimals)
                    ax.annotate(text, (value, position), (2, 0), textcoords="offset points", va="center", fontsize=6.5)
    # Leave space for the numbers at the end of the bars.
    ax.set_xlim(0, 1.16 * max(100.0 if panel.reaches_100 else 0.0, largest) or 1.0)
    if panel.reaches_100:
        ax.set_xticks([0, 25, 50, 75, 100])
    ax.set_xlabel(panel.axis, fontsize=9)
    ax.axhline(0.5, color="black", linewidth=0.8)
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(axis="y", length=0)


def _name_rows(ax: Axes, all_scores: Sequence[Scores]) -> bool:
    """Label the rows with the mean and the bundles; return whether every bundle is valid in some tractogram.

    The names of the other bundles are in gray italics.
    """
    bundles = [bundle.name for bundle in all_scores[0].bundles]
    ax.set_yticks(
        range(1 + len(bundles)),
        ["mean", *(shorten(name, _MAX_NAME_LENGTH) for name in bundles)],
        fontsize=8,
        parse_math=False,
    )
    ax.set_ylim(len(bundles) + 0.6, -0.6)
    mean, *labels = ax.get_yticklabels()
    mean.set_fontweight("bold")
    found = [any(scored.bundles[b].found for scored in all_scores) for b in range(len(bundles))]
    for label, is_found in zip(labels, found, strict=True):
        if not is_found:
            label.set(color="0.5", fontstyle="italic")
    return all(found)


def _number(value: float | None, scale: float = 1.0) -> float:
    return np.nan if value is None else scale * value


def _color(i: int) -> tuple[float, float, float, float]:
    red, green, blue, alpha = mpl.colormaps["tab10"](i % 10)
    return red, green, blue, alpha
