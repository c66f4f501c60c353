"""What ``parameters.json`` of an imported experiment records, besides the model: the data, and its origin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dwiml.arguments import quoted
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.hdf5.stored.collection import HDF5Files, files_of
from dwiml.importing.stored_experiment import Source
from dwiml.models.base import MainModelAbstract
from dwiml.training.catalog import (
    LOADER,
    LOADER_WITHOUT_VOLUME,
    SAMPLER,
    TRAINER,
    TRAINER_WITHOUT_VOLUME,
    class_name,
)

IMPORTED = "imported_from_dwi_ml"
"""Section of ``parameters.json`` with the origin of an imported experiment."""

VOLUME, STREAMLINES = "input_group_name", "streamline_group_name"
_DEFAULTS = {VOLUME: "input", STREAMLINES: "streamlines"}


def sections_of(
    source: Source,
    model: MainModelAbstract,
    *,
    hdf5_file: HDF5Files | None,
    groups: Mapping[str, str | None],
) -> tuple[dict[str, Any], Mapping[str, Any], list[str]]:
    """Return the sections of ``parameters.json``, the groups config of the data, and notes for the user.

    Parameters
    ----------
    source
        The experiment of dwi_ml.
    model
        The imported model.
    hdf5_file
        The HDF5 file of the data, a folder of such files, or a list; None: the recorded one.
    groups
        Names of the groups of the HDF5 file, by parameter; None: the recorded ones.

    Raises
    ------
    FileNotFoundError
        If the given HDF5 file does not exist.
    ValueError
        If the data do not have the groups, or are not those of the model.
    """
    has_volume = hasattr(model, "nb_features")
    chosen, notes = _group_names(source, groups, (VOLUME, STREAMLINES) if has_volume else (STREAMLINES,))
    recorded = source.training.get("hdf5 file")
    data = recorded if isinstance(recorded, str) else ""
    absolute = [data]
    config: Mapping[str, Any] = {}
    if hdf5_file is not None or (data and os.path.isfile(data)):
        files = files_of(hdf5_file if hdf5_file is not None else data)
        config = _checked_config(files, chosen, model)
        absolute = [os.path.abspath(path) for path in files]
    else:
        missing = f"The HDF5 file ('{data}') was not found" if data else "No HDF5 file is recorded"
        needed = "'dwiml show_loss' needs --hdf5_file."
        if has_volume:
            needed = "'dwiml evaluate' and 'dwiml show_loss' need --hdf5_file, and 'dwiml track --input' needs "
            needed += "--standardization."
        notes.append(f"{missing}: {needed}")
    if has_volume:
        notes += _order_notes(config, chosen[VOLUME])
    sections = {
        "trainer": {"class": class_name(TRAINER if has_volume else TRAINER_WITHOUT_VOLUME)},
        "sampler": {"class": class_name(SAMPLER), STREAMLINES: chosen[STREAMLINES], "seed": 0},
        "loader": {
            "class": class_name(LOADER if has_volume else LOADER_WITHOUT_VOLUME),
            **chosen,
            "seed": 0,
        },
        "model": {"class": type(model).__name__, **model.params},
        "data": {"hdf5_file": absolute[0] if len(absolute) == 1 else absolute, "lazy": False, "cache_size": 1},
        IMPORTED: {
            "model": str(source.model.resolve()),
            "model_type": source.model_type,
            "parameters": _finite(source.parameters),
            "training": _finite(source.training),
        },
    }
    return sections, config, notes


def _group_names(
    source: Source, given: Mapping[str, str | None], needed: tuple[str, ...]
) -> tuple[dict[str, str], list[str]]:
    recorded = source.section("Loader params")
    found = {name: given.get(name) or recorded.get(name) for name in needed}
    unknown = [name for name, value in found.items() if not isinstance(value, str)]
    notes = []
    if unknown:
        assumed = " and ".join(f"{name} '{_DEFAULTS[name]}'" for name in unknown)
        notes.append(f"Group names are not recorded; assumed: {assumed}.")
    return {name: value if isinstance(value, str) else _DEFAULTS[name] for name, value in found.items()}, notes


def _checked_config(files: list[Path], groups: Mapping[str, str], model: MainModelAbstract) -> Mapping[str, Any]:
    """Check that the data are those of the model; return the groups config."""
    dataset = MultiSubjectDataset(files, lazy=True)
    volume = groups.get(VOLUME)
    volumes = [] if volume is None else [volume]
    dataset.load_data(volume_groups=volumes, streamline_groups=[groups[STREAMLINES]])
    if volume is not None:
        found, expected = dataset.nb_features[volume], getattr(model, "nb_features", None)
        if found != expected:
            raise ValueError(
                f"Volume group '{volume}' of '{dataset.files_shown}' has {found} features, but the model has "
                f"{expected}: give the data of this model, or another input_group_name."
            )
    return dataset.groups_config


def _order_notes(config: Mapping[str, Any], group: str) -> list[str]:
    entry = config.get(group)
    files = entry.get("files") if isinstance(entry, Mapping) else None
    listed = [files] if isinstance(files, str) else files if isinstance(files, list) else []
    if not any(isinstance(name, str) and "*" in name for name in listed):
        return []
    return [
        f"The files of group '{group}' were given as {quoted(listed)}, which dwi_ml reads in the order of the disk and "
        "dwiml in alphabetical order: give 'dwiml track --input' the order of the training."
    ]


def _finite(value: Any) -> Any:
    """Return JSON values with NaN and infinity, which are not JSON, as text."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value if not isinstance(value, float) or abs(value) < float("inf") else str(value)
