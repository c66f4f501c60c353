"""Draw the training curves of one or more experiments."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dwiml.arguments import check_number, shown
from dwiml.files import check_outputs, check_target, reason_of
from dwiml.params import checks_arguments
from dwiml.training.experiment.lock import is_running
from dwiml.viz.curves.correlation import draw_correlation
from dwiml.viz.curves.drawing import draw_curves
from dwiml.viz.curves.log import Log
from dwiml.viz.curves.options import CurveOptions
from dwiml.viz.curves.reading import PathLike, distinct, find_experiments, read_logs
from dwiml.viz.curves.table import write_table
from dwiml.viz.curves.weights import draw_weights, select_with_weights
from dwiml.viz.figure_file import check_figure_format, save_figure

__all__ = ["plot_logs", "read_logs", "visualize_logs"]

logger = logging.getLogger(__name__)

_DPI = 130
_CURVES, _WEIGHTS, _CORRELATION = "curves", "weights", "correlation"


@checks_arguments
def visualize_logs(
    experiments: PathLike | Sequence[PathLike],
    *,
    out: PathLike | None = None,
    show: bool | None = None,
    panels: Sequence[str] = (),
    graphs: Sequence[Sequence[str]] = (),
    epochs: str = ":",
    per_batch: bool = False,
    smooth: int = 1,
    x: str = "epoch",
    ylim: Mapping[str, tuple[float, float]] | None = None,
    log_scale: Sequence[str] = (),
    linear_scale: Sequence[str] = (),
    remove_outliers: bool = False,
    rename: Mapping[str, str] | None = None,
    figsize: tuple[float, float] | None = None,
    csv: PathLike | None = None,
    watch: float | None = None,
    correlation: Sequence[str] = (),
    weights: bool = False,
    overwrite: bool = False,
) -> list[Path]:
    """Draw losses, gradient norms, learning rate, epoch times and all other metrics that experiments logged.

    With ``weights``, draw instead how much the weights of each layer changed in each epoch; with ``correlation``, one
    metric over another.

    Parameters
    ----------
    experiments
        An experiment folder, several of them to compare, or a folder that contains experiments. Experiments of dwi_ml
        can be among them. If there are several, those that are not experiments or have no finished epoch are ignored
        with a warning.
    out
        Where to save the figure. The extension gives the format (png, pdf, svg, ...). None: ``curves.png`` in the
        experiment folder, or, for several experiments, ``curves_compared.png`` in the parent folder of the first one.
        In an experiment folder, the only allowed name is ``curves``, with any of these extensions. With ``weights`` or
        ``correlation``, these words replace ``curves`` in these names.
    show
        True: show a window. False: save the figure. None: show a window if there is a display and ``out`` is None. If
        no window can be opened, the figure is saved.
    panels
        The panels to draw, in this order; by default, all: ``loss``, ``grad_norm``, ``learning_rate``, ``epoch_time``,
        ``points_per_s``, ``memory``, and the name of each other metric (without ``train_`` or ``valid_``).
    graphs
        Panels of your own: a title, followed by one to four metrics, or by ``diff(a,b)``, ``ratio(a,b)`` or
        ``sum(a,b)`` of two metrics. If there are graphs, only they and the given `panels` are drawn.
    epochs
        The epochs to draw, ``FIRST:END`` without the last one, as in Python: ``"2:"``, ``"0:10"``.
    per_batch
        Draw the values of the log of batches (training loss, gradient norm, learning rate, speed) instead of those of
        the epochs.
    smooth
        Draw the mean of each value and its neighbors, this many in all; the values themselves are drawn thinly. The
        learning rate is not smoothed.
    x
        The horizontal axis: ``"epoch"``, ``"time"`` of the training, or ``"points"`` that it has seen.
    ylim
        {panel: (lowest, highest value of its vertical axis)}.
    log_scale
        Panels with a logarithmic y axis. By default, the loss has one if its values are positive and the largest is
        more than 10 times the smallest, unless the lower limit of its `ylim` is not positive.
    linear_scale
        Panels that always have a linear y axis, such as ``loss``.
    remove_outliers
        Choose the limits of the vertical axes without the outliers (values farther than three interquartile ranges from
        the quartiles); a note gives their number.
    rename
        {name of an experiment in the figure: another name}.
    figsize
        Width and height of the figure, in inches.
    csv
        Also write the values of the curves to this file, one in each row.
    watch
        Draw again every so many seconds, until all trainings have ended (or Ctrl-C); needs ``show=False`` or `out`.
    correlation
        Two metrics or expressions: draw the second over the first, a point for each epoch, instead of the curves.
    weights
        Draw the relative change of the weights of each layer, which experiments log if trained with ``log_weights``.
    overwrite
        Whether ``out`` and `csv` may replace files. The default file is always replaced, unless it is a symbolic link.

    Returns
    -------
    list of Path
        The files that were written; empty if the figure was only shown.

    Raises
    ------
    ValueError
        If no experiment has a finished epoch, a panel or a metric is unknown, an option is invalid or cannot be
        combined with another one, the weights were not logged, or matplotlib cannot write the format.
    FileNotFoundError, NotADirectoryError
        If an experiment or the folder of ``out`` does not exist.
    FileExistsError
        If ``out`` or `csv` exists and ``overwrite`` is False.
    """
    options = CurveOptions(
        panels=panels,
        graphs=graphs,
        epochs=epochs,
        per_batch=per_batch,
        smooth=smooth,
        ylim=ylim or {},
        log_scale=log_scale,
        linear_scale=linear_scale,
        remove_outliers=remove_outliers,
        x=x,
        figsize=figsize,
    )
    name = _kind(options, weights=weights, correlation=correlation, csv=csv)
    if watch is not None:
        check_number("watch", watch, low=0.1, high=86400)
    given = distinct([experiments] if isinstance(experiments, (str, os.PathLike)) else experiments)
    if out is not None:
        check_figure_format(out)
    folders = find_experiments(given, batches=per_batch)
    _check_outputs(out, csv, name, folders, overwrite=overwrite)

    def read() -> list[Log]:
        found = _renamed(read_logs(folders, batches=per_batch), rename or {})
        return select_with_weights(found) if weights else found

    def draw(figure: Figure) -> None:
        if weights:
            draw_weights(figure, logs)
        elif correlation:
            draw_correlation(figure, logs, correlation, options)
        else:
            draw_curves(figure, logs, options.choose(logs), options)

    logs = read()
    if not weights and not correlation:
        options.choose(logs)
        if watch is None:
            options.check_epochs(logs)
    show = _shows(show, out, watch)
    written = []
    if csv is not None:
        write_table(Path(csv), logs, options.choose(logs), options)
        written.append(Path(csv))
    if show and _show(draw, name) and out is None:
        return written
    path = Path(out) if out is not None else _checked_default_path(folders, name)
    _save(draw, path)
    running = watch is not None
    while watch is not None and running:
        # Before the logs are read: what is written at the end of a training is drawn too.
        running = any(map(is_running, folders))
        if running:
            time.sleep(watch)
        logs = read()
        _save(draw, path)
        if csv is not None:
            write_table(Path(csv), logs, options.choose(logs), options)
    return [path, *written]


def plot_logs(
    experiments: PathLike | Sequence[PathLike] | Sequence[Log], options: CurveOptions | None = None, **choices: Any
) -> Figure:
    """Return the figure of :func:`visualize_logs`, to show it in a notebook or to modify it.

    Parameters
    ----------
    experiments
        Experiment folders or folders of experiments, as for :func:`visualize_logs`, or their logs (see
        :func:`read_logs`).
    options
        What to draw, and how.
    **choices
        Instead of `options`, keywords of :class:`~dwiml.viz.curves.options.CurveOptions`: ``panels``, ``graphs``,
        ``epochs``, ``per_batch``, ``smooth``, ``ylim``, ``log_scale``, ``linear_scale``, ``remove_outliers``, ``x`` and
        ``figsize``, as in :func:`visualize_logs`.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError, FileNotFoundError, NotADirectoryError
        As :func:`visualize_logs`.
    """
    figure = Figure()
    options = options or CurveOptions(**choices)
    given = [experiments] if isinstance(experiments, (str, os.PathLike)) else list(experiments)
    logs = [each for each in given if isinstance(each, Log)]
    if not logs or len(logs) < len(given):
        folders = find_experiments(
            distinct([each for each in given if not isinstance(each, Log)]), batches=options.per_batch
        )
        logs += read_logs(folders, batches=options.per_batch)
    options.check_epochs(logs)
    draw_curves(figure, logs, options.choose(logs), options)
    return figure


def _kind(options: CurveOptions, *, weights: bool, correlation: Sequence[str], csv: PathLike | None) -> str:
    """Return the kind of the figure, which is its name; refuse options of another kind."""
    if correlation and len(correlation) != 2:
        raise ValueError(f"correlation must be two metrics or expressions, got {shown(list(correlation))}.")
    if weights and correlation:
        raise ValueError("weights and correlation are two figures: ask for one of them.")
    if not weights and not correlation:
        return _CURVES
    usual = CurveOptions()
    allowed = ("figsize", "epochs") if correlation else ()
    for name, value in vars(options).items():
        if name not in allowed and value != getattr(usual, name):
            axis = ": the axis of the weights is always logarithmic" if weights and name.endswith("_scale") else ""
            raise ValueError(f"{name} is for the curves, not for {_WEIGHTS if weights else _CORRELATION}{axis}.")
    if csv is not None:
        raise ValueError("csv is for the curves.")
    return _WEIGHTS if weights else _CORRELATION


def _renamed(logs: Sequence[Log], names: Mapping[str, str]) -> list[Log]:
    unknown = [name for name in names if name not in {log.label for log in logs}]
    if unknown:
        labels = ", ".join(f"'{log.label}'" for log in logs)
        raise ValueError(f"rename: there is no experiment '{unknown[0]}'; there are: {labels}.")
    return [log.named(names.get(log.label, log.label)) for log in logs]


def _save(draw: Callable[[Figure], None], path: Path) -> None:
    figure = Figure()
    draw(figure)
    save_figure(figure, path, dpi=_DPI)


def _check_outputs(
    out: PathLike | None, csv: PathLike | None, name: str, folders: Sequence[Path], *, overwrite: bool
) -> None:
    """Check the paths of a figure and a table: in an experiment folder, a figure must have the name of its kind."""
    if out is not None:
        in_experiment = os.path.realpath(Path(out).parent) in {os.path.realpath(folder) for folder in folders}
        allowed = in_experiment and Path(out).stem == name and not Path(out).is_symlink()
        check_outputs({"Figure": out}, experiments=() if allowed else folders, overwrite=overwrite)
    if csv is not None:
        outputs = {"Table": csv, **({} if out is None else {"Figure": out})}
        check_outputs({"Table": csv}, experiments=folders, overwrite=overwrite)
        if len({os.path.realpath(path) for path in outputs.values()}) < len(outputs):
            raise ValueError("The figure and the table must be two files.")


def _shows(show: bool | None, out: PathLike | None, watch: float | None) -> bool:
    """Return whether the figure is shown in a window."""
    if show and watch is not None:
        raise ValueError("watch draws into a file, not a window: give show=False or out.")
    return out is None and watch is None and _has_display() if show is None else show


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _show(draw: Callable[[Figure], None], name: str) -> bool:
    """Show a window until it is closed; return False if none can be opened."""
    figure = None
    try:
        # Importing pyplot selects the backend; without a GUI toolkit or a working display, it has no windows.
        from matplotlib import pyplot

        figure = pyplot.figure(num=f"dwiml: {name}")
        if figure.canvas.required_interactive_framework is None:
            raise RuntimeError(f"the matplotlib backend {pyplot.get_backend()} has no windows")
        draw(figure)
        pyplot.show()
    except Exception as error:
        # The exceptions of the GUI toolkits have no common class.
        logger.warning("No window could be opened (%s); the figure is saved instead.", reason_of(error))
        return False
    finally:
        if figure is not None:
            pyplot.close(figure)
    return True


def _checked_default_path(folders: Sequence[Path], name: str) -> Path:
    path = _default_path(folders, name)
    if path.is_symlink():
        raise ValueError(
            f"'{path}' is a symbolic link, which is not replaced by default; give the file to write with out=FILE."
        )
    try:
        check_target(path, "Figure", overwrite=True)
    except PermissionError as error:
        raise PermissionError(f"{str(error).rstrip('.')}; save the figure elsewhere with out=FILE.") from error
    return path


def _default_path(folders: Sequence[Path], name: str) -> Path:
    if len(folders) == 1:
        return folders[0] / f"{name}.png"
    # Keep the form given by the user. The parent of a path that ends in '.' or '..' needs another '..'.
    first = folders[0]
    parent = first / ".." if first.name in ("", "..") else first.parent
    return parent / f"{name}_compared.png"
