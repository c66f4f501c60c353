"""The JSON file beside an image, which states the convention of its directional features."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dwiml.arguments import quoted, shown
from dwiml.files import open_regular, read_json
from dwiml.hdf5.schema import DIRECTIONS
from dwiml.ops.axes.conventions import Directions, parse_directions, sh_order

logger = logging.getLogger(__name__)

# Of the BIDS extension proposal 16, in lower case.
_TYPES = {"sh": "sh", "3vector": "peaks", "unit3vector": "peaks", "tensor": "tensor"}
_REFERENCES = {"bvec": "fsl", "ijk": "voxel", "xyz": "rasmm"}
_BASES = {"mrtrix3": "tournier07", "descoteaux": "descoteaux07"}
_ENCODING = "OrientationEncoding"
# What dwiml states in a sidecar of its own: a convention as in a groups config, which has more details.
_OWN = "dwiml"
# Bytes of a file that is not JSON.
_MOST_SEARCHED = 2**20


def image_sidecar(path: Path) -> Path:
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
    sidecar = image_sidecar(path)
    if not sidecar.is_file():
        return {}
    # Most sidecars are not about directions: NaN, which Python's json module writes, is no reason to refuse them.
    try:
        content = read_json(sidecar, f"{label}: the JSON file", non_finite=True)
    except ValueError as error:
        with open_regular(sidecar, f"{label}: the JSON file") as stream:
            if any(word.encode() in stream.read(_MOST_SEARCHED) for word in (_ENCODING, _OWN)):
                raise
        logger.warning("%s It does not mention %s, and is ignored.", error, _ENCODING)
        return {}
    if isinstance(content, Mapping) and isinstance(content.get(_OWN), Mapping) and DIRECTIONS in content[_OWN]:
        return parse_directions(content[_OWN][DIRECTIONS], f"{label}: '{sidecar}'").as_dict()
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


def sidecar_text(directions: Directions, nb_features: int) -> dict[str, Any]:
    """Return the content of the sidecar of an image in a convention of the HDF5 file; see :func:`read_sidecar`."""
    if directions.kind == "none":
        return {_OWN: {DIRECTIONS: directions.as_dict()}}
    names = {"sh": "sh", "peaks": "3vector", "tensor": "tensor"}
    encoding: dict[str, Any] = {"Type": names[directions.kind], "Reference": "ijk"}
    if directions.kind == "sh":
        encoding["SphericalHarmonicBasis"] = "descoteaux"
        encoding["SphericalHarmonicDegree"] = sh_order(nb_features, full_basis=directions.full_basis)
    return {_ENCODING: encoding, _OWN: {DIRECTIONS: directions.as_dict()}}


def _known(encoding: Mapping[str, Any], key: str, names: Mapping[str, str], where: str) -> str:
    name = names.get(str(encoding[key]).lower())
    if name is None:
        raise ValueError(f"{where}: {key} must be one of {quoted(names)}, got {shown(encoding[key])}.")
    return name
