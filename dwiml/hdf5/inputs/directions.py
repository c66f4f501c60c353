"""The convention of the directional features of an image: what the config states, and what its JSON sidecar states."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dwiml.arguments import quoted, shown
from dwiml.files import read_json
from dwiml.ops.axes.conventions import Directions, parse_directions, sh_order
from dwiml.ops.axes.conversion import axes_matrix

logger = logging.getLogger(__name__)

# Of the BIDS extension proposal 16, in lower case.
_TYPES = {"sh": "sh", "3vector": "peaks", "unit3vector": "peaks", "tensor": "tensor"}
_REFERENCES = {"bvec": "fsl", "ijk": "voxel", "xyz": "rasmm"}
_BASES = {"mrtrix3": "tournier07", "descoteaux": "descoteaux07"}
_ENCODING = "OrientationEncoding"
# Axes of two conventions are the same up to the rounding of headers.
_SAME_AXES = 1e-3


def sidecar_of(path: Path) -> Path:
    """Return the name of the JSON file that BIDS places beside an image: ``a_dwimap.nii.gz`` has ``a_dwimap.json``."""
    unpacked = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return unpacked.with_suffix(".json")


def read_sidecar(path: Path, nb_features: int, label: str) -> dict[str, Any]:
    """Read the ``OrientationEncoding`` of an image.

    Parameters
    ----------
    path
        The image.
    nb_features
        Its number of features.
    label
        Beginning of error messages.

    Returns
    -------
    dict
        What it states, with the keys of ``directions`` of a groups config; empty if there is no sidecar, or it does not
        describe directional features. ``legacy`` is absent for the basis ``descoteaux``, because it has two versions.

    Raises
    ------
    ValueError
        If it is not JSON, or has an unknown value.
    """
    sidecar = sidecar_of(path)
    if not sidecar.is_file():
        return {}
    content = read_json(sidecar, f"{label}: the JSON file")
    encoding = content.get(_ENCODING) if isinstance(content, Mapping) else None
    if not isinstance(encoding, Mapping) or str(encoding.get("Type")).lower() not in _TYPES:
        return {}
    where = f"{label}: {_ENCODING} of '{sidecar}'"
    stated = {"kind": _known(encoding, "Type", _TYPES, where)}
    if "Reference" in encoding:
        stated["axes"] = _known(encoding, "Reference", _REFERENCES, where)
    if stated["kind"] != "sh":
        return stated
    result: dict[str, Any] = stated
    if "SphericalHarmonicBasis" in encoding:
        result["basis"] = _known(encoding, "SphericalHarmonicBasis", _BASES, where)
        if result["basis"] == "tournier07":
            result["legacy"] = False
    degree = encoding.get("SphericalHarmonicDegree")
    full = sh_order(nb_features) is None
    if degree is not None and degree != sh_order(nb_features, full_basis=full):
        raise ValueError(
            f"{where}: SphericalHarmonicDegree is {shown(degree)}, but the image has {nb_features} coefficients; "
            "correct one of them."
        )
    result["full_basis"] = full
    return result


def _known(encoding: Mapping[str, Any], key: str, names: Mapping[str, str], where: str) -> str:
    name = names.get(str(encoding[key]).lower())
    if name is None:
        raise ValueError(f"{where}: {key} must be one of {quoted(names)}, got {shown(encoding[key])}.")
    return name


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
                f"{label}: '{sidecar_of(path)}' does not state the whole convention ({shown(stated)}); state it as "
                f"'directions' in the groups config ({error})"
            ) from error
    if declared is None:
        return None
    contradicted = _contradicted(declared, stated, affine)
    if contradicted:
        raise ValueError(
            f"{label}: the groups config states {_named(declared.as_dict(), contradicted)}, but '{sidecar_of(path)}' "
            f"states {_named(stated, contradicted)}; correct one of them."
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
            f"'{sidecar_of(path)}' states {_named(stated, contradicted)}; give an image of the same kind."
        )
    logger.warning(
        "%s: the images of the training had %s, but '%s' states %s, which is used.",
        *(label, _named(trained.as_dict(), contradicted), sidecar_of(path), _named(stated, contradicted)),
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
