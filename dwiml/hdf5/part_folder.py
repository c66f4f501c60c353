"""The folder of the parts of a creation: one creation at a time, and what a stopped one leaves for the next."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from dwiml.arguments import counted
from dwiml.files import reason_of
from dwiml.hdf5.parts import SUFFIX

logger = logging.getLogger(__name__)

_LOCK = "lock"


class PartFolder:
    """The hidden folder ``.OUT.hdf5.parts`` beside the file to write, locked for this process; a context manager.

    The lock (``flock`` on a file in it, which NFS passes on to other machines) ends with the process. At the end, the
    folder is deleted, unless the creation was stopped and parts are finished: these are kept.

    Parameters
    ----------
    target
        The HDF5 file to write.
    resume
        Whether to keep the parts of a creation that was stopped.
    discard
        Whether to delete them otherwise, instead of refusing to start.

    Raises
    ------
    FileExistsError
        If there are finished parts, and neither `resume` nor `discard` is True.
    OSError
        If another process is creating this file, or the folder cannot be created.
    """

    def __init__(self, target: Path, *, resume: bool, discard: bool) -> None:
        self.path = folder_of(target)
        self._target, self._resume, self._discard = target, resume, discard
        self._lock: int | None = None

    def __enter__(self) -> PartFolder:
        self._lock = self._locked()
        try:
            finished = self.finished()
            if finished and not self._resume:
                self._refuse_or_discard(finished)
            self._remove_unfinished()
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self._remove_unfinished()
            finished = self.finished()
            if kind is None or not finished:
                shutil.rmtree(self.path, ignore_errors=True)
            else:
                logger.warning(
                    "%s finished and kept in '%s'; continue with resume=True.",
                    "1 subject is" if len(finished) == 1 else f"{len(finished)} subjects are",
                    self.path,
                )
        finally:
            self._unlock()

    def finished(self) -> list[Path]:
        """Return the parts that are complete."""
        return sorted(path for path in self.path.iterdir() if path.name.endswith(SUFFIX))

    def _refuse_or_discard(self, finished: list[Path]) -> None:
        subjects = f"{counted(len(finished), 'subject')}, finished by a creation that was stopped"
        if not self._discard:
            raise FileExistsError(
                f"'{self.path}' holds {subjects}: continue with resume=True, or start over with overwrite=True."
            )
        logger.warning("'%s' held %s; they are deleted (resume=True keeps them).", self.path, subjects)
        for path in finished:
            path.unlink()

    def _remove_unfinished(self) -> None:
        for path in self.path.glob(".*.tmp"):
            with suppress(OSError):
                path.unlink()

    def _locked(self) -> int:
        try:
            while True:
                self.path.mkdir(exist_ok=True)
                if self.path.is_symlink():
                    raise OSError("it is a symbolic link")
                try:
                    handle = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
                except FileNotFoundError:
                    # Its owner has just deleted the folder.
                    continue
                if self._is_taken(handle):
                    return handle
                os.close(handle)
        except BlockingIOError:
            raise OSError(
                f"'{self._target}' is being created by another process; wait for it to end, or stop it."
            ) from None
        except OSError as error:
            raise OSError(f"The folder '{self.path}' cannot be used ({reason_of(error)}); delete it.") from error

    def _is_taken(self, handle: int) -> bool:
        """Lock the open file; return False if its owner deleted it in the meantime."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise
        except OSError as error:
            logger.debug("'%s' has no flock (%s).", self.path, error)
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self.path / _LOCK))
        except FileNotFoundError:
            return False

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def folder_of(target: Path) -> Path:
    """Return the folder of the parts of an HDF5 file."""
    return target.with_name(f".{target.name}.parts")
