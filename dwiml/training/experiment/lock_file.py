"""The lock's file: made, read and removed so that of many processes that want it one has it.

All who remove a lock do so under ``flock`` on that very file. It is not opened through a link, and no pipe is waited
for.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dwiml.training.experiment.holder import Holder

LOCK_FILE = "lock.json"

_BEGIN = b'{\n  "host": "'
_CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK
_PAUSE_S = 0.005
_NO_SUCH_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL})


class NotALockError(OSError):
    """What stands in the place of the lock is a link, a folder, a device or a pipe."""


@dataclass(frozen=True)
class Found:
    """What was in the file, and what tells the file from another of the same name."""

    raw: bytes
    inode: tuple[int, int]
    mtime_ns: int

    @property
    def holder(self) -> Holder | None:
        """Who holds the lock; None for a damaged file."""
        return Holder.read(self.raw)


def is_lock(path: Path) -> bool:
    """Tell whether a file is a lock of dwiml's, whole or as a crash leaves it: empty, cut, or of zeros."""
    try:
        found = look(path)
    except OSError:
        return False
    if found is None or found.holder is not None:
        return True
    begin = found.raw[: len(_BEGIN)].rstrip(b"\0")
    return _BEGIN.startswith(begin)


def age_s(path: Path, found: Found) -> float:
    """Return the seconds since the last sign of life, by the clock of the disk (a server's may differ from ours)."""
    handle, probe = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        os.utime(handle)
        return (os.fstat(handle).st_mtime_ns - found.mtime_ns) / 1e9
    finally:
        os.close(handle)
        with suppress(OSError):
            os.unlink(probe)


def look(path: Path) -> Found | None:
    """Return what is in the file; None without one. OSError for what is not a regular file, or cannot be read."""
    try:
        handle = os.open(path, os.O_RDONLY | _CAREFULLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise NotALockError(errno.ELOOP, "it is a symbolic link") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotALockError(errno.EINVAL, "it is not a regular file")
        return _found(handle)
    finally:
        os.close(handle)


def _found(handle: int) -> Found:
    status = os.fstat(handle)
    return Found(os.pread(handle, 1 << 16, 0), (status.st_dev, status.st_ino), status.st_mtime_ns)


def _is_at(handle: int, path: Path) -> bool:
    """Tell whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _flock(handle: int, *, wait_s: float = 1.0) -> bool:
    """Lock an open file until it is closed; False when another keeps it locked. A disk that has no locks passes."""
    limit = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            # Others hold it for as long as they look at the file.
            if time.monotonic() > limit:
                return False
            time.sleep(_PAUSE_S)
        except OSError as error:
            if error.errno not in _NO_SUCH_LOCKS:
                raise
            return True


def create(path: Path, me: Holder) -> bool:
    """Make the file; False when there is one, or when it was taken for a damaged one before it was written."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    except FileExistsError:
        return False
    try:
        if not _flock(handle):
            return False
        content = json.dumps(asdict(me), indent=2).encode() + b"\n"
        try:
            if os.write(handle, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        except OSError:
            if _is_at(handle, path):
                path.unlink()
            raise
        return _is_at(handle, path)
    finally:
        os.close(handle)


@contextmanager
def alone_with(path: Path) -> Iterator[Found | None]:
    """Give what is in the file, which until the end of the block nobody else removes; None: it is not to be had."""
    try:
        # Servers want it writable for flock; the file of another user may not be.
        handle = os.open(path, (os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY) | _CAREFULLY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield _found(handle) if _flock(handle) and _is_at(handle, path) else None
    finally:
        os.close(handle)


def remove(path: Path, judged: Found) -> bool:
    """Remove the very file that was judged; False when it is not there any more, or has changed."""
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with alone_with(path) as found:
        if found != judged:
            return False
        try:
            os.rename(path, hidden)
        except FileNotFoundError:
            return False
        moved = look(hidden)
        is_judged = moved is not None and (moved.raw, moved.inode) == (judged.raw, judged.inode)
        if not is_judged:
            # Only on a disk without flock. A link does not replace the lock of a third process.
            with suppress(FileExistsError):
                os.link(hidden, path)
        hidden.unlink()
        return is_judged
