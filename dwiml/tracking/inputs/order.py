"""Compare the input images of tracking with those that the model was trained on."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from dwiml.files.images import read_nb_features
from dwiml.hdf5.schema import DIRECTIONS, FILE, FILES_FOUND, NB_FEATURES, OTHER_DIRECTIONS
from dwiml.ops.axes.conventions import Directions, parse_directions

logger = logging.getLogger(__name__)


def check_input_order(images: Sequence[str | Path], entry: Mapping[str, Any], group: str) -> None:
    """Compare images with the files of the group that a model was trained on: numbers of features, then names.

    Parameters
    ----------
    images
        The input images, in the order given by the user.
    entry
        The entry of the group in the recorded groups config; see :func:`dwiml.hdf5.stored.layout.groups_config`.
    group
        Name of the group.

    Raises
    ------
    FileNotFoundError, ValueError
        If the images are not in the order of the training, or cannot be read. If the order cannot be determined, a
        warning shows both orders.
    """
    found = entry.get(FILES_FOUND) or []
    patterns = [entry.get("files", [])] if isinstance(entry.get("files"), str) else list(entry.get("files", []))
    names = [str(each[FILE]) for each in found] if found else [str(each) for each in patterns]
    if not names or (len(names) == 1 == len(images)):
        # A single image has no order; its number of features is compared with that of the model.
        if not names and len(images) > 1:
            logger.warning("It is not recorded which files the model was trained on: check the order of the input.")
        return
    features = [read_nb_features(path) for path in images]
    trained = [int(each[NB_FEATURES]) for each in found] if found else None
    given, expected = _listed(images, features), _listed(names, trained)
    order = f"The model was trained on group '{group}', which contains {expected}, in this order; the input is {given}"
    if len(images) != len(names):
        logger.warning("%s: only the total number of features can be compared.", order)
        return
    if trained is not None and features != trained:
        raise ValueError(f"{order}. Give images with the same numbers of features, in the order of the training.")
    # A pattern with the name of the subject or a * is more informative than the file name of another subject.
    _compare_names(images, patterns if len(patterns) == len(names) else names, order)


def check_same_making(
    recorded: Mapping[str, Any], current: Mapping[str, Any], group: str, hdf5_file: str | Path
) -> None:
    """Compare how a group was created for the training with how it was created in the current HDF5 file.

    Parameters
    ----------
    recorded, current
        The entry of the group in the groups config of the experiment, and in that of the file; empty if unknown.
    group
        Name of the group.
    hdf5_file
        The current HDF5 file, used in messages.

    Raises
    ------
    ValueError
        If the files have different numbers of features. Different files or standardizations cause a warning.
    """
    then, now = (entry.get(FILES_FOUND) or [] for entry in (recorded, current))
    features = [[int(each[NB_FEATURES]) for each in files] for files in (then, now)]
    if then and now and features[0] != features[1]:
        trained, given = (
            _listed([each[FILE] for each in files], nb) for files, nb in zip((then, now), features, strict=True)
        )
        raise ValueError(
            f"The model was trained on group '{group}', which contains {trained}; in '{hdf5_file}' it contains "
            f"{given}. Create the HDF5 file from the same files, in the same order, as for the training."
        )
    _compare_directions(recorded, current, group, hdf5_file)
    for key in ("files", "standardization", "std_mask"):
        if recorded and current and recorded.get(key) != current.get(key):
            logger.warning(
                "Group '%s' of '%s' differs from that of the training: its '%s' is %r instead of %r.",
                *(group, hdf5_file, key, current.get(key), recorded.get(key)),
            )


def trained_directions(entry: Mapping[str, Any], nb_images: int, group: str) -> list[Directions | None]:
    """Return the convention of the images that a model was trained on, for each image to track on.

    Parameters
    ----------
    entry
        The entry of the group in the recorded groups config.
    nb_images
        Number of images to track on.
    group
        Name of the group.

    Raises
    ------
    ValueError
        If the images of the training had different conventions and are not given one by one.
    """
    label = f"Group '{group}' of the training"
    if any(file.get(OTHER_DIRECTIONS) for file in entry.get(FILES_FOUND) or []):
        logger.warning(
            "%s was created from images in several conventions of directional features; the input is read as those of "
            "the first subject were. If it is in another one, state this in a JSON file beside the image "
            "(OrientationEncoding).",
            label,
        )
    found = [
        parse_directions(file[DIRECTIONS], label) if DIRECTIONS in file else None
        for file in entry.get(FILES_FOUND) or []
    ]
    if not any(found):
        return []
    if len(found) == nb_images:
        return found
    if len(set(found)) == 1:
        return found[:1] * nb_images
    raise ValueError(
        f"{label} was created from {len(found)} images, whose directional features have different conventions, and the "
        f"input has {nb_images}; give the images one by one, in the order of the training."
    )


def _compare_directions(
    recorded: Mapping[str, Any], current: Mapping[str, Any], group: str, hdf5_file: str | Path
) -> None:
    """Warn if the converted features do not have the same convention."""
    then, now = (
        [
            parse_directions(file[DIRECTIONS], f"Group '{group}'").stored.as_dict() if DIRECTIONS in file else None
            for file in entry.get(FILES_FOUND) or []
        ]
        for entry in (recorded, current)
    )
    if then and now and then != now:
        logger.warning(
            "Group '%s' of '%s' differs from that of the training: the convention of its directional features is %s "
            "instead of %s (None: unknown).",
            *(group, hdf5_file, now, then),
        )


def _compare_names(images: Sequence[str | Path], names: Sequence[str], order: str) -> None:
    """Refuse the names of the training in another order."""
    fitting = [{k for k, name in enumerate(names) if _fits(image, name)} for image in images]
    strangers = [k for k, fits in enumerate(fitting) if not fits]
    elsewhere = [k for k, fits in enumerate(fitting) if fits and k not in fits]
    if elsewhere and not strangers:
        raise ValueError(f"{order}. The names are in another order; give the images in the order of the training.")
    if strangers or elsewhere:
        logger.warning("%s. The order cannot be determined from these names: check it.", order)


def _fits(image: str | Path, name: str) -> bool:
    """Return whether a path ends with a name of the groups config, or has the same file name."""
    # As in dwiml.hdf5.layouts.patterns.
    pattern = re.sub(r"\[[^\[\]]*\{session\}[^\[\]]*\]|\{(subject|session)\}", "*", name.removeprefix("{root}/"))
    pattern = pattern.replace("[", "[[]").replace("?", "[?]")
    path = Path(image).absolute().as_posix()
    return fnmatch(path, f"*/{pattern}") or fnmatch(PurePosixPath(path).name, PurePosixPath(pattern).name)


def _listed(names: Sequence[str | Path], features: Sequence[int] | None) -> str:
    if features is None:
        return ", ".join(f"'{name}'" for name in names)
    return ", ".join(f"'{name}' ({nb})" for name, nb in zip(names, features, strict=True))
