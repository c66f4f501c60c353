"""Read the volumes of a ground truth, all on the same voxel grid."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwiml.arguments import quoted
from dwiml.files import check_file
from dwiml.files.images import open_numbers, read_voxels, readable
from dwiml.ops.masks import as_mask
from dwiml.scoring.ground_truth import TrueBundle
from dwiml.scoring.paths import Volume
from dwiml.scoring.voxels import chunks, crossed_voxels
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.kinds import check_kind
from dwiml.tractograms.reading import open_tractogram, read_streamlines

logger = logging.getLogger(__name__)

_VOLUME_KEYS = ("file", "label", "volume")


class VolumeReader:
    """Read the files of a ground truth, and check that all have the same grid."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._grid: Grid | None = None
        self._volumes: dict[Path, Any] = {}

    def known_grid(self) -> Grid:
        """Return the voxel grid of the files read so far."""
        if self._grid is None:
            raise ValueError("No file of the ground truth has a voxel grid; add a mask, a .trk or a .trx file.")
        return self._grid

    def volumes(self, name: str, entry: Mapping[str, Any]) -> dict[str, Volume]:
        """Return {"mask", "head" or "tail": voxels (X, Y, Z)}, for those in the entry of a bundle."""
        return {
            kind: self.volume(entry[kind], f"The {kind} of bundle '{name}'")
            for kind in ("mask", "head", "tail")
            if kind in entry
        }

    def read_grids(self, name: str, entry: Mapping[str, Any]) -> None:
        """Read the grid from the header of each tractogram of a bundle."""
        for path in self._tractograms(name, entry):
            grid = open_tractogram(path, f"The tractogram of bundle '{name}'").grid
            if grid is not None:
                self.set_grid(grid)

    def _tractograms(self, name: str, entry: Mapping[str, Any]) -> list[Path]:
        if "tractogram" not in entry:
            return []
        value, label = entry["tractogram"], f"The tractogram of bundle '{name}'"
        files = value if isinstance(value, list) and value else [value]
        return [check_kind(self.path(file, label), label) for file in files]

    def bundle(self, name: str, entry: Mapping[str, Any], volumes: Mapping[str, Volume]) -> TrueBundle:
        """Return a bundle; without a mask file, its mask is the voxels that its tractograms cross."""
        mask = volumes.get("mask")
        if mask is None:
            mask = self.crossed(self._tractograms(name, entry), f"The tractogram of bundle '{name}'")
        return TrueBundle(mask, volumes.get("head"), volumes.get("tail"))

    def path(self, value: Any, label: str) -> Path:
        """Return the path of a file named in the config, which must exist."""
        if not isinstance(value, str) or not value:
            raise ValueError(f"{label} must be the name of a file, got {value!r}.")
        path = self._folder / value
        # A .trx may be a folder.
        return path if path.suffix.lower() == ".trx" and path.is_dir() else check_file(path, f"{label}:")

    def set_grid(self, grid: Grid) -> Grid:
        """Record the voxel grid of a file, and check that it is that of the others."""
        if self._grid is None:
            self._grid = grid
        else:
            self._grid.check_same(grid, f"Subject '{self._folder.resolve().name}'")
        return self._grid

    def volume(self, value: Any, label: str) -> Volume:
        """Return the voxels (X, Y, Z) of a mask, or of labels in an image."""
        options = value if isinstance(value, dict) else {"file": value}
        unknown = [key for key in options if key not in _VOLUME_KEYS]
        if unknown or "file" not in options:
            raise ValueError(
                f"{label} must be a file, or an object with the keys {quoted(_VOLUME_KEYS)}; got {value!r}."
            )
        path = self.path(options["file"], label)
        data = self.load(path, label, keep="label" in options or "volume" in options)
        index = options.get("volume")
        if data.ndim == 4:
            if data.shape[3] == 1 and index is None:
                index = 0
            if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < data.shape[3]:
                raise ValueError(
                    f"{label}: '{path}' holds {data.shape[3]} volumes; choose one with \"volume\", from 0 to "
                    f"{data.shape[3] - 1}, got {index!r}."
                )
            data = data[..., index]
        elif index is not None:
            raise ValueError(f"{label}: '{path}' holds a single volume; remove \"volume\": {index!r}.")
        if "label" not in options:
            mask = as_mask(data, f"{label}: '{path}'")
            if mask.note:
                logger.warning('%s Choose one with "label", or give a mask.', mask.note)
            return mask.inside
        labels = options["label"] if isinstance(options["label"], list) else [options["label"]]
        if not labels or not all(map(_is_whole_number, labels)):
            raise ValueError(
                f'{label}: "label" must be a whole number or a list of whole numbers, got {options["label"]!r}.'
            )
        absent = [value for value in labels if not (data == value).any()]
        if absent:
            raise ValueError(f"{label}: '{path}' has no voxel of label {', '.join(map(str, absent))}.")
        return np.isin(data, labels)

    def load(self, path: Path, label: str, *, keep: bool) -> NDArray[Any]:
        """Read the voxels of a file; keep them in memory if other volumes are likely to be read from it."""
        data: NDArray[Any] | None = self._volumes.get(path)
        if data is None:
            image = open_numbers(path, label)
            self.set_grid(Grid.from_header(image.affine, image.shape[:3], path))
            with readable(path, label):
                data = read_voxels(image, label)
            if keep:
                self._volumes[path] = data
        return data

    def crossed(self, paths: Sequence[Path], label: str) -> Volume:
        """Return the voxels (X, Y, Z) that the streamlines of one or more files cross."""
        voxels: Volume | None = None
        for path in paths:
            grid = self.known_grid()
            points, lengths = read_streamlines(path, grid.affine, label)
            voxels = np.zeros(grid.shape, dtype=bool) if voxels is None else voxels
            for lines, rows in chunks(lengths):
                crossings = crossed_voxels(points[rows], lengths[lines], grid.shape, grid.voxel_sizes)
                voxels.flat[np.unique(crossings.mm.indices)] = True
        assert voxels is not None
        return voxels


def _is_whole_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
