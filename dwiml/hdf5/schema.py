"""Names of the groups, datasets and attributes of the HDF5 file.

Version 1 has the layout of the files created by dwi_ml, plus the attribute ``dwiml_schema_version``. Files without this
attribute are read if they have the same layout (:mod:`dwiml.hdf5.stored.layout`).
"""

from __future__ import annotations

from typing import Any

from dwiml import files

SCHEMA_VERSION = 1
# First bytes of an HDF5 file (HDF5 File Format Specification, version 3.0, II.A).
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
# JSON: {volume group: [{FILE: name, NB_FEATURES: count}, ...]}, for the first subject.
GROUPS_FILES = "groups_files"
FILE = "file"
# Key of these files in the entry of a group, when the config is read back.
FILES_FOUND = "files_found"
DATE_AND_TIME = "data_and_time"
# JSON, at the root: how the file was created; in a group of a subject: what it was created from. It is not part of the
# fingerprint, so that the same data copied at another time are the same data.
PROVENANCE = "dwiml_provenance"
# Keys of the provenance of the root.
DWIML_VERSION = "dwiml_version"
COMMAND = "command"
OPTIONS = "options"
# The provenance of the files that were joined into one, each with the key FILE.
JOINED = "joined"
# Conventions of an image in other subjects than the first.
OTHER_DIRECTIONS = "other_directions"
# The provenance of a file before subjects were added to it, and before that.
EARLIER = "earlier"
# Keys of the provenance of a group; a file has the keys FILE, NB_BYTES, MODIFIED, and for volumes NB_FEATURES, MEAN and
# STD (before the standardization), and FEATURES: {MEAN: [...], STD: [...]} of each feature, as it is stored.
FILES = "files"
NB_BYTES = "nb_bytes"
MODIFIED = "modified"
STANDARDIZATION = "standardization"
STD_MASK = "std_mask"
CONNECTIVITY = "connectivity"
MEAN = "mean"
STD = "std"
FEATURES = "features"
# The same before a standardization in which each feature has its own mean and standard deviation; only when the config
# is read back, because the statistics after it are the same for all subjects.
FEATURES_BEFORE = "features_before"
# Key of the entry of a volume group, when the config is read back, of the training subjects: {VOXEL_ORDERS: [...],
# OBLIQUITY: [lowest, highest] in degrees, VOXEL_SIZES: the same for each axis, in mm}.
GRIDS = "grids"
VOXEL_ORDERS = "voxel_orders"
OBLIQUITY = "obliquity"
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
# JSON, if the convention is known: {DIRECTIONS_STORED: [...], DIRECTIONS_READ: [...]}, one entry for each file, with
# NB_FEATURES and the keys of dwiml.ops.axes.conventions.Directions (none of them for a file of unknown convention).
DIRECTIONS = "directions"
DIRECTIONS_STORED = "stored"
DIRECTIONS_READ = "read"

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
# Connectivity: dataset CONNECTIVITY_MATRIX (R, R); its R regions are given by the attribute CONNECTIVITY_NB_BLOCS (3,)
# or the dataset CONNECTIVITY_LABEL_VOLUME (X, Y, Z).
CONNECTIVITY_MATRIX = "connectivity_matrix"
CONNECTIVITY_MATRIX_TYPE = "connectivity_matrix_type"
FROM_BLOCS = "from_blocs"
FROM_LABELS = "from_labels"
CONNECTIVITY_NB_BLOCS = "connectivity_nb_blocs"
CONNECTIVITY_LABEL_VOLUME = "connectivity_label_volume"

# A dataset's digest covers its shape, dtype and values; that of a group or of the root, its attributes and datasets.
DIGEST = "dwiml_digest"

SUBJECT_LISTS = {"training": TRAINING_SUBJS, "validation": VALIDATION_SUBJS, "testing": TESTING_SUBJS}


def read_text(value: Any) -> str:
    """Return a text attribute as str, whether h5py returned str or bytes."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def check_name(name: Any, what: str) -> str:
    """Return the name of a subject, group or key, if it is also a safe file name.

    Parameters
    ----------
    name
        A name read from a file or given by a user.
    what
        Beginning of the error message: the file, and what the name stands for.

    Raises
    ------
    ValueError
        If it is not a string, or is not allowed by :func:`dwiml.files.check_name`.
    """
    if not isinstance(name, str):
        raise ValueError(f"{what} has the name {str(name)[:60]!r}, which is not a string; rename it.")
    return files.check_name(name, what)
