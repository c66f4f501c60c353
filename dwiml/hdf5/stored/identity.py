"""Detect that a file was replaced or modified since it was opened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn


@dataclass(frozen=True)
class FileIdentity:
    """Identifies a version of a file without reading it.

    Attributes
    ----------
    device, inode
        Numbers that differ for another file with the same name.
    nb_bytes
        Size of the file, in bytes.
    modified_ns
        Time of the last modification, in nanoseconds since 1970.
    """

    device: int
    inode: int
    nb_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path | int) -> FileIdentity:
        """Return the identity of a file, given by its path or its descriptor.

        Raises
        ------
        OSError
            If the file does not exist.
        """
        status = os.stat(path)
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def check(self, path: Path) -> None:
        """Check that ``path`` is still the same file, unmodified.

        Reading a memory map beyond the end of a truncated file kills the process (SIGBUS), so this is called before
        each read.

        Raises
        ------
        ValueError
            If the file was removed, replaced or modified.
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
            self._refuse(path, f"was resized from {self.nb_bytes} to {now.nb_bytes} bytes")
        self._refuse(path, "was modified")

    def _refuse(self, path: Path, what: str) -> NoReturn:
        raise ValueError(
            f"HDF5 file '{path}' {what} after it was loaded; batches of two different files are never mixed: restore "
            "the file and resume, or start over with the new one."
        )
