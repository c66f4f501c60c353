"""What is checked of a command's files before its work: nothing may be lost, and nothing refused at the end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

PathLike = str | os.PathLike[str]


def check_outputs(
    outputs: Mapping[str, PathLike | None], *, inputs: Iterable[PathLike | None] = (), overwrite: bool
) -> None:
    """Check that outputs can be written, and are neither each other nor an input.

    Parameters
    ----------
    outputs
        {what the user calls it: the file, or None when it is not asked for}.
    inputs
        Files that the command reads; None among them are left out.
    overwrite
        Whether files that exist may be replaced.

    Raises
    ------
    ValueError, FileNotFoundError, FileExistsError, IsADirectoryError
        In one sentence, naming the file.
    """
    read = {os.path.realpath(path): path for path in inputs if path is not None}
    written: dict[str, str] = {}
    for name, given in outputs.items():
        if given is None:
            continue
        path, real = Path(given), os.path.realpath(given)
        if real in read:
            raise ValueError(f"{name}: '{path}' is an input of the command; give another name.")
        if real in written:
            raise ValueError(f"{name}: '{path}' is what {written[real]} writes too; give another name.")
        written[real] = name
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{name}: the folder '{path.parent}' does not exist; make it first.")
        if path.is_dir():
            raise IsADirectoryError(f"{name}: '{path}' is a folder; give a file.")
        if path.exists() and not overwrite:
            raise FileExistsError(f"{name}: '{path}' exists already; use -f to replace it.")
