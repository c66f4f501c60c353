"""Draw the training curves of one or more experiments, from their ``logs/metrics.jsonl``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from dwiml.files import check_outputs, check_target, read_json, reason_of
from dwiml.params import checks_arguments
from dwiml.training.reporting.loggers.local import METRICS_FILE, read_metrics
from dwiml.training.reporting.metrics import DIFFERENCE_FROM_BEST, SELECTION_VALUE, TRAIN_LOSS, VALID_LOSS
from dwiml.viz.curves import draw_curves
from dwiml.viz.figure_file import check_figure_format, save_figure
from dwiml.viz.panels import Log, Panel, choose_panels
from dwiml.viz.weights import draw_weights, select_with_weights

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
_DPI = 130
_CURVES, _WEIGHTS = "curves", "weights"
# Defined in dwiml.models.saving too, whose import would load torch.
_PARAMETERS_FILE = "parameters.json"


@checks_arguments
def visualize_logs(
    experiments: PathLike | Sequence[PathLike],
    *,
    out: PathLike | None = None,
    show: bool | None = None,
    log_scale: Sequence[str] = (),
    linear_scale: Sequence[str] = (),
    weights: bool = False,
    overwrite: bool = False,
) -> list[Path]:
    """Draw losses, gradient norms, learning rate, epoch times and all other metrics that experiments logged.

    With ``weights``, draw instead how much the weights of each layer changed in each epoch.

    Parameters
    ----------
    experiments
        An experiment folder, several of them to compare, or a folder that contains experiments. If there are several,
        those that are not experiments or have no finished epoch are ignored with a warning.
    out
        Where to save the figure. The extension gives the format (png, pdf, svg, ...). None: ``curves.png`` in the
        experiment folder, or, for several experiments, ``curves_compared.png`` in the parent folder of the first one.
        In an experiment folder, the only allowed name is ``curves``, with any of these extensions. With ``weights``,
        ``weights`` replaces ``curves`` in these names.
    show
        True: show a window. False: save the figure. None: show a window if there is a display and ``out`` is None. If
        no window can be opened, the figure is saved.
    log_scale
        Panels with a logarithmic y axis: ``loss``, ``grad_norm``, ``learning_rate``, ``epoch_time``,
        ``points_per_s``, or the name of another metric (without ``train_`` or ``valid_``). By default, the loss has
        one if its values are positive and the largest is more than 30 times the smallest.
    linear_scale
        Panels that always have a linear y axis, such as ``loss``.
    weights
        Draw the relative change of the weights of each layer, which experiments log if trained with ``log_weights``.
    overwrite
        Whether ``out`` may replace a file. The default file is always replaced, unless it is a symbolic link.

    Returns
    -------
    list of Path
        The files that were written; empty if the figure was only shown.

    Raises
    ------
    ValueError
        If no experiment has a finished epoch, a panel is unknown, a logarithmic scale is impossible, the weights were
        not logged, or matplotlib cannot write the format.
    FileNotFoundError, NotADirectoryError
        If an experiment or the folder of ``out`` does not exist.
    FileExistsError
        If ``out`` exists and ``overwrite`` is False.
    """
    given = _distinct([experiments] if isinstance(experiments, (str, os.PathLike)) else experiments)
    if out is not None:
        check_figure_format(out)
    folders = _find_experiments(given)
    name = _WEIGHTS if weights else _CURVES
    if out is not None:
        _check_out(Path(out), name, folders, overwrite=overwrite)
    logs = read_logs(folders)
    if weights and (log_scale or linear_scale):
        raise ValueError(
            "log_scale and linear_scale are for the curves: the axis of the weights is always logarithmic."
        )
    if weights:
        logs = select_with_weights(logs)
    panels = choose_panels(logs)
    _check_scales(log_scale, linear_scale, logs, panels)

    def draw(figure: Figure) -> None:
        if weights:
            draw_weights(figure, logs)
        else:
            draw_curves(figure, logs, panels, log_scale=log_scale, linear_scale=linear_scale)

    if show is None:
        show = out is None and _has_display()
    shown = show and _show(draw, name)
    if shown and out is None:
        return []
    path = Path(out) if out is not None else _checked_default_path(folders, name)
    figure = Figure()
    draw(figure)
    save_figure(figure, path, dpi=_DPI)
    return [path]


def plot_logs(logs: Sequence[Log], *, log_scale: Sequence[str] = (), linear_scale: Sequence[str] = ()) -> Figure:
    """Return the figure of :func:`visualize_logs`, to show it in a notebook or to modify it.

    Parameters
    ----------
    logs
        The logs of one or more experiments (see :func:`read_logs`).
    log_scale, linear_scale
        As in :func:`visualize_logs`.

    Returns
    -------
    Figure
    """
    figure = Figure()
    draw_curves(figure, logs, choose_panels(logs), log_scale=log_scale, linear_scale=linear_scale)
    return figure


def read_logs(experiments: Sequence[PathLike]) -> list[Log]:
    """Read the logs of experiments.

    Parameters
    ----------
    experiments
        Experiment folders.

    Returns
    -------
    list of Log
        Each is labeled with the name of its folder, preceded by parent folders if two names are equal.

    Raises
    ------
    ValueError
        If a log has no finished epoch, has no metric to draw, or is damaged.
    FileNotFoundError, NotADirectoryError
        If an experiment does not exist or has no log.
    """
    folders = [Path(experiment) for experiment in experiments]
    logs = []
    for folder, label in zip(folders, _labels(folders), strict=True):
        records = read_metrics(folder)
        if not records:
            raise ValueError(f"'{folder / METRICS_FILE}' is empty: no epoch is finished yet.")
        selection_metric, is_own = _read_selection_metric(folder)
        if is_own and not any(selection_metric in record for record in records):
            selection_metric = SELECTION_VALUE
        elif selection_metric == VALID_LOSS and not any(VALID_LOSS in record for record in records):
            # Without a validation set, the best model is selected by the training loss.
            selection_metric = TRAIN_LOSS
        log = Log(label, records, selection_metric, is_own)
        if not choose_panels([log]):
            raise ValueError(f"'{folder / METRICS_FILE}' has no metric to draw.")
        logs.append(log)
    return logs


def _read_selection_metric(folder: Path) -> tuple[str, bool]:
    """Return the model-selection metric of an experiment, and whether a class of the user chose it.

    If the parameters are missing or damaged, it is the default one.
    """
    try:
        recorded = read_json(folder / _PARAMETERS_FILE)
        own = recorded.get("selection_metric")
        if isinstance(own, str):
            return own, True
        metric = recorded["trainer"]["best_model_metric"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return VALID_LOSS, False
    return metric if isinstance(metric, str) and metric in DIFFERENCE_FROM_BEST else VALID_LOSS, False


def _distinct(experiments: Sequence[PathLike]) -> list[Path]:
    folders: dict[str, Path] = {}
    for experiment in experiments:
        folders.setdefault(os.path.realpath(experiment), Path(experiment))
    if not folders:
        raise ValueError("No experiment was given; give at least one experiment folder.")
    return list(folders.values())


def _labels(folders: Sequence[Path]) -> list[str]:
    parts = [Path(os.path.realpath(folder)).parts for folder in folders]
    for depth in range(1, max(map(len, parts))):
        labels = ["/".join(names[-depth:]) for names in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(folder) for folder in folders]


def _find_experiments(given: Sequence[Path]) -> list[Path]:
    """Return the experiment folders among the given folders and inside them; warn about the others.

    A single path is returned unchanged: reading it raises a more precise error.
    """
    candidates = [folder for path in given for folder in _expand(path)]
    if len(candidates) == 1:
        return candidates
    found = []
    for folder in _distinct(candidates):
        # A path that does not exist is an error, to be raised when it is read.
        if not os.path.lexists(folder) or (_has_log(folder) and read_metrics(folder)):
            found.append(folder)
        elif not folder.is_dir():
            logger.warning("'%s' is ignored: it is a file, not an experiment folder.", folder)
        else:
            logger.warning("'%s' is ignored: it has no %s with a finished epoch.", folder, METRICS_FILE)
    if not found:
        raise ValueError("None of the given paths is an experiment folder with a finished epoch.")
    return found


def _expand(path: Path) -> list[Path]:
    """Return the experiments in a folder that is not an experiment itself, or the path if there are none."""
    inside = [] if _is_experiment(path) or not path.is_dir() else sorted(filter(_is_experiment, path.iterdir()))
    return inside or [path]


def _is_experiment(folder: Path) -> bool:
    # An experiment has no log before its first epoch is finished.
    return _has_log(folder) or os.path.isfile(folder / _PARAMETERS_FILE)


def _has_log(folder: Path) -> bool:
    return os.path.isfile(folder / METRICS_FILE)


def _check_out(out: Path, name: str, folders: Sequence[Path], *, overwrite: bool) -> None:
    """Check the path of a figure: in an experiment folder, it must have the name of its kind of figures."""
    in_experiment = os.path.realpath(out.parent) in {os.path.realpath(folder) for folder in folders}
    allowed = in_experiment and out.stem == name and not out.is_symlink()
    check_outputs({"Figure": out}, experiments=() if allowed else folders, overwrite=overwrite)


def _check_scales(
    log_scale: Sequence[str], linear_scale: Sequence[str], logs: Sequence[Log], panels: Sequence[Panel]
) -> None:
    known = {panel.key: panel for panel in panels}
    for option, keys in (("log_scale", log_scale), ("linear_scale", linear_scale)):
        for key in keys:
            if key not in known:
                raise ValueError(f"Unknown panel '{key}' in {option}; choose among: {', '.join(known)}.")
    for key in log_scale:
        if key in linear_scale:
            raise ValueError(f"Panel '{key}' is both in log_scale and in linear_scale; remove it from one of them.")
        for line in known[key].lines:
            if any(value <= 0 for log in logs for value in log.series(line.metric)[1]):
                raise ValueError(
                    f"'{line.metric}' has values that are not positive: it cannot have a logarithmic scale."
                )


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
