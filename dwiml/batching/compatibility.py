"""Checks, before any batch is made, that a dataset, a model and the chosen groups can be used together."""

from __future__ import annotations

import inspect
from os import PathLike
from typing import Any

from dwiml.arguments import kind_shown
from dwiml.batching.lengths import length_warnings
from dwiml.data.dataset import SUBSETS, MultiSubjectDataset, not_loaded


def check_dataset(dataset: Any, caller: str) -> None:
    """Check that an object is a dataset.

    Parameters
    ----------
    dataset
        Any object.
    caller
        Name of the class that needs the dataset, for the error message.

    Raises
    ------
    TypeError
        If it is anything else, such as the path of an HDF5 file.
    """
    if isinstance(dataset, type) or not hasattr(dataset, "check_streamline_group"):
        got = repr(dataset) if isinstance(dataset, (str, PathLike)) else kind_shown(dataset)
        raise TypeError(
            f"{caller} needs a MultiSubjectDataset with its data loaded, got {got}: "
            "create one with MultiSubjectDataset(hdf5_file) and call its load_data()."
        )


def check_is_model(model: Any, caller: str) -> None:
    """Check that an object says how its streamlines are resampled, as a model does.

    Parameters
    ----------
    model
        Any object.
    caller
        Name of the class that needs the model, for the error message.

    Raises
    ------
    TypeError
        If it is anything else, such as the class of the model.
    """
    if isinstance(model, type) or not hasattr(model, "step_size"):
        raise TypeError(
            f"{caller} needs a model with an attribute 'step_size', as a subclass of MainModelAbstract has, got "
            f"{kind_shown(model)}."
        )


def check_streamlines(dataset: MultiSubjectDataset, streamline_group: str) -> None:
    """Check that a streamlines group exists and is loaded for all subjects.

    Raises
    ------
    ValueError
        If the group does not exist, or was not loaded for a subject.
    """
    dataset.check_streamline_group(streamline_group)
    for subset in map(dataset.subset, SUBSETS):
        if any(streamline_group not in subject.streamlines for subject in subset):
            raise not_loaded(f"Streamlines group '{streamline_group}'")


def check_volumes(dataset: MultiSubjectDataset, model: Any, volume_group: str, streamline_group: str) -> None:
    """Check that a volume group is a valid input of the model and on the same grid as the streamlines.

    Raises
    ------
    ValueError
        If the model takes no volume as input or has no ``neighborhood_offsets``, if the group does not exist or was not
        loaded, or if its number of features or its grid does not match. A mismatch of grids names the subject.
    """
    dataset.check_volume_group(volume_group)
    expected, found = getattr(model, "nb_features", None), dataset.nb_features[volume_group]
    if expected is None:
        raise ValueError(
            f"{type(model).__name__} takes no volume as input: make it a subclass of ModelWithOneInput, or use "
            "DWIMLStreamlinesBatchLoader with DWIMLTrainer."
        )
    if not hasattr(model, "neighborhood_offsets"):
        raise ValueError(
            f"{type(model).__name__} has no attribute 'neighborhood_offsets': make it a subclass of ModelWithOneInput, "
            "or set it to None if the model reads the volume at the points only."
        )
    if expected != found:
        raise ValueError(
            f"The model expects nb_features={expected}, but volume group '{volume_group}' has {found} features."
        )
    check_grids(dataset, volume_group, streamline_group)


def check_grids(dataset: MultiSubjectDataset, volume_group: str, streamline_group: str) -> None:
    """Check, for all subjects, that a volume group is loaded and on the same grid as the streamlines.

    Raises
    ------
    ValueError
        If the group was not loaded, or if the affines or shapes differ; the message names the subject.
    """
    for subset in map(dataset.subset, SUBSETS):
        for subject in subset:
            if volume_group not in subject.volumes:
                raise not_loaded(f"Volume group '{volume_group}'")
            volume = subject.volumes[volume_group]
            streamlines = subject.streamlines[streamline_group]
            difference = volume.grid.difference(streamlines.grid_of(volume.grid.shape))
            if difference:
                raise ValueError(
                    f"Subject '{subject.subject_id}': volume group '{volume_group}' and streamlines group "
                    f"'{streamline_group}' have {difference}; register them and recreate the HDF5 file."
                )


def check_supports_split(model: Any) -> None:
    """Check that streamlines may be split for a model.

    Raises
    ------
    ValueError
        If it needs streamlines of the same number of points (``same_nb_points``).
    """
    if getattr(model, "same_nb_points", False):
        raise ValueError(
            f"{type(model).__name__} needs streamlines of {model.nb_points} points, and the two halves of a split "
            "streamline have fewer: leave split_ratio at 0."
        )


def batch_warnings(sampler: Any, loader: Any, model: Any) -> list[str]:
    """Return warnings about the batches of a training: very long streamlines, and split ones whose ends are learned.

    Parameters
    ----------
    sampler, loader
        The batch sampler and the batch loader.
    model
        The model, with or without a direction getter.

    Raises
    ------
    ValueError
        As in :func:`dwiml.batching.lengths.length_warnings`.
    """
    found = length_warnings(sampler.dataset, sampler.streamline_group_name, model)
    if not loader.split_ratio or not getattr(getattr(model, "direction_getter", None), "add_eos", False):
        return found
    return [
        *found,
        f"The model learns where streamlines end (add_eos), but with split_ratio={loader.split_ratio:g} it also learns "
        "the places where streamlines are cut as ends: use split_ratio=0, or add_eos=False in dg_args.",
    ]


def check_supports_recovery(model: Any) -> None:
    """Check that the loss of a model accepts a recovery target, which correlated noise requires.

    Raises
    ------
    ValueError
        If ``compute_loss`` has no parameter ``seen`` (the points at which the model was run).
    """
    loss = getattr(model, "compute_loss", None)
    if loss is None or "seen" not in inspect.signature(loss).parameters:
        raise ValueError(
            "noise_correlated_size needs a model that learns to recover, and compute_loss of "
            f"{type(model).__name__} has no parameter 'seen': make it a subclass of ModelWithDirectionGetter, or leave "
            "noise_correlated_size at 0."
        )
