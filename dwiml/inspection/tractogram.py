"""What a tractogram contains."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dwiml.arguments import counted
from dwiml.inspection.text import by, length_summary, lengths_text, pairs, size
from dwiml.ops.resampling import lengths_mm
from dwiml.tractograms.reading import open_tractogram
from dwiml.tractograms.tractogram import Tractogram

# Smaller files are read entirely, in about a second.
_QUICK_BYTES = 2**25


def describe_tractogram(path: str | os.PathLike[str], *, measure: bool | None = None) -> dict[str, Any]:
    """Return what a tractogram contains.

    Parameters
    ----------
    path
        A tractogram in a format that :func:`dwiml.tractograms.reading.open_tractogram` opens.
    measure
        Read all streamlines to count and measure them. None: only if the file is smaller than 33 MB.

    Returns
    -------
    dict
        JSON values: ``kind`` (``"tractogram"``), ``path``, ``nb_bytes``, ``format`` (the extension), ``grid``
        (``dimensions`` in voxels, ``voxel_sizes_mm``, ``voxel_order``, ``affine``; None if the file does not give one),
        ``grid_fault`` (why the grid of the header cannot be used; empty if it can), ``nb_streamlines``, ``nb_points``
        and ``length_mm`` (minimum, median, maximum), None if they are not known without reading all streamlines;
        ``data_per_streamline`` and ``data_per_point`` ({name: number of values, or None if it is not known}), and
        ``groups`` ({name: number of streamlines}).

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        If the file is missing, damaged or of an unknown format.
    """
    tractogram = open_tractogram(path)
    overview = tractogram.overview()
    nb_bytes = _nb_bytes(tractogram.path)
    found: dict[str, Any] = {
        "kind": "tractogram",
        "path": str(path),
        "nb_bytes": nb_bytes,
        "format": "".join(
            tractogram.path.suffixes[-2:] if tractogram.path.suffix == ".gz" else [tractogram.path.suffix]
        ),
        **_grid(tractogram),
        "nb_streamlines": overview.nb_streamlines,
        "nb_points": overview.nb_points,
        "length_mm": None,
        # Not all formats give the numbers of values.
        "data_per_streamline": overview.per_streamline or dict.fromkeys(tractogram.dps_keys),
        "data_per_point": overview.per_point,
        "groups": overview.groups,
    }
    if nb_bytes < _QUICK_BYTES if measure is None else measure:
        sample = tractogram.sample(sys.maxsize)
        in_mm = lengths_mm(np.asarray(sample.points, dtype=np.float32), sample.lengths, np.ones(3, dtype=np.float32))
        found |= {"nb_streamlines": sample.nb_in_file, "nb_points": len(sample.points)}
        found["length_mm"] = length_summary(in_mm)
    return found


def _nb_bytes(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(each.lstat().st_size for each in path.rglob("*") if each.is_file())


def _grid(tractogram: Tractogram) -> dict[str, Any]:
    try:
        grid = tractogram.grid
    except ValueError as error:
        return {"grid": None, "grid_fault": str(error)}
    if grid is None:
        return {"grid": None, "grid_fault": ""}
    sizes = [round(float(value), 5) for value in grid.voxel_sizes]
    described = {"dimensions": list(grid.shape), "voxel_sizes_mm": sizes, "voxel_order": grid.voxel_order}
    return {"grid": {**described, "affine": grid.affine.tolist()}, "grid_fault": ""}


def tractogram_text(found: Mapping[str, Any]) -> str:
    """Return the text of :func:`describe_tractogram`."""
    lines = [f"{found['path']}: tractogram, {found['format']}, {size(found['nb_bytes'])}"]
    facts = {"streamlines": _counts(found)}
    if found["nb_streamlines"] != 0:
        unknown = "not measured (--measure reads all streamlines)"
        facts["length"] = lengths_text(found["length_mm"]) if found["length_mm"] else unknown
    grid = found["grid"]
    if grid is not None:
        sizes = by(grid["voxel_sizes_mm"])
        facts["grid"] = f"{by(grid['dimensions'])} voxels of {sizes} mm, voxel order {grid['voxel_order']}"
    else:
        facts["grid"] = found["grid_fault"] or f"none: a {found['format']} file does not record one"
    for name, key in (("per streamline", "data_per_streamline"), ("per point", "data_per_point")):
        facts[name] = ", ".join(map(_with_width, found[key].items())) or "no data"
    if found["groups"]:
        facts["groups"] = ", ".join(f"{name} ({counted(nb, 'streamline')})" for name, nb in found["groups"].items())
    return "\n".join([*lines, *pairs(facts)])


def _with_width(data: tuple[str, int | None]) -> str:
    name, width = data
    return name if width is None else f"{name} ({width})"


def _counts(found: Mapping[str, Any]) -> str:
    if found["nb_streamlines"] is None:
        return "number not in the header (--measure counts them)"
    points = "" if found["nb_points"] is None else f", {counted(found['nb_points'], 'point')}"
    return f"{counted(found['nb_streamlines'], 'streamline')}{points}"
