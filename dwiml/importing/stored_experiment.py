"""The files of an experiment of dwi_ml, which may be damaged or come from a stranger."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dwiml.arguments import check_choice
from dwiml.files import open_regular, read_json
from dwiml.files.tensors import read_tensors
from dwiml.training.loading import BEST_OR_LATEST

BEST, LATEST = "best_model", "checkpoint/model"
WEIGHTS, PARAMETERS, TYPE = "model_state.pkl", "parameters.json", "model_type.txt"
TRAINING = "parameters_latest.json"
LOGS = "logs"

# Parameters of any model or training are far smaller.
_MAX_JSON = 2**24
_MAX_TYPE = 200


@dataclass(frozen=True)
class Source:
    """An experiment of dwi_ml.

    Attributes
    ----------
    path
        The folder that was given: an experiment, or the folder of a model.
    model
        The folder of the model.
    model_type
        Name of the model's class in dwi_ml.
    parameters
        Its parameters.
    weights
        Its weights by name, on the CPU.
    training
        Parameters of the training, by section; empty if they are missing.
    """

    path: Path
    model: Path
    model_type: str
    parameters: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    training: Mapping[str, Any]

    @property
    def logs(self) -> Path:
        """The folder of the logs; it may be missing."""
        return self.path / LOGS

    def section(self, name: str) -> Mapping[str, Any]:
        """Return a section of the parameters of the training; empty if it is missing or is not an object."""
        found = self.training.get(name)
        return found if isinstance(found, Mapping) else {}


def read_source(experiment: str | os.PathLike[str], *, weights: str = "best") -> Source:
    """Read an experiment of dwi_ml; see :class:`Source`.

    Parameters
    ----------
    experiment
        The experiment folder, or the folder of one model (with ``model_state.pkl``).
    weights
        ``"best"``: those of the best model, or of the checkpoint if there is none; ``"latest"``: those of the
        checkpoint.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, OSError
        If a file is missing or cannot be read.
    ValueError
        If a file is damaged, or holds anything other than parameters or weights, or `weights` is another value.
    """
    path = Path(experiment)
    check_choice("weights", weights, BEST_OR_LATEST)
    folder = _model_folder(path, latest=weights == "latest")
    parameters = read_json(folder / PARAMETERS, "The file of the model's parameters", max_bytes=_MAX_JSON)
    if not isinstance(parameters, dict):
        raise ValueError(f"'{folder / PARAMETERS}' does not describe a model of dwi_ml: it is not an object.")
    state, _ = read_tensors(folder / WEIGHTS, "The weights file", advice="copy it again", of_dwiml=False)
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ValueError(f"The weights file '{folder / WEIGHTS}' does not hold weights by name.")
    return Source(path, folder, _model_type(folder), parameters, state, _training(path))


def _model_folder(path: Path, *, latest: bool) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"Experiment folder '{path}' does not exist.")
    if not path.is_dir():
        raise NotADirectoryError(f"'{path}' is a file, not an experiment folder; give the folder.")
    places = ("",) if os.path.lexists(path / WEIGHTS) else (LATEST,) if latest else (BEST, LATEST)
    for place in places:
        if os.path.lexists(path / place / WEIGHTS):
            return path / place
    if os.path.lexists(path / BEST / "model_state.pt"):
        raise ValueError(f"'{path}' is an experiment of dwiml already, which needs no import.")
    expected = " and no ".join(f"'{place}/{WEIGHTS}'" for place in places)
    raise FileNotFoundError(f"'{path}' is not an experiment of dwi_ml: it has no {expected}.")


def _model_type(folder: Path) -> str:
    if not os.path.lexists(folder / TYPE):
        raise FileNotFoundError(
            f"'{folder}' has no {TYPE}, the name of the model's class: it was not written by dwi_ml 1.0."
        )
    with open_regular(folder / TYPE, "The model's type") as stream:
        raw = stream.read(_MAX_TYPE + 1)
    name = " ".join(raw.decode("utf-8", "replace").split())
    if not name.isidentifier() or len(raw) > _MAX_TYPE:
        raise ValueError(f"'{folder / TYPE}' should hold the name of a class.")
    return name


def _training(path: Path) -> Mapping[str, Any]:
    if not os.path.lexists(path / TRAINING):
        return {}
    # dwi_ml writes Infinity for a training without patience.
    training = read_json(path / TRAINING, "The file of the training's parameters", max_bytes=_MAX_JSON, non_finite=True)
    if not isinstance(training, dict):
        raise ValueError(f"'{path / TRAINING}' does not describe a training of dwi_ml: it is not an object.")
    return training
