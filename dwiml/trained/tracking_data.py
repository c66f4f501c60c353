"""Read the data to track on as the data of an experiment were made: from its HDF5 file, or from image files."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dwiml.arguments import quoted
from dwiml.hdf5.schema import GRIDS
from dwiml.hdf5.stored import open_hdf5
from dwiml.hdf5.stored.collection import HDF5Files, files_of
from dwiml.hdf5.stored.provenance import recorded_config, united_ranges
from dwiml.ops.masks import DEFAULT_THRESHOLD
from dwiml.tracking.inputs.order import check_input_order, trained_directions
from dwiml.tracking.sources import TrackingData, read_from_hdf5, read_from_images
from dwiml.training.experiment.parameters import GROUPS_CONFIG, find_data, recorded_files
from dwiml.training.loading import recorded_parameters
from dwiml.training.recorded_classes import dwiml_class, recorded_class

logger = logging.getLogger(__name__)


def input_group_of(recorded: Mapping[str, Any], experiment: str | Path) -> str:
    """Return the volume group that is the input of an experiment's model.

    Parameters
    ----------
    recorded
        Content of the experiment's ``parameters.json``.
    experiment
        The experiment folder, for the error message.

    Raises
    ------
    ValueError
        If the model was trained without a volume.
    """
    group = recorded["loader"].get("input_group_name")
    if not isinstance(group, str):
        raise ValueError(
            f"The model of '{experiment}' was trained without a volume (its batch loader has no input_group_name); "
            "give an experiment whose model reads one."
        )
    return group


def warn_of_own_inputs(recorded: Mapping[str, Any], experiment: str | Path) -> None:
    """Warn that inputs which the user's own batch loader computes are not those of tracking.

    Parameters
    ----------
    recorded
        Content of the experiment's ``parameters.json``.
    experiment
        The experiment folder.
    """
    name, path = recorded_class(recorded, "loader")
    if dwiml_class("loader", name, path) is None:
        logger.warning(
            "The batch loader of '%s' is of class %s, which is your own. Tracking interpolates the volume as "
            "DWIMLBatchLoaderOneInput does: if the class has its own load_batch_inputs, the model does not receive the "
            "inputs of its training.",
            experiment,
            " ".join(name.split())[:80],
        )


def read_subject(
    experiment: str | Path,
    recorded: Mapping[str, Any],
    subject: str,
    *,
    tracking_mask: str | Path,
    seeding_mask: str | Path | None = None,
    mask_threshold: float = DEFAULT_THRESHOLD,
    hdf5_file: HDF5Files | None = None,
) -> TrackingData:
    """Read a subject of the HDF5 file of an experiment.

    Parameters
    ----------
    experiment
        The experiment folder.
    recorded
        Content of its ``parameters.json``.
    subject
        Name of the subject.
    tracking_mask, seeding_mask, mask_threshold
        As in :func:`dwiml.tracking.sources.read_from_hdf5`.
    hdf5_file
        The HDF5 file, a folder of such files, or a list; None for the recorded files.

    Raises
    ------
    FileNotFoundError, ValueError
        If something is missing or invalid.
    """
    group = input_group_of(recorded, experiment)
    warn_of_own_inputs(recorded, experiment)
    return read_from_hdf5(
        find_data(recorded, experiment, hdf5_file),
        subject,
        group,
        tracking_mask=tracking_mask,
        seeding_mask=seeding_mask,
        mask_threshold=mask_threshold,
        trained_on=_with_grids((recorded.get(GROUPS_CONFIG) or {}).get(group) or {}, recorded, group),
    )


def read_images(
    experiment: str | Path,
    recorded: Mapping[str, Any],
    images: Sequence[str | Path],
    *,
    tracking_mask: str | Path,
    seeding_mask: str | Path | None = None,
    mask_threshold: float = DEFAULT_THRESHOLD,
    hdf5_file: HDF5Files | None = None,
    standardization: str | None = None,
    standardize_like: str | Path | None = None,
    std_mask: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
) -> TrackingData:
    """Read image files, converted and standardized as the input of an experiment.

    Parameters
    ----------
    experiment
        The experiment folder.
    recorded
        Content of its ``parameters.json``.
    images
        Images of the model's input, in the order of the training.
    tracking_mask, seeding_mask, mask_threshold, std_mask
        As in :func:`dwiml.tracking.sources.read_from_images`.
    hdf5_file
        The HDF5 file that records how its volumes were created; None for what the experiment records.
    standardization
        How to standardize the images; None for the recorded way.
    standardize_like
        Another experiment, whose recorded way is used; None for `experiment`.

    Raises
    ------
    FileNotFoundError, ValueError
        If something is missing or invalid, or the standardization is not recorded.
    """
    reading = how_to_read_images(
        experiment,
        recorded,
        images,
        hdf5_file=hdf5_file,
        standardization=standardization,
        standardize_like=standardize_like,
        std_mask=std_mask,
    )
    warn_of_own_inputs(recorded, experiment)
    return read_from_images(
        images, tracking_mask=tracking_mask, seeding_mask=seeding_mask, mask_threshold=mask_threshold, **reading
    )


def how_to_read_images(
    experiment: str | Path,
    recorded: Mapping[str, Any],
    images: Sequence[str | Path],
    *,
    hdf5_file: HDF5Files | None = None,
    standardization: str | None = None,
    standardize_like: str | Path | None = None,
    std_mask: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
) -> dict[str, Any]:
    """Return how to convert and standardize images as the input of an experiment.

    Parameters
    ----------
    experiment, recorded, images, hdf5_file, standardization, standardize_like, std_mask
        As in :func:`read_images`.

    Returns
    -------
    dict
        Keywords of :func:`dwiml.tracking.sources.read_input_images`.

    Raises
    ------
    FileNotFoundError, ValueError
        If the images are not in the order of the training, or the standardization is not recorded.
    """
    if standardization is not None and standardize_like is not None:
        raise ValueError("standardization and standardize_like exclude each other; give one of them.")
    group = input_group_of(recorded, experiment)
    trained_on = _config_of(recorded, hdf5_file, needed=False).get(group) or {}
    check_input_order(images, trained_on, group)
    if standardize_like is not None:
        experiment, recorded = standardize_like, recorded_parameters(standardize_like)
    if standardization is None:
        standardization = _standardization_of(experiment, recorded, hdf5_file, has_mask=bool(std_mask))
    return {
        "standardization": standardization,
        "std_mask": std_mask,
        "directions": trained_directions(trained_on, len(images), group),
        "trained_on": _with_grids(trained_on, recorded, group),
    }


def _with_grids(entry: dict[str, Any], recorded: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Add the grids of the training subjects, from the recorded HDF5 files if the experiment does not record them."""
    if GRIDS in entry or not entry:
        return entry
    grids = []
    for path in recorded_files(recorded):
        # Without them, grids are not compared.
        with suppress(OSError, ValueError), open_hdf5(path) as file:
            grids += [found] if (found := recorded_config(file).get(group, {}).get(GRIDS)) else []
    return {**entry, GRIDS: united_ranges(grids)} if grids else entry


def _standardization_of(
    experiment: str | Path, recorded: Mapping[str, Any], hdf5_file: HDF5Files | None, *, has_mask: bool
) -> str:
    """Return how the experiment's input group was standardized; ValueError if its mask is needed and not given."""
    group = input_group_of(recorded, experiment)
    entry = _config_of(recorded, hdf5_file).get(group)
    if not isinstance(entry, dict):
        raise ValueError(
            f"'{experiment}' does not record how the volumes of group '{group}' were standardized; give "
            "standardization."
        )
    standardization = str(entry.get("standardization", "none"))
    if entry.get("std_mask") and standardization != "none" and not has_mask:
        masks = entry["std_mask"]
        raise ValueError(
            f"Group '{group}' of the experiment's data was standardized within a mask "
            f"({quoted([masks] if isinstance(masks, str) else masks)} of each subject); give the mask of this subject "
            "as std_mask."
        )
    return standardization


def _config_of(recorded: Mapping[str, Any], hdf5_file: HDF5Files | None, *, needed: bool = True) -> dict[str, Any]:
    """Return the groups config of the data, from the experiment or from the given HDF5 file.

    If neither has it, raise FileNotFoundError if it is needed, and return an empty dictionary otherwise.
    """
    config = recorded.get(GROUPS_CONFIG)
    if isinstance(config, dict) and config and not hdf5_file:
        return config
    files = files_of(hdf5_file) if hdf5_file else recorded_files(recorded)
    missing = [path for path in files if not path.is_file()]
    if missing:
        if not needed and not hdf5_file:
            return {}
        raise FileNotFoundError(
            f"'{missing[0]}', the experiment's HDF5 file, was not found; it records how the volumes were standardized. "
            "Give hdf5_file or standardization."
        )
    for path in files:
        with open_hdf5(path) as file:
            if found := recorded_config(file):
                return found
    return {}
