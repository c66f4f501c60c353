"""Why a file could not be opened, read or written, in words that help."""

from __future__ import annotations

import errno
import os
import re

# HDF5 reports the system's error number inside its message.
_ERRNO_IN_TEXT = re.compile(r"errno = (\d+)")
_LOCK_IN_TEXT = "unable to lock file"
_ADVICE = {
    errno.EMFILE: "too many files are open in this process; raise the limit with 'ulimit -n', or use fewer workers",
    errno.ENFILE: "too many files are open on this machine",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "your disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.ELOOP: "it is a symbolic link, or a circle of them",
    errno.ENOMEM: "not enough memory",
}
_LOCKED = (
    "another process has locked it, or this disk has no file locks; wait until that process ends, or set the "
    "environment variable HDF5_USE_FILE_LOCKING=FALSE"
)


def errno_of(error: BaseException) -> int | None:
    """Return the system's error number of an error, also where HDF5 only has it in its text; None without one."""
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    found = _ERRNO_IN_TEXT.search(str(error)) if isinstance(error, (OSError, RuntimeError)) else None
    return int(found.group(1)) if found else None


def reason_of(error: BaseException) -> str:
    """Return why something failed: one line, without a capital and without a full stop.

    Where the system refused (no permission, too many open files, a lock, a full disk), it says so and what to do;
    otherwise it is the error's own message on one line.
    """
    text = " ".join(str(error).split())
    if _LOCK_IN_TEXT in text:
        return _LOCKED
    number = errno_of(error)
    if number in _ADVICE:
        return _ADVICE[number]
    if number is not None and number in errno.errorcode:
        return _lower_first(os.strerror(number))
    return _lower_first(text.rstrip(".")) or type(error).__name__


def is_refusal(error: BaseException) -> bool:
    """Tell whether the system refused a file (whose content may be in order), so that it is not called damaged."""
    if _LOCK_IN_TEXT in str(error):
        return True
    number = errno_of(error)
    # EIO comes from a failing disk, EINVAL and EFAULT from a damaged file read through HDF5.
    return number is not None and number not in (errno.EIO, errno.EINVAL, errno.EFAULT, errno.EOVERFLOW)


def _lower_first(text: str) -> str:
    # Not of an abbreviation, such as CRC.
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
