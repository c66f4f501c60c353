"""Draw the panels of one or more logs on a matplotlib figure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import Formatter, MaxNLocator

from dwiml.training.reporting.metrics import LOSS, LOSSES, VALID_LOSS, name_of
from dwiml.viz.curves.log import Log
from dwiml.viz.curves.options import CurveOptions
from dwiml.viz.curves.panels import MEMORY_PANEL, Line, Panel, Style, falls_steeply
from dwiml.viz.curves.series import Curve, curve_of, unit_of, usual_range, x_of
from dwiml.viz.figure_file import shorten

_WIDTH_IN = 10.5
_ROW_IN = 2.9
_LEGEND_ROW_IN = 0.24
_LEGEND_CHARACTERS = 150
_MAX_NAME_LENGTH = 60
# Width of the labels of a vertical axis, and of a character of the label of a horizontal one.
_Y_LABELS_IN, _CHARACTER_IN = 0.9, 0.083
# The title contains the names of the experiments up to these limits.
_MAX_TITLE_LENGTH = 80
_MAX_NAMES_IN_TITLE = 4
# Up to this number of epochs, each one has a marker.
_FEW_EPOCHS = 30
# Distinguishable with any color vision (Wong, 2011, Points of view: Color blindness, doi:10.1038/nmeth.1618), without
# yellow, which is pale on white.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = "osD^vPX<>h"
_GRAY = "#4d4d4d"
# On a logarithmic axis: the largest number of decades shown, and the leading digits of the ticks with a label (empty:
# all).
_LOG_LABELS: tuple[tuple[float, tuple[int, ...]], ...] = ((0.5, ()), (1.4, (1, 2, 3, 4, 6)), (3.2, (1, 2, 5)))


class PlainLogFormatter(Formatter):
    """Label powers of ten, and as many ticks between them as do not overlap: with 0.06, not 6 x 10^-2.

    Parameters
    ----------
    percent
        Label with percentages: 6%.
    """

    def __init__(self, *, percent: bool = False) -> None:
        self._percent = percent

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the label of the value `x`, which may be empty."""
        assert self.axis is not None
        low, high = sorted(self.axis.get_view_interval())
        if x <= 0 or low <= 0:
            return ""
        digit = round(x / 10.0 ** math.floor(math.log10(x) + 1e-9), 6)
        digits = next((digits for most, digits in _LOG_LABELS if math.log10(high / low) <= most), (1,))
        if digits and digit not in digits:
            return ""
        return f"{100 * x:.6g}%" if self._percent else f"{x:g}"


def draw_curves(
    figure: Figure, logs: Sequence[Log], panels: Sequence[Panel], options: CurveOptions | None = None
) -> None:
    """Draw the panels in two columns, with the loss over both; each experiment has the same color in all panels.

    Parameters
    ----------
    figure
        An empty figure. Its size is changed.
    logs
        The experiments. Above seven, colors are reused with another marker.
    panels
        The panels to draw.
    options
        How to draw them. The axis of a loss that decreases steeply is logarithmic (see :func:`falls_steeply`), unless
        the options say otherwise.
    """
    options = options or CurveOptions()
    rows = _arrange(panels)
    nb_legend_rows, columns = _legend_shape(logs, options.figsize[0] if options.figsize else _WIDTH_IN)
    height = _ROW_IN * max(len(rows), 1.4) + 0.4 + _LEGEND_ROW_IN * nb_legend_rows
    figure.set_size_inches(*(options.figsize or (_WIDTH_IN, height)))
    figure.set_layout_engine("constrained")
    grid = GridSpec(len(rows), 2, figure=figure)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            is_wide = panel.key == LOSS or len(panels) == 1
            axes = figure.add_subplot(grid[i, :] if is_wide else grid[i, j])
            _draw_panel(axes, logs, panel, options)
    # A `$` in a name does not start a formula.
    figure.suptitle(_title(logs), parse_math=False)
    if len(logs) > 1:
        handles = [_handle(color_of(i), _legend_label(log), marker=marker_of(i)) for i, log in enumerate(logs)]
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
        disable_math(legend)


def _title(logs: Sequence[Log]) -> str:
    names = ", ".join(log.label for log in logs)
    if len(logs) == 1:
        return shorten(names, _MAX_NAME_LENGTH) + (f" ({logs[0].note})" if logs[0].note else "")
    fits = len(logs) <= _MAX_NAMES_IN_TITLE and len(names) <= _MAX_TITLE_LENGTH
    return names if fits else f"{len(logs)} experiments"


def disable_math(legend: Legend) -> None:
    """Show the names in a legend as they are: a ``$`` does not start a formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def _arrange(panels: Sequence[Panel]) -> list[list[Panel]]:
    wide = [[panel] for panel in panels if panel.key == LOSS]
    others = [panel for panel in panels if panel.key != LOSS]
    return wide + [others[i : i + 2] for i in range(0, len(others), 2)]


def _draw_panel(axes: Axes, logs: Sequence[Log], panel: Panel, options: CurveOptions) -> None:
    curves = {(i, line): curve_of(log, line.metric, options) for i, log in enumerate(logs) for line in panel.lines}
    largest = max((float(np.nanmax(curve.x)) for curve in curves.values() if len(curve.x)), default=0.0)
    divisor, label = unit_of(options.x, largest)
    for (i, line), curve in curves.items():
        _draw_line(axes, curve, line, i, divisor, nb_logs=len(logs))
    for i, log in enumerate(logs):
        if _shows_selection(panel, log):
            _mark_best(axes, log, i, options, divisor)
        if panel.key == LOSS:
            _mark_resumes(axes, log, i, options, divisor)
    _label_x(axes, logs, panel, options, label, [curve.x / divisor for curve in curves.values()])
    _scale_y(axes, panel, options, list(curves.values()))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    _add_line_legend(axes, logs, panel, options)


def _draw_line(axes: Axes, curve: Curve, line: Line, i: int, divisor: float, *, nb_logs: int) -> None:
    few = len(curve.x) <= _FEW_EPOCHS
    # Markers distinguish the experiments whose colors are equal.
    with_markers = few or nb_logs > len(COLORS)
    x = curve.x / divisor if divisor != 1 else curve.x
    if curve.raw is not None:
        axes.plot(x, curve.raw, linestyle="-", linewidth=0.8, color=color_of(i), alpha=0.25, label="_")
    axes.plot(
        x,
        curve.y,
        linestyle=line.style,
        linewidth=1.8 if nb_logs <= 4 else 1.2,
        color=color_of(i),
        marker=marker_of(i) if with_markers else None,
        markersize=4,
        markerfacecolor=_marker_face(color_of(i), line.style),
        markevery=1 if few else max(len(x) // 12, 1),
    )


def _best_shown(log: Log, options: CurveOptions) -> tuple[int, float] | None:
    """Return the best epoch and its value, if it is among the epochs that are drawn."""
    best = log.best()
    first, end = options.epoch_range
    return None if best is None or best[0] < first or (end is not None and best[0] >= end) else best


def _mark_best(axes: Axes, log: Log, i: int, options: CurveOptions, divisor: float) -> None:
    best = _best_shown(log, options)
    if best is None:
        return
    epoch, value = best
    x = float(x_of(log, np.array([epoch + 1.0]), options)[0]) / divisor if options.counts_done else epoch
    axes.plot(x, value, marker="*", markersize=12, color=color_of(i), markeredgecolor="black", zorder=5)


def _resumes(log: Log, options: CurveOptions) -> list[float]:
    first, end = options.epoch_range
    return [place for place in log.resumed if first <= place < (math.inf if end is None else end)]


def _mark_resumes(axes: Axes, log: Log, i: int, options: CurveOptions, divisor: float) -> None:
    places = np.array(_resumes(log, options), dtype=np.float64)
    if len(places):
        # Without parts of epochs, a run that was stopped after an epoch continues between this one and the next.
        x = x_of(log, places, options) / divisor if options.counts_done else places - 0.5
        bottom = axes.get_xaxis_transform()
        axes.plot(x, np.zeros(len(x)), "^", transform=bottom, clip_on=False, color=color_of(i), markersize=6, zorder=6)


def _shows_selection(panel: Panel, log: Log) -> bool:
    """Return whether the panel shows the model-selection metric of the experiment."""
    return any(line.metric == log.selection_metric for line in panel.lines)


def _label_x(
    axes: Axes, logs: Sequence[Log], panel: Panel, options: CurveOptions, label: str, places: Sequence[np.ndarray]
) -> None:
    x = np.concatenate([np.zeros(0), *places])
    x = x[np.isfinite(x)]
    if options.counts_done:
        first, last = (0.0 if options.epoch_range[0] == 0 else x.min(initial=np.inf)), x.max(initial=0.0)
        margin = 0.02 * (last - first) or 0.5
    else:
        epochs = x if len(x) else np.array([record["epoch"] for log in logs for record in log.records])
        first, last = epochs.min(), epochs.max()
        margin, label = max(0.4, 0.02 * (last - first)), "Epoch (from 0)"
        axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))
    if not len(x):
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color=_GRAY)
    axes.set_xlim(first - margin, last + margin)
    note = loss_note(logs) if any(line.metric in LOSSES for line in panel.lines) else ""
    axes.set_xlabel(f"{label}\n{_wrapped(axes, note)}" if note else label, parse_math=False)


def _wrapped(axes: Axes, text: str) -> str:
    """Return a text under a panel with line ends, so that it is not wider than the panel."""
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    assert figure is not None
    assert place is not None
    columns = place.get_gridspec().ncols
    width = figure.get_size_inches()[0] * len(place.colspan) / columns - _Y_LABELS_IN
    return textwrap.fill(text, max(int(width / _CHARACTER_IN), 20))


def loss_note(logs: Sequence[Log]) -> str:
    """Return a note if losses are defined in different ways, so that they cannot be compared."""
    kinds = list(dict.fromkeys(log.loss for log in logs if log.loss))
    if len(kinds) < 2:
        return ""
    listed = ", ".join(kinds[:4]) + (f" and {len(kinds) - 4} more" if len(kinds) > 4 else "")
    return f"The losses of these experiments are defined differently ({listed}): their values cannot be compared."


def _scale_y(axes: Axes, panel: Panel, options: CurveOptions, curves: Sequence[Curve]) -> None:
    steep = panel.key == LOSS and panel.key not in options.linear_scale and falls_steeply([curve.y for curve in curves])
    steep = steep and options.ylim.get(panel.key, (1.0,))[0] > 0
    has_values = any(np.isfinite(curve.y).any() for curve in curves)
    in_log_scale = (panel.key in options.log_scale and has_values) or steep
    axes.set_ylabel(panel.axis + (" (log scale)" if in_log_scale else ""), parse_math=False)
    if in_log_scale:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(PlainLogFormatter())
        axes.yaxis.set_minor_formatter(PlainLogFormatter())
    else:
        # No offset: "1e-5 + 0.0312" above an axis is easily overlooked.
        axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-3, 5), useMathText=True)
        _widen_if_constant(axes, curves)
        if panel.key == MEMORY_PANEL:
            # A change of 0.1% would look like a leak.
            largest = max((float(curve.y[np.isfinite(curve.y)].max(initial=0)) for curve in curves), default=0.0)
            axes.set_ylim(0, 1.1 * largest or 1)
    keeps_range = panel.key in options.ylim or panel.key == MEMORY_PANEL
    usual = usual_range(curves) if options.remove_outliers and not keeps_range else None
    if usual is not None and (not in_log_scale or usual[0] > 0):
        axes.set_ylim(*_with_margin(*usual[:2], in_log_scale=in_log_scale))
        axes.text(0.99, 0.97, usual[2], transform=axes.transAxes, ha="right", va="top", fontsize=8, color=_GRAY)
    if panel.key in options.ylim:
        axes.set_ylim(*options.ylim[panel.key])


def _with_margin(low: float, high: float, *, in_log_scale: bool) -> tuple[float, float]:
    if in_log_scale:
        factor = (high / low) ** 0.05 if high > low else 1.05
        return low / factor, high * factor
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _widen_if_constant(axes: Axes, curves: Sequence[Curve]) -> None:
    # By default, the limits are a few percent around a constant value, with uninformative ticks.
    values = np.concatenate([np.zeros(0), *(curve.y for curve in curves)])
    values = values[np.isfinite(values)]
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    if len(values) and low and math.isclose(low, high, rel_tol=1e-6) and math.isfinite(2 * float(high)):
        axes.set_ylim(*sorted((0.0, 2.0 * float(high))))


def _add_line_legend(axes: Axes, logs: Sequence[Log], panel: Panel, options: CurveOptions) -> None:
    color = color_of(0) if len(logs) == 1 else _GRAY
    handles = []
    if len(panel.lines) > 1 or panel.lines[0].label in ("training", "validation"):
        # Also show the markers: a curve of a single epoch has no visible line.
        marker = "o" if any(len(log.records) <= _FEW_EPOCHS for log in logs) else ""
        handles = [_handle(color, line.label, style=line.style, marker=marker) for line in panel.lines]
    best = [_best_shown(log, options) for log in logs if _shows_selection(panel, log)]
    if any(best):
        by_validation = any(log.selection_metric == VALID_LOSS for log in logs)
        label = ("best validation" if by_validation else "best training") if panel.key == LOSS else "best model"
        if len(logs) == 1 and best[0] is not None:
            label += f": {best[0][1]:.4g} (epoch {best[0][0]})"
        star = {"marker": "*", "markersize": 11, "markeredgecolor": "black", "linestyle": ""}
        handles.append(Line2D([], [], color=color, label=label, **star))  # type: ignore[arg-type]
    if panel.key == LOSS and any(_resumes(log, options) for log in logs):
        handles.append(Line2D([], [], color=color, label="resumed", marker="^", markersize=6, linestyle=""))
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
        disable_math(legend)


def _legend_shape(logs: Sequence[Log], width: float) -> tuple[int, int]:
    """Return the rows and columns of the legend of the experiments, in a figure of a width in inches."""
    most = int(_LEGEND_CHARACTERS * width / _WIDTH_IN)
    return (0, 1) if len(logs) == 1 else legend_shape([_legend_label(log) for log in logs], most)


def legend_shape(labels: Sequence[str], most: int) -> tuple[int, int]:
    """Return the rows and columns of a legend whose rows have at most about so many characters."""
    columns = max(1, min(len(labels), most // (max(map(len, labels)) + 8)))
    return math.ceil(len(labels) / columns), columns


def _legend_label(log: Log) -> str:
    best = log.best()
    notes = []
    if best is not None:
        description = "best" if log.selection_metric in LOSSES else f"best {name_of(log.selection_metric)}"
        notes.append(f"{description} {best[1]:.4g}, epoch {best[0]}")
    notes += [log.note] if log.note else []
    return shorten(log.label, _MAX_NAME_LENGTH) + (f" ({'; '.join(notes)})" if notes else "")


def _handle(color: str, label: str, *, marker: str, style: Style = "-") -> Line2D:
    face = _marker_face(color, style)
    return Line2D([], [], color=color, linestyle=style, marker=marker, markersize=4, markerfacecolor=face, label=label)


def _marker_face(color: str, style: Style) -> str:
    # Filled or hollow, to distinguish points without a line too.
    return color if style == "-" else "white"


def color_of(i: int) -> str:
    """Return the color of the experiment with index `i`."""
    return COLORS[i % len(COLORS)]


def marker_of(i: int) -> str:
    """Return the marker of the experiment with index `i`."""
    return _MARKERS[i // len(COLORS) % len(_MARKERS)]
