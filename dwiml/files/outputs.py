"""The one rule for what a command may write: no output is an input, and nothing of the user's is lost."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

PathLike = str | os.PathLike[str]


def check_outputs(
    outputs: Mapping[str, PathLike | None],
    *,
    inputs: Iterable[PathLike | None] = (),
    experiments: Iterable[PathLike | None] = (),
    overwrite: bool,
) -> None:
    """Check that outputs can be written, and that none is an input, in an experiment that is used, or written twice.

    Parameters
    ----------
    outputs
        {what the user calls it: the file, or None when it is not asked for}. A link is followed.
    inputs
        What the command reads, under any name (symbolic and hard links are seen through); None among them are left
        out. Of a folder, every file inside is an input.
    experiments
        Folders of experiments that the command uses: nothing may be written inside.
    overwrite
        Whether files that exist may be replaced. Inputs may not, whatever it is.

    Raises
    ------
    ValueError, FileNotFoundError, FileExistsError, IsADirectoryError, PermissionError
        In one sentence, naming the file.
    """
    read = [Path(each) for each in inputs if each is not None]
    used = [Path(each) for each in experiments if each is not None]
    written: dict[str, str] = {}
    for name, given in outputs.items():
        if given is None:
            continue
        path, real = Path(given), os.path.realpath(given)
        _refuse_inputs(name, path, read)
        for experiment in used:
            if _lies_in(real, experiment):
                raise ValueError(
                    f"{name}: '{path}' lies in the experiment '{experiment}', where only the training writes; give "
                    "another place."
                )
        if real in written:
            raise ValueError(f"{name}: '{path}' is also what {written[real]} writes; give another name.")
        written[real] = name
        check_target(path, name, overwrite=overwrite)


def check_target(path: PathLike, name: str, *, overwrite: bool) -> None:
    """Check that a single output can be written: its folder exists, and what stands there may be replaced.

    Raises
    ------
    ValueError, FileNotFoundError, FileExistsError, IsADirectoryError, PermissionError
        In one sentence, naming the file.
    """
    path = Path(path)
    parent = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    if not parent.is_dir():
        raise FileNotFoundError(f"{name}: the folder '{parent}' does not exist; make it first.")
    refuse_irregular(path, name)
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{name}: '{path}' exists already; use -f to replace it.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{name}: '{path}' cannot be written: permission denied in the folder '{parent}'.")


def refuse_irregular(path: PathLike, name: str = "The output") -> None:
    """Refuse what is no regular file (a folder, a device, a pipe, a socket), behind links too.

    Raises
    ------
    IsADirectoryError, ValueError
        In one sentence, naming the file.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{name}: '{path}' is a folder; give a file.")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{name}: '{path}' is not a regular file but a device, a pipe or a socket; give another name.")


def _refuse_inputs(name: str, path: Path, inputs: Iterable[Path]) -> None:
    identity = _identity(path)
    for given in inputs:
        if given.is_dir():
            if identity is not None and any(_identity(each) == identity for each in _files_in(given)):
                raise ValueError(
                    f"{name}: '{path}' is a file of '{given}', which the command reads; give another name."
                )
        elif os.path.realpath(given) == os.path.realpath(path) or (
            identity is not None and _identity(given) == identity
        ):
            raise ValueError(f"{name}: '{path}' is an input of the command; give another name.")


def _files_in(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _lies_in(real: str, folder: Path) -> bool:
    inside = os.path.realpath(folder)
    return real == inside or real.startswith(inside + os.sep)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
