"""Whether a file is still the one that was opened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn


@dataclass(frozen=True)
class FileIdentity:
    """What identifies a version of a file without reading it.

    Attributes
    ----------
    device, inode
        Another file under the same name has others.
    nb_bytes
        Its size.
    modified_ns
        When its content was last written, in nanoseconds.
    """

    device: int
    inode: int
    nb_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path | int) -> FileIdentity:
        """Return the identity of a file, given by its path or by a descriptor.

        Raises
        ------
        OSError
            When it is not there.
        """
        status = os.stat(path)
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def check(self, path: Path) -> None:
        """Check that ``path`` is still this file, with this content.

        A read of a memory map beyond the end of a file that was cut off kills the process (SIGBUS), so this is called
        before each one.

        Raises
        ------
        ValueError
            When it was removed, replaced or written to.
        """
        try:
            now = FileIdentity.of(path)
        except OSError:
            self._refuse(path, "was removed")
        if now == self:
            return
        if (now.device, now.inode) != (self.device, self.inode):
            self._refuse(path, "was replaced by another file")
        if now.nb_bytes != self.nb_bytes:
            self._refuse(path, f"was {self.nb_bytes} bytes long and is now {now.nb_bytes}")
        self._refuse(path, "was written to")

    def _refuse(self, path: Path, what: str) -> NoReturn:
        raise ValueError(
            f"HDF5 file '{path}' {what} since it was loaded; batches of two different files are never mixed: put the "
            "file back and resume, or start again with the new one."
        )
