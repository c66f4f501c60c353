"""What an experiment has left: its parameters and its best model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dwiml.files import read_json
from dwiml.models.base import MainModelAbstract
from dwiml.models.saving import PARAMETERS_FILE
from dwiml.training.experiment import ExperimentFolder
from dwiml.training.rebuild import MODELS


def recorded_parameters(experiment: str | Path) -> dict[str, Any]:
    """Return all that was chosen for an experiment.

    Parameters
    ----------
    experiment
        Its folder.

    Raises
    ------
    FileNotFoundError, ValueError
        When the folder is no experiment, or its ``parameters.json`` is damaged.
    """
    folder = ExperimentFolder(Path(experiment))
    if not folder.parameters.is_file():
        raise FileNotFoundError(f"'{folder.path}' is no experiment's folder: it has no parameters.json.")
    recorded: dict[str, Any] = read_json(folder.parameters)
    for section, key in (("data", "hdf5_file"), ("loader", "input_group_name")):
        if not isinstance(recorded, dict) or key not in recorded.get(section, {}):
            raise ValueError(f"'{folder.parameters}' is damaged or not from this version of dwiml: no {section}.{key}.")
    return recorded


def load_best_model(experiment: str | Path) -> Any:
    """Return the best model of an experiment, with its weights, on the CPU.

    Parameters
    ----------
    experiment
        Its folder.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no best model, its files are damaged, or its class is the user's own.
    """
    folder = ExperimentFolder(Path(experiment)).best_model
    if not (folder / PARAMETERS_FILE).is_file():
        raise FileNotFoundError(f"'{experiment}' has no best model yet: train it for an epoch first.")
    described = read_json(folder / PARAMETERS_FILE)
    name = described.get("class") if isinstance(described, dict) else None
    if name not in MODELS:
        raise ValueError(
            f"The best model of '{experiment}' is a {name}, a class that dwiml does not know: load it in a script of "
            "yours and use dwiml.tracking.tracker.Tracker."
        )
    model: MainModelAbstract = MODELS[name].load(folder)
    return model
