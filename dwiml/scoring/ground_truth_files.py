"""Read a ground truth from its files."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dwiml.arguments import quoted
from dwiml.files import read_json
from dwiml.scoring.defaults import END_TOLERANCE_MM, MASK_TOLERANCE_MM
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.scilpy_format.bundles import read_bundles
from dwiml.scoring.scilpy_format.config import is_scilpy_config, preset_files, read_scilpy_config
from dwiml.scoring.volume_files import VolumeReader

logger = logging.getLogger(__name__)

CONFIG_NAME = "ground_truth.json"
_BUNDLE_KEYS = ("mask", "tractogram", "head", "tail")
_NIFTI = (".nii.gz", ".nii")

PathLike = str | os.PathLike[str]


def read_ground_truth(
    folder: PathLike,
    *,
    config: PathLike | None = None,
    preset: str | None = None,
    mask_tolerance: float | None = None,
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
        whole numbers, "volume": index along the fourth axis, from 0}. Paths are relative to `folder`. A file in
        scilpy's format is recognized by its keys (``gt_mask``, ``all_mask``, ``endpoints``, ...).
    preset
        ``"ismrm2015"`` for the scoring data of the ISMRM 2015 challenge (Renauld et al., 2023), in scilpy's format:
        the files ``config_file_segmentation.json`` and ``config_file_tractometry.json``, or a single
        ``gt_config.json``.
    mask_tolerance, end_tolerance
        Tolerances, in mm; see :meth:`GroundTruth.from_volumes`. None: 3 mm, or 0 in scilpy's format.

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
    files = _scilpy_files(folder, config, preset)
    if files:
        return _read_scilpy(folder, files, mask_tolerance or 0.0, end_tolerance)
    entries = _read_entries(folder, None if config is None else Path(config))
    mask_tolerance = MASK_TOLERANCE_MM if mask_tolerance is None else mask_tolerance
    reader = VolumeReader(folder)
    # Files with a voxel grid come first, because a .tck file has none.
    volumes = {name: reader.volumes(name, entry) for name, entry in entries.items()}
    for name, entry in entries.items():
        reader.read_grids(name, entry)
    bundles = {name: reader.bundle(name, entries[name], volumes.pop(name)) for name in entries}
    grid = reader.known_grid()
    logger.info("Ground truth: %d bundles on %s voxels from '%s'.", len(bundles), grid.shape, folder)
    return GroundTruth.from_volumes(bundles, grid.affine, mask_tolerance=mask_tolerance, end_tolerance=end_tolerance)


def ground_truth_files(folder: PathLike, config: PathLike | None = None, preset: str | None = None) -> list[PathLike]:
    """Return the paths that a ground truth is read from: its folder, its config, and the files named in the config.

    Parameters
    ----------
    folder, config, preset
        As in :func:`read_ground_truth`.

    Raises
    ------
    FileNotFoundError, ValueError
        If the config is missing or damaged, or the preset is unknown.
    """
    path = config or os.path.join(folder, CONFIG_NAME)
    # A folder of masks has no config, but a file with this name would be read by the next command.
    configs = preset_files(folder, preset, config) if preset else [path] if config or os.path.isfile(path) else []
    named = [name for each in configs for name in _strings(read_json(each, "The config of the ground truth"))]
    return [folder, path, *configs, *(os.path.join(folder, name) for name in named)]


def _scilpy_files(folder: Path, config: PathLike | None, preset: str | None) -> list[Path]:
    """Return the config files if the ground truth is in scilpy's format, otherwise an empty list."""
    if preset is not None:
        return preset_files(folder, preset, config)
    path = folder / CONFIG_NAME if config is None else Path(config)
    return [path] if path.is_file() and is_scilpy_config(read_json(path, "The config of the ground truth")) else []


def _read_scilpy(folder: Path, files: list[Path], mask_tolerance: float, end_tolerance: float) -> GroundTruth:
    entries, bundles = read_scilpy_config(files)
    reader = VolumeReader(folder)
    volumes = read_bundles(reader, entries, bundles)
    grid = reader.known_grid()
    logger.info("Ground truth: %d bundles on %s voxels from '%s'.", len(volumes), grid.shape, files[0])
    return GroundTruth.from_volumes(
        volumes,
        grid.affine,
        mask_tolerance=mask_tolerance,
        end_tolerance=end_tolerance,
        max_outside=0.0,
        first_wins=True,
    )


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


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value except keys; one that is not the name of a file does no harm."""
    if isinstance(value, str):
        yield value.replace("\0", "")
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
