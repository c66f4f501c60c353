"""The bundles of the archive as ground truths for ``dwiml score``.

They are what the package's own networks found in the example image: a volume a bundle, and one for each of its two
ends. Its tests compare with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from dwiml.files import write_json
from dwiml.tractograms.grid import Grid

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.floating[Any]]

SIDES = ("left", "right")
_TWO_SIDED = (
    *("AF", "ATR", "CG", "CST", "FPT", "FX", "ICP", "IFO", "ILF", "MLF", "OR", "POPT", "SCP"),
    *("SLF_I", "SLF_II", "SLF_III", "STR", "ST_FO", "ST_OCC", "ST_PAR", "ST_POSTC", "ST_PREC", "ST_PREF", "ST_PREM"),
    *("T_OCC", "T_PAR", "T_POSTC", "T_PREC", "T_PREF", "T_PREM", "UF"),
)
# From one side to the other. The archive has the whole corpus callosum too, CC; it would take the streamlines of its
# parts, for a streamline goes to the bundle in whose mask most of it lies.
_COMMISSURAL = ("CA", "CC_1", "CC_2", "CC_3", "CC_4", "CC_5", "CC_6", "CC_7", "MCP")
BUNDLES = tuple(sorted([f"{name}_{side}" for name in _TWO_SIDED for side in SIDES] + list(_COMMISSURAL)))

_REFERENCE = "tests/reference_files"
_PLACES = {
    "mask": f"{_REFERENCE}/bundle_segmentations/{{name}}.nii.gz",
    "head": f"{_REFERENCE}/endings_segmentations/{{name}}_b.nii.gz",
    "tail": f"{_REFERENCE}/endings_segmentations/{{name}}_e.nii.gz",
}


def bundle_files(names: Sequence[str] = BUNDLES) -> dict[str, str]:
    """Return what to unpack: name under which a file is unpacked: its place in the archive."""
    return {_file(name, part): place.format(name=name) for name in names for part, place in _PLACES.items()}


def bundles_of(side: str) -> tuple[str, ...]:
    """Return the bundles that lie on one side, ``left`` or ``right``."""
    return tuple(name for name in BUNDLES if name.endswith(f"_{side}"))


def write_ground_truth(
    folder: Path,
    names: Sequence[str],
    paths: Mapping[str, Path],
    affine: FloatArray,
    where: BoolArray,
) -> None:
    """Write ``ground_truth.json`` and the volumes that it names.

    Parameters
    ----------
    folder
        Where; made when it is missing.
    names
        The bundles.
    paths
        The files of :func:`bundle_files`, unpacked.
    affine : (4, 4) array
        Of the brain's image, that they must have.
    where : (X, Y, Z) array
        Voxels to keep.

    Raises
    ------
    ValueError
        If a volume is on another grid, or nothing of it is left.
    """
    entries = {}
    for name in names:
        entries[name] = {part: f"ground_truth/{part}s/{name}.nii.gz" for part in _PLACES}
        for part, file in entries[name].items():
            image = nib.load(paths[_file(name, part)])
            own = Grid.from_header(image.affine, image.shape[:3], paths[_file(name, part)])
            if own.difference(Grid.from_header(affine, where.shape, folder)):
                raise ValueError(f"The {part} of bundle {name} is not on the grid of the example image.")
            volume = (np.asarray(image.dataobj) != 0) & where
            if not volume.any():
                raise ValueError(f"Nothing is left of the {part} of bundle {name}.")
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(volume.astype(np.uint8), affine), folder / file)
    write_json(folder / "ground_truth.json", entries)


def _file(name: str, part: str) -> str:
    return f"{name}_{part}.nii.gz"
