"""What an experiment folder contains: its parameters, its log and its files. Nothing that it names is imported."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from dwiml.arguments import counted
from dwiml.hdf5.stored.collection import files_shown
from dwiml.inspection.text import cut, pairs, plain, size
from dwiml.training.experiment.checkpoint import LATEST, PREVIOUS
from dwiml.training.experiment.folder import ExperimentFolder, experiment_folder
from dwiml.training.experiment.lock import LOCK_FILE, read_lock
from dwiml.training.experiment.parameters import CLASSES, FIXED, MODEL_METHODS, arguments_of, recorded_files
from dwiml.training.loading import damage_reported, recorded_parameters
from dwiml.training.optimization.schedule_base import WARMUP_COSINE
from dwiml.training.reporting.loggers.local import METRICS_FILE, read_metrics
from dwiml.viz.logs import read_logs

_WIDTH = 100
_AUTOENCODER, _CLASSIFIER = "AutoencoderModel", "StreamlineClassifierModel"
# Parameters of the trainer that are printed; --json has all.
_SHOWN = (
    "learning_rates",
    "lr_scheduler",
    "weight_decay",
    "optimizer",
    "max_epochs",
    "patience",
    "clip_grad",
    "precision",
)
# Those of the loader that are printed if they are not 0.
_AUGMENTATION = (
    *("split_ratio", "reverse_ratio", "noise_gaussian_size_forward", "noise_gaussian_size_loss"),
    "noise_correlated_size",
)


def describe_experiment(experiment: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what an experiment folder contains, without importing what it names or reading its weights.

    Parameters
    ----------
    experiment
        The folder of an experiment of ``dwiml train`` or of a script.

    Returns
    -------
    dict
        JSON values: ``kind`` (``"experiment"``), ``path``, ``parameters`` (content of ``parameters.json``),
        ``nb_epochs`` (finished ones), ``last`` (the metrics of the last epoch) and ``best`` (``epoch``, from 0,
        ``metric`` and ``value``), None before the first epoch; ``files`` ({name: size in bytes and time}),
        ``data_found`` (whether the recorded HDF5 file exists), ``in_use_by`` (who holds the lock, or None) and
        ``commands`` ({command line: what it does}).

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If the folder is not an experiment.
    ValueError
        If ``parameters.json`` or the log is damaged.
    """
    folder = experiment_folder(experiment)
    recorded = recorded_parameters(folder.path)
    records = read_metrics(folder.path) if os.path.lexists(folder.path / METRICS_FILE) else []
    with damage_reported(folder):
        return {
            "kind": "experiment",
            "path": str(experiment),
            "parameters": plain(recorded),
            "nb_epochs": len(records),
            "last": plain(records[-1]) if records else None,
            "best": _best(folder) if records else None,
            "files": _files(folder),
            "data_found": all(path.is_file() for path in recorded_files(recorded)),
            "in_use_by": _user(folder),
            "commands": _commands(
                str(experiment),
                recorded,
                has_model=(folder.best_model / "model_state.pt").is_file(),
                is_finished=len(records) == recorded["trainer"].get("max_epochs"),
            ),
        }


def _best(folder: ExperimentFolder) -> dict[str, Any] | None:
    log = read_logs([folder.path])[0]
    best = log.best()
    return None if best is None else {"epoch": best[0], "metric": log.selection_metric, "value": plain(best[1])}


def _files(folder: ExperimentFolder) -> dict[str, dict[str, Any]]:
    """Return the size in bytes and the time of the files of an experiment that exist."""
    names = {
        f"checkpoint/{LATEST}": folder.checkpoint / LATEST,
        f"checkpoint/{PREVIOUS}": folder.checkpoint / PREVIOUS,
        "best_model/model_state.pt": folder.best_model / "model_state.pt",
        "config.yaml": folder.config,
        str(METRICS_FILE): folder.path / METRICS_FILE,
    }
    found = {}
    for name, path in names.items():
        if path.is_file():
            status = path.stat()
            time = datetime.fromtimestamp(status.st_mtime, tz=timezone.utc).astimezone()
            found[name] = {"nb_bytes": status.st_size, "time": time.isoformat(sep=" ", timespec="seconds")}
    return found


def _user(folder: ExperimentFolder) -> str | None:
    """Return who holds the lock of the experiment; None if nobody does."""
    lock = read_lock(folder.path / LOCK_FILE)
    return None if lock is None else str(lock[0] or "an unknown process (the lock is damaged)")


def _commands(experiment: str, recorded: Mapping[str, Any], *, has_model: bool, is_finished: bool) -> dict[str, str]:
    """Return what can be done next: {command line: what it does}."""
    path = shlex.quote(experiment)
    classes = recorded.get(CLASSES, {})
    own = {
        section: name
        for section in ("model", "trainer")
        if not (name := str(classes.get(section, "dwiml."))).startswith("dwiml.")
    }
    options = {section: f" --{section}_class FILE.py:{name.rpartition(':')[2]}" for section, name in own.items()}
    model = options.get("model", "")
    # A schedule that ends at a rate of 0 cannot go on after its last epoch.
    ends = recorded["trainer"].get("lr_scheduler") == WARMUP_COSINE
    more = "" if ends else " --new_max_epochs N"
    resume = {f"dwiml resume {path}{more}{''.join(options.values())}": "continue the training"}
    commands = {} if ends and is_finished else resume
    kind, methods = recorded["model"].get("class"), recorded.get(MODEL_METHODS)
    if methods is None:
        # Of an earlier version.
        methods = ["plausibility"] if kind == _CLASSIFIER else ["get_tracking_directions"]
    if has_model and kind == _AUTOENCODER:
        commands[f"dwiml autoencode {path} IN.trk OUT.trk"] = "reconstruct streamlines with the best model"
    elif has_model and "plausibility" in methods:
        commands[f"dwiml evaluate {path}{model}"] = "count the streamlines that each --min_plausibility keeps"
        commands[f"dwiml filter_plausible {path} SUBJECT IN.trk OUT.trk{model}"] = "keep the plausible streamlines"
    elif has_model and "get_tracking_directions" in methods:
        commands[f"dwiml evaluate {path}{model}"] = "measure the direction error of the best model"
        subject = next(iter(recorded["data"].get("validation_subjects", [])), "SUBJECT")
        line = f"dwiml track {path} {shlex.quote(str(subject))} OUT.trk --tracking_mask GROUP --nb_seeds N{model}"
        commands[line] = "track a subject with the best model"
    commands[f"dwiml visualize_logs {path}"] = "draw the training curves"
    return commands


def experiment_text(found: Mapping[str, Any]) -> str:
    """Return the text of :func:`describe_experiment`."""
    recorded = found["parameters"]
    model, trainer = recorded["model"], recorded["trainer"]
    done, wanted = found["nb_epochs"], trainer.get("max_epochs")
    lines = [
        f"{found['path']}: experiment of {model.get('class', 'an unknown model')}, {done} of {_epochs(wanted)} finished"
    ]
    lines += pairs(_facts(found))
    lines += ["", f"Model {model.get('class')}", *pairs(_values(arguments_of(model) | _fixed(model)))]
    settings = {name: trainer[name] for name in _SHOWN if name in trainer}
    settings |= {name: value for name, value in _fixed(trainer).items() if name in _SHOWN}
    lines += ["", f"Training {trainer['class']}", *pairs(_values({**settings, **_batches(recorded)}))]
    lines += ["", "Next"]
    for command, what in found["commands"].items():
        lines += [f"  {what}:", f"    {command}"]
    return "\n".join(lines)


def _fixed(section: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters that a class of the user sets itself, for people."""
    fixed = section.get(FIXED)
    return {name: f"{value} (set by the class)" for name, value in fixed.items()} if isinstance(fixed, dict) else {}


def _epochs(number: Any) -> str:
    return counted(number, "epoch") if isinstance(number, int) else "an unknown number of epochs"


def _batches(recorded: Mapping[str, Any]) -> dict[str, Any]:
    sampler, loader = recorded.get("sampler", {}), recorded["loader"]
    names = ("batch_size_training", "batch_size_units", "seed")
    augmentation = {name: loader[name] for name in _AUGMENTATION if loader.get(name)}
    return {**{name: sampler[name] for name in names if name in sampler}, **augmentation}


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    recorded = found["parameters"]
    data, loader = recorded["data"], recorded["loader"]
    missing = "" if found["data_found"] else " (not found: give its new path as --hdf5_file)"
    groups = [f"'{loader[key]}'" for key in ("input_group_name", "streamline_group_name") if loader.get(key)]
    subjects = [
        counted(len(data[f"{name}_subjects"]), f"{name} subject")
        for name in ("training", "validation")
        if isinstance(data.get(f"{name}_subjects"), list)
    ]
    files = files_shown(recorded_files(recorded))
    facts = {"data": f"{files}{missing}\ngroups {' and '.join(groups)}; {', '.join(subjects)}"}
    if found["best"] is not None:
        best = found["best"]
        facts["best epoch"] = f"{best['epoch']} (from 0), {best['metric']} {_number(best['value'])}"
    if found["last"] is not None:
        losses = [
            f"{name} {_number(found['last'][name])}" for name in ("train_loss", "valid_loss") if name in found["last"]
        ]
        facts["last epoch"] = f"{found['last']['epoch']}, {', '.join(losses)}"
    for name, file in found["files"].items():
        facts[name] = f"{size(file['nb_bytes'])}, {file['time']}"
    versions = recorded.get("versions")
    if isinstance(versions, dict):
        facts["versions"] = ", ".join(f"{name} {value}" for name, value in versions.items() if value)
    if found["in_use_by"]:
        facts["locked by"] = found["in_use_by"]
    return facts


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, (int, float)) else str(value)


def _values(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of parameters; those that are None are not used, and left out."""
    return {name: cut(str(value), _WIDTH) for name, value in parameters.items() if value is not None}
