"""Read the input volume of a trained model: of a subject of its HDF5 file, or from image files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dwiml.hdf5.stored.collection import HDF5Files
from dwiml.tracking.sources import load_input, read_input_images
from dwiml.tractograms.grid import Grid
from dwiml.trained.tracking_data import how_to_read_images, input_group_of, warn_of_own_inputs
from dwiml.training.experiment.parameters import GROUPS_CONFIG, find_data


def read_input_volume(
    experiment: str | Path,
    recorded: Mapping[str, Any],
    subject: str | Sequence[str | os.PathLike[str]],
    *,
    hdf5_file: HDF5Files | None = None,
    **options: Any,
) -> tuple[torch.Tensor, Grid]:
    """Return the input volume of a model.

    Parameters
    ----------
    experiment
        The experiment folder.
    recorded
        Content of its ``parameters.json``.
    subject
        Name of a subject of the HDF5 file, or image files in the order of the training.
    hdf5_file
        The HDF5 file, a folder of such files, or a list; None for the recorded files.
    **options
        For images: ``standardization``, ``standardize_like`` and ``std_mask``, as in
        :func:`dwiml.trained.tracking_data.read_images`.

    Returns
    -------
    volume
        Shape (X, Y, Z, F), float32, standardized; directional features in voxel axes.
    grid
        Its voxel grid.

    Raises
    ------
    FileNotFoundError, ValueError
        If something is missing or invalid, the standardization of images is not recorded, or the group of another HDF5
        file was created in another way than that of the training.
    """
    warn_of_own_inputs(recorded, experiment)
    if not isinstance(subject, str):
        images = [Path(image) for image in subject]
        reading = how_to_read_images(experiment, recorded, images, hdf5_file=hdf5_file, **options)
        values, grid = read_input_images(images, **reading)
        return torch.from_numpy(values), grid
    group = input_group_of(recorded, experiment)
    files = find_data(recorded, experiment, hdf5_file)
    loaded, _ = load_input(files, subject, group, trained_on=(recorded.get(GROUPS_CONFIG) or {}).get(group))
    volume = loaded.volumes[group]
    return volume.as_tensor(), volume.grid
