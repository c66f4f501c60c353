"""Draw the panels of one or more logs on a matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, MaxNLocator

from dwiml.training.reporting.metrics import LOSS, LOSSES, VALID_LOSS, name_of
from dwiml.viz.figure_file import shorten
from dwiml.viz.panels import Line, Log, Panel, Style, falls_steeply

_Color = tuple[float, float, float, float]

_WIDTH_IN = 10.5
_ROW_IN = 2.9
_LEGEND_ROW_IN = 0.24
_LEGEND_CHARACTERS = 150
_MAX_NAME_LENGTH = 60
# The title contains the names of the experiments up to these limits.
_MAX_TITLE_LENGTH = 80
_MAX_NAMES_IN_TITLE = 4
# Up to this number of epochs, each one has a marker.
_FEW_EPOCHS = 30
_MARKERS = "osD^vPX<>h"
_GRAY = (0.3, 0.3, 0.3, 1.0)


class _PlainLogFormatter(LogFormatter):
    """Label the same ticks as matplotlib, but with 0.06 rather than 6 x 10^-2."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def draw_curves(
    figure: Figure,
    logs: Sequence[Log],
    panels: Sequence[Panel],
    *,
    log_scale: Sequence[str] = (),
    linear_scale: Sequence[str] = (),
) -> None:
    """Draw the panels in two columns, with the loss over both; each experiment has the same color in all panels.

    Parameters
    ----------
    figure
        An empty figure. Its size is changed.
    logs
        The experiments. Above ten, colors are reused with another marker.
    panels
        The panels to draw.
    log_scale
        Keys of the panels with a logarithmic y axis.
    linear_scale
        Keys of the panels that always have a linear one. Otherwise, the axis of a loss that decreases steeply is
        logarithmic (see :func:`falls_steeply`).
    """
    rows = _arrange(panels)
    nb_legend_rows, columns = _legend_shape(logs)
    figure.set_size_inches(_WIDTH_IN, _ROW_IN * max(len(rows), 1.4) + 0.4 + _LEGEND_ROW_IN * nb_legend_rows)
    figure.set_layout_engine("constrained")
    grid = GridSpec(len(rows), 2, figure=figure)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            axes = figure.add_subplot(grid[i, :] if len(row) == 1 else grid[i, j])
            steep = panel.key == LOSS and panel.key not in linear_scale and falls_steeply(panel, logs)
            _draw_panel(axes, logs, panel, in_log_scale=panel.key in log_scale or steep)
    # A `$` in a name does not start a formula.
    figure.suptitle(_title(logs), parse_math=False)
    if len(logs) > 1:
        handles = [_handle(_color(i), _legend_label(log), marker=_marker(i)) for i, log in enumerate(logs)]
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
        _disable_math(legend)


def _title(logs: Sequence[Log]) -> str:
    names = ", ".join(log.label for log in logs)
    if len(logs) == 1:
        return shorten(names, _MAX_NAME_LENGTH)
    fits = len(logs) <= _MAX_NAMES_IN_TITLE and len(names) <= _MAX_TITLE_LENGTH
    return names if fits else f"{len(logs)} experiments"


def _disable_math(legend: Legend) -> None:
    for text in legend.get_texts():
        text.set_parse_math(False)


def _arrange(panels: Sequence[Panel]) -> list[list[Panel]]:
    wide = [[panel] for panel in panels if panel.key == LOSS]
    others = [panel for panel in panels if panel.key != LOSS]
    return wide + [others[i : i + 2] for i in range(0, len(others), 2)]


def _draw_panel(axes: Axes, logs: Sequence[Log], panel: Panel, *, in_log_scale: bool) -> None:
    for i, log in enumerate(logs):
        for line in panel.lines:
            _draw_line(axes, log, line, i, nb_logs=len(logs))
        if _shows_selection(panel, log) and (best := log.best()) is not None:
            axes.plot(*best, marker="*", markersize=12, color=_color(i), markeredgecolor="black", zorder=5)
    _set_epochs(axes, logs)
    axes.set_ylabel(panel.axis + (" (log scale)" if in_log_scale else ""), parse_math=False)
    if in_log_scale:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_PlainLogFormatter())
        axes.yaxis.set_minor_formatter(_PlainLogFormatter(minor_thresholds=(2.0, 0.5)))
    else:
        # No offset: "1e-5 + 0.0312" above an axis is easily overlooked.
        axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-3, 5), useMathText=True)
        _widen_if_constant(
            axes, [value for line in panel.lines for log in logs for value in log.series(line.metric)[1]]
        )
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    _add_line_legend(axes, logs, panel)


def _shows_selection(panel: Panel, log: Log) -> bool:
    """Return whether the panel shows the model-selection metric of the experiment."""
    return any(line.metric == log.selection_metric for line in panel.lines)


def _widen_if_constant(axes: Axes, values: Sequence[float]) -> None:
    # By default, the limits are a few percent around a constant value, with uninformative ticks.
    low, high = min(values), max(values)
    if low and math.isclose(low, high, rel_tol=1e-6) and math.isfinite(2 * high):
        axes.set_ylim(*sorted((0.0, 2.0 * high)))


def _draw_line(axes: Axes, log: Log, line: Line, i: int, *, nb_logs: int) -> None:
    epochs, values = log.series(line.metric)
    few = len(epochs) <= _FEW_EPOCHS
    # Markers distinguish the experiments whose colors are equal.
    with_markers = few or nb_logs > _nb_colors()
    axes.plot(
        epochs,
        values,
        linestyle=line.style,
        linewidth=1.8 if nb_logs <= 4 else 1.2,
        color=_color(i),
        marker=_marker(i) if with_markers else None,
        markersize=4,
        markerfacecolor=_marker_face(_color(i), line.style),
        markevery=1 if few else max(len(epochs) // 12, 1),
    )


def _set_epochs(axes: Axes, logs: Sequence[Log]) -> None:
    epochs = [record["epoch"] for log in logs for record in log.records]
    first, last = min(epochs), max(epochs)
    margin = max(0.4, 0.02 * (last - first))
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))
    axes.set_xlabel("Epoch (from 0)")


def _add_line_legend(axes: Axes, logs: Sequence[Log], panel: Panel) -> None:
    color = _color(0) if len(logs) == 1 else _GRAY
    handles = []
    if len(panel.lines) > 1 or panel.lines[0].label in ("training", "validation"):
        # Also show the markers: a curve of a single epoch has no visible line.
        marker = "o" if any(len(log.records) <= _FEW_EPOCHS for log in logs) else ""
        handles = [_handle(color, line.label, style=line.style, marker=marker) for line in panel.lines]
    best = [log.best() for log in logs if _shows_selection(panel, log)]
    if any(best):
        by_validation = any(log.selection_metric == VALID_LOSS for log in logs)
        label = ("best validation" if by_validation else "best training") if panel.key == LOSS else "best model"
        if len(logs) == 1 and best[0] is not None:
            label += f": {best[0][1]:.4g} (epoch {best[0][0]})"
        star = {"marker": "*", "markersize": 11, "markeredgecolor": "black", "linestyle": ""}
        handles.append(Line2D([], [], color=color, label=label, **star))  # type: ignore[arg-type]
    if handles:
        # Above the panel, where it hides no curve, and at the right: the power of ten of the axis may be at the left.
        legend = axes.legend(
            handles=handles,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            borderaxespad=0.2,
            ncols=len(handles),
            columnspacing=1.2,
            fontsize=9,
            frameon=False,
        )
        _disable_math(legend)


def _legend_shape(logs: Sequence[Log]) -> tuple[int, int]:
    """Return the rows and columns of the legend of the experiments."""
    if len(logs) == 1:
        return 0, 1
    longest = max(len(_legend_label(log)) for log in logs)
    columns = max(1, min(len(logs), _LEGEND_CHARACTERS // (longest + 8)))
    return math.ceil(len(logs) / columns), columns


def _legend_label(log: Log) -> str:
    best = log.best()
    name = shorten(log.label, _MAX_NAME_LENGTH)
    if best is None:
        return name
    description = "best" if log.selection_metric in LOSSES else f"best {name_of(log.selection_metric)}"
    return f"{name} ({description} {best[1]:.4g}, epoch {best[0]})"


def _handle(color: _Color, label: str, *, marker: str, style: Style = "-") -> Line2D:
    face = _marker_face(color, style)
    return Line2D([], [], color=color, linestyle=style, marker=marker, markersize=4, markerfacecolor=face, label=label)


def _marker_face(color: _Color, style: Style) -> _Color | str:
    # Filled or hollow, to distinguish points without a line too.
    return color if style == "-" else "white"


def _nb_colors() -> int:
    return mpl.colormaps["tab10"].N


def _color(i: int) -> _Color:
    red, green, blue, alpha = mpl.colormaps["tab10"](i % _nb_colors())
    return red, green, blue, alpha


def _marker(i: int) -> str:
    return _MARKERS[i // _nb_colors() % len(_MARKERS)]
