"""The convention of the directional features of an image: what the config states, and what its JSON sidecar states."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dwiml.arguments import shown
from dwiml.hdf5.directions.sidecar import image_sidecar, read_sidecar
from dwiml.ops.axes.conventions import Directions, parse_directions
from dwiml.ops.axes.conversion import axes_matrix

logger = logging.getLogger(__name__)

# Axes of two conventions are the same up to the rounding of headers.
_SAME_AXES = 1e-3


def directions_of_image(
    path: Path, declared: Directions | None, nb_features: int, affine: ArrayLike, label: str
) -> Directions | None:
    """Return the convention of an image of a subject.

    Parameters
    ----------
    path
        The image.
    declared
        What the groups config states; None if it is silent, and the sidecar is used.
    nb_features
        Number of features of the image.
    affine
        Shape (4, 4): from its voxel indices to rasmm, in mm.
    label
        Beginning of error messages.

    Returns
    -------
    Directions or None
        None if the convention is unknown.

    Raises
    ------
    ValueError
        If the config and the sidecar contradict each other, the sidecar is incomplete, or the number of features is
        not possible.
    """
    stated = read_sidecar(path, nb_features, label)
    if declared is None and stated:
        try:
            declared = parse_directions(stated, label)
        except ValueError as error:
            raise ValueError(
                f"{label}: '{image_sidecar(path)}' does not state the whole convention ({shown(stated)}); state it as "
                f"'directions' in the groups config ({error})"
            ) from error
    if declared is None:
        return None
    contradicted = _contradicted(declared, stated, affine)
    if contradicted:
        raise ValueError(
            f"{label}: the groups config states {_named(declared.as_dict(), contradicted)}, but "
            f"'{image_sidecar(path)}' states {_named(stated, contradicted)}; correct one of them."
        )
    declared.check_nb_features(nb_features, f"{label}: '{path}'")
    return declared


def directions_as_trained(
    path: Path, trained: Directions | None, nb_features: int, affine: ArrayLike, label: str
) -> Directions | None:
    """Return the convention of an image to track on.

    The parameters are those of :func:`directions_of_image`, but `trained` is the convention of the images of the
    training. An image whose sidecar states another one is converted from that, because the model receives the same
    features.

    Raises
    ------
    ValueError
        If the sidecar contradicts `trained` and the features cannot be converted to those of the training.
    """
    if trained is None:
        return None
    stated = read_sidecar(path, nb_features, label)
    contradicted = _contradicted(trained, stated, affine)
    if not contradicted:
        trained.check_nb_features(nb_features, f"{label}: '{path}'")
        return trained
    own = directions_of_image(path, None, nb_features, affine, label)
    if own is None or own.stored != trained.stored:
        raise ValueError(
            f"{label}: the images of the training had {_named(trained.as_dict(), contradicted)}, but "
            f"'{image_sidecar(path)}' states {_named(stated, contradicted)}; give an image of the same kind."
        )
    logger.warning(
        "%s: the images of the training had %s, but '%s' states %s, which is used.",
        *(label, _named(trained.as_dict(), contradicted), image_sidecar(path), _named(stated, contradicted)),
    )
    return own


def _contradicted(declared: Directions, stated: Mapping[str, Any], affine: ArrayLike) -> list[str]:
    known = declared.as_dict()
    if stated and stated["kind"] != declared.kind:
        return ["kind"]
    different = [key for key, value in stated.items() if key != "axes" and value != known[key]]
    if "axes" in stated:
        difference = axes_matrix(declared.axes, affine) - axes_matrix(stated["axes"], affine)
        if np.abs(difference).max() > _SAME_AXES:
            different.append("axes")
    return different


def _named(values: Mapping[str, Any], keys: list[str]) -> str:
    return ", ".join(f"{key} {values[key]!r}" for key in keys)
