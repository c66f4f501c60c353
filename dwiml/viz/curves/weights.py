"""Draw how much the weights of each layer change in each epoch."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dwiml.training.reporting.metrics import WEIGHT_CHANGE, WEIGHT_NORM
from dwiml.viz.curves.drawing import PlainLogFormatter
from dwiml.viz.curves.log import Log
from dwiml.viz.figure_file import shorten

logger = logging.getLogger(__name__)

# With more layers, those of a common parent are drawn as one.
MAX_LAYERS = 20
_WIDTH_IN, _ROW_IN, _LEGEND_ROW_IN = 9.5, 3.6, 0.21
_MAX_NAME_LENGTH = 48
_MARKERS = "osD^v"
# Up to this number of epochs, each one has a marker.
_FEW_EPOCHS = 30
# The light end of the color map is hardly visible on white.
_COLORS = colormaps["viridis"]
_LIGHTEST = 0.92


class Change(NamedTuple):
    """The relative change of a layer in the epochs in which it was measured.

    Attributes
    ----------
    epochs
        From 0.
    values
        Norm of the change of the weights in the epoch, divided by the norm of the weights at its end; both are
        Euclidean norms over all weights of the layer. 0 if both are 0.
    """

    epochs: list[int]
    values: list[float]


def relative_changes(logs: Sequence[Log], *, max_layers: int = MAX_LAYERS) -> list[dict[str, Change]]:
    """Return the relative change of each layer in each epoch.

    Parameters
    ----------
    logs
        The logs of experiments that were trained with ``log_weights``.
    max_layers
        Largest number of layers. If there are more, the last parts of their names are left out, and all layers with
        the same shorter name are measured together.

    Returns
    -------
    list of dict
        For each log, {layer: change}, in the order of the model.
    """
    found = [_layers_of(log) for log in logs]
    depth = max((name.count(".") + 1 for layers in found for name in layers), default=1)
    while depth > 1 and len({_shortened(name, depth) for layers in found for name in layers}) > max_layers:
        depth -= 1
    return [_merged(log, layers, depth) for log, layers in zip(logs, found, strict=True)]


def draw_weights(figure: Figure, logs: Sequence[Log]) -> None:
    """Draw the relative change of the weights of each layer over the epochs, one row per experiment.

    Layers are dark for the first ones of the model, light for the last ones. If all experiments have the same layers,
    these have the same color and marker in all rows, and one legend; otherwise, each row has its own legend. The axis
    is logarithmic; a layer that does not change in an epoch has no point there.

    Parameters
    ----------
    figure
        An empty figure. Its size is changed.
    logs
        The experiments, trained with ``log_weights``.
    """
    changes = relative_changes(logs)
    is_shared = all(each.keys() == changes[0].keys() for each in changes)
    if not is_shared:
        # The number of layers is limited in each row.
        changes = [relative_changes([log])[0] for log in logs]
    heights = [_ROW_IN if is_shared else max(_ROW_IN, _legend_height(each)) for each in changes]
    # One row of the legend for each layer, beside the panels.
    figure.set_size_inches(_WIDTH_IN, max(sum(heights) + 0.6, _legend_height(changes[0])))
    figure.set_layout_engine("constrained")
    grid = figure.subplots(len(logs), 1, sharex=True, sharey=True, squeeze=False, height_ratios=heights)
    for axes, log, each in zip(grid[:, 0], logs, changes, strict=True):
        for i, change in enumerate(each.values()):
            _draw_layer(axes, change, i, len(each))
        _label(axes, changes)
        if len(logs) > 1:
            axes.set_title(shorten(log.label, _MAX_NAME_LENGTH), fontsize="medium", parse_math=False)
        if not is_shared:
            beside: dict[str, Any] = {"bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
            _disable_math(axes.legend(loc="upper left", **beside, **_legend_options([each])))
    grid[-1, 0].set_xlabel("Epoch (from 0)")
    names = logs[0].label if len(logs) == 1 else f"{len(logs)} experiments"
    # A `$` in a name does not start a formula.
    figure.suptitle(f"{shorten(names, _MAX_NAME_LENGTH)}: change of the weights in each epoch", parse_math=False)
    if is_shared:
        _disable_math(figure.legend(loc="outside right upper", **_legend_options(changes)))


def select_with_weights(logs: Sequence[Log]) -> list[Log]:
    """Return the logs that have the weights of layers; warn about the others.

    Raises
    ------
    ValueError
        If none has them.
    """
    found = [log for log in logs if _layers_of(log)]
    if not found:
        name = f"The log of '{logs[0].label}' has no" if len(logs) == 1 else "None of the logs has"
        raise ValueError(f"{name} weights of layers; they are logged by a training with log_weights.")
    for log in logs:
        if log not in found:
            logger.warning("'%s' is ignored: it was trained without log_weights.", log.label)
    return found


def _layers_of(log: Log) -> list[str]:
    names = (name for record in log.records for name in record if name.startswith(WEIGHT_CHANGE))
    return [name.removeprefix(WEIGHT_CHANGE) for name in dict.fromkeys(names)]


def _shortened(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def _merged(log: Log, layers: Sequence[str], depth: int) -> dict[str, Change]:
    groups: dict[str, list[str]] = {}
    for name in layers:
        groups.setdefault(_shortened(name, depth), []).append(name)
    changes = {}
    for group, names in groups.items():
        moved, size = _total(log, WEIGHT_CHANGE, names), _total(log, WEIGHT_NORM, names)
        epochs = [epoch for epoch in moved if epoch in size]
        changes[group] = Change(epochs, [moved[epoch] / size[epoch] if size[epoch] else 0.0 for epoch in epochs])
    return changes


def _total(log: Log, kind: str, names: Sequence[str]) -> Mapping[int, float]:
    """Return {epoch: norm over some layers}, of the epochs in which all were measured."""
    series = [dict(zip(*log.series(f"{kind}{name}"), strict=True)) for name in names]
    return {
        epoch: math.hypot(*(each[epoch] for each in series)) for epoch in series[0] if all(epoch in s for s in series)
    }


def _draw_layer(axes: Axes, change: Change, i: int, nb_layers: int) -> None:
    few = len(change.epochs) <= _FEW_EPOCHS
    values = np.array(change.values, dtype=float)
    values[values <= 0] = np.nan
    axes.plot(
        change.epochs,
        values,
        color=_color(i, nb_layers),
        marker=_MARKERS[i % len(_MARKERS)],
        markersize=4,
        linewidth=1.4,
        markevery=1 if few else max(len(change.epochs) // 12, 1),
    )


def _label(axes: Axes, changes: Sequence[Mapping[str, Change]]) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(PlainLogFormatter(percent=True))
    axes.yaxis.set_minor_formatter(PlainLogFormatter(percent=True))
    axes.set_ylabel("Norm of the change /\nnorm of the weights (log scale)")
    # Of all rows, which share the axis.
    epochs = [epoch for each in changes for change in each.values() for epoch in change.epochs]
    margin = max(0.4, 0.02 * (max(epochs) - min(epochs)))
    axes.set_xlim(min(epochs) - margin, max(epochs) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    # A narrow range may be without a power of ten.
    axes.grid(which="minor", alpha=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def _legend_height(layers: Mapping[str, Change]) -> float:
    """Return the height of a legend with its title, in inches."""
    return _LEGEND_ROW_IN * len(layers) + 1.2


def _legend_options(changes: Sequence[Mapping[str, Change]]) -> dict[str, Any]:
    """Return the options of the legend of the layers, which are those of all `changes`."""
    layers = list(changes[0])
    still = {name for name in layers if not any(any(each[name].values) for each in changes)}
    handles = [_handle(i, len(layers), _described(name, name in still)) for i, name in enumerate(layers)]
    return {"handles": handles, "fontsize": 8.5, "frameon": False, "title": "Layer, from first to last"}


def _disable_math(legend: Legend) -> None:
    for text in legend.get_texts():
        text.set_parse_math(False)


def _described(name: str, is_still: bool) -> str:
    return shorten(name, _MAX_NAME_LENGTH) + (" (does not change)" if is_still else "")


def _handle(i: int, nb_layers: int, label: str) -> Line2D:
    marker = _MARKERS[i % len(_MARKERS)]
    return Line2D([], [], color=_color(i, nb_layers), marker=marker, markersize=4, linewidth=1.4, label=label)


def _color(i: int, nb_layers: int) -> tuple[float, float, float, float]:
    red, green, blue, alpha = _COLORS(_LIGHTEST * i / max(nb_layers - 1, 1))
    return red, green, blue, alpha
