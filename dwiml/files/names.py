"""Names that a file holds and that results are written under."""

from __future__ import annotations

import os

# A file system's limit is 255; an extension follows.
_MOST_BYTES = 200


def check_name(name: str, what: str) -> str:
    """Return a name, of a subject or a bundle, that may become that of a file or folder and leads nowhere else.

    Parameters
    ----------
    name
        As a file holds it, maybe a stranger's.
    what
        How the sentence begins: ``"Subject"``.

    Raises
    ------
    ValueError
        When it is empty, ``.`` or ``..``, has a slash or a character that cannot be printed, or is too long.
    """
    why = ""
    if name in ("", ".", ".."):
        why = "it is not a name"
    elif any(each in name for each in {"/", os.sep, os.altsep or "/"}):
        why = "it has a slash, and would lead to another folder"
    elif not name.isprintable():
        why = "it has a character that cannot be printed"
    elif len(os.fsencode(name)) > _MOST_BYTES:
        why = f"it is longer than {_MOST_BYTES} bytes"
    if why:
        shown = name if len(name) <= 60 else f"{name[:60]}..."
        raise ValueError(f"{what} {shown!r} cannot be used as a file name: {why}; rename it.")
    return name
