"""Load the model of an experiment, and open its data as in its training."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dwiml.arguments import check_choice
from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.hdf5.stored.collection import HDF5Files
from dwiml.params import checks_arguments
from dwiml.training.experiment.folder import experiment_folder
from dwiml.training.experiment.parameters import arguments_of
from dwiml.training.loading import (
    BEST_OR_LATEST,
    damage_reported,
    load_best_model,
    load_latest_model,
    open_dataset,
    recorded_parameters,
)
from dwiml.training.recorded_classes import loader_class_of


@dataclass(frozen=True)
class TrainedExperiment:
    """The model of an experiment, with its weights, and the recipe of its data.

    Attributes
    ----------
    path
        The experiment folder.
    model
        The model, on its device, in evaluation mode.
    parameters
        Content of ``parameters.json``: all parameters of the training, by section.
    """

    path: Path
    model: Any
    parameters: dict[str, Any]

    def open_dataset(
        self, hdf5_file: HDF5Files | None = None, *, lazy: bool | None = None, load_testing: bool = True
    ) -> MultiSubjectDataset:
        """Open the dataset, with the groups of the training loaded.

        Parameters
        ----------
        hdf5_file
            The HDF5 file, a folder of such files, or a list; None for the recorded files.
        lazy
            Whether to leave the data in the file; None for the recorded value.
        load_testing
            Also load the testing set.

        Raises
        ------
        FileNotFoundError, ValueError
            If the data are not found or invalid, or ``parameters.json`` is damaged.
        """
        folder = experiment_folder(self.path)
        with damage_reported(folder):
            return open_dataset(self.parameters, folder, hdf5_file=hdf5_file, lazy=lazy, load_testing=load_testing)

    def batch_sampler(self, dataset: MultiSubjectDataset) -> DWIMLBatchIDSampler:
        """Return a batch sampler with the parameters and the seed of the training.

        Parameters
        ----------
        dataset
            Value of :meth:`open_dataset`.

        Raises
        ------
        ValueError
            If ``parameters.json`` is damaged.
        """
        with damage_reported(experiment_folder(self.path)):
            return DWIMLBatchIDSampler(dataset, **arguments_of(self.parameters["sampler"]))

    def batch_loader(self, dataset: MultiSubjectDataset) -> DWIMLStreamlinesBatchLoader:
        """Return a batch loader for the model, with the parameters and the seed of the training.

        Parameters
        ----------
        dataset
            Value of :meth:`open_dataset`.

        Raises
        ------
        ValueError
            If the class of the batch loader is not part of dwiml, or ``parameters.json`` is damaged.
        """
        with damage_reported(experiment_folder(self.path)):
            loader_class = loader_class_of(self.parameters, str(self.path))
            return loader_class(dataset, self.model, **arguments_of(self.parameters["loader"]))


@checks_arguments
def load_experiment(
    experiment: str | os.PathLike[str],
    model_class: str | type[Any] | None = None,
    *,
    weights: str = "best",
    device: torch.device | str | None = None,
) -> TrainedExperiment:
    """Load the model of an experiment.

    Parameters
    ----------
    experiment
        The experiment folder.
    model_class
        The class of the model, if it is not part of dwiml or of an installed package: the class itself,
        ``"path/to/file.py:MyModel"`` or ``"package.module:MyModel"``, whose code is run. The files of an experiment are
        never trusted to choose what is imported.
    weights
        ``"best"``: those of the best model; ``"latest"``: those of the last checkpoint.
    device
        Device of the model; None for a GPU if there is one, unless the training had ``use_gpu=False``.

    Returns
    -------
    TrainedExperiment
        The model, in evaluation mode, the recorded parameters, and methods that open the data.

    Raises
    ------
    FileNotFoundError
        If the folder is not an experiment, or does not have these weights yet.
    ValueError
        If its files are damaged, or the class is unknown and not given.
    """
    load = {"best": load_best_model, "latest": load_latest_model}[check_choice("weights", weights, BEST_OR_LATEST)]
    path = experiment_folder(experiment).path
    model = load(path, model_class=model_class, device=device)
    model.eval()
    return TrainedExperiment(path, model, recorded_parameters(path))
