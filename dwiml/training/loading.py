"""What an experiment has left: its parameters, its best model, and its objects, built again."""

from __future__ import annotations

import os
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwiml import models
from dwiml.batching.loader import DWIMLBatchLoaderOneInput
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.files import read_json
from dwiml.models.base import MainModelAbstract
from dwiml.models.saving import PARAMETERS_FILE, STATE_FILE, built, check_own, read_params
from dwiml.training.experiment.checkpoint import LATEST, PREVIOUS
from dwiml.training.experiment.folder import ExperimentFolder, experiment_folder
from dwiml.training.experiment.parameters import arguments_of, find_data
from dwiml.training.generation.phase import DWIMLTrainerOneInputWithGVPhase
from dwiml.training.one_input import DWIMLTrainerOneInput

# Named classes only: a file from a stranger must not choose what is imported.
MODELS = {cls.__name__: cls for cls in map(pkgutil.resolve_name, models.MODELS.values())}
TRAINERS: dict[str, type[DWIMLTrainerOneInput]] = {
    "DWIMLTrainerOneInput": DWIMLTrainerOneInput,
    "DWIMLTrainerOneInputWithGVPhase": DWIMLTrainerOneInputWithGVPhase,
}
LOADERS = {"DWIMLBatchLoaderOneInput": DWIMLBatchLoaderOneInput}


@dataclass(frozen=True)
class RebuiltExperiment:
    """What a training was made of; the model is a new one, with untrained weights."""

    folder: ExperimentFolder
    dataset: MultiSubjectDataset
    model: Any
    sampler: DWIMLBatchIDSampler
    loader: DWIMLBatchLoaderOneInput
    trainer_class: type[DWIMLTrainerOneInput]
    parameters: dict[str, Any]


def rebuild_experiment(
    experiment: str | Path,
    *,
    hdf5_file: str | Path | None = None,
    load_testing: bool = False,
    lazy: bool | None = None,
    cache_size: int | None = None,
) -> RebuiltExperiment:
    """Build an experiment's dataset, model, sampler and loader again.

    Parameters
    ----------
    experiment
        Its folder.
    hdf5_file
        The data's place, when it is another than it was.
    load_testing
        Load the testing set too.
    lazy
        Whether to leave the data in their file; None: as in the training.
    cache_size
        Of the dataset; None: as in the training.

    Raises
    ------
    FileNotFoundError, ValueError
        When the folder is not an experiment, the data are gone, or a class is the user's own.
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
        volumes = [recorded["loader"]["input_group_name"], recorded["trainer"].get("tracking_phase_mask_group")]
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


def _model_of_its_size(model_class: Any, params: dict[str, Any], folder: ExperimentFolder) -> Any:
    """Build a model that is no larger than the experiment's weights: the numbers in a file may be anything."""
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
        raise TypeError("the name of a class is not a text")
    if name not in classes:
        raise ValueError(
            f"Experiment '{folder.path}' was made with {name}, a class that dwiml does not know; this command is for "
            "experiments of 'dwiml train'. To train yours further, run its script again with resume='auto'."
        )
    return classes[name]
