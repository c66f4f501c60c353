"""An experiment's objects, built again from its ``parameters.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwiml.batching.loader import DWIMLBatchLoaderOneInput
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.files import read_json
from dwiml.models.learn2track import Learn2TrackModel
from dwiml.training.experiment import ExperimentFolder, arguments_of, find_data
from dwiml.training.gv_phase import DWIMLTrainerOneInputWithGVPhase
from dwiml.training.trainer_one_input import DWIMLTrainerOneInput

# Named classes only: a file from a stranger must not choose what is imported.
MODELS = {"Learn2TrackModel": Learn2TrackModel}
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

    Raises
    ------
    FileNotFoundError, ValueError
        When the folder is no experiment, the data are gone, or a class is the user's own.
    """
    folder = ExperimentFolder(Path(experiment))
    if not folder.parameters.is_file():
        raise FileNotFoundError(f"'{folder.path}' is no experiment's folder: it has no parameters.json.")
    recorded = read_json(folder.parameters)
    try:
        model_class = _known(MODELS, recorded["model"]["class"], folder)
        loader_class = _known(LOADERS, recorded["loader"]["class"], folder)
        trainer_class = _known(TRAINERS, recorded["trainer"]["class"], folder)
        data = recorded["data"]
        dataset = MultiSubjectDataset(
            find_data(recorded, folder.path, hdf5_file),
            lazy=data["lazy"] if lazy is None else lazy,
            cache_size=data["cache_size"],
        )
        volumes = [recorded["loader"]["input_group_name"], recorded["trainer"].get("tracking_phase_mask_group")]
        groups = {"volume_groups": [name for name in dict.fromkeys(volumes) if name is not None]}
        groups["streamline_groups"] = [recorded["loader"]["streamline_group_name"]]
        dataset.load_data(load_testing=load_testing, **groups)  # type: ignore[arg-type]
        model = model_class(**arguments_of(recorded["model"]))
        sampler = DWIMLBatchIDSampler(dataset, **arguments_of(recorded["sampler"]))
        loader = loader_class(dataset, model, **arguments_of(recorded["loader"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"'{folder.parameters}' is damaged or not from this version of dwiml ({type(error).__name__}: {error})."
        ) from error
    return RebuiltExperiment(folder, dataset, model, sampler, loader, trainer_class, recorded)


def _known(classes: dict[str, Any], name: str, folder: ExperimentFolder) -> Any:
    if name not in classes:
        raise ValueError(
            f"Experiment '{folder.path}' was made with {name}, a class that dwiml does not know; this command is for "
            "experiments of 'dwiml train' (to go on with yours, run its script again with resume='auto')."
        )
    return classes[name]
