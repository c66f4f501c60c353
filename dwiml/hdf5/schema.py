"""The HDF5 file: the name of every group, dataset and attribute, and which names are allowed.

Version 1 has the layout of the files that dwi_ml makes, plus the attribute ``dwiml_schema_version``.
Files without that attribute are read as long as they have the layout (:mod:`dwiml.hdf5.stored.layout`).
"""

from __future__ import annotations

from typing import Any

from dwiml import files

SCHEMA_VERSION = 1
# What an HDF5 file begins with.
SIGNATURE = b"\x89HDF\r\n\x1a\n"

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
# JSON: {volume group: [{FILE: name, NB_FEATURES: count}, ...]}, as the first subject has them.
GROUPS_FILES = "groups_files"
FILE = "file"
# Under which name the files stand among the entries of a group in the config that is read back.
FILES_FOUND = "files_found"
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

# Of a dataset: of its shape, type and values. Of a group and of the root: of attributes and datasets.
DIGEST = "dwiml_digest"

SUBJECT_LISTS = {"training": TRAINING_SUBJS, "validation": VALIDATION_SUBJS, "testing": TESTING_SUBJS}


def read_text(value: Any) -> str:
    """Return an attribute's text, whether HDF5 gives it as str or as bytes."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def check_name(name: Any, what: str) -> str:
    """Return the name of a subject, a group or a key, if results may be written under it.

    Parameters
    ----------
    name
        As a file or a user gives it.
    what
        How the sentence begins: the file, and what the name is.

    Raises
    ------
    ValueError
        When it is not a text, or as :func:`dwiml.files.check_name`.
    """
    if not isinstance(name, str):
        raise ValueError(f"{what} is {str(name)[:60]!r}, which is not a name.")
    return files.check_name(name, what)
