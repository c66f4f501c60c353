"""The true bundles of a configuration in scilpy's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dwiml.scoring.ground_truth import TrueBundle
from dwiml.scoring.paths import BundlePath, Volume
from dwiml.scoring.scilpy_format.config import limits_of
from dwiml.scoring.scilpy_format.endpoints import split_endpoints
from dwiml.scoring.volume_files import VolumeReader
from dwiml.tractograms.kinds import check_kind
from dwiml.tractograms.reading import open_tractogram

_NIFTI = (".nii", ".nii.gz")
_INSIDE, _CROSSED, _TRUE = "all_mask", "any_mask", "gt_mask"


def read_bundles(
    reader: VolumeReader, entries: Mapping[str, Mapping[str, Any]], bundles: Mapping[str, str]
) -> dict[str, TrueBundle]:
    """Read the volumes of all bundles.

    Parameters
    ----------
    reader
        Reads the files, and checks that they have the same voxel grid.
    entries, bundles
        From :func:`~dwiml.scoring.scilpy_format.config.read_scilpy_config`.

    Returns
    -------
    dict
        {bundle: its volume and its paths}. A mask that is given by a tractogram is every voxel that its streamlines
        cross.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing or cannot be read, or has another voxel grid.
    """
    ends = {name: _ends(reader, name, entry) for name, entry in entries.items()}
    # Files with a voxel grid come first, because a .tck file has none.
    tractograms = {
        (name, key): check_kind(reader.path(entry[key], _label(key, name)), _label(key, name))
        for name, entry in entries.items()
        for key in (_TRUE, _INSIDE, _CROSSED)
        if _is_tractogram(entry.get(key))
    }
    for (name, key), path in tractograms.items():
        grid = open_tractogram(path, _label(key, name)).grid
        if grid is not None:
            reader.set_grid(grid)

    def mask(name: str, key: str) -> Volume | None:
        if (name, key) in tractograms:
            return reader.crossed([tractograms[name, key]], _label(key, name))
        return None if entries[name].get(key) is None else reader.volume(entries[name][key], _label(key, name))

    paths: dict[str, list[BundlePath]] = {}
    masks: dict[str, Volume | None] = {}
    for order, (name, entry) in enumerate(entries.items()):
        head, tail = ends[name]
        inside, crossed = mask(name, _INSIDE), mask(name, _CROSSED)
        own = BundlePath(name, head, tail, inside, crossed, limits_of(entry), order)
        paths.setdefault(bundles[name], []).append(own)
        if bundles[name] not in masks:
            masks[bundles[name]] = mask(name, _TRUE)
    return {bundle: TrueBundle(masks[bundle], paths=tuple(its)) for bundle, its in paths.items()}


def _ends(reader: VolumeReader, name: str, entry: Mapping[str, Any]) -> tuple[Volume, Volume]:
    if "endpoints" not in entry:
        return reader.volume(entry["head"], _label("head", name)), reader.volume(entry["tail"], _label("tail", name))
    label = _label("endpoints", name)
    path = reader.path(entry["endpoints"], label)
    return split_endpoints(reader.load(path, label, keep=False), f"{label}: '{path}'")


def _label(key: str, name: str) -> str:
    return f"The {key} of bundle '{name}'"


def _is_tractogram(value: Any) -> bool:
    return isinstance(value, str) and not value.endswith(_NIFTI)
