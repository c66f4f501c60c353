"""The configuration of a ground truth in scilpy's format: which files are read, and what is in them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dwiml.arguments import check_choice, check_number, quoted, shown
from dwiml.files import read_json
from dwiml.scoring.defaults import PRESETS
from dwiml.scoring.paths import AxisLimits, Limits, PathLimits

_AXES = ("x", "y", "z")
_LENGTHS = ("length", *(f"length_{axis}{kind}" for kind in ("", "_abs") for axis in _AXES))
_MASKS = ("gt_mask", "all_mask", "any_mask")
_ENDS = ("head", "tail")
_ONLY_SCILPY = (*_MASKS, "endpoints", "angle", *_LENGTHS)
_KEYS = (*_MASKS, "endpoints", *_ENDS, "angle", *_LENGTHS)
# The file of a single configuration, and the two files of the distributed scoring data (Renauld et al., 2023).
_SINGLE = "gt_config.json"
_SEGMENTATION, _TRACTOMETRY = "config_file_segmentation.json", "config_file_tractometry.json"

PathLike = str | os.PathLike[str]
Entries = Mapping[str, Mapping[str, Any]]


def preset_files(folder: PathLike, preset: str, config: PathLike | None = None) -> list[Path]:
    """Return the configuration files of a preset.

    Parameters
    ----------
    folder
        Folder of the ground truth.
    preset
        ``"ismrm2015"``.
    config
        File with all criteria, instead of the files of the folder.

    Returns
    -------
    list of Path
        A single file, or the one with the criteria and the one with the volumes of the scored bundles.

    Raises
    ------
    FileNotFoundError, ValueError
        If the preset is unknown, or the folder does not hold its files.
    """
    check_choice("preset", preset, PRESETS)
    folder = Path(folder)
    if config is not None:
        return [Path(config)]
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    pair = [folder / _SEGMENTATION, folder / _TRACTOMETRY]
    if all(path.is_file() for path in pair):
        return pair
    raise FileNotFoundError(
        f"'{folder}' holds neither '{_SINGLE}' nor both '{_SEGMENTATION}' and '{_TRACTOMETRY}'; give the folder of the "
        "scoring data of Renauld et al. (2023), or a file in scilpy's format with config=FILE."
    )


def is_scilpy_config(entries: Any) -> bool:
    """Return whether the content of a JSON file is a configuration in scilpy's format, not in that of dwiml."""
    if not isinstance(entries, dict):
        return False
    keys = {key for entry in entries.values() if isinstance(entry, dict) for key in entry}
    return bool(keys & set(_ONLY_SCILPY)) and not keys & {"mask", "tractogram"}


def read_scilpy_config(files: list[Path]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Read and check a configuration in scilpy's format.

    Parameters
    ----------
    files
        A file with the criteria and the volumes of all bundles; or a file with the criteria, and one with the volumes
        of the bundles to score. In that case, criteria of several names may belong to a bundle: ``CC_frontal`` and
        ``CC_temporal`` to ``CC``, for instance.

    Returns
    -------
    entries
        {name: criteria}, in the order of the file; each entry has the key ``gt_mask`` if its volume is known.
    bundles
        {name: bundle to score}.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing or invalid. An unknown key is named.
    """
    entries = _read(files[0], _KEYS)
    for name, entry in entries.items():
        _check_criteria(entry, f"'{files[0]}', bundle '{name}'")
    if len(files) == 1:
        return entries, {name: name for name in entries}
    volumes = _read(files[1], ("gt_mask",))
    bundles = {}
    for name, entry in entries.items():
        owners = [bundle for bundle in volumes if name == bundle or name.startswith(f"{bundle}_")]
        if not owners or "gt_mask" in entry:
            problem = "has a 'gt_mask' here too; remove it from one" if owners else "is not a bundle"
            raise ValueError(f"'{files[0]}', bundle '{name}': it {problem} of '{files[1].name}'.")
        bundles[name] = max(owners, key=len)
        entry["gt_mask"] = volumes[bundles[name]]["gt_mask"]
    absent = [bundle for bundle in volumes if bundle not in bundles.values()]
    if absent:
        raise ValueError(f"'{files[1]}': there are no criteria for {quoted(absent)} in '{files[0].name}'.")
    return entries, bundles


def limits_of(entry: Mapping[str, Any]) -> PathLimits:
    """Return the limits of the length and the shape in a checked entry; absent ones are None."""

    def limits(key: str) -> Limits | None:
        return (float(entry[key][0]), float(entry[key][1])) if entry.get(key) is not None else None

    def by_axis(kind: str) -> AxisLimits:
        return limits(f"length_x{kind}"), limits(f"length_y{kind}"), limits(f"length_z{kind}")

    angle = entry.get("angle")
    return PathLimits(limits("length"), by_axis(""), by_axis("_abs"), None if angle is None else float(angle))


def _read(path: Path, known: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    entries = read_json(path, "The config of the ground truth")
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"'{path}' must hold {{bundle: {{...}}}}, with at least one bundle.")
    for name, entry in entries.items():
        label = f"'{path}', bundle '{name}'"
        if not isinstance(entry, dict):
            raise ValueError(f"{label}: expected an object with the keys {quoted(known)}, got {shown(entry)}.")
        unknown = [key for key in entry if key not in known]
        if unknown:
            raise ValueError(f"{label}: unknown key {quoted(unknown)}; known keys are {quoted(known)}.")
        if known == ("gt_mask",) and not entry:
            raise ValueError(f"{label}: 'gt_mask' is missing; give the volume of the bundle.")
    return entries


def _check_criteria(entry: Mapping[str, Any], label: str) -> None:
    ends = [key for key in _ENDS if key in entry]
    if "endpoints" in entry and ends:
        raise ValueError(f"{label}: give either 'endpoints' or 'head' and 'tail', got all of {quoted(sorted(entry))}.")
    if "endpoints" not in entry and len(ends) < 2:
        missing = quoted(key for key in _ENDS if key not in entry)
        raise ValueError(f"{label}: {missing} missing; give 'head' and 'tail', or 'endpoints'.")
    for key in _LENGTHS:
        value = entry.get(key)
        if value is not None and not _is_range(value):
            raise ValueError(f"{label}: '{key}' must be [smallest, largest], in mm, got {shown(value)}.")
    if entry.get("angle") is not None:
        check_number(f"{label}: 'angle' (degrees)", entry["angle"], low=0, low_included=False)


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(each, (int, float)) and not isinstance(each, bool) and math.isfinite(each) for each in value)
        and 0 <= value[0] < value[1]
    )
