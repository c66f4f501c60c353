"""The recorded parameters of an experiment, and their comparison when it is resumed."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import dwiml
from dwiml.arguments import shown
from dwiml.files import write_json
from dwiml.hdf5.stored.collection import HDF5Files, files_of
from dwiml.hdf5.stored.fingerprint import is_older
from dwiml.models.saving import recorded_text
from dwiml.params import is_same_function
from dwiml.training.experiment.checkpoint import load_checkpoint, max_bytes_for
from dwiml.training.experiment.fitting import check_all, check_parameters, refuse_unknown
from dwiml.training.experiment.folder import ExperimentFolder
from dwiml.user_classes.finding import class_path
from dwiml.user_classes.source import source_digest

# Parameters that may differ in a resumed run. None of them changes the weights of an epoch that both runs have, except
# nan_policy, whose change is reported. A schedule keeps its shape with another max_epochs.
MAY_CHANGE = frozenset(
    {
        "trainer.max_epochs",
        "trainer.patience",
        "trainer.nb_cpu_processes",
        "trainer.use_gpu",
        "trainer.comet_workspace",
        "trainer.comet_project",
        "trainer.tensorboard",
        "trainer.wandb_project",
        "trainer.wandb_entity",
        "trainer.loggers",
        "trainer.log_batches",
        "trainer.resume",
        "trainer.verbose",
        "trainer.profile",
        "trainer.nan_policy",
        "trainer.allow_changed_data",
        "trainer.checkpoint_minutes",
        "trainer.stop_signal",
        "trainer.max_time",
        "trainer.requeue",
        "data.lazy",
        "data.cache_size",
        "data.hdf5_file",
    }
)


# Parameters that may be objects of the script; parameters.json records their names only.
FROM_SCRIPT = ("optimizer", "lr_scheduler", "loggers")
# Entries of a section that are not arguments of its object.
CLASS = "class"
FIXED = "fixed_by_class"
# How each group of the data was created; other volumes for the model must be created in the same way.
GROUPS_CONFIG = "groups_config"
# Where the classes were defined, for the user; nothing is imported from there.
CLASSES = "classes"
# The digests of their files, of classes of the user.
DIGESTS = "class_digests"
# Which of some methods, that not every model needs, the model has: what can be done with it.
MODEL_METHODS = "model_methods"
_OPTIONAL_METHODS = ("get_tracking_directions", "plausibility")
# Of the software.
VERSIONS = "versions"
# The metric that selects the best model, if a class of the user chooses it.
SELECTION_METRIC = "selection_metric"
_ABSENT = "absent"


def describe(named: Mapping[str, Any], dataset: Any) -> dict[str, dict[str, Any]]:
    """Return the parameters of the objects of a training, by section.

    Parameters
    ----------
    named
        The objects, by the name of their section; each has ``params``.
    dataset
        The dataset; its parameters, fingerprint and loaded subjects form the section ``data``.
    """
    sections = {name: {CLASS: type(thing).__name__, **thing.params} for name, thing in named.items()}
    for name, thing in named.items():
        if thing.fixed_params:
            sections[name][FIXED] = thing.fixed_params
    files = [str(path.resolve()) for path in dataset.hdf5_files]
    sections["data"] = {
        **dataset.params,
        "hdf5_file": files[0] if len(files) == 1 else files,
        "fingerprint": dataset.fingerprint(),
        "training_subjects": dataset.training_set.subjects,
        "validation_subjects": dataset.validation_set.subjects,
    }
    return sections


def objects_of(trainer: Any) -> dict[str, Any]:
    """Return the objects of a training that have parameters, by the name of their section."""
    parts = {"sampler": trainer.batch_sampler, "loader": trainer.batch_loader, "model": trainer.model}
    return {"trainer": trainer, **parts}


def class_paths(trainer: Any) -> dict[str, str]:
    """Return where the class of each object of a training is defined, by the name of its section."""
    return {name: class_path(type(thing)) for name, thing in objects_of(trainer).items()}


def class_digests(trainer: Any) -> dict[str, str]:
    """Return the digest of the file of each object whose class is not part of dwiml, by the name of its section."""
    digests = {name: source_digest(type(thing)) for name, thing in objects_of(trainer).items()}
    return {name: digest for name, digest in digests.items() if digest is not None}


class RecordedSource(NamedTuple):
    """Where the class of a section was defined, and the digest of its file; None if it was not recorded."""

    path: str | None
    digest: str | None


def recorded_source(recorded: Mapping[str, Any], section: str) -> RecordedSource:
    """Return the source of the class of a section of ``parameters.json``."""
    held = (recorded.get(key) for key in (CLASSES, DIGESTS))
    return RecordedSource(*(recorded_text(each.get(section)) if isinstance(each, dict) else None for each in held))


def arguments_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor arguments recorded in a section."""
    return {name: value for name, value in section.items() if name not in (CLASS, FIXED)}


def names_of_loggers(section: Mapping[str, Any]) -> list[str]:
    """Return the names of the user's loggers recorded in a trainer's section, including those that its class chose."""
    return [*section.get("loggers", []), *section.get(FIXED, {}).get("loggers", [])]


def optional_methods(model: Any) -> list[str]:
    """Return the methods of a model, or of its class, that not every model needs and that a command asks for."""
    return [name for name in _OPTIONAL_METHODS if callable(getattr(model, name, None))]


def write_parameters(
    folder: ExperimentFolder,
    sections: Mapping[str, Any],
    classes: Mapping[str, str],
    groups_config: Mapping[str, Any],
    selection_metric: str | None = None,
    *,
    digests: Mapping[str, str] | None = None,
    methods: Sequence[str] = (),
) -> None:
    """Write ``parameters.json``: all parameters, the groups config of the data, and the versions of the software.

    Parameters
    ----------
    folder
        The experiment folder.
    sections
        All parameters, by section.
    classes
        Value of :func:`class_paths`.
    groups_config
        The groups config of the data.
    selection_metric
        The metric that selects the best model, if a class of the user chooses it.
    digests
        Value of :func:`class_digests`; None if no class is of the user.
    methods
        Value of :func:`optional_methods`.
    """
    # These are not compared when resuming; the fingerprint of the data is.
    more: dict[str, Any] = {CLASSES: dict(classes), GROUPS_CONFIG: groups_config, VERSIONS: versions()}
    more[MODEL_METHODS] = list(methods)
    more |= {DIGESTS: dict(digests)} if digests else {}
    more |= {} if selection_metric is None else {SELECTION_METRIC: selection_metric}
    described = {"experiment_name": folder.path.name, **sections, **more}
    write_json(folder.parameters, described, follow_links=False)


def find_data(recorded: Mapping[str, Any], experiment: str | Path, hdf5_file: HDF5Files | None = None) -> list[Path]:
    """Return the files of an experiment's data: `hdf5_file` if given, otherwise the recorded ones.

    A folder given as `hdf5_file` means its files; see :func:`dwiml.hdf5.stored.collection.files_of`.

    Raises
    ------
    FileNotFoundError
        If a folder has no HDF5 file, or a recorded file does not exist.
    """
    if hdf5_file:
        return files_of(hdf5_file)
    files = recorded_files(recorded)
    missing = [path for path in files if not path.is_file()]
    if missing:
        among = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise FileNotFoundError(
            f"'{missing[0]}'{among}, the HDF5 file of experiment '{experiment}', was not found; give its new path as "
            "hdf5_file."
        )
    return files


def recorded_files(recorded: Mapping[str, Any]) -> list[Path]:
    """Return the HDF5 files that an experiment records: one, or several in their order.

    Raises
    ------
    KeyError, TypeError
        If ``parameters.json`` is damaged.
    """
    given = recorded["data"]["hdf5_file"]
    return [Path(given)] if isinstance(given, str) else [Path(each) for each in given]


def data_has_changed(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Return whether the HDF5 file differs from the recorded one, by its fingerprint."""
    return bool(recorded["data"]["fingerprint"] != current["data"]["fingerprint"])


def refuse_differences(
    recorded: Mapping[str, Any], current: Mapping[str, Any], experiment: str, *, allow_changed_data: bool = False
) -> None:
    """Compare the parameters of a run with those recorded in its checkpoint.

    A parameter that was not recorded, because an earlier dwiml did not have it, and that is None, is not a difference.

    Parameters
    ----------
    recorded, current
        Parameters by section, as returned by :func:`describe`.
    experiment
        Name of the experiment for the message.
    allow_changed_data
        Whether the section ``data`` may differ.

    Raises
    ------
    ValueError
        If parameters differ that may not (see :data:`MAY_CHANGE`); the message names each of them.
    """
    recorded = {**recorded, "model": _without_empty_name(recorded.get("model", {}))}
    differences = [
        f"{name} was {_shown(old)} and is now {_shown(new)}"
        for name, old, new in _pairs(recorded, current)
        if name not in MAY_CHANGE
        and not _is_same(name, old, new)
        and (old, new) != (_ABSENT, None)
        and not (allow_changed_data and name.startswith("data."))
    ]
    if differences:
        names = [each.partition(" ")[0] for each in differences]
        fingerprint = str(recorded.get("data", {}).get("fingerprint", ""))
        if any(each.startswith("data.fingerprint") for each in differences) and is_older(fingerprint):
            differences.append(
                "(an earlier dwiml computed it in another way, so that the HDF5 file cannot be compared)"
            )
        of_data = [name.startswith("data.") for name in names]
        changed_data = " (or allow_changed_data=True)" if any(of_data) else ""
        if any(of_data) and not all(of_data):
            changed_data = " (allow_changed_data=True applies to the data only)"
        raise ValueError(
            f"Experiment '{experiment}' cannot be resumed with other parameters: {'; '.join(differences)}. "
            f"Use the recorded values{changed_data}, or start another experiment."
        )


def recorded_arguments(
    folder: ExperimentFolder, model: Any, trainer_class: type[Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the keywords for a trainer that resumes from the checkpoint of an experiment.

    Parameters
    ----------
    folder
        The experiment folder.
    model
        The model; it limits the size of the checkpoint.
    trainer_class
        Class of the trainer, which must have all recorded parameters.
    changes
        Keywords that differ from the recorded ones.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    ValueError
        If the checkpoint is damaged, or an object that the script created is not given.
    """
    checkpoint = load_checkpoint(folder.checkpoint, max_bytes=max_bytes_for(model))
    check_all(checkpoint, {"parameters": check_parameters}, str(folder.path))
    params = arguments_of(checkpoint["parameters"]["trainer"])
    refuse_unknown(params, trainer_class, str(folder.path))
    # Valid for one resume only.
    params.pop("allow_changed_data", None)
    for name in FROM_SCRIPT:
        if name not in changes and _is_from_script(params.get(name)):
            raise ValueError(
                f"Experiment '{folder.path}' was trained with {name} {shown(params[name])}, created by its script: "
                f"run that script again with resume='auto' (or give {name} to init_from_checkpoint)."
            )
    return {**params, **changes, "resume": "must"}


def _is_from_script(recorded: Any) -> bool:
    """Return whether a recorded parameter is the name of a function or class, or a list of loggers."""
    return isinstance(recorded, list) or (isinstance(recorded, str) and "." in recorded)


def _without_empty_name(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's section without an empty experiment_name, which earlier versions recorded."""
    kept = {name: value for name, value in section.items() if (name, value) != ("experiment_name", "")}
    if isinstance(kept.get(FIXED), dict):
        kept[FIXED] = _without_empty_name(kept[FIXED])
        return kept if kept[FIXED] else {name: value for name, value in kept.items() if name != FIXED}
    return kept


def _pairs(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> Iterable[tuple[str, Any, Any]]:
    for section in sorted(recorded.keys() | current.keys()):
        old, new = recorded.get(section, {}), current.get(section, {})
        for name in sorted(old.keys() | new.keys()):
            yield f"{section}.{name}", old.get(name, _ABSENT), new.get(name, _ABSENT)


def _is_same(name: str, old: Any, new: Any) -> bool:
    """Return whether the values of a parameter are equal; functions of a script are compared by name."""
    if name.partition(".")[2] in FROM_SCRIPT and isinstance(old, str) and isinstance(new, str):
        return is_same_function(old, new)
    return bool(old == new)


def _shown(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def versions() -> dict[str, str]:
    """Return the versions of dwiml, torch and Python, and the git commit of the user's script, if there is one."""
    found = {"dwiml": dwiml.__version__, "torch": torch.__version__, "python": platform.python_version()}
    commit = _git_commit()
    return {**found, "git_commit": commit} if commit else found


def _git_commit() -> str | None:
    """Return the git commit of the repository of the user's script; None outside a repository."""
    script = Path(sys.argv[0]).resolve() if sys.argv and sys.argv[0] else Path.cwd()
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=script.parent, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
