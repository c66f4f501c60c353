"""The HDF5 file: the name of every group, dataset and attribute, and the check that a file is one of ours.

Version 1 has the layout of the files that the field's existing tool makes, plus the attribute ``dwiml_schema_version``.
Files without that attribute are read as long as they have the layout.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py

SCHEMA_VERSION = 1

# Root attributes.
VERSION = "dwiml_schema_version"
TRAINING_SUBJS = "training_subjs"
VALIDATION_SUBJS = "validation_subjs"
TESTING_SUBJS = "testing_subjs"
CHOSEN_SUBJS = "chosen_subjs"
STEP_SIZE = "step_size"
NB_POINTS = "nb_points"
COMPRESS = "compress"
GROUPS_CONFIG = "groups_config"
DATE_AND_TIME = "data_and_time"
NOT_DEFINED = "Not defined by user"

# Attributes of any group of a subject.
TYPE = "type"
TYPE_VOLUME = "volume"
TYPE_STREAMLINES = "streamlines"
AFFINE = "affine"
DATA = "data"

# A volume: dataset DATA (X, Y, Z, F).
VOXRES = "voxres"
NB_FEATURES = "nb_features"

# Streamlines: datasets DATA (total_points, 3), OFFSETS, LENGTHS, EUCLIDEAN_LENGTHS (mm).
OFFSETS = "offsets"
LENGTHS = "lengths"
EUCLIDEAN_LENGTHS = "euclidean_lengths"
SPACE = "space"
ORIGIN = "origin"
DIMENSIONS = "dimensions"
VOXEL_SIZES = "voxel_sizes"
VOXEL_ORDER = "voxel_order"
DATA_PER_STREAMLINE = "data_per_streamline"
# Which regions are connected: dataset CONNECTIVITY_MATRIX (n, n), and its regions in the attribute of blocs (3,) or the
# dataset of labels (X, Y, Z).
CONNECTIVITY_MATRIX = "connectivity_matrix"
CONNECTIVITY_MATRIX_TYPE = "connectivity_matrix_type"
FROM_BLOCS = "from_blocs"
FROM_LABELS = "from_labels"
CONNECTIVITY_NB_BLOCS = "connectivity_nb_blocs"
CONNECTIVITY_LABEL_VOLUME = "connectivity_label_volume"

SUBJECT_LISTS = {"training": TRAINING_SUBJS, "validation": VALIDATION_SUBJS, "testing": TESTING_SUBJS}


def quoted(names: Iterable[object], limit: int | None = None) -> str:
    """Return names as they are shown in a sentence: ``'a', 'b'``, or ``none``; after ``limit`` names, how many more."""
    shown = [f"'{name}'" for name in names]
    if limit is not None and len(shown) > limit:
        return f"{', '.join(shown[:limit])} and {len(shown) - limit} more"
    return ", ".join(shown) or "none"


def open_file(path: str | Path) -> h5py.File:
    """Open a file for reading, after the check that it is one of ours.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is no HDF5 file, lacks the layout, or was written by a later version.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"HDF5 file '{path}' not found; make one with 'dwiml create_hdf5'.")
    try:
        handle = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"'{path}' is not an HDF5 file, or it is damaged ({error}).") from error
    try:
        _check_root(handle, path)
    except ValueError:
        handle.close()
        raise
    return handle


def _check_root(handle: h5py.File, path: Path) -> None:
    missing = [name for name in SUBJECT_LISTS.values() if name not in handle.attrs]
    if missing:
        raise ValueError(
            f"'{path}' was not made by 'dwiml create_hdf5': it lacks the root attributes {quoted(missing)}."
        )
    version = int(handle.attrs.get(VERSION, SCHEMA_VERSION))
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"'{path}' has schema version {version}; this dwiml reads up to {SCHEMA_VERSION}: install a newer dwiml."
        )


def read_text(value: Any) -> str:
    """Return an attribute's text, whether HDF5 gives it as str or as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def groups_config(handle: h5py.File) -> dict[str, dict[str, Any]]:
    """Return what a file was made from: {group: its entry in the groups config}; empty where it does not say.

    The field's existing tool writes it as Python shows a dict, dwiml as JSON.
    """
    text = read_text(handle.attrs.get(GROUPS_CONFIG, "{}"))
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError):
            # It is written as JSON again, in an experiment's parameters.
            config = json.loads(json.dumps(parse(text), allow_nan=False))
            return {name: entry for name, entry in config.items() if isinstance(entry, dict)}
    return {}


def subject_list(handle: h5py.File, subset: str) -> list[str]:
    """Return the subjects of ``training``, ``validation`` or ``testing``, in the file's order.

    Raises
    ------
    ValueError
        When a listed subject is not in the file.
    """
    subjects = [read_text(name) for name in handle.attrs[SUBJECT_LISTS[subset]]]
    absent = [name for name in subjects if name not in handle]
    if absent:
        raise ValueError(
            f"'{handle.filename}' lists {quoted(absent)} as {subset} subjects but does not hold them; make it again."
        )
    return subjects


def groups_of_type(subject: h5py.Group, group_type: str) -> list[str]:
    """Return the names of a subject's groups of one type, sorted."""
    return sorted(name for name in subject if read_text(subject[name].attrs.get(TYPE, "")) == group_type)


def check_group(subject: h5py.Group, group: str, names: Iterable[str], attributes: Iterable[str]) -> None:
    """Check that a group has the datasets and attributes that are read without a default.

    Raises
    ------
    ValueError
        Naming the file, the subject, the group and what it lacks.
    """
    lacking = [name for name in names if name not in subject[group]]
    lacking += [name for name in attributes if name not in subject[group].attrs]
    if lacking:
        where = f"group '{group}' of subject '{subject.name.strip('/')}'"
        raise ValueError(f"'{subject.file.filename}': {where} lacks {quoted(lacking)}.")
