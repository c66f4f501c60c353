"""Files of lines that grow at their end, of an experiment: never written through a link, nor half a line."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dwiml.files import atomic_write, open_regular

# Room for more than a million lines of batches, or hundreds of thousands of epochs.
MOST_BYTES = 256 * 2**20


class LinesFile:
    """A file of lines that grows at its end, and can be cut back to a position that it had before.

    Its size does not change the time of an addition: the digest of the content is continued, not computed again.

    Parameters
    ----------
    path
        The file. It and its folder are created with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size: int | None = None
        self._hash = hashlib.sha256()

    def append(self, lines: Sequence[str]) -> None:
        """Add lines, each without its line break.

        Raises
        ------
        OSError
            If they cannot be written; the file is unchanged then.
        """
        added = "".join(f"{line}\n" for line in lines).encode()
        if not added:
            return
        if size_of(self.path) != self._size:
            self._adopt(read_content(self.path))
        check_size((self._size or 0) + len(added))
        # Without an incomplete line of a killed process.
        append_lines(self.path, added, keep=self._size, sync=False)
        self._hash.update(added)
        self._size = (self._size or 0) + len(added)

    def position(self) -> dict[str, Any]:
        """Return the size and the SHA-256 of the content, once it is on the disk.

        Raises
        ------
        OSError
            If the file cannot be read or written.
        """
        if os.path.lexists(self.path):
            descriptor = open_to_append(self.path)
            try:
                check_own(descriptor, self.path)
                if os.fstat(descriptor).st_size != self._size:
                    self._adopt(read_content(self.path))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        else:
            self._adopt(b"")
        return {"size": self._size, "sha256": self._hash.hexdigest()}

    def cut_to(self, size: int, sha256: str) -> bool:
        """Cut the file back to a position; return False, and leave it as it is, if its content differs from that.

        Raises
        ------
        OSError
            If the file cannot be read or written.
        """
        content = read_content(self.path)
        kept = content[:size]
        if len(kept) != size or hashlib.sha256(kept).hexdigest() != sha256:
            return False
        self.keep(kept, content)
        return True

    def keep(self, kept: bytes, content: bytes) -> None:
        """Replace the content, if it differs from what is kept."""
        if kept != content:
            rewrite(self.path, kept)
        self._adopt(kept)

    def _adopt(self, content: bytes) -> None:
        """Take the whole lines of a content as that of the file."""
        whole = content[: content.rfind(b"\n") + 1]
        self._size, self._hash = len(whole), hashlib.sha256(whole)


def read_content(path: Path) -> bytes:
    """Return the content of a log; empty if there is none.

    Raises
    ------
    OSError
        If it cannot be read, is not a regular file, or is larger than :data:`MOST_BYTES`.
    """
    if not os.path.lexists(path):
        return b""
    try:
        with open_regular(path, "The log", follow_links=False) as stream:
            content = stream.read(MOST_BYTES + 1)
    except ValueError as error:
        # A device or a pipe: the training continues without the log, as with a full disk.
        raise OSError(str(error).rstrip(".")) from error
    check_size(len(content))
    return content


def check_size(nb_bytes: int) -> None:
    """Raise OSError if a log is or would become too large."""
    if nb_bytes > MOST_BYTES:
        raise OSError(f"it is larger than {MOST_BYTES / 1e6:.0f} MB, the limit for a log of dwiml")


def lines_of(content: bytes) -> list[bytes]:
    """Return the lines with their line breaks; only a newline ends a line."""
    return re.findall(rb"[^\n]*\n|[^\n]+", content)


def rewrite(path: Path, content: bytes) -> None:
    """Replace a log atomically."""
    with atomic_write(path, follow_links=False) as stream:
        stream.write(content)


def open_to_append(path: Path) -> int:
    """Return a descriptor of a log, which is created if it is missing; links are refused, and pipes not waited for."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def check_own(descriptor: int, path: Path) -> bool:
    """Check that an open log is a regular file; return whether it has another name as well."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"'{path}' is not a regular file")
    return status.st_nlink > 1


def size_of(path: Path) -> int | None:
    """Return the size of a log; None if there is none."""
    return os.lstat(path).st_size if os.path.lexists(path) else None


def append_lines(path: Path, lines: bytes, *, sync: bool, keep: int | None = None) -> None:
    """Append complete lines to a log, which is created, with its folder, if it is missing.

    Parameters
    ----------
    path
        The log.
    lines
        The lines.
    sync
        Whether to wait until they are on the disk.
    keep
        Number of bytes of the log before them; the rest is removed. None for all.

    Raises
    ------
    OSError
        If they cannot be written; what was before them is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_to_append(path)
    try:
        has_other_name = check_own(descriptor, path)
        if not has_other_name:
            if keep is not None:
                os.ftruncate(descriptor, keep)
            _append_to(descriptor, lines, sync=sync)
    finally:
        os.close(descriptor)
    if has_other_name:
        # The other name may be a backup, which must not change.
        rewrite(path, read_content(path)[:keep] + lines)


def _append_to(descriptor: int, lines: bytes, *, sync: bool) -> None:
    """Append complete lines, and sync them to disk if asked; after an error, the file is unchanged."""
    size = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, lines) != len(lines):
            raise OSError("only a part of it could be written; is the disk full?")
        if sync:
            os.fsync(descriptor)
    except BaseException:
        # If this fails too, an incomplete line is removed before the next one is written.
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise
