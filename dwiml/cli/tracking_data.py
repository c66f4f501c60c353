"""What ``dwiml track`` tracks on: a subject of an HDF5 file, or image files."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dwiml.ops.masks import Mask
    from dwiml.tracking.tracker import TrackingSubject

_MASKS = ("tracking_mask", "seeding_mask")
IMAGES = (".nii", ".nii.gz", ".mgz", ".mgh")


@dataclass(frozen=True)
class TrackingData:
    """A subject and where to begin.

    Attributes
    ----------
    subject
        Volume and tracking mask.
    seeding_mask
        Shape (X, Y, Z), bool.
    affine
        Shape (4, 4), from voxel indices (center origin) to rasmm.
    """

    subject: TrackingSubject
    seeding_mask: NDArray[np.bool_]
    affine: NDArray[np.float64]


def load_tracking_data(arguments: argparse.Namespace, recorded: dict[str, Any]) -> TrackingData:
    """Load what the options ask for.

    Parameters
    ----------
    arguments
        Of ``dwiml track``.
    recorded
        The experiment's ``parameters.json``.

    Raises
    ------
    FileNotFoundError, ValueError
        When something is missing, or does not go together.
    """
    if (arguments.subject is None) == (arguments.input is None):
        raise ValueError("Give either a SUBJECT of the HDF5 file or image files with --input.")
    _refuse_what_does_nothing(arguments)
    return _from_hdf5(arguments, recorded) if arguments.input is None else _from_images(arguments, recorded)


def _refuse_what_does_nothing(arguments: argparse.Namespace) -> None:
    of_images = ("standardization", "standardize_like", "std_mask")
    given = [name for name in of_images if getattr(arguments, name) is not None]
    if given and arguments.input is None:
        raise ValueError(f"--{given[0]} is for --input: the subjects of an HDF5 file are standardized already.")
    if arguments.standardization is not None and arguments.standardize_like is not None:
        raise ValueError("--standardization and --standardize_like exclude each other; give one of them.")


def _from_hdf5(arguments: argparse.Namespace, recorded: dict[str, Any]) -> TrackingData:
    import torch

    from dwiml.data.dataset import MultiSubjectDataset
    from dwiml.hdf5.standalone import read_mask
    from dwiml.hdf5.volumes import mask_with_warning
    from dwiml.tracking.input_order import check_same_making
    from dwiml.tracking.tracker import TrackingSubject
    from dwiml.training.experiment.parameters import GROUPS_CONFIG, find_data

    path = find_data(recorded, arguments.experiment, arguments.hdf5_file)
    group = recorded["loader"]["input_group_name"]
    names = {name for name in (arguments.tracking_mask, arguments.seeding_mask) if not _is_image(name)}
    dataset = MultiSubjectDataset(path)
    trained_on = (recorded.get(GROUPS_CONFIG) or {}).get(group) or {}
    check_same_making(trained_on, dataset.groups_config.get(group) or {}, group, path)
    dataset.load_data(subj_id=arguments.subject, volume_groups=[group, *sorted(names - {group})], streamline_groups=[])
    (subject,) = [*dataset.training_set, *dataset.validation_set, *dataset.testing_set]
    volume = subject.volumes[group]

    def mask(option: str) -> Mask:
        name = getattr(arguments, option)
        if _is_image(name):
            return read_mask(name, volume.grid, threshold=arguments.mask_threshold, label=f"--{option}")[0]
        values = subject.volumes[name]
        if values.nb_features != 1:
            raise ValueError(f"Volume group '{name}' holds {values.nb_features} features; a mask has one.")
        difference = volume.grid.difference(values.grid)
        if difference:
            raise ValueError(
                f"Subject '{arguments.subject}': volume groups '{group}' and '{name}' have {difference}; make the HDF5 "
                "again."
            )
        return mask_with_warning(
            values.as_tensor()[..., 0].numpy(),
            f"Volume group '{name}' of subject '{arguments.subject}'",
            threshold=arguments.mask_threshold,
        )

    masks = {option: mask(option) for option in _MASKS if getattr(arguments, option) is not None}
    _refuse_empty(arguments, masks)
    tracking_mask = masks["tracking_mask"]
    tracked = TrackingSubject(
        volume.as_tensor(), torch.from_numpy(volume.voxel_sizes), torch.from_numpy(tracking_mask.values.copy())
    )
    return TrackingData(tracked, masks.get("seeding_mask", tracking_mask).inside, volume.affine)


def _from_images(arguments: argparse.Namespace, recorded: dict[str, Any]) -> TrackingData:
    import numpy as np
    import torch

    from dwiml.hdf5.standalone import read_mask, read_volumes
    from dwiml.tracking.input_order import check_input_order
    from dwiml.tracking.tracker import TrackingSubject
    from dwiml.training.loading import recorded_parameters

    for option in ("input", "std_mask", *_MASKS):
        given = getattr(arguments, option)
        for path in _listed(given or []):
            if not Path(path).is_file():
                raise FileNotFoundError(f"--{option}: '{path}' was not found; with --input, masks are image files too.")
    group = recorded["loader"]["input_group_name"]
    check_input_order(arguments.input, _recorded_config(arguments, recorded, needed=False).get(group) or {}, group)
    if arguments.standardize_like is not None:
        recorded = recorded_parameters(arguments.standardize_like)
    standardization = arguments.standardization or _recorded_standardization(arguments, recorded)
    values, grid = read_volumes(
        arguments.input, standardization=standardization, std_mask=arguments.std_mask or (), label="--input"
    )
    masks = {
        option: read_mask(name, grid, threshold=arguments.mask_threshold, label=f"--{option}")[0]
        for option in _MASKS
        if (name := getattr(arguments, option)) is not None
    }
    _refuse_empty(arguments, masks)
    tracking_mask = masks["tracking_mask"]
    sizes = torch.from_numpy(grid.voxel_sizes.astype(np.float32))
    tracked = TrackingSubject(torch.from_numpy(values), sizes, torch.from_numpy(tracking_mask.values.copy()))
    return TrackingData(tracked, masks.get("seeding_mask", tracking_mask).inside, grid.affine)


def _refuse_empty(arguments: argparse.Namespace, masks: dict[str, Mask]) -> None:
    for option, mask in masks.items():
        if mask.inside.any():
            continue
        where = f"--{option}: '{getattr(arguments, option)}' has no voxel"
        if mask.probabilities is None:
            raise ValueError(f"{where} inside: all are 0; give another mask.")
        raise ValueError(
            f"{where} of {arguments.mask_threshold:g} or more (its largest value is {mask.probabilities.max():.3g}): "
            "lower --mask_threshold, or give another mask."
        )


def _recorded_standardization(arguments: argparse.Namespace, recorded: dict[str, Any]) -> str:
    """Return how the input group of the experiment's data was standardized; refuse what a mask is missing for."""
    from dwiml.arguments import quoted

    group = recorded["loader"]["input_group_name"]
    entry = _recorded_config(arguments, recorded).get(group)
    if not isinstance(entry, dict):
        raise ValueError(
            f"It is not recorded how the volumes of group '{group}' of "
            f"'{arguments.standardize_like or arguments.experiment}' were standardized; "
            "give --standardization."
        )
    standardization = str(entry.get("standardization", "none"))
    if entry.get("std_mask") and standardization != "none" and not arguments.std_mask:
        raise ValueError(
            f"Group '{group}' of the experiment's data was standardized within a mask "
            f"({quoted(_listed(entry['std_mask']))} of each subject); give that of this subject with --std_mask."
        )
    return standardization


def _recorded_config(arguments: argparse.Namespace, recorded: dict[str, Any], *, needed: bool = True) -> dict[str, Any]:
    """Return how the groups of the data were made: from the experiment, or from an HDF5 file that is given.

    Where neither says it: an error if it is needed, otherwise nothing.
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
            f"'{path}', the HDF5 file of the experiment, says how its volumes were standardized, but was not found; "
            "give --hdf5_file, or --standardization."
        )
    with open_hdf5(path) as file:
        return groups_config(file)


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _is_image(name: str | None) -> bool:
    return name is None or name.endswith(IMAGES)
