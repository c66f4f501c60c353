"""The curves of one or more experiments, from their ``logs/metrics.jsonl``."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from dwiml.files import check_outputs, check_target, read_json, reason_of
from dwiml.training.generation.selection import LOWER_IS_BETTER, TRAIN_LOSS, VALID_LOSS
from dwiml.training.reporting.loggers.local import METRICS_FILE, read_metrics
from dwiml.viz.curves import draw_curves
from dwiml.viz.figure_file import check_figure_format, save_figure
from dwiml.viz.panels import Log, Panel, choose_panels

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
_DPI = 130
_CURVES = "curves"
# As dwiml.models.saving has it, which would import torch.
_PARAMETERS_FILE = "parameters.json"


def visualize_logs(
    experiments: PathLike | Sequence[PathLike],
    *,
    out: PathLike | None = None,
    show: bool | None = None,
    log_scale: Sequence[str] = (),
    linear_scale: Sequence[str] = (),
    overwrite: bool = False,
) -> list[Path]:
    """Draw losses, gradient norms, learning rate, epoch times and whatever else the experiments have logged.

    Parameters
    ----------
    experiments
        An experiment's folder, or several to compare; or a folder that holds experiments. Of several, what is not an
        experiment, or has no finished epoch, is left out with a warning.
    out
        Where to save the figure; its extension says the format (png, pdf, svg, ...). None: ``curves.png`` in the
        experiment's folder, or ``curves_compared.png`` in the folder that the first of several is in. In the folder of
        an experiment, the name must be ``curves``, with any of the extensions.
    show
        True: show a window. False: save. None: show a window where there is a display, unless ``out`` is given.
        Where no window can be opened, the figure is saved.
    log_scale
        Panels with a logarithmic y axis: ``loss``, ``grad_norm``, ``learning_rate``, ``epoch_time``,
        ``points_per_s``, or the name of another metric (without ``train_`` or ``valid_``). The loss gets one without
        being named when its values are positive and the largest is more than 30 times the smallest.
    linear_scale
        Panels that keep a linear y axis in any case: ``loss``.
    overwrite
        Whether ``out`` may replace a file. The default file is always replaced, unless it is a link.

    Returns
    -------
    list of Path
        The files that were written; empty when the figure was shown only.

    Raises
    ------
    ValueError, FileNotFoundError, NotADirectoryError, FileExistsError
        For no experiment with a finished epoch, an unknown panel, a format that matplotlib cannot write, ...
    """
    given = _distinct([experiments] if isinstance(experiments, (str, os.PathLike)) else experiments)
    if out is not None:
        check_figure_format(out)
    folders = _experiments_of(given)
    if out is not None:
        _check_out(Path(out), folders, overwrite=overwrite)
    logs = read_logs(folders)
    panels = choose_panels(logs)
    _check_scales(log_scale, linear_scale, logs, panels)
    if show is None:
        show = out is None and _has_display()
    shown = show and _show(logs, panels, log_scale, linear_scale)
    if shown and out is None:
        return []
    path = Path(out) if out is not None else _checked_default_path(folders)
    save_figure(plot_logs(logs, log_scale=log_scale, linear_scale=linear_scale), path, dpi=_DPI)
    return [path]


def plot_logs(logs: Sequence[Log], *, log_scale: Sequence[str] = (), linear_scale: Sequence[str] = ()) -> Figure:
    """Return the figure of logs (see `read_logs`), for a notebook or for changes of your own."""
    figure = Figure()
    draw_curves(figure, logs, choose_panels(logs), log_scale=log_scale, linear_scale=linear_scale)
    return figure


def read_logs(experiments: Sequence[PathLike]) -> list[Log]:
    """Read experiments' logs, each under its folder's name (with the folder above it where two have one name)."""
    folders = [Path(each) for each in experiments]
    logs = []
    for folder, label in zip(folders, _labels(folders), strict=True):
        records = read_metrics(folder)
        if not records:
            raise ValueError(f"'{folder / METRICS_FILE}' is empty: no epoch is finished yet.")
        selection_metric = _judged_by(folder)
        if selection_metric == VALID_LOSS and not any(VALID_LOSS in record for record in records):
            # Without a validation set the training loss decides.
            selection_metric = TRAIN_LOSS
        log = Log(label, records, selection_metric)
        if not choose_panels([log]):
            raise ValueError(f"'{folder / METRICS_FILE}' has no metric to draw.")
        logs.append(log)
    return logs


def _judged_by(folder: Path) -> str:
    """Return what an experiment's best model is chosen by; a log may lie alone, or beside damaged parameters."""
    try:
        metric = read_json(folder / _PARAMETERS_FILE)["trainer"]["best_model_metric"]
    except (OSError, ValueError, KeyError, TypeError):
        return VALID_LOSS
    return metric if metric in LOWER_IS_BETTER else VALID_LOSS


def _distinct(experiments: Sequence[PathLike]) -> list[Path]:
    folders: dict[str, Path] = {}
    for each in experiments:
        folders.setdefault(os.path.realpath(each), Path(each))
    if not folders:
        raise ValueError("No experiment was given; give the folder of one at least.")
    return list(folders.values())


def _labels(folders: Sequence[Path]) -> list[str]:
    parts = [Path(os.path.realpath(folder)).parts for folder in folders]
    for depth in range(1, max(len(each) for each in parts)):
        labels = ["/".join(each[-depth:]) for each in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(folder) for folder in folders]


def _experiments_of(given: Sequence[Path]) -> list[Path]:
    """Return the experiments' folders among what was given, and in folders that hold some; tell of what is left out.

    What is given alone stays as it is, so that its own error is told.
    """
    candidates = [each for path in given for each in _with_those_inside(path)]
    if len(candidates) == 1:
        return candidates
    found = []
    for each in _distinct(candidates):
        # A name that is not there is a mistake, not something to leave out.
        if not os.path.lexists(each) or (_has_log(each) and read_metrics(each)):
            found.append(each)
        elif not each.is_dir():
            logger.warning("'%s' is left out: it is a file, not the folder of an experiment.", each)
        else:
            logger.warning("'%s' is left out: it has no %s with a finished epoch.", each, METRICS_FILE)
    if not found:
        raise ValueError("None of what was given is the folder of an experiment that has finished an epoch.")
    return found


def _with_those_inside(path: Path) -> list[Path]:
    """Return a folder that is given, or the experiments in it where it is not one itself."""
    inside = [] if _is_experiment(path) or not path.is_dir() else sorted(filter(_is_experiment, path.iterdir()))
    return inside or [path]


def _is_experiment(folder: Path) -> bool:
    # Without a log, no epoch was finished.
    return _has_log(folder) or os.path.isfile(folder / _PARAMETERS_FILE)


def _has_log(folder: Path) -> bool:
    return os.path.isfile(folder / METRICS_FILE)


def _check_out(out: Path, folders: Sequence[Path], *, overwrite: bool) -> None:
    """Check the name of a figure: in an experiment, it may only be that of the command's own curves."""
    in_experiment = os.path.realpath(out.parent) in {os.path.realpath(each) for each in folders}
    own = in_experiment and out.stem == _CURVES and not out.is_symlink()
    check_outputs({"Figure": out}, experiments=() if own else folders, overwrite=overwrite)


def _check_scales(
    log_scale: Sequence[str], linear_scale: Sequence[str], logs: Sequence[Log], panels: Sequence[Panel]
) -> None:
    known = {panel.key: panel for panel in panels}
    for option, keys in (("log_scale", log_scale), ("linear_scale", linear_scale)):
        for key in keys:
            if key not in known:
                raise ValueError(f"There is no panel '{key}' for {option}; there are: {', '.join(known)}.")
    for key in log_scale:
        if key in linear_scale:
            raise ValueError(f"Panel '{key}' is in log_scale and in linear_scale; name it in one of them.")
        for line in known[key].lines:
            if any(value <= 0 for log in logs for value in log.series(line.metric)[1]):
                raise ValueError(f"'{line.metric}' is not always positive: it cannot have a log scale.")


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _show(logs: Sequence[Log], panels: Sequence[Panel], log_scale: Sequence[str], linear_scale: Sequence[str]) -> bool:
    """Show a window until it is closed; return False where none can be opened."""
    figure = None
    try:
        # pyplot chooses the backend: without a toolkit, or with a dead display, one that has no windows.
        from matplotlib import pyplot

        figure = pyplot.figure(num="dwiml: curves")
        if figure.canvas.required_interactive_framework is None:
            raise RuntimeError(f"matplotlib's backend here, {pyplot.get_backend()}, has none")
        draw_curves(figure, logs, panels, log_scale=log_scale, linear_scale=linear_scale)
        pyplot.show()
    except Exception as error:
        # The toolkits' exceptions have no class in common.
        logger.warning("No window could be opened (%s); the figure is saved instead.", reason_of(error))
        return False
    finally:
        if figure is not None:
            pyplot.close(figure)
    return True


def _checked_default_path(folders: Sequence[Path]) -> Path:
    path = _default_path(folders)
    if path.is_symlink():
        raise ValueError(
            f"'{path}' is a symbolic link, and is not replaced without being asked for; choose a file with out=FILE."
        )
    try:
        check_target(path, "Figure", overwrite=True)
    except PermissionError as error:
        raise PermissionError(f"{str(error).rstrip('.')}; save it elsewhere with out=FILE.") from error
    return path


def _default_path(folders: Sequence[Path]) -> Path:
    if len(folders) == 1:
        return folders[0] / f"{_CURVES}.png"
    # As the user gave it; but neither '.' nor 'a/..' ends in the name of a folder to take away.
    first = folders[0]
    parent = first / ".." if first.name in ("", "..") else first.parent
    return parent / f"{_CURVES}_compared.png"
