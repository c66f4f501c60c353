"""Check names that are read from a file and used as file names."""

from __future__ import annotations

import os

# The limit of most file systems is 255, including the extension.
_MAX_BYTES = 200


def check_name(name: str, what: str) -> str:
    """Return the name of a subject or a bundle, if it is also a safe name of a file or folder.

    Parameters
    ----------
    name
        A name read from a possibly untrusted file.
    what
        Beginning of the error message, for instance ``"Subject"``.

    Raises
    ------
    ValueError
        If it is empty, ``.`` or ``..``, contains a slash or a non-printable character, or is too long.
    """
    fault = ""
    if name in ("", ".", ".."):
        fault = "it is not a name"
    elif any(separator in name for separator in {"/", os.sep, os.altsep or "/"}):
        fault = "it contains a slash, and would refer to another folder"
    elif not name.isprintable():
        fault = "it contains a character that cannot be printed"
    elif len(os.fsencode(name)) > _MAX_BYTES:
        fault = f"it is longer than {_MAX_BYTES} bytes"
    if fault:
        shown = name if len(name) <= 60 else f"{name[:60]}..."
        raise ValueError(f"{what} {shown!r} cannot be used as a file name: {fault}; rename it.")
    return name
