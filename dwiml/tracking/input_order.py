"""The images that are tracked on, compared with those that the model was trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from dwiml.files.images import read_nb_features
from dwiml.hdf5.schema import FILE, FILES_FOUND, NB_FEATURES

logger = logging.getLogger(__name__)


def check_input_order(images: Sequence[str | Path], entry: Mapping[str, Any], group: str) -> None:
    """Compare images with the files of a group that a model was trained on: features of each, then names.

    Parameters
    ----------
    images
        As the user gives them.
    entry
        The entry of the group in the recorded groups config; see :func:`dwiml.hdf5.schema.groups_config`.
    group
        Its name.

    Raises
    ------
    FileNotFoundError, ValueError
        When they are certainly not in the order of the training, or an image cannot be read. Where it cannot be
        known, a warning shows both orders.
    """
    found = entry.get(FILES_FOUND) or []
    patterns = [entry.get("files", [])] if isinstance(entry.get("files"), str) else list(entry.get("files", []))
    names = [str(each[FILE]) for each in found] if found else [str(each) for each in patterns]
    if not names or (len(names) == 1 == len(images)):
        # One image has no order, and its number of features is compared with the model's.
        if not names and len(images) > 1:
            logger.warning("It is not recorded which files the model was trained on: check the order of the input.")
        return
    features = [read_nb_features(path) for path in images]
    trained = [int(each[NB_FEATURES]) for each in found] if found else None
    given, expected = _listed(images, features), _listed(names, trained)
    order = f"The model was trained on group '{group}', made of {expected}, in this order; the input gives {given}"
    if len(images) != len(names):
        logger.warning("%s: only the total number of features can be compared.", order)
        return
    if trained is not None and features != trained:
        raise ValueError(f"{order}. Give one image for each, with as many features, in the order of the training.")
    # A pattern, which may have the subject's name or a * in it, says more than the file of another subject.
    _compare_names(images, patterns if len(patterns) == len(names) else names, order)


def check_same_making(
    recorded: Mapping[str, Any], current: Mapping[str, Any], group: str, hdf5_file: str | Path
) -> None:
    """Compare how a group was made for the training with how it was made in the HDF5 file that is used now.

    Parameters
    ----------
    recorded, current
        The entry of the group in the groups config of the experiment, and of the file; empty where it is unknown.
    group
        Its name.
    hdf5_file
        The file, for the sentence.

    Raises
    ------
    ValueError
        When its files have other numbers of features. Other files or another standardization give a warning.
    """
    then, now = (entry.get(FILES_FOUND) or [] for entry in (recorded, current))
    features = [[int(each[NB_FEATURES]) for each in files] for files in (then, now)]
    if then and now and features[0] != features[1]:
        trained, given = (
            _listed([each[FILE] for each in files], nb) for files, nb in zip((then, now), features, strict=True)
        )
        raise ValueError(
            f"The model was trained on group '{group}', made of {trained}; in '{hdf5_file}' it is made of {given}. "
            "Create the HDF5 file from the same files, in the same order, as for the training."
        )
    for key in ("files", "standardization", "std_mask"):
        if recorded and current and recorded.get(key) != current.get(key):
            logger.warning(
                "Group '%s' of '%s' was not made as for the training: its '%s' is %r, and was %r.",
                *(group, hdf5_file, key, current.get(key), recorded.get(key)),
            )


def _compare_names(images: Sequence[str | Path], names: Sequence[str], order: str) -> None:
    """Refuse names that are those of the training in another order."""
    fitting = [{k for k, name in enumerate(names) if _fits(image, name)} for image in images]
    strangers = [k for k, fits in enumerate(fitting) if not fits]
    elsewhere = [k for k, fits in enumerate(fitting) if fits and k not in fits]
    if elsewhere and not strangers:
        raise ValueError(f"{order}. By their names, they are in another order; give them in the order of the training.")
    if strangers or elsewhere:
        logger.warning("%s. These names do not show the order: check it.", order)


def _fits(image: str | Path, name: str) -> bool:
    """Tell whether a path ends as a name of the groups config does: as a whole, or by its last part."""
    pattern = name.replace("{subject}", "*").replace("[", "[[]").replace("?", "[?]")
    path = Path(image).absolute().as_posix()
    return fnmatch(path, f"*/{pattern}") or fnmatch(PurePosixPath(path).name, PurePosixPath(pattern).name)


def _listed(names: Sequence[str | Path], features: Sequence[int] | None) -> str:
    if features is None:
        return ", ".join(f"'{name}'" for name in names)
    return ", ".join(f"'{name}' ({nb})" for name, nb in zip(names, features, strict=True))
