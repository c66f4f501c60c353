"""Describe an HDF5 file, an experiment folder or a tractogram, whichever a path is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dwiml.files import check_file, open_regular
from dwiml.hdf5 import schema
from dwiml.hdf5.stored import StoredFile
from dwiml.hdf5.stored.collection import SUFFIX, files_of
from dwiml.params import checks_arguments
from dwiml.tractograms.kinds import ALL_KINDS, kind_of

# Of an experiment; defined in dwiml.models.saving too, whose import would load torch.
PARAMETERS_FILE = "parameters.json"
# Large enough for the user block that may precede the signature of an HDF5 file.
_USER_BLOCKS = (0, 512, 1024, 2048)


@checks_arguments
def describe(path: str | os.PathLike[str], *, measure: bool | None = None) -> dict[str, Any]:
    """Return what an HDF5 file, an experiment folder or a tractogram contains.

    Parameters
    ----------
    path
        The file or the folder.
    measure
        For a tractogram: read all streamlines to count and measure them. None: only if the file is small.

    Returns
    -------
    dict
        JSON values; ``kind`` is ``"hdf5"``, ``"experiment"`` or ``"tractogram"``. See
        :func:`~dwiml.inspection.hdf5_file.describe_hdf5`, :func:`~dwiml.inspection.experiment.describe_experiment` and
        :func:`~dwiml.inspection.tractogram.describe_tractogram`.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        If there is no such file, it is none of these, or it is damaged. The message names it.
    """
    path = Path(path)
    if _is_tractogram(path):
        from dwiml.inspection.tractogram import describe_tractogram

        return describe_tractogram(path, measure=measure)
    if path.is_dir():
        from dwiml.inspection.experiment import describe_experiment

        return describe_experiment(path)
    if _is_hdf5(path):
        from dwiml.inspection.hdf5_file import describe_hdf5

        return describe_hdf5(path)
    raise ValueError(
        f"'{path}' is not an HDF5 file, an experiment folder or a tractogram ({', '.join(ALL_KINDS)}), or its first "
        "bytes are damaged. For an image, use another tool, such as nibabel's 'nib-ls'."
    )


def expanded(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return paths for :func:`describe`, with the HDF5 files of a folder that is not an experiment in its place."""
    found: list[Path] = []
    for path in map(Path, paths):
        is_plain = path.is_dir() and not (path / PARAMETERS_FILE).exists() and not _is_tractogram(path)
        found += files_of(path) if is_plain and any(path.glob(f"*{SUFFIX}")) else [path]
    return found


def _is_tractogram(path: Path) -> bool:
    """Return whether a path has the extension of a tractogram; of two kinds of ``.h5``, it is that of connections."""
    kind = kind_of(path)
    return kind in ALL_KINDS and not (kind == ".h5" and _has_subjects(path))


def _has_subjects(path: Path) -> bool:
    with StoredFile(path) as file:
        return file.root.has_attribute(schema.TRAINING_SUBJS)


def _is_hdf5(path: Path) -> bool:
    """Return whether a file has the signature of HDF5, or its extension."""
    check_file(path, "The file")
    if path.suffix.lower() in (".hdf5", ".h5"):
        return True
    with open_regular(path, "The file") as stream:
        for start in _USER_BLOCKS:
            stream.seek(start)
            if stream.read(len(schema.SIGNATURE)) == schema.SIGNATURE:
                return True
    return False


def text_of(found: Mapping[str, Any], *, all_subjects: bool = False) -> str:
    """Return the text of :func:`describe`.

    Parameters
    ----------
    found
        Value of :func:`describe`.
    all_subjects
        For an HDF5 file: all subjects, not only the first ten.
    """
    if found["kind"] == "hdf5":
        from dwiml.inspection.hdf5_file import hdf5_text

        return hdf5_text(found, all_subjects=all_subjects)
    if found["kind"] == "experiment":
        from dwiml.inspection.experiment import experiment_text

        return experiment_text(found)
    from dwiml.inspection.tractogram import tractogram_text

    return tractogram_text(found)
