"""Opening a file: what it must be, and the true reason when it cannot be opened or read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dwiml.files.reasons import is_refusal, reason_of


def check_file(path: str | os.PathLike[str], what: str = "The file", *, hint: str = "") -> Path:
    """Check that there is a regular file that this process may read, without opening it.

    Parameters
    ----------
    path
        The file; links are followed.
    what
        How the sentence begins: ``"HDF5 file"``, ``"The mask"``.
    hint
        What to do when it is missing, for instance ``"make one with 'dwiml create_hdf5'"``.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        When it is missing, is a folder, or may not be read.
    ValueError
        When it is a device, a pipe or a socket: reading it might never end.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{what} '{path}' was not found{f'; {hint}' if hint else ''}.") from None
    except (OSError, ValueError) as error:
        raise _failure(what, path, error) from error
    _check_regular(mode, path, what)
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{what} '{path}' cannot be read: permission denied.")
    return path


@contextmanager
def open_regular(
    path: str | os.PathLike[str], what: str = "The file", *, follow_links: bool = True
) -> Iterator[IO[bytes]]:
    """Open a regular file for reading; a pipe or a device is refused and never waited for.

    Parameters
    ----------
    path
        The file.
    what
        As in :func:`check_file`.
    follow_links
        Whether a symbolic link may stand in the place of the file itself.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, OSError, ValueError
        As :func:`check_file`; also when the system refuses it (too many open files, no permission), with the reason.
    """
    path = Path(path)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        raise FileNotFoundError(f"{what} '{path}' was not found.") from None
    except (OSError, ValueError) as error:
        raise _failure(what, path, error) from error
    try:
        _check_regular(os.fstat(handle).st_mode, path, what)
    except BaseException:
        os.close(handle)
        raise
    with open(handle, "rb") as stream:
        yield stream


@contextmanager
def explained(
    path: str | os.PathLike[str],
    what: str = "The file",
    *,
    errors: tuple[type[BaseException], ...] = (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError),
    advice: str = "copy it again or recreate it",
) -> Iterator[None]:
    """Turn any failure to read a file in the block into one sentence with the true reason.

    What the system refused (no permission, a lock, too many open files) is said to be so, and raised as OSError;
    anything else among ``errors`` says that the file is damaged, and is raised as ValueError.

    Parameters
    ----------
    path, what
        As in :func:`check_file`.
    errors
        What the reader raises for a damaged file.
    advice
        What to do about a damaged one.
    """
    try:
        yield
    except MemoryError as error:
        sizes = f" ({error})" if str(error) else ""
        raise ValueError(
            f"{what} '{path}' cannot be read: there is not enough memory for what it says it holds{sizes}; check "
            "whether it is damaged."
        ) from error
    except errors as error:
        if is_refusal(error):
            raise _failure(what, path, error) from error
        raise ValueError(f"{what} '{path}' is damaged ({reason_of(error)}); {advice}.") from error


def _check_regular(mode: int, path: Path, what: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{what} '{path}' is a folder; give a file.")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{what} '{path}' is not a regular file but a device, a pipe or a socket; give a file.")


def _failure(what: str, path: Path | str | os.PathLike[str], error: BaseException) -> OSError:
    """Return an error of the same class and number whose message is one sentence."""
    kind = type(error) if isinstance(error, OSError) else OSError
    failure = kind(f"{what} '{path}' cannot be read: {reason_of(error)}.")
    failure.errno = getattr(error, "errno", None)
    return failure
