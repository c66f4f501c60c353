"""What an experiment has left: its parameters and its best model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dwiml.files import read_json
from dwiml.models.base import MainModelAbstract
from dwiml.models.saving import PARAMETERS_FILE, read_params
from dwiml.training.folder import experiment_folder
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
        When the folder is not an experiment, or its ``parameters.json`` is damaged.
    """
    folder = experiment_folder(experiment)
    recorded: dict[str, Any] = read_json(folder.parameters, "The experiment's file")
    for section, key in (("data", "hdf5_file"), ("loader", "input_group_name")):
        part = recorded.get(section) if isinstance(recorded, dict) else None
        if not isinstance(part, dict) or not isinstance(part.get(key), str):
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
    folder = experiment_folder(experiment).best_model
    if not os.path.lexists(folder / PARAMETERS_FILE):
        raise FileNotFoundError(f"'{experiment}' has no best model yet: train it for an epoch first.")
    name, _ = read_params(folder / PARAMETERS_FILE)
    if name not in MODELS:
        raise ValueError(
            f"The best model of '{experiment}' is a {' '.join(name.split())[:80]}, a class that dwiml does not know: "
            "load it in a script of yours and use dwiml.tracking.tracker.Tracker."
        )
    model: MainModelAbstract = MODELS[name].load(folder)
    return model
