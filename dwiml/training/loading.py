"""Loading an experiment: its parameters, its best model, and its objects."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.files import read_json
from dwiml.hdf5.stored.collection import HDF5Files
from dwiml.models.base import MainModelAbstract
from dwiml.models.saving import PARAMETERS_FILE, STATE_FILE, built, check_own, load_state, read_params
from dwiml.params import checks_arguments
from dwiml.training.experiment.checkpoint import LATEST, PREVIOUS, load_checkpoint, max_bytes_for
from dwiml.training.experiment.fitting import are_files, check_weights
from dwiml.training.experiment.folder import ExperimentFolder, experiment_folder
from dwiml.training.experiment.parameters import arguments_of, find_data, recorded_source
from dwiml.training.recorded_classes import loader_class_of, model_class_of, recorded_class

BEST_OR_LATEST = ("best", "latest")
"""The weights of an experiment: those of the best model, or of the last checkpoint."""


@dataclass(frozen=True)
class RebuiltExperiment:
    """The objects of a training, rebuilt; the model has untrained weights."""

    folder: ExperimentFolder
    dataset: MultiSubjectDataset
    model: Any
    sampler: DWIMLBatchIDSampler
    loader: DWIMLStreamlinesBatchLoader
    parameters: dict[str, Any]


@checks_arguments
def rebuild_experiment(
    experiment: str | Path,
    *,
    model_class: str | type[Any] | None = None,
    hdf5_file: HDF5Files | None = None,
    load_testing: bool = False,
    lazy: bool | None = None,
    cache_size: int | None = None,
) -> RebuiltExperiment:
    """Rebuild the dataset, model, sampler and loader of an experiment.

    Parameters
    ----------
    experiment
        The experiment folder.
    model_class
        The class of the model, or its name, if it is not part of dwiml or of an installed package; see
        :func:`dwiml.models.catalog.find_model_class`.
    hdf5_file
        The HDF5 file, a folder of such files, or a list; None for the recorded files.
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
        If the experiment is damaged, or uses a class that is unknown and not given.
    """
    folder = experiment_folder(experiment)
    recorded = read_json(folder.parameters, "The experiment's file")
    with damage_reported(folder):
        loader_class = loader_class_of(recorded, str(folder.path))
        of_model = recorded_class(recorded, "model")
        digest = recorded_source(recorded, "model").digest
        own = model_class_of(*of_model, model_class, f"The model of '{folder.path}'", digest=digest)
        model = model_of_its_size(own, arguments_of(recorded["model"]), folder)
        dataset = open_dataset(
            recorded, folder, hdf5_file=hdf5_file, load_testing=load_testing, lazy=lazy, cache_size=cache_size
        )
        sampler = DWIMLBatchIDSampler(dataset, **arguments_of(recorded["sampler"]))
        loader = loader_class(dataset, model, **arguments_of(recorded["loader"]))
    return RebuiltExperiment(folder, dataset, model, sampler, loader, recorded)


def open_dataset(
    recorded: Mapping[str, Any],
    folder: ExperimentFolder,
    *,
    hdf5_file: HDF5Files | None = None,
    load_testing: bool = False,
    lazy: bool | None = None,
    cache_size: int | None = None,
) -> MultiSubjectDataset:
    """Open the dataset of an experiment, with the groups of its training loaded.

    Parameters
    ----------
    recorded
        Content of its ``parameters.json``.
    folder
        The experiment folder.
    hdf5_file, load_testing, lazy, cache_size
        As in :func:`rebuild_experiment`.

    Raises
    ------
    FileNotFoundError, ValueError
        If the data are not found or are invalid.
    KeyError, TypeError, AttributeError
        If ``parameters.json`` is damaged.
    """
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
    return dataset


@contextmanager
def damage_reported(folder: ExperimentFolder) -> Iterator[None]:
    """Convert errors in the block about what ``parameters.json`` holds to ValueError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"'{folder.parameters}' is damaged or not from this version of dwiml ({type(error).__name__}: {error})."
        ) from error


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
        value = part.get(key) if isinstance(part, dict) else None
        if not isinstance(value, str) and not (section == "data" and are_files(value)):
            raise ValueError(f"'{folder.parameters}' is damaged or not from this version of dwiml: no {section}.{key}.")
    return recorded


def load_best_model(
    experiment: str | Path, *, model_class: str | type[Any] | None = None, device: torch.device | str | None = None
) -> Any:
    """Return the best model of an experiment, with its weights, on the device on which to use it.

    It is on a GPU if there is one, unless the training was not allowed to use it (``use_gpu=False``).

    Parameters
    ----------
    experiment
        The experiment folder.
    model_class
        As in :func:`rebuild_experiment`.
    device
        Device of the model; None for the one described above.

    Raises
    ------
    FileNotFoundError
        If there is no best model.
    ValueError
        If its files are damaged, or its class is unknown and not given.
    """
    recorded, path = recorded_parameters(experiment), experiment_folder(experiment).path
    folder = ExperimentFolder(path).best_model
    if not os.path.lexists(folder / PARAMETERS_FILE):
        raise FileNotFoundError(f"'{experiment}' has no best model yet: train it for an epoch first.")
    # It is read again with the weights.
    saved = read_params(folder / PARAMETERS_FILE, warn=False)
    class_name, class_path, what = saved.class_name, saved.class_path, f"The model of '{path}'"
    own = model_class_of(class_name, class_path, model_class, what, digest=saved.class_digest)
    model: MainModelAbstract = own.load(folder, device=device or device_of(recorded))
    return model


def load_latest_model(
    experiment: str | Path, *, model_class: str | type[Any] | None = None, device: torch.device | str | None = None
) -> Any:
    """Return the model of an experiment with the weights of its last checkpoint, from which a training is resumed.

    Parameters
    ----------
    experiment, model_class, device
        As in :func:`load_best_model`.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    ValueError
        If the experiment is damaged, or its class is unknown and not given.
    """
    recorded, folder = recorded_parameters(experiment), experiment_folder(experiment)
    with damage_reported(folder):
        of_model = recorded_class(recorded, "model")
        digest = recorded_source(recorded, "model").digest
        own = model_class_of(*of_model, model_class, f"The model of '{folder.path}'", digest=digest)
        model = model_of_its_size(own, arguments_of(recorded["model"]), folder)
        state = load_checkpoint(folder.checkpoint, max_bytes=max_bytes_for(model), resuming=False)["model"]
        check_weights(model, state)
    load_state(model, state)
    return model.to(device or device_of(recorded))


def device_of(recorded: Mapping[str, Any]) -> str:
    """Return the device on which to use a model: a GPU if there is one, unless the training might not use it."""
    return "cuda" if recorded["trainer"].get("use_gpu") is not False and torch.cuda.is_available() else "cpu"


def model_of_its_size(model_class: Any, params: dict[str, Any], folder: ExperimentFolder) -> Any:
    """Build a model with untrained weights, if it is not larger than the saved ones: the file may be untrusted."""
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
