"""The experiments in a folder: which are running, how far they are, and what differs between them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dwiml.arguments import duration, quoted
from dwiml.files import read_json
from dwiml.inspection.text import cut, table
from dwiml.params import checks_arguments
from dwiml.training.experiment.lock import is_running
from dwiml.training.experiment.parameters import FIXED
from dwiml.training.reporting.events import END, FAILURE, RESUME, START, STOP, WARNING, read_events
from dwiml.training.reporting.loggers.local import METRICS_FILE
from dwiml.training.reporting.metrics import DIFFERENCE_FROM_BEST
from dwiml.viz.curves.log import Log
from dwiml.viz.curves.reading import PARAMETERS_FILE, read_logs

RUNNING, STOPPED, FAILED, KILLED, DONE, UNFINISHED = STATUSES = (
    "running",
    "stopped",
    "failed",
    "killed",
    "done",
    "unfinished",
)
"""``stopped``: by a signal or the time limit; ``killed``: without a word; ``unfinished``: it is not recorded why."""
ORDERS = ("name", "status", "epoch", "best", "started", "left")
_DEPTH = 3
# Epochs whose mean duration predicts the time that is left.
_LAST_EPOCHS = 5
_SECTIONS = ("model", "trainer", "sampler", "loader", "data")
_NOT_COMPARED = frozenset(
    {
        *("experiment_name", "resume", "verbose", "profile", "fingerprint", "allow_changed_data", "requeue"),
        *("checkpoint_minutes", "max_time", "stop_signal", "training_subjects", "validation_subjects", "lazy"),
        *("sampler.seed", "loader.seed", "data.cache_size", "testing_subjects"),
    }
)
_LONGEST_VALUE = 40
# Of the column of parameters, in a narrow terminal.
_NARROWEST = 30
_LONGEST_NAME = 48


@dataclass(frozen=True)
class Run:
    """An experiment.

    Attributes
    ----------
    name
        Its path relative to the folder that was searched.
    path
        Its folder.
    status
        One of :data:`STATUSES`.
    epoch, max_epochs
        Number of epochs done, and of those to do; None if it is unknown.
    metric, best, best_epoch
        The metric that selects the best model, its value, and the epoch, from 0; None without a finished epoch.
    seconds_per_epoch, seconds_left
        Mean of the last five epochs, and the time until the last one, if the training is running.
    started
        When the last run began (ISO 8601); empty if it is not recorded.
    differences
        {parameter: its value}, of those that are not the same in all runs; one that is absent is None.
    note
        What is wrong with the experiment; empty if nothing is.
    """

    name: str
    path: str
    status: str = UNFINISHED
    epoch: int = 0
    max_epochs: int | None = None
    metric: str = ""
    best: float | None = None
    best_epoch: int | None = None
    seconds_per_epoch: float | None = None
    seconds_left: float | None = None
    started: str = ""
    differences: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the run as JSON values."""
        return asdict(self)


@checks_arguments
def describe_runs(folder: str | os.PathLike[str], *, order: str = "name") -> list[Run]:
    """Return the experiments in a folder and in its subfolders, three levels deep. Nothing that they name is imported.

    Parameters
    ----------
    folder
        The folder, or an experiment.
    order
        One of :data:`ORDERS`. Values that are unknown come last.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such folder.
    ValueError
        If it has no experiment, or the order is unknown.
    """
    folder = Path(folder)
    if order not in ORDERS:
        raise ValueError(f"sort must be one of {quoted(ORDERS)}, got {order!r}.")
    if not folder.exists():
        raise FileNotFoundError(f"The folder '{folder}' was not found.")
    if not folder.is_dir():
        raise NotADirectoryError(f"'{folder}' is a file; give a folder of experiments.")
    found = list(_experiments(folder, _DEPTH))
    if not found:
        raise ValueError(f"'{folder}' has no experiment.")
    differing, _ = differing_parameters(found)
    runs = [
        replace(
            describe_run(path),
            name=path.relative_to(folder).as_posix() if path != folder else path.resolve().name,
            differences={name: values[k] for name, values in differing.items()},
        )
        for k, path in enumerate(found)
    ]
    return sorted(runs, key=lambda run: _key(run, order))


def _experiments(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the experiments in a folder; those of dwi_ml are not among them."""
    if (folder / METRICS_FILE).is_file() or _recorded(folder).keys() >= {"trainer", "model"}:
        yield folder
    elif depth:
        with suppress(OSError):
            for path in sorted(folder.iterdir()):
                if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
                    yield from _experiments(path, depth - 1)


def _recorded(folder: Path) -> Mapping[str, Any]:
    with suppress(OSError, ValueError):
        found = read_json(folder / PARAMETERS_FILE)
        if isinstance(found, dict):
            return found
    return {}


def differing_parameters(experiments: Sequence[Path]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the parameters that are not the same in all experiments, and those that are.

    Parameters that do not change the training, such as the number of loader processes, are left out.

    Returns
    -------
    differing : dict
        {parameter: its value in each experiment}; one that is absent is None.
    same : dict
        {parameter: its value}.
    """
    parameters = [_flat(path) for path in experiments]
    names = dict.fromkeys(name for each in parameters for name in each)
    differing = {name: [each.get(name) for each in parameters] for name in names}
    same = {name: values[0] for name, values in differing.items() if len({_text(value) for value in values}) == 1}
    return {name: values for name, values in differing.items() if name not in same}, same


def describe_run(path: Path) -> Run:
    """Return an experiment, without what differs from others; its name is that of its folder."""
    recorded = _recorded(path)
    trainer = recorded.get("trainer")
    wanted = trainer.get("max_epochs") if isinstance(trainer, dict) else None
    max_epochs = wanted if isinstance(wanted, int) else None
    log, note = _log_of(path)
    try:
        events = read_events(path)
    except (OSError, ValueError) as error:
        note, events = note or " ".join(str(error).split()), []
    epoch = 0 if log is None else int(log.nb_epochs)
    status = _status(path, events, is_whole=max_epochs is not None and epoch >= max_epochs)
    seconds = None if log is None else _seconds_per_epoch(log)
    left = None
    if status == RUNNING and seconds is not None and max_epochs is not None:
        left = max(max_epochs - epoch, 0) * seconds
    best = None if log is None else log.best()
    return Run(
        name=path.resolve().name,
        path=str(path),
        status=status,
        epoch=epoch,
        max_epochs=max_epochs,
        metric="" if log is None else log.selection_metric,
        best=None if best is None else best[1],
        best_epoch=None if best is None else best[0],
        seconds_per_epoch=seconds,
        seconds_left=left,
        started=next((str(each["time"]) for each in reversed(events) if each["event"] in (START, RESUME)), ""),
        note=note,
    )


def _log_of(path: Path) -> tuple[Log | None, str]:
    """Return the log of an experiment, or None and what is wrong with it (nothing, without a finished epoch)."""
    try:
        if (path / METRICS_FILE).is_file() and (path / METRICS_FILE).stat().st_size:
            return read_logs([path])[0], ""
    except (OSError, ValueError) as error:
        return None, " ".join(str(error).split())
    return None, ""


def _status(path: Path, events: Sequence[Mapping[str, Any]], *, is_whole: bool) -> str:
    if is_running(path):
        return RUNNING
    last = next((each["event"] for each in reversed(events) if each["event"] != WARNING), None)
    if last is None:
        return DONE if is_whole else UNFINISHED
    return {END: DONE, STOP: STOPPED, FAILURE: FAILED}.get(last, KILLED)


def _seconds_per_epoch(log: Log) -> float | None:
    done = log.nb_epochs
    before = max(done - _LAST_EPOCHS, 0)
    first, last = log.seconds(np.array([before, done])).tolist()
    return (last - first) / (done - before) if last > first else None


def _flat(path: Path) -> dict[str, Any]:
    """Return the recorded parameters, with the section in front of a name that several sections have."""
    recorded = _recorded(path)
    sections = {name: recorded.get(name) for name in _SECTIONS}
    pairs = [
        (section, name, value)
        for section, part in sections.items()
        if isinstance(part, dict)
        for name, value in {**part, **(part.get(FIXED) or {})}.items()
        if name != FIXED and name not in _NOT_COMPARED and f"{section}.{name}" not in _NOT_COMPARED
    ]
    names = [name for _, name, _ in pairs]
    return {name if names.count(name) == 1 else f"{section}.{name}": value for section, name, value in pairs}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _key(run: Run, order: str) -> tuple[Any, ...]:
    # Numbers in names by their value: run_2 before run_10.
    name = [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", run.name)]
    value: Any = {
        "name": name,
        "status": STATUSES.index(run.status),
        "epoch": -run.epoch,
        "best": None if run.best is None else DIFFERENCE_FROM_BEST.get(run.metric, float)(run.best),
        "started": run.started or None,
        "left": run.seconds_left,
    }[order]
    return value is None, value if value is not None else 0, name


def runs_text(runs: Sequence[Run], *, width: int | None = None) -> str:
    """Return a table of :func:`describe_runs`, and then what differs between the runs.

    Parameters
    ----------
    runs
        The runs.
    width
        Number of characters of a line with parameters; they are continued in the next line, and values of more than 40
        characters are cut. None: no limit.
    """
    rows = [("run", "status", "epochs", "best", "epoch time", "time left")]
    for run in runs:
        best = "-" if run.best is None else f"{run.best:.5g} (epoch {run.best_epoch})"
        done = f"{run.epoch} of {run.max_epochs}" if run.max_epochs is not None else str(run.epoch)
        rows.append(
            (_short(run.name), run.status, done, best, duration(run.seconds_per_epoch), duration(run.seconds_left))
        )
    lines = table(rows, indent="")
    metrics = dict.fromkeys(run.metric for run in runs if run.metric)
    if metrics:
        lines += ["", f"best: {' or '.join(metrics)}"]
    differing = list(dict.fromkeys(name for run in runs for name in run.differences))
    if differing and len(runs) > 1:
        lines += ["", "Different parameters", *_differences(runs, differing, width)]
    lines += [f"{run.name}: {run.note}" for run in runs if run.note]
    return "\n".join(lines)


def _differences(runs: Sequence[Run], names: Sequence[str], width: int | None) -> list[str]:
    """Return a table of the parameters of each run, without those that are None or that it does not have."""
    column = max(len("run"), *(len(_short(run.name)) for run in runs))
    # With the indent and the space between the columns.
    space = None if width is None else max(width - column - 4, _NARROWEST)
    rows, is_cut = [("run", "parameters")], False
    for run in runs:
        given = {name: _shown(value) for name in names if (value := run.differences.get(name)) is not None}
        whole = {name: cut(value, len(value)) for name, value in given.items()}
        texts = whole if width is None else {name: cut(value, _LONGEST_VALUE) for name, value in whole.items()}
        is_cut = is_cut or texts != whole
        parts = [f"{name} {value}" for name, value in texts.items()]
        first, *others = _lines(parts, space) or ["-"]
        rows += [(_short(run.name), first), *(("", other) for other in others)]
    return table(rows) + (["--json prints the values that are cut here."] if is_cut else [])


def _lines(parts: Sequence[str], width: int | None) -> list[str]:
    """Return lines of parts, separated by commas, of at most a number of characters if each part is short enough."""
    lines: list[str] = []
    for part in parts:
        if lines and (width is None or len(lines[-1]) + len(part) + 3 <= width):
            lines[-1] += f", {part}"
        else:
            lines[-1:] = [f"{lines[-1]},", part] if lines else [part]
    return lines


def _short(name: str) -> str:
    """Return a name of at most 48 characters: its beginning and its end."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:23]}...{name[-22:]}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
