"""Supported tractogram formats."""

from __future__ import annotations

import os
from pathlib import Path

from dwiml.files import check_file

ALL_KINDS = (".trk", ".tck", ".trx", ".vtk", ".fib", ".vtp", ".dpy", ".h5")
GZIPPED_KINDS = (".trk", ".tck")
"""Formats that are also read when compressed with gzip (``.tck.gz``)."""

SPACES = ("rasmm", "lpsmm")
"""Axes of points in mm: right, anterior, superior, as in NIfTI; or left, posterior, superior, as in DICOM."""


def is_gzipped(path: Path) -> bool:
    """Return whether the name of a file ends with ``.gz``."""
    return path.suffix.lower() == ".gz"


def kind_of(path: Path) -> str:
    """Return the extension of a tractogram in lower case, without ``.gz``."""
    return (path.with_suffix("") if is_gzipped(path) else path).suffix.lower()


def check_kind(path: str | os.PathLike[str], what: str) -> Path:
    """Check, without opening it, that a tractogram file exists, is a regular file and has a supported extension.

    Parameters
    ----------
    path
        The file; a ``.trx`` may also be a folder of arrays.
    what
        Start of the error messages, for instance ``"The tractogram"``.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        If the file does not exist, is a folder or cannot be read.
    ValueError
        If the format is not supported, or not in a compressed file.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind not in ALL_KINDS:
        raise ValueError(f"{what} '{path}' is not in a format that dwiml reads; convert it to .trk, .tck or .trx.")
    if is_gzipped(path) and kind == ".fib":
        raise ValueError(
            f"{what} '{path}' is a .fib.gz file, as DSI Studio writes for the fiber orientations of voxels, not for "
            "streamlines; save the streamlines as .trk or .tck. (If it is a VTK file of MITK, uncompress it.)"
        )
    if is_gzipped(path) and kind not in GZIPPED_KINDS:
        raise ValueError(
            f"{what} '{path}' is compressed, and dwiml reads {kind} files uncompressed; run 'gunzip -k {path.name}' "
            f"first, and give '{path.with_suffix('').name}'."
        )
    if kind == ".trx" and path.is_dir():
        return path
    return check_file(path, what)
