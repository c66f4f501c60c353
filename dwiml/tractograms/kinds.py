"""Supported tractogram formats."""

from __future__ import annotations

import os
from pathlib import Path

from dwiml.files import check_file

ALL_KINDS = (".trk", ".tck", ".trx")


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
        If the format is not supported. For a compressed file, the message explains how to uncompress it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".gz" and path.with_suffix("").suffix.lower() in ALL_KINDS:
        raise ValueError(
            f"{what} '{path}' is compressed, and dwiml reads tractograms uncompressed; run 'gunzip -k {path.name}' "
            f"first, and give '{path.with_suffix('').name}'."
        )
    if suffix not in ALL_KINDS:
        *first, last = ALL_KINDS
        wanted = f"{', '.join(first)} or {last}"
        raise ValueError(f"{what} '{path}' is not in a format that dwiml reads; convert it to {wanted}.")
    if suffix == ".trx" and path.is_dir():
        return path
    return check_file(path, what)
