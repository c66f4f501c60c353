"""Check where outputs are written: an output is never an input, and no file of the user is lost."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dwiml.files.opening import identity_of
from dwiml.files.reasons import reason_of

PathLike = str | os.PathLike[str]


def check_outputs(
    outputs: Mapping[str, PathLike | None],
    *,
    inputs: Iterable[PathLike | None] = (),
    experiments: Iterable[PathLike | None] = (),
    overwrite: bool,
) -> None:
    """Check that outputs can be written, and are not inputs, inside an experiment that is used, or written twice.

    Parameters
    ----------
    outputs
        {name of the output for the user: its path, or None if it is not requested}. Links are followed.
    inputs
        Paths that are read; symbolic and hard links are resolved, and None is ignored. All files in a folder are
        inputs, and a folder in .trx format must not get new files.
    experiments
        Experiment folders that are used; nothing may be written inside them.
    overwrite
        Whether existing files may be replaced. Inputs are never replaced.

    Raises
    ------
    ValueError, FileNotFoundError, FileExistsError, IsADirectoryError, PermissionError
        If an output cannot be written. The message names the file.
    """
    read, used = list(inputs), [Path(folder) for folder in experiments if folder is not None]
    written: dict[str, str] = {}
    for name, given in outputs.items():
        if given is None:
            continue
        path, real = Path(given), os.path.realpath(given)
        refuse_inputs(path, name, inputs=read)
        _refuse_experiments(path, name, used)
        if real in written:
            raise ValueError(f"{name}: '{path}' is also the file of {written[real]}; give another name.")
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
    """Check that files can be written to an output folder, which may be missing; see :func:`check_outputs`.

    Parameters
    ----------
    folder
        The output folder. Other files in it are kept.
    files
        Paths of the files to write, relative to the folder. They may not be links, since the user did not name them.
    name
        Name of the folder for the user.
    inputs, experiments, overwrite
        As in :func:`check_outputs`.

    Raises
    ------
    ValueError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError
        If a file cannot be written. The message names the folder or the file.
    """
    folder, read = Path(folder), list(inputs)
    _refuse_experiments(folder, name, [Path(used) for used in experiments if used is not None])
    above = _nearest_that_exists(folder, name)
    if not above.is_dir():
        what = "is a file" if above == folder else f"cannot be created: '{above}' is a file"
        raise NotADirectoryError(f"{name}: '{folder}' {what}; give a folder.")
    for file in files:
        path = folder / file
        refuse_inputs(path, name, inputs=read)
        refuse_irregular(path, name)
        if path.is_symlink():
            raise ValueError(
                f"{name}: '{path}' is a symbolic link, which could lead out of the folder; remove it, or give another "
                "folder."
            )
        if path.exists() and not overwrite:
            raise FileExistsError(f"{name}: '{path}' exists; replace the results with overwrite=True.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{name}: '{folder}' cannot be written: permission denied in the folder '{above}'.")


def check_target(path: PathLike, name: str, *, overwrite: bool) -> None:
    """Check that a single output can be written: its folder exists, and an existing file may be replaced.

    Raises
    ------
    ValueError, FileNotFoundError, FileExistsError, IsADirectoryError, PermissionError
        If it cannot be written. The message names the file.
    """
    path = Path(path)
    refuse_irregular(path, name)
    parent = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    if not parent.is_dir():
        what = "is not a folder" if os.path.lexists(parent) else "does not exist; create it first"
        raise FileNotFoundError(f"{name}: the folder '{parent}' {what}.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{name}: '{path}' exists; replace it with overwrite=True.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{name}: '{path}' cannot be written: permission denied in the folder '{parent}'.")


def refuse_irregular(path: PathLike, name: str = "The output") -> None:
    """Refuse an output path that is a folder, a device, a pipe or a socket, or a link to one.

    Raises
    ------
    IsADirectoryError, ValueError
        If it is one. The message names the file.
    OSError
        If the path cannot be used (too long, or circular links).
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
    """Refuse an output that is one of the inputs, under any name; see :func:`check_outputs`.

    Raises
    ------
    ValueError
        If it is an input. The message names the file.
    """
    path = Path(path)
    identity, real = identity_of(path), os.path.realpath(path)
    for given in [Path(file) for file in inputs if file]:
        if not os.path.isdir(given):
            if os.path.realpath(given) == real or (identity is not None and identity_of(given) == identity):
                raise ValueError(f"{name}: '{path}' is an input; give another name.")
        elif given.suffix.lower() == ".trx" and _lies_in(real, given):
            raise ValueError(f"{name}: '{path}' is inside '{given}', which is an input; give another folder.")
        elif identity is not None and any(identity_of(file) == identity for file in _files_in(given)):
            raise ValueError(f"{name}: '{path}' is a file of '{given}', which is an input; give another name.")


def _refuse_experiments(path: Path, name: str, experiments: Iterable[Path]) -> None:
    real = os.path.realpath(path)
    for experiment in experiments:
        if _lies_in(real, experiment):
            raise ValueError(
                f"{name}: '{path}' is inside the experiment '{experiment}', where only the training may write; give "
                "another folder."
            )


def _nearest_that_exists(folder: Path, name: str) -> Path:
    for existing in (folder, *folder.absolute().parents):
        try:
            existing.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise OSError(f"{name}: '{_shortened(folder)}' cannot be created: {reason_of(error)}.") from error
        return existing
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
