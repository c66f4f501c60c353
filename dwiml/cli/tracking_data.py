"""The data of ``dwiml track``: a subject of an HDF5 file, or image files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dwiml.tracking.sources import TrackingData

_MASKS = ("tracking_mask", "seeding_mask")


def load_tracking_data(arguments: argparse.Namespace, recorded: dict[str, Any]) -> TrackingData:
    """Load the volume and the masks that the options name.

    Parameters
    ----------
    arguments
        Arguments of ``dwiml track``.
    recorded
        Content of the experiment's ``parameters.json``.

    Raises
    ------
    FileNotFoundError, ValueError
        If something is missing, or options contradict each other.
    """
    if (arguments.subject is None) == (arguments.input is None):
        raise ValueError("Give either a SUBJECT of the HDF5 file or image files with --input.")
    _refuse_unused_options(arguments)
    return _from_hdf5(arguments, recorded) if arguments.input is None else _from_images(arguments, recorded)


def input_group_of(recorded: dict[str, Any], experiment: str) -> str:
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


def _refuse_unused_options(arguments: argparse.Namespace) -> None:
    of_images = ("standardization", "standardize_like", "std_mask")
    given = [name for name in of_images if getattr(arguments, name) is not None]
    if given and arguments.input is None:
        raise ValueError(f"--{given[0]} is for --input: the subjects of an HDF5 file are standardized already.")
    if arguments.standardization is not None and arguments.standardize_like is not None:
        raise ValueError("--standardization and --standardize_like exclude each other; give one of them.")


def _from_hdf5(arguments: argparse.Namespace, recorded: dict[str, Any]) -> TrackingData:
    from dwiml.tracking.sources import read_from_hdf5
    from dwiml.training.experiment.parameters import GROUPS_CONFIG, find_data

    group = input_group_of(recorded, arguments.experiment)
    return read_from_hdf5(
        find_data(recorded, arguments.experiment, arguments.hdf5_file),
        arguments.subject,
        group,
        tracking_mask=arguments.tracking_mask,
        seeding_mask=arguments.seeding_mask,
        mask_threshold=arguments.mask_threshold,
        trained_on=(recorded.get(GROUPS_CONFIG) or {}).get(group),
    )


def _from_images(arguments: argparse.Namespace, recorded: dict[str, Any]) -> TrackingData:
    from dwiml.tracking.input_order import check_input_order
    from dwiml.tracking.sources import read_from_images
    from dwiml.training.loading import recorded_parameters

    for option in ("input", "std_mask", *_MASKS):
        given = getattr(arguments, option)
        for path in _listed(given or []):
            if not Path(path).is_file():
                raise FileNotFoundError(f"--{option}: '{path}' was not found; with --input, masks are image files too.")
    group = input_group_of(recorded, arguments.experiment)
    check_input_order(arguments.input, _recorded_config(arguments, recorded, needed=False).get(group) or {}, group)
    if arguments.standardize_like is not None:
        recorded = recorded_parameters(arguments.standardize_like)
    return read_from_images(
        arguments.input,
        tracking_mask=arguments.tracking_mask,
        seeding_mask=arguments.seeding_mask,
        mask_threshold=arguments.mask_threshold,
        standardization=arguments.standardization or _recorded_standardization(arguments, recorded),
        std_mask=arguments.std_mask or (),
    )


def _recorded_standardization(arguments: argparse.Namespace, recorded: dict[str, Any]) -> str:
    """Return how the experiment's input group was standardized; ValueError if its mask is needed and not given."""
    from dwiml.arguments import quoted

    group = input_group_of(recorded, arguments.standardize_like or arguments.experiment)
    entry = _recorded_config(arguments, recorded).get(group)
    if not isinstance(entry, dict):
        raise ValueError(
            f"'{arguments.standardize_like or arguments.experiment}' does not record how the volumes of group "
            f"'{group}' were standardized; give --standardization."
        )
    standardization = str(entry.get("standardization", "none"))
    if entry.get("std_mask") and standardization != "none" and not arguments.std_mask:
        raise ValueError(
            f"Group '{group}' of the experiment's data was standardized within a mask "
            f"({quoted(_listed(entry['std_mask']))} of each subject); give the mask of this subject with --std_mask."
        )
    return standardization


def _recorded_config(arguments: argparse.Namespace, recorded: dict[str, Any], *, needed: bool = True) -> dict[str, Any]:
    """Return the groups config of the data, from the experiment or from the given HDF5 file.

    If neither has it, raise FileNotFoundError if it is needed, and return an empty dictionary otherwise.
    """
    from dwiml.hdf5.stored import open_hdf5
    from dwiml.hdf5.stored.layout import groups_config
    from dwiml.training.experiment.parameters import GROUPS_CONFIG

    config = recorded.get(GROUPS_CONFIG)
    if isinstance(config, dict) and config and not arguments.hdf5_file:
        return config
    path = Path(arguments.hdf5_file or recorded["data"]["hdf5_file"])
    if not path.is_file():
        if not needed and not arguments.hdf5_file:
            return {}
        raise FileNotFoundError(
            f"'{path}', the experiment's HDF5 file, was not found; it records how the volumes were standardized. Give "
            "--hdf5_file or --standardization."
        )
    with open_hdf5(path) as file:
        return groups_config(file)


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
