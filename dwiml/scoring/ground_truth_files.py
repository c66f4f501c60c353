"""Ground truths from their files."""

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
from dwiml.files.images import check_image_end, open_numbers, readable
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
    """Read the truth that a folder holds.

    Parameters
    ----------
    folder
        It holds ``ground_truth.json``, or else NIfTI masks, one a bundle, named after the bundles.
    config
        A file to read instead of ``ground_truth.json``: {bundle: {"mask": volume} or {"tractogram": file or list of
        files}, with or without "head": volume and "tail": volume}. A volume is a NIfTI file (a mask,
        see :func:`dwiml.ops.masks.as_mask`), or
        {"file": file, "label": whole number or list of them, "volume": index in the fourth axis, from 0}. Files are
        relative to `folder`.
    mask_tolerance, end_tolerance
        See :meth:`GroundTruth.from_volumes`.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        When the folder, the config or a file of it is missing.
    ValueError
        When the config cannot be understood, a file cannot be read, files are on different grids, or a volume is
        empty.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"The ground truth '{folder}' is not a folder.")
    entries = _read_entries(folder, None if config is None else Path(config))
    reader = _Reader(folder)
    # Files with a voxel grid first: a .tck has none.
    volumes = {name: reader.volumes(name, entry) for name, entry in entries.items()}
    for name, entry in entries.items():
        reader.take_grids(name, entry)
    bundles = {name: reader.bundle(name, entries[name], volumes.pop(name)) for name in entries}
    grid = reader.known_grid()
    logger.info("Ground truth: %d bundles on %s voxels from '%s'.", len(bundles), grid.shape, folder)
    return GroundTruth.from_volumes(bundles, grid.affine, mask_tolerance=mask_tolerance, end_tolerance=end_tolerance)


def ground_truth_files(folder: PathLike, config: PathLike | None = None) -> list[PathLike]:
    """Return the folder of a ground truth, its config, and every file that the config names, there or elsewhere.

    Raises
    ------
    FileNotFoundError, ValueError
        When the config is missing or damaged.
    """
    path = config or os.path.join(folder, CONFIG_NAME)
    # Without one, a folder of masks; a file of this name would be read the next time.
    named = list(_texts(read_json(path, "The config of the ground truth"))) if config or os.path.isfile(path) else []
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
            f"'{folder}' holds neither '{CONFIG_NAME}' nor a NIfTI mask; write the file (its form is in the page "
            "'Scores' of the documentation) or give one with config=FILE. Example subjects have one since dwiml 0.1.0; "
            "for older ones, run dwiml phantom again."
        )
    entries = read_json(path, "The config of the ground truth")
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"'{path}' must hold {{bundle: {{...}}}}, one bundle at least.")
    for name, entry in entries.items():
        _check_entry(entry, f"'{path}', bundle '{name}'")
    return entries


def _check_entry(entry: Any, label: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f'{label}: expected {{"mask" or "tractogram": ..., "head": ..., "tail": ...}}.')
    unknown = [key for key in entry if key not in _BUNDLE_KEYS]
    if unknown:
        raise ValueError(f"{label}: unknown key {quoted(unknown)}; known ones are {quoted(_BUNDLE_KEYS)}.")
    if ("mask" in entry) == ("tractogram" in entry):
        raise ValueError(f"{label}: give a 'mask' or a 'tractogram', one of them.")


class _Reader:
    """Reads files of a ground truth, each volume once, and holds them to one grid."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._grid: Grid | None = None
        self._volumes: dict[Path, Any] = {}

    def known_grid(self) -> Grid:
        if self._grid is None:
            raise ValueError("No file of the ground truth gives its voxel grid; add a mask, a .trk or a .trx file.")
        return self._grid

    def volumes(self, name: str, entry: Mapping[str, Any]) -> dict[str, Volume]:
        """Read the volumes that the entry of one bundle names: mask, head, tail."""
        return {
            kind: self._volume(entry[kind], f"The {kind} of bundle '{name}'")
            for kind in ("mask", "head", "tail")
            if kind in entry
        }

    def take_grids(self, name: str, entry: Mapping[str, Any]) -> None:
        """Take the grids from the headers of one bundle's tractograms."""
        for path in self._tractograms(name, entry):
            grid = open_tractogram(path, f"The tractogram of bundle '{name}'").grid
            if grid is not None:
                self._take_grid(grid)

    def _tractograms(self, name: str, entry: Mapping[str, Any]) -> list[Path]:
        if "tractogram" not in entry:
            return []
        value, label = entry["tractogram"], f"The tractogram of bundle '{name}'"
        files = value if isinstance(value, list) and value else [value]
        return [check_kind(self._path(file, label), label) for file in files]

    def bundle(self, name: str, entry: Mapping[str, Any], volumes: Mapping[str, Volume]) -> TrueBundle:
        """Put the volumes of one bundle together; its mask may be what a tractogram crosses."""
        mask = volumes.get("mask")
        if mask is None:
            mask = self._crossed(self._tractograms(name, entry), f"The tractogram of bundle '{name}'")
        return TrueBundle(mask, volumes.get("head"), volumes.get("tail"))

    def _path(self, value: Any, label: str) -> Path:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{label} must be named by a file, got {value!r}.")
        path = self._folder / value
        # A .trx may be a folder.
        return path if path.suffix.lower() == ".trx" and path.is_dir() else check_file(path, f"{label}:")

    def _take_grid(self, grid: Grid) -> Grid:
        if self._grid is None:
            self._grid = grid
        else:
            self._grid.check_same(grid, f"Subject '{self._folder.resolve().name}'")
        return self._grid

    def _volume(self, value: Any, label: str) -> Volume:
        """Return the voxels (X, Y, Z) that a file, or a label in it, names."""
        options = value if isinstance(value, dict) else {"file": value}
        unknown = [key for key in options if key not in _VOLUME_KEYS]
        if unknown or "file" not in options:
            raise ValueError(f"{label} must be a file, or have these keys: {quoted(_VOLUME_KEYS)}; got {value!r}.")
        path = self._path(options["file"], label)
        data = self._load(path, label, again="label" in options or "volume" in options)
        index = options.get("volume")
        if data.ndim == 4:
            if data.shape[3] == 1 and index is None:
                index = 0
            if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < data.shape[3]:
                raise ValueError(
                    f"{label}: '{path}' holds {data.shape[3]} volumes; say which one with \"volume\", from 0 to "
                    f"{data.shape[3] - 1}, got {index!r}."
                )
            data = data[..., index]
        elif index is not None:
            raise ValueError(f"{label}: '{path}' holds one volume, so that \"volume\": {index!r} names none.")
        if "label" not in options:
            mask = as_mask(data, f"{label}: '{path}'")
            if mask.note:
                logger.warning('%s Name one with "label", or give a mask.', mask.note)
            return mask.inside
        labels = options["label"] if isinstance(options["label"], list) else [options["label"]]
        if not labels or not all(map(_is_whole, labels)):
            raise ValueError(f'{label}: "label" must be a whole number or a list of them, got {options["label"]!r}.')
        absent = [each for each in labels if not (data == each).any()]
        if absent:
            raise ValueError(f"{label}: '{path}' has no voxel of label {', '.join(map(str, absent))}.")
        return np.isin(data, labels)

    def _load(self, path: Path, label: str, *, again: bool) -> NDArray[Any]:
        """Read a file's voxels; keep them in memory when other volumes are likely to be taken from it (`again`)."""
        data: NDArray[Any] | None = self._volumes.get(path)
        if data is None:
            image = open_numbers(path, label)
            self._take_grid(Grid.from_header(image.affine, image.shape[:3], path))
            with readable(path, label):
                data = np.asarray(image.dataobj)
                check_image_end(image, label)
            if again:
                self._volumes[path] = data
        return data

    def _crossed(self, paths: Sequence[Path], label: str) -> Volume:
        """Return the voxels (X, Y, Z) that the streamlines of one or more files cross."""
        voxels: Volume | None = None
        for path in paths:
            grid = self.known_grid()
            points, lengths = read_streamlines(path, grid.affine, label)
            voxels = np.zeros(grid.shape, dtype=bool) if voxels is None else voxels
            for lines, part in chunks(lengths):
                crossings = crossed_voxels(points[part], lengths[lines], grid.shape, grid.voxel_sizes)
                voxels.flat[np.unique(crossings.mm.indices)] = True
        assert voxels is not None
        return voxels


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value that is not a key: a text that is not a file matches no output."""
    if isinstance(value, str):
        yield value.replace("\0", "")
    elif isinstance(value, (list, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
