"""The one rule for what a command may write: no output is an input, and nothing of the user's is lost."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dwiml.files.reasons import reason_of

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
        out. Of a folder, every file inside is an input; in one that stands for a file (.trx), nothing may be made.
    experiments
        Folders of experiments that the command uses: nothing may be written inside.
    overwrite
        Whether files that exist may be replaced. Inputs may not, whatever it is.

    Raises
    ------
    ValueError, FileNotFoundError, FileExistsError, IsADirectoryError, PermissionError
        In one sentence, naming the file.
    """
    read, used = list(inputs), [Path(each) for each in experiments if each is not None]
    written: dict[str, str] = {}
    for name, given in outputs.items():
        if given is None:
            continue
        path, real = Path(given), os.path.realpath(given)
        refuse_inputs(path, name, inputs=read)
        _refuse_experiments(path, name, used)
        if real in written:
            raise ValueError(f"{name}: '{path}' is also what {written[real]} writes; give another name.")
        written[real] = name
        check_target(path, name, overwrite=overwrite)


def check_output_folder(
    folder: PathLike,
    files: Iterable[str],
    name: str,
    *,
    inputs: Iterable[PathLike | None] = (),
    experiments: Iterable[PathLike | None] = (),
    overwrite: bool,
) -> None:
    """Check a folder of results, which is made when it is missing, as :func:`check_outputs` checks files.

    Parameters
    ----------
    folder
        The folder. It may hold other files, which stay.
    files
        What is written there, relative to it. The user does not name these files, so none may be a link.
    name
        What the user calls the folder.
    inputs, experiments, overwrite
        As in :func:`check_outputs`.

    Raises
    ------
    ValueError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError
        In one sentence, naming the folder or the file.
    """
    folder, read = Path(folder), list(inputs)
    _refuse_experiments(folder, name, [Path(each) for each in experiments if each is not None])
    above = _nearest_that_exists(folder, name)
    if not above.is_dir():
        what = "is a file" if above == folder else f"cannot be made: '{above}' is a file"
        raise NotADirectoryError(f"{name}: '{folder}' {what}; give a folder.")
    for each in files:
        path = folder / each
        refuse_inputs(path, name, inputs=read)
        refuse_irregular(path, name)
        if path.is_symlink():
            raise ValueError(
                f"{name}: '{path}' is a symbolic link, and is not followed out of the folder; remove it, or give "
                "another folder."
            )
        if path.exists() and not overwrite:
            raise FileExistsError(f"{name}: '{path}' exists already; use -f to replace the results there.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{name}: '{folder}' cannot be written: permission denied in the folder '{above}'.")


def check_target(path: PathLike, name: str, *, overwrite: bool) -> None:
    """Check that a single output can be written: its folder exists, and what stands there may be replaced.

    Raises
    ------
    ValueError, FileNotFoundError, FileExistsError, IsADirectoryError, PermissionError
        In one sentence, naming the file.
    """
    path = Path(path)
    refuse_irregular(path, name)
    parent = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    if not parent.is_dir():
        what = "is not a folder" if os.path.lexists(parent) else "does not exist; make it first"
        raise FileNotFoundError(f"{name}: the folder '{parent}' {what}.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{name}: '{path}' exists already; use -f to replace it.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{name}: '{path}' cannot be written: permission denied in the folder '{parent}'.")


def refuse_irregular(path: PathLike, name: str = "The output") -> None:
    """Refuse what is no regular file (a folder, a device, a pipe, a socket), behind links too.

    Raises
    ------
    IsADirectoryError, ValueError
        In one sentence, naming the file.
    OSError
        When nothing can have that name (it is too long, or a circle of links).
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise OSError(f"{name}: '{_shortened(path)}' cannot be written: {reason_of(error)}.") from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{name}: '{path}' is a folder; give a file.")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{name}: '{path}' is not a regular file but a device, a pipe or a socket; give another name.")


def refuse_inputs(path: PathLike, name: str, *, inputs: Iterable[PathLike | None]) -> None:
    """Refuse an output that is one of the inputs, under any name: see :func:`check_outputs`.

    Raises
    ------
    ValueError
        In one sentence, naming the file.
    """
    path = Path(path)
    identity, real = _identity(path), os.path.realpath(path)
    for given in [Path(each) for each in inputs if each]:
        if not os.path.isdir(given):
            if os.path.realpath(given) == real or (identity is not None and _identity(given) == identity):
                raise ValueError(f"{name}: '{path}' is an input of the command; give another name.")
        elif given.suffix.lower() == ".trx" and _lies_in(real, given):
            raise ValueError(f"{name}: '{path}' lies in '{given}', which the command reads; give another place.")
        elif identity is not None and any(_identity(each) == identity for each in _files_in(given)):
            raise ValueError(f"{name}: '{path}' is a file of '{given}', which the command reads; give another name.")


def _refuse_experiments(path: Path, name: str, experiments: Iterable[Path]) -> None:
    real = os.path.realpath(path)
    for experiment in experiments:
        if _lies_in(real, experiment):
            raise ValueError(
                f"{name}: '{path}' lies in the experiment '{experiment}', where only the training writes; give "
                "another place."
            )


def _nearest_that_exists(folder: Path, name: str) -> Path:
    for each in (folder, *folder.absolute().parents):
        try:
            each.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise OSError(f"{name}: '{_shortened(folder)}' cannot be made: {reason_of(error)}.") from error
        return each
    return Path("/")


def _shortened(path: PathLike) -> str:
    text = os.fspath(path)
    return text if len(text) <= 100 else f"{text[:48]}...{text[-48:]}"


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
