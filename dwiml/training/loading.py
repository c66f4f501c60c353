"""Loading an experiment: its parameters, its best model, and its objects."""

from __future__ import annotations

import os
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dwiml import models
from dwiml.batching.loader import DWIMLBatchLoaderOneInput, DWIMLStreamlinesBatchLoader
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.files import read_json
from dwiml.models.base import MainModelAbstract
from dwiml.models.saving import PARAMETERS_FILE, STATE_FILE, built, check_own, read_params
from dwiml.params import checks_arguments
from dwiml.training.experiment.checkpoint import LATEST, PREVIOUS
from dwiml.training.experiment.folder import ExperimentFolder, experiment_folder
from dwiml.training.experiment.parameters import arguments_of, find_data
from dwiml.training.generation.phase import DWIMLTrainerOneInputWithGVPhase
from dwiml.training.one_input import DWIMLTrainerOneInput
from dwiml.training.trainer import DWIMLTrainer

# Known classes only: an untrusted file must not choose what is imported.
MODELS = {cls.__name__: cls for cls in map(pkgutil.resolve_name, models.MODELS.values())}
TRAINERS: dict[str, type[DWIMLTrainer]] = {
    "DWIMLTrainer": DWIMLTrainer,
    "DWIMLTrainerOneInput": DWIMLTrainerOneInput,
    "DWIMLTrainerOneInputWithGVPhase": DWIMLTrainerOneInputWithGVPhase,
}
LOADERS: dict[str, type[DWIMLStreamlinesBatchLoader]] = {
    "DWIMLStreamlinesBatchLoader": DWIMLStreamlinesBatchLoader,
    "DWIMLBatchLoaderOneInput": DWIMLBatchLoaderOneInput,
}


@dataclass(frozen=True)
class RebuiltExperiment:
    """The objects of a training, rebuilt; the model has untrained weights."""

    folder: ExperimentFolder
    dataset: MultiSubjectDataset
    model: Any
    sampler: DWIMLBatchIDSampler
    loader: DWIMLStreamlinesBatchLoader
    trainer_class: type[DWIMLTrainer]
    parameters: dict[str, Any]


@checks_arguments
def rebuild_experiment(
    experiment: str | Path,
    *,
    hdf5_file: str | Path | None = None,
    load_testing: bool = False,
    lazy: bool | None = None,
    cache_size: int | None = None,
) -> RebuiltExperiment:
    """Rebuild the dataset, model, sampler and loader of an experiment.

    Parameters
    ----------
    experiment
        The experiment folder.
    hdf5_file
        The HDF5 file; None for the recorded path.
    load_testing
        Also load the testing set.
    lazy
        Whether to leave the data in the file; None for the recorded value.
    cache_size
        Cache size of the dataset; None for the recorded value.

    Returns
    -------
    RebuiltExperiment
        The objects; the model has untrained weights.

    Raises
    ------
    FileNotFoundError
        If the folder is not an experiment, or the data are not found.
    ValueError
        If the experiment is damaged, or uses a class that is not part of dwiml.
    """
    folder = experiment_folder(experiment)
    recorded = read_json(folder.parameters, "The experiment's file")
    try:
        model_class = _known(MODELS, recorded["model"]["class"], folder)
        loader_class = _known(LOADERS, recorded["loader"]["class"], folder)
        trainer_class = _known(TRAINERS, recorded["trainer"]["class"], folder)
        model = _model_of_its_size(model_class, arguments_of(recorded["model"]), folder)
        data = recorded["data"]
        dataset = MultiSubjectDataset(
            find_data(recorded, folder.path, hdf5_file),
            lazy=data["lazy"] if lazy is None else lazy,
            cache_size=data["cache_size"] if cache_size is None else cache_size,
        )
        volumes = [recorded["loader"].get("input_group_name"), recorded["trainer"].get("tracking_phase_mask_group")]
        groups = {"volume_groups": [name for name in dict.fromkeys(volumes) if name is not None]}
        groups["streamline_groups"] = [recorded["loader"]["streamline_group_name"]]
        dataset.load_data(load_testing=load_testing, **groups)  # type: ignore[arg-type]
        sampler = DWIMLBatchIDSampler(dataset, **arguments_of(recorded["sampler"]))
        loader = loader_class(dataset, model, **arguments_of(recorded["loader"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"'{folder.parameters}' is damaged or not from this version of dwiml ({type(error).__name__}: {error})."
        ) from error
    return RebuiltExperiment(folder, dataset, model, sampler, loader, trainer_class, recorded)


def recorded_parameters(experiment: str | Path) -> dict[str, Any]:
    """Return the recorded parameters of an experiment, by section.

    Parameters
    ----------
    experiment
        The experiment folder.

    Raises
    ------
    FileNotFoundError
        If the folder is not an experiment.
    ValueError
        If its ``parameters.json`` is damaged.
    """
    folder = experiment_folder(experiment)
    recorded: dict[str, Any] = read_json(folder.parameters, "The experiment's file")
    for section, key in (("data", "hdf5_file"), ("loader", "streamline_group_name"), ("trainer", "class")):
        part = recorded.get(section) if isinstance(recorded, dict) else None
        if not isinstance(part, dict) or not isinstance(part.get(key), str):
            raise ValueError(f"'{folder.parameters}' is damaged or not from this version of dwiml: no {section}.{key}.")
    return recorded


def load_best_model(experiment: str | Path) -> Any:
    """Return the best model of an experiment, with its weights, on the device on which to use it.

    It is on a GPU if there is one, unless the training was not allowed to use it (``use_gpu=False``).

    Parameters
    ----------
    experiment
        The experiment folder.

    Raises
    ------
    FileNotFoundError
        If there is no best model.
    ValueError
        If its files are damaged, or its class is not part of dwiml.
    """
    recorded, folder = recorded_parameters(experiment), experiment_folder(experiment).best_model
    if not os.path.lexists(folder / PARAMETERS_FILE):
        raise FileNotFoundError(f"'{experiment}' has no best model yet: train it for an epoch first.")
    name, _ = read_params(folder / PARAMETERS_FILE)
    if name not in MODELS:
        raise ValueError(
            f"The best model of '{experiment}' is a {' '.join(name.split())[:80]}, a class that is not part of "
            "dwiml: load it in your own script and use dwiml.tracking.tracker.Tracker."
        )
    on_gpu = recorded["trainer"].get("use_gpu") is not False and torch.cuda.is_available()
    model: MainModelAbstract = MODELS[name].load(folder, device="cuda" if on_gpu else "cpu")
    return model


def _model_of_its_size(model_class: Any, params: dict[str, Any], folder: ExperimentFolder) -> Any:
    """Build the model, after checking that it is not larger than the saved weights: the file may be untrusted."""
    files = [folder.best_model / STATE_FILE, *(folder.checkpoint / name for name in (LATEST, PREVIOUS))]
    largest = max((path.stat().st_size for path in files if path.is_file()), default=None)
    if largest is None:
        raise FileNotFoundError(
            f"Experiment '{folder.path}' has neither a checkpoint nor a best model yet: run the training again "
            "(resume='auto')."
        )

    def check(model: Any) -> None:
        size = sum(each.numel() * each.element_size() for each in model.state_dict().values())
        if size > largest:
            raise ValueError(
                f"'{folder.parameters}' describes a model of {size / 1e6:.1f} MB, but the experiment's weights take "
                f"{largest / 1e6:.1f} MB: it was changed, or belongs to another experiment."
            )

    check_own(check, lambda: model_class(**params), parameters=folder.parameters)
    return built(lambda: model_class(**params), parameters=folder.parameters)


def _known(classes: dict[str, Any], name: str, folder: ExperimentFolder) -> Any:
    if not isinstance(name, str):
        raise TypeError("the name of a class is not a string")
    if name not in classes:
        raise ValueError(
            f"Experiment '{folder.path}' uses {name}, a class that is not part of dwiml; this command supports "
            "only experiments of 'dwiml train'. To continue the training, run its script again with resume='auto'."
        )
    return classes[name]
