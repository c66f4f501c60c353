"""Find the experiments that are drawn, and read their logs."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dwiml.files import read_json
from dwiml.importing.logs import read_logs as read_dwi_ml_logs
from dwiml.training.reporting.events import DONE, END, FAILURE, RESUME, STOP, WARNING, read_events
from dwiml.training.reporting.loggers.batches import BATCHES_FILE, read_batches
from dwiml.training.reporting.loggers.local import METRICS_FILE, read_metrics
from dwiml.training.reporting.metrics import DIFFERENCE_FROM_BEST, EPOCH, SELECTION_VALUE, TRAIN_LOSS, VALID_LOSS
from dwiml.viz.curves.log import Log, is_number
from dwiml.viz.curves.panels import choose_panels

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
# Defined in dwiml.models.saving too, whose import would load torch.
PARAMETERS_FILE = "parameters.json"
_LOGS = METRICS_FILE.parent
# Files beside experiments that are no mistake: what earlier commands have written.
_OUTPUTS = (".png", ".pdf", ".svg", ".csv", ".html")
# Options of a direction getter that do not change the definition of the loss.
_NOT_IN_LOSS = ("dropout", "hidden_size")
_MOST_EPOCHS = 1e9


def read_logs(experiments: Sequence[PathLike], *, batches: bool = False) -> list[Log]:
    """Read the logs of experiments, of dwiml or of dwi_ml.

    Parameters
    ----------
    experiments
        Experiment folders.
    batches
        Read the logs of batches, too.

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
    return [_read_log(folder, label, batches=batches) for folder, label in zip(folders, _labels(folders), strict=True)]


def _read_log(folder: Path, label: str, *, batches: bool) -> Log:
    is_other = is_dwi_ml(folder)
    of_batches = read_batches(folder) if batches and not is_other else {}
    if is_other:
        records = read_dwi_ml_logs(folder / _LOGS)
    else:
        records = read_metrics(folder) if _has_log(folder) or not len(of_batches.get(EPOCH, ())) else []
    if not records and not len(of_batches.get(EPOCH, ())):
        raise ValueError(f"'{folder / METRICS_FILE}' is empty: no epoch is finished yet.")
    recorded = _parameters(folder)
    selection_metric, is_own = _selection_metric(recorded)
    if is_own and not any(selection_metric in record for record in records):
        selection_metric = SELECTION_VALUE
    elif selection_metric == VALID_LOSS and not any(VALID_LOSS in record for record in records):
        # Without a validation set, the best model is selected by the training loss.
        selection_metric = TRAIN_LOSS
    resumed, note = ((), "dwi_ml") if is_other else _history(folder)
    log = Log(
        label,
        records,
        selection_metric,
        is_own,
        batches=of_batches,
        resumed=resumed,
        loss=_loss(recorded),
        note=note,
    )
    if not choose_panels([log]):
        raise ValueError(f"'{folder / METRICS_FILE}' has no metric to draw.")
    return log


def _parameters(folder: Path) -> Mapping[str, Any]:
    """Return the recorded parameters of an experiment; empty if they are missing or damaged."""
    try:
        recorded = read_json(folder / PARAMETERS_FILE)
    except (OSError, ValueError):
        return {}
    return recorded if isinstance(recorded, dict) else {}


def _selection_metric(recorded: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the model-selection metric of an experiment, and whether a class of the user chose it.

    If the parameters are missing or damaged, it is the default one.
    """
    own = recorded.get("selection_metric")
    if isinstance(own, str):
        return own, True
    trainer = recorded.get("trainer")
    metric = trainer.get("best_model_metric") if isinstance(trainer, dict) else None
    return metric if isinstance(metric, str) and metric in DIFFERENCE_FROM_BEST else VALID_LOSS, False


def _loss(recorded: Mapping[str, Any]) -> str:
    """Return how the loss of an experiment is defined: by its direction getter and its options, or by its model."""
    model = recorded.get("model")
    if not isinstance(model, dict):
        return ""
    getter = model.get("dg_key")
    if not isinstance(getter, str):
        return str(model.get("class", ""))
    options = model.get("dg_args")
    given = options if isinstance(options, dict) else {}
    listed = ", ".join(f"{name} {value}" for name, value in sorted(given.items()) if name not in _NOT_IN_LOSS)
    return f"{getter} with {listed}" if listed else getter


def _history(folder: Path) -> tuple[tuple[float, ...], str]:
    """Return where a training was resumed, in epochs done, and how it ended, if it was not at its last epoch."""
    try:
        events = read_events(folder)
    except (OSError, ValueError):
        return (), ""
    resumes = [event.get(DONE, -1) for event in events if event["event"] == RESUME]
    resumed = tuple(float(done) for done in resumes if is_number(done) and 0 <= done < _MOST_EPOCHS)
    last = next((event["event"] for event in reversed(events) if event["event"] != WARNING), END)
    return resumed, {END: "", STOP: "stopped", FAILURE: "failed"}.get(last, "not finished")


def distinct(experiments: Sequence[PathLike]) -> list[Path]:
    """Return the paths, each once; refuse none at all."""
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


def find_experiments(given: Sequence[Path], *, batches: bool = False) -> list[Path]:
    """Return the experiment folders among the given folders and inside them; warn about the others.

    A single path is returned unchanged: reading it raises a more precise error. With `batches`, an experiment without a
    finished epoch may have a log of batches.
    """
    candidates = [folder for path in given for folder in _expand(path)]
    if len(candidates) == 1:
        return candidates
    found = []
    for folder in distinct(candidates):
        # A path that does not exist is an error, to be raised when it is read.
        if (
            not os.path.lexists(folder)
            or is_dwi_ml(folder)
            or (_has_log(folder) and read_metrics(folder))
            or (batches and os.path.isfile(folder / BATCHES_FILE))
        ):
            found.append(folder)
        elif folder.suffix.lower() in _OUTPUTS and folder.is_file():
            continue
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
    return _has_log(folder) or os.path.isfile(folder / PARAMETERS_FILE) or is_dwi_ml(folder)


def is_dwi_ml(folder: Path) -> bool:
    """Return whether a folder has logs of dwi_ml, and none of dwiml."""
    return not _has_log(folder) and any((folder / _LOGS).glob("*.npy"))


def _has_log(folder: Path) -> bool:
    return os.path.isfile(folder / METRICS_FILE)
