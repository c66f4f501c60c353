"""Read a ground truth from its files."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwiml.arguments import quoted
from dwiml.files import check_file, read_json
from dwiml.files.images import open_numbers, read_voxels, readable
from dwiml.ops.masks import as_mask
from dwiml.scoring.defaults import END_TOLERANCE_MM, MASK_TOLERANCE_MM
from dwiml.scoring.ground_truth import GroundTruth, TrueBundle, Volume
from dwiml.scoring.voxels import chunks, crossed_voxels
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.kinds import check_kind
from dwiml.tractograms.reading import open_tractogram, read_streamlines

logger = logging.getLogger(__name__)

CONFIG_NAME = "ground_truth.json"
_BUNDLE_KEYS = ("mask", "tractogram", "head", "tail")
_VOLUME_KEYS = ("file", "label", "volume")
_NIFTI = (".nii.gz", ".nii")

PathLike = str | os.PathLike[str]


def read_ground_truth(
    folder: PathLike,
    *,
    config: PathLike | None = None,
    mask_tolerance: float = MASK_TOLERANCE_MM,
    end_tolerance: float = END_TOLERANCE_MM,
) -> GroundTruth:
    """Read the ground truth in a folder.

    Parameters
    ----------
    folder
        Folder with ``ground_truth.json``, or else with one NIfTI mask per bundle, named after the bundle.
    config
        JSON file to read instead of ``ground_truth.json``. It holds {bundle: {"mask": volume}} or
        {bundle: {"tractogram": file or list of files}}; "head": volume and "tail": volume are optional. A volume is a
        NIfTI file (a mask, see :func:`dwiml.ops.masks.as_mask`), or {"file": file, "label": whole number or list of
        whole numbers, "volume": index along the fourth axis, from 0}. Paths are relative to `folder`.
    mask_tolerance, end_tolerance
        Tolerances, in mm; see :meth:`GroundTruth.from_volumes`.

    Returns
    -------
    GroundTruth
        The bundles on the voxel grid of the files. The mask of a bundle given by tractograms is every voxel that their
        streamlines cross.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If the folder, the config or a file named in the config is missing.
    ValueError
        If the config is invalid, a file cannot be read, files have different grids, a volume is empty, or a tolerance
        is invalid.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"The ground truth '{folder}' is not a folder.")
    entries = _read_entries(folder, None if config is None else Path(config))
    reader = _Reader(folder)
    # Files with a voxel grid come first, because a .tck file has none.
    volumes = {name: reader.volumes(name, entry) for name, entry in entries.items()}
    for name, entry in entries.items():
        reader.read_grids(name, entry)
    bundles = {name: reader.bundle(name, entries[name], volumes.pop(name)) for name in entries}
    grid = reader.known_grid()
    logger.info("Ground truth: %d bundles on %s voxels from '%s'.", len(bundles), grid.shape, folder)
    return GroundTruth.from_volumes(bundles, grid.affine, mask_tolerance=mask_tolerance, end_tolerance=end_tolerance)


def ground_truth_files(folder: PathLike, config: PathLike | None = None) -> list[PathLike]:
    """Return the paths that a ground truth is read from: its folder, its config, and the files named in the config.

    Parameters
    ----------
    folder, config
        As in :func:`read_ground_truth`.

    Raises
    ------
    FileNotFoundError, ValueError
        If the config is missing or damaged.
    """
    path = config or os.path.join(folder, CONFIG_NAME)
    # A folder of masks has no config, but a file with this name would be read by the next command.
    named = list(_strings(read_json(path, "The config of the ground truth"))) if config or os.path.isfile(path) else []
    return [folder, path, *(os.path.join(folder, name) for name in named)]


def _read_entries(folder: Path, config: Path | None) -> dict[str, dict[str, Any]]:
    path = folder / CONFIG_NAME if config is None else config
    if not path.is_file():
        masks = {
            file.name.removesuffix(end): {"mask": file.name}
            for file in sorted(folder.iterdir())
            for end in _NIFTI
            if file.name.endswith(end)
        }
        if config is None and masks:
            return masks
        if config is not None:
            raise FileNotFoundError(f"The config of the ground truth, '{config}', was not found.")
        raise FileNotFoundError(
            f"'{folder}' holds neither '{CONFIG_NAME}' nor a NIfTI mask; write this file (its format is in the "
            "page 'Scores' of the documentation) or give another one with config=FILE. Subjects of 'dwiml phantom' "
            "have it since dwiml 0.1.0; recreate older ones."
        )
    entries = read_json(path, "The config of the ground truth")
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"'{path}' must hold {{bundle: {{...}}}}, with at least one bundle.")
    for name, entry in entries.items():
        _check_entry(entry, f"'{path}', bundle '{name}'")
    return entries


def _check_entry(entry: Any, label: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f'{label}: expected {{"mask" or "tractogram": ..., "head": ..., "tail": ...}}.')
    unknown = [key for key in entry if key not in _BUNDLE_KEYS]
    if unknown:
        raise ValueError(f"{label}: unknown key {quoted(unknown)}; known keys are {quoted(_BUNDLE_KEYS)}.")
    if ("mask" in entry) == ("tractogram" in entry):
        raise ValueError(f"{label}: give either a 'mask' or a 'tractogram'.")


class _Reader:
    """Read the files of a ground truth, and check that all have the same grid."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._grid: Grid | None = None
        self._volumes: dict[Path, Any] = {}

    def known_grid(self) -> Grid:
        if self._grid is None:
            raise ValueError("No file of the ground truth has a voxel grid; add a mask, a .trk or a .trx file.")
        return self._grid

    def volumes(self, name: str, entry: Mapping[str, Any]) -> dict[str, Volume]:
        """Return {"mask", "head" or "tail": voxels (X, Y, Z)}, for those in the entry of a bundle."""
        return {
            kind: self._volume(entry[kind], f"The {kind} of bundle '{name}'")
            for kind in ("mask", "head", "tail")
            if kind in entry
        }

    def read_grids(self, name: str, entry: Mapping[str, Any]) -> None:
        """Read the grid from the header of each tractogram of a bundle."""
        for path in self._tractograms(name, entry):
            grid = open_tractogram(path, f"The tractogram of bundle '{name}'").grid
            if grid is not None:
                self._set_grid(grid)

    def _tractograms(self, name: str, entry: Mapping[str, Any]) -> list[Path]:
        if "tractogram" not in entry:
            return []
        value, label = entry["tractogram"], f"The tractogram of bundle '{name}'"
        files = value if isinstance(value, list) and value else [value]
        return [check_kind(self._path(file, label), label) for file in files]

    def bundle(self, name: str, entry: Mapping[str, Any], volumes: Mapping[str, Volume]) -> TrueBundle:
        """Return a bundle; without a mask file, its mask is the voxels that its tractograms cross."""
        mask = volumes.get("mask")
        if mask is None:
            mask = self._crossed(self._tractograms(name, entry), f"The tractogram of bundle '{name}'")
        return TrueBundle(mask, volumes.get("head"), volumes.get("tail"))

    def _path(self, value: Any, label: str) -> Path:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{label} must be the name of a file, got {value!r}.")
        path = self._folder / value
        # A .trx may be a folder.
        return path if path.suffix.lower() == ".trx" and path.is_dir() else check_file(path, f"{label}:")

    def _set_grid(self, grid: Grid) -> Grid:
        if self._grid is None:
            self._grid = grid
        else:
            self._grid.check_same(grid, f"Subject '{self._folder.resolve().name}'")
        return self._grid

    def _volume(self, value: Any, label: str) -> Volume:
        """Return the voxels (X, Y, Z) of a mask, or of labels in an image."""
        options = value if isinstance(value, dict) else {"file": value}
        unknown = [key for key in options if key not in _VOLUME_KEYS]
        if unknown or "file" not in options:
            raise ValueError(
                f"{label} must be a file, or an object with the keys {quoted(_VOLUME_KEYS)}; got {value!r}."
            )
        path = self._path(options["file"], label)
        data = self._load(path, label, keep="label" in options or "volume" in options)
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

    def _load(self, path: Path, label: str, *, keep: bool) -> NDArray[Any]:
        """Read the voxels of a file; keep them in memory if other volumes are likely to be read from it."""
        data: NDArray[Any] | None = self._volumes.get(path)
        if data is None:
            image = open_numbers(path, label)
            self._set_grid(Grid.from_header(image.affine, image.shape[:3], path))
            with readable(path, label):
                data = read_voxels(image, label)
            if keep:
                self._volumes[path] = data
        return data

    def _crossed(self, paths: Sequence[Path], label: str) -> Volume:
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


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value except keys; one that is not the name of a file does no harm."""
    if isinstance(value, str):
        yield value.replace("\0", "")
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
