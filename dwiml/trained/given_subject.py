"""The batch loader of an experiment for a subject that is not in an HDF5 file: images, and a tractogram."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.data.given_streamlines import GivenStreamlines
from dwiml.data.given_subject import GivenSubject, GivenVolume
from dwiml.files.images import read_nb_features
from dwiml.tracking.sources import read_input_images
from dwiml.trained.tracking_data import how_to_read_images, input_group_of
from dwiml.training.experiment.folder import experiment_folder
from dwiml.training.experiment.parameters import arguments_of
from dwiml.training.loading import damage_reported
from dwiml.training.recorded_classes import loader_class_of


def load_given_subject(
    experiment: str | Path,
    recorded: Mapping[str, Any],
    model: Any,
    subject_id: str,
    images: Sequence[str | Path],
    tractogram: str | os.PathLike[str],
    **options: Any,
) -> DWIMLStreamlinesBatchLoader:
    """Return a batch loader whose testing set is one subject, read from images and a tractogram.

    Parameters
    ----------
    experiment
        The experiment folder.
    recorded
        Content of its ``parameters.json``.
    model
        The model of the experiment, which reads a volume.
    subject_id
        Name of the subject, used in messages.
    images
        Images of the model's input, in the order of the training, all on one grid.
    tractogram
        A tractogram of any format, in the scanner space of the images.
    **options
        ``hdf5_file``, ``standardization``, ``standardize_like`` and ``std_mask``, as in
        :func:`dwiml.trained.tracking_data.read_images`.

    Raises
    ------
    FileNotFoundError, ValueError
        If something is missing or invalid, the images do not have the features of the training, or the standardization
        is not recorded.
    """
    group = input_group_of(recorded, experiment)
    folder = experiment_folder(experiment)
    with damage_reported(folder):
        loader_class = loader_class_of(recorded, str(experiment))
        loader_options = arguments_of(recorded["loader"])
        streamline_group = loader_options["streamline_group_name"]
    nb_features = sum(map(read_nb_features, images))
    if nb_features != model.nb_features:
        raise ValueError(
            f"The model was trained on {model.nb_features} features per voxel, but the images have {nb_features}."
        )
    values, grid = read_input_images(images, **how_to_read_images(experiment, recorded, images, **options))
    dataset = GivenSubject(
        subject_id,
        volume=GivenVolume(values, grid, f"volume of the images of subject '{subject_id}'"),
        streamlines=GivenStreamlines(tractogram, grid),
        volume_group=group,
        streamline_group=streamline_group,
    )
    with damage_reported(folder):
        return loader_class(dataset, model, **loader_options)
