"""The partial file that holds streamlines until all are written: locked by one process, kept if that is stopped."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from dwiml.tractograms.writing.trx_folder import GrowingTrx

logger = logging.getLogger(__name__)


def partial_of(target: Path) -> Path:
    """Return the name of a tractogram until it is complete: ``OUT.partial.trk`` for ``OUT.trk``."""
    return target.with_suffix(f".partial{target.suffix}")


def check_partial(partial: Path, *, overwrite: bool) -> None:
    """Check that a partial file can be created.

    Parameters
    ----------
    partial
        The file.
    overwrite
        Whether an existing one may be replaced.

    Raises
    ------
    FileExistsError
        If one exists and ``overwrite`` is False, or if another process is writing it.
    IsADirectoryError
        If it is a folder that dwiml did not create.
    ValueError
        If it is a device, a pipe or a socket.
    """
    if not os.path.lexists(partial):
        return
    if partial.is_dir() and not GrowingTrx.is_one(partial):
        raise IsADirectoryError(f"'{partial}' is a folder that dwiml did not create; give it another name.")
    if partial.exists() and not partial.is_file() and not partial.is_dir():
        raise ValueError(f"'{partial}' is a device, a pipe or a socket, and would be replaced; choose another name.")
    Claim(partial).release()
    if not overwrite:
        raise FileExistsError(
            f"'{partial}' exists: it holds the streamlines of a run that was stopped; give it another name to keep "
            "them, or replace it with overwrite=True."
        )


def remove_partial(partial: Path) -> None:
    """Remove the partial file of a stopped run, after :func:`check_partial`."""
    if partial.is_dir() and not partial.is_symlink():
        shutil.rmtree(partial)
    else:
        partial.unlink(missing_ok=True)


class Claim:
    """A lock on a partial file, released when the process ends.

    On a file system without locks, it only detects that the file was replaced.

    Parameters
    ----------
    partial
        An existing file, or the folder of a .trx that is being written.

    Raises
    ------
    FileExistsError
        If another process holds the lock.
    """

    def __init__(self, partial: Path) -> None:
        self._partial = partial
        self._handle: int | None = None
        with suppress(OSError):
            self._handle = os.open(self._file(), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if self._handle is None:
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise self.refusal() from None
        except OSError as error:
            logger.info("'%s' cannot be locked on this disk (%s).", partial, error)
        if not self.holds():
            self.release()
            raise self.refusal()

    def holds(self) -> bool:
        """Return whether the file of this name is still the one that was claimed."""
        if self._handle is None:
            return True
        try:
            there = os.stat(self._file(), follow_symlinks=False)
        except OSError:
            return False
        mine = os.fstat(self._handle)
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def release(self) -> None:
        """Release the lock."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def refusal(self) -> FileExistsError:
        """Return the error for a file that another process is writing."""
        return FileExistsError(f"Another run is writing '{self._partial}'; wait until it ends, or give another OUT.")

    def _file(self) -> Path:
        return GrowingTrx.lock_file(self._partial) if self._partial.is_dir() else self._partial
