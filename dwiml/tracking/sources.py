"""Read the data that a model tracks on, from a subject of an HDF5 file or from image files."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dwiml.data.dataset import MultiSubjectDataset, SubjectData
from dwiml.data.volumes import SubjectVolume
from dwiml.hdf5.inputs.standalone import read_mask, read_volumes
from dwiml.hdf5.inputs.standardization import StandardizationReport, Statistics
from dwiml.hdf5.schema import FILE, FILES, MEAN, STD
from dwiml.hdf5.stored import open_hdf5
from dwiml.hdf5.stored.collection import HDF5Files, file_of_subject
from dwiml.hdf5.stored.provenance import provenance_of
from dwiml.ops.axes.conventions import Directions
from dwiml.ops.masks import DEFAULT_THRESHOLD, Mask
from dwiml.tracking.inputs.axes import (
    InputDirections,
    directions_of_group,
    directions_of_images,
    warn_of_other_axes,
)
from dwiml.tracking.inputs.features import features_of, features_of_report, warn_of_other_features
from dwiml.tracking.inputs.grid import warn_of_other_grid
from dwiml.tracking.inputs.order import check_same_making
from dwiml.tracking.inputs.units import warn_of_other_units
from dwiml.tracking.mask_groups import mask_of_group
from dwiml.tracking.tracker import TrackingSubject
from dwiml.tractograms.grid import Grid

logger = logging.getLogger(__name__)

IMAGES = (".nii", ".nii.gz", ".mgz", ".mgh")
"""Extensions that distinguish image files from the names of groups of the HDF5 file."""


@dataclass(frozen=True)
class TrackingData:
    """The data of a subject and its seeding mask.

    Attributes
    ----------
    subject
        Volume and tracking mask.
    seeding_mask
        Shape (X, Y, Z), bool.
    grid
        The voxel grid of all of them.
    """

    subject: TrackingSubject
    seeding_mask: NDArray[np.bool_]
    grid: Grid


def is_image(name: str | Path) -> bool:
    """Return whether the name of a mask is that of an image file, not of a group of the HDF5 file."""
    return str(name).endswith(IMAGES)


def read_from_hdf5(
    hdf5_file: HDF5Files,
    subject: str,
    input_group: str,
    *,
    tracking_mask: str | Path,
    seeding_mask: str | Path | None = None,
    mask_threshold: float = DEFAULT_THRESHOLD,
    trained_on: Mapping[str, Any] | None = None,
) -> TrackingData:
    """Read a subject of an HDF5 file.

    Parameters
    ----------
    hdf5_file
        The HDF5 file, a folder of such files, or a list.
    subject
        Name of the subject, in any of the three subsets.
    input_group
        The volume group of the model's input.
    tracking_mask, seeding_mask
        Volume groups of one feature, or image files on the grid of the input; None: seeds are in the tracking mask.
    mask_threshold
        Threshold applied to a probability map, from 0 to 1; see :func:`dwiml.ops.masks.as_mask`.
    trained_on
        The entry of the input group in the groups config of the training; it is compared with that of the file, and
        with the features and the voxel grid of the subject.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file, a group or the subject is missing or invalid, a mask is empty, or the grids differ.
    """
    given = {"tracking_mask": tracking_mask, "seeding_mask": seeding_mask}
    names = {str(name) for name in given.values() if name is not None and not is_image(name)}
    loaded, features = load_input(
        hdf5_file, subject, input_group, other_groups=sorted(names - {input_group}), trained_on=trained_on
    )
    volume = loaded.volumes[input_group]

    def mask(parameter: str, name: str | Path) -> Mask:
        if is_image(name):
            return read_mask(name, volume.grid, threshold=mask_threshold, label=parameter)[0]
        found = mask_of_group(loaded, str(name), input_group, parameter=parameter, threshold=mask_threshold)
        if found.note:
            logger.warning("%s", found.note)
        return found

    masks = {parameter: mask(parameter, name) for parameter, name in given.items() if name is not None}
    data = _tracking_data(volume.as_tensor(), volume.grid, masks, given, mask_threshold)
    what = f"group '{input_group}' of subject '{subject}'"
    warn_of_other_axes(what, data.subject.volume, masks["tracking_mask"].inside, volume.voxel_sizes, features)
    return data


def load_input(
    hdf5_file: HDF5Files,
    subject: str,
    input_group: str,
    *,
    other_groups: Sequence[str] = (),
    trained_on: Mapping[str, Any] | None = None,
) -> tuple[SubjectData, InputDirections | None]:
    """Load a subject of an HDF5 file, and compare its input with that of the training.

    Parameters
    ----------
    hdf5_file, subject, input_group, trained_on
        As in :func:`read_from_hdf5`.
    other_groups
        Other volume groups to load.

    Returns
    -------
    subject
        The subject, with these volume groups.
    directions
        Which of the input features may be directional; None if none is.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file, a group or the subject is missing or invalid, or the group was created in another way than that of
        the training.
    """
    dataset = MultiSubjectDataset(hdf5_file)
    check_same_making(trained_on or {}, dataset.groups_config.get(input_group) or {}, input_group, dataset.files_shown)
    dataset.load_data(subj_id=subject, volume_groups=[input_group, *other_groups], streamline_groups=[])
    (loaded,) = [*dataset.training_set, *dataset.validation_set, *dataset.testing_set]
    volume = loaded.volumes[input_group]
    return loaded, _compare_with_training(subject, input_group, dataset.hdf5_files, volume, trained_on or {})


def _compare_with_training(
    subject: str, input_group: str, files: Sequence[Path], volume: SubjectVolume, entry: Mapping[str, Any]
) -> InputDirections | None:
    """Warn of a subject of an HDF5 file whose features or voxel grid are far from those of the training subjects.

    Return which of its features may be directional.
    """
    what, grid = f"group '{input_group}' of subject '{subject}'", volume.grid
    with open_hdf5(file_of_subject(files, subject)) as file:
        node = file.root.group(subject).group(input_group)
        record, features = provenance_of(node), directions_of_group(node, volume.label, volume.nb_features)
    names, statistics = _recorded_statistics(record)
    # Images in other units have other features too.
    if not warn_of_other_units(names, statistics, entry, of=f" of {what}"):
        warn_of_other_features(what, features_of(record), entry)
    warn_of_other_grid(what, grid, entry)
    return features


def _recorded_statistics(record: Mapping[str, Any]) -> tuple[list[str], list[Statistics | None]]:
    """Return the names of the files of a volume group, and their statistics before the standardization, if recorded."""
    found = record.get(FILES)
    files = [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []
    statistics: list[Statistics | None] = [None] * len(files)
    for place, each in enumerate(files):
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            statistics[place] = Statistics(float(each[MEAN]), float(each[STD]))
    return [str(each.get(FILE, "")) for each in files], statistics


def read_input_images(
    images: Sequence[str | Path],
    *,
    standardization: str = "none",
    std_mask: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    directions: Sequence[Directions | None] = (),
    trained_on: Mapping[str, Any] | None = None,
) -> tuple[NDArray[np.float32], Grid]:
    """Read the images of a model's input, concatenated and standardized as for an HDF5 file.

    Parameters
    ----------
    images
        Images of the model's input, in the order of the training, all on one grid.
    standardization, std_mask
        As in a groups config (see :class:`dwiml.hdf5.config.VolumeGroup`); the mask is one file, or several.
    directions
        As in :func:`dwiml.hdf5.inputs.standalone.read_volumes`.
    trained_on
        The entry of the input group in the groups config of the training; warnings say which images, or which of their
        features, have a mean or a standard deviation that is far from those of the training, and whether the voxel grid
        differs much from those of the training.

    Returns
    -------
    values
        Shape (X, Y, Z, F), float32.
    grid
        The voxel grid of the images.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing or invalid, or the grids differ.
    """
    values, grid, _ = _read_images(
        images, standardization=standardization, std_mask=std_mask, directions=directions, entry=trained_on or {}
    )
    return values, grid


def _read_images(
    images: Sequence[str | Path], *, entry: Mapping[str, Any], **options: Any
) -> tuple[NDArray[np.float32], Grid, StandardizationReport]:
    """Read the images of a model's input, and warn if they are far from those of the training."""
    reports: list[StandardizationReport] = []
    values, grid = read_volumes(images, label="input", reports=reports, **options)
    # Images in other units have other features too.
    if not warn_of_other_units(images, reports[0].files, entry):
        warn_of_other_features("the input", features_of_report(reports[0], entry), entry)
    warn_of_other_grid("the input", grid, entry)
    return values, grid, reports[0]


def read_from_images(
    images: Sequence[str | Path],
    *,
    tracking_mask: str | Path,
    seeding_mask: str | Path | None = None,
    mask_threshold: float = DEFAULT_THRESHOLD,
    standardization: str = "none",
    std_mask: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    directions: Sequence[Directions | None] = (),
    trained_on: Mapping[str, Any] | None = None,
) -> TrackingData:
    """Read image files, concatenated and standardized as for an HDF5 file.

    Parameters
    ----------
    tracking_mask, seeding_mask
        Image files on the grid of the images; None: seeds are in the tracking mask.
    mask_threshold
        Threshold applied to a probability map, from 0 to 1; see :func:`dwiml.ops.masks.as_mask`.
    images, standardization, std_mask, directions, trained_on
        As in :func:`read_input_images`.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing or invalid, a mask is empty, or the grids differ.
    """
    given = {"tracking_mask": tracking_mask, "seeding_mask": seeding_mask}
    entry = trained_on or {}
    values, grid, report = _read_images(
        images, standardization=standardization, std_mask=std_mask, directions=directions, entry=entry
    )
    masks = {
        parameter: read_mask(name, grid, threshold=mask_threshold, label=parameter)[0]
        for parameter, name in given.items()
        if name is not None
    }
    data = _tracking_data(torch.from_numpy(values), grid, masks, given, mask_threshold)
    features, inside = directions_of_images(entry, report), masks["tracking_mask"].inside
    warn_of_other_axes("the input", data.subject.volume, inside, grid.voxel_sizes, features)
    return data


def _tracking_data(
    volume: torch.Tensor,
    grid: Grid,
    masks: Mapping[str, Mask],
    given: Mapping[str, str | Path | None],
    mask_threshold: float,
) -> TrackingData:
    for parameter, mask in masks.items():
        _refuse_empty(mask, f"{parameter}: '{given[parameter]}' has no voxel", mask_threshold)
    tracking_mask = masks["tracking_mask"]
    voxel_sizes = torch.from_numpy(grid.voxel_sizes.astype(np.float32))
    tracked = TrackingSubject(volume, voxel_sizes, torch.from_numpy(tracking_mask.values.copy()))
    return TrackingData(tracked, masks.get("seeding_mask", tracking_mask).inside, grid)


def _refuse_empty(mask: Mask, where: str, mask_threshold: float) -> None:
    if mask.inside.any():
        return
    if mask.probabilities is None:
        raise ValueError(f"{where} inside: all are 0; give another mask.")
    raise ValueError(
        f"{where} of {mask_threshold:g} or more (its largest value is {mask.probabilities.max():.3g}): "
        "lower mask_threshold, or give another mask."
    )
