"""Checks, before any batch is made, that a dataset, a model and the groups to read can be used together."""

from __future__ import annotations

import inspect
from os import PathLike
from typing import Any

from dwiml.arguments import kind_shown
from dwiml.data.dataset import SUBSETS, MultiSubjectDataset


def check_dataset(dataset: Any, asked_by: str) -> None:
    """Raise a TypeError when something else is given as the dataset, such as the file's path."""
    if isinstance(dataset, type) or not hasattr(dataset, "check_streamline_group"):
        got = repr(dataset) if isinstance(dataset, (str, PathLike)) else kind_shown(dataset)
        raise TypeError(
            f"{asked_by} needs a MultiSubjectDataset with its data loaded, got {got}: "
            "make one with MultiSubjectDataset(hdf5_file) and call its load_data()."
        )


def check_model(model: Any, asked_by: str) -> None:
    """Raise a TypeError when something else is given as the model, such as its class."""
    if isinstance(model, type) or not hasattr(model, "step_size"):
        raise TypeError(
            f"{asked_by} needs a model, an instance of a subclass of MainModelAbstract, got {kind_shown(model)}."
        )


def check_streamlines(dataset: MultiSubjectDataset, streamline_group: str) -> None:
    """Raise a ValueError when a streamlines group does not exist, or was not loaded for every subject."""
    dataset.check_streamline_group(streamline_group)
    for subset in map(dataset.subset, SUBSETS):
        if any(streamline_group not in subject.streamlines for subject in subset):
            raise ValueError(f"Streamlines group '{streamline_group}' was not loaded; give it to dataset.load_data().")


def check_volumes(dataset: MultiSubjectDataset, model: Any, volume_group: str, streamline_group: str) -> None:
    """Check that a model takes a volume group, and that it lies on the grid of the streamlines, for all subjects.

    Raises
    ------
    ValueError
        When the group does not exist or was not loaded, has not the number of features that the model expects, or lies
        on another grid; telling the subject.
    """
    dataset.check_volume_group(volume_group)
    expected, found = getattr(model, "nb_features", None), dataset.nb_features[volume_group]
    if expected is None:
        raise ValueError(
            f"{type(model).__name__} takes no volume as input: make it a subclass of ModelWithOneInput, or use "
            "DWIMLStreamlinesBatchLoader with DWIMLTrainer."
        )
    if expected != found:
        raise ValueError(
            f"The model expects nb_features={expected}, but volume group '{volume_group}' has {found} features."
        )
    check_grids(dataset, volume_group, streamline_group)


def check_grids(dataset: MultiSubjectDataset, volume_group: str, streamline_group: str) -> None:
    """Check, for all subjects, that a volume group was loaded, and lies on the grid of the streamlines.

    Raises
    ------
    ValueError
        Telling the subject and what is wrong.
    """
    for subset in map(dataset.subset, SUBSETS):
        for subject in subset:
            if volume_group not in subject.volumes:
                raise ValueError(f"Volume group '{volume_group}' was not loaded; give it to dataset.load_data().")
            volume = subject.volumes[volume_group]
            streamlines = subject.streamlines[streamline_group]
            difference = volume.grid.difference(streamlines.grid_of(volume.grid.shape))
            if difference:
                raise ValueError(
                    f"Subject '{subject.subject_id}': volume group '{volume_group}' and streamlines group "
                    f"'{streamline_group}' have {difference}; register them and recreate the HDF5 file."
                )


def check_learns_recovery(model: Any) -> None:
    """Raise a ValueError when a model's ``compute_loss`` does not take the points that the model saw."""
    loss = getattr(model, "compute_loss", None)
    if loss is None or "seen" not in inspect.signature(loss).parameters:
        raise ValueError(
            "noise_correlated_size needs a model that learns to recover, and compute_loss of "
            f"{type(model).__name__} has no parameter 'seen': make it a subclass of ModelWithDirectionGetter, or leave "
            "noise_correlated_size at 0."
        )
