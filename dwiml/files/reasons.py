"""Explain why a file could not be opened, read or written."""

from __future__ import annotations

import errno
import os
import re

# HDF5 includes the error number of the system in its message.
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
    errno.ELOOP: "it is a symbolic link, or its links are circular",
    errno.ENOMEM: "not enough memory",
}
_LOCKED = (
    "it is locked by another process, or this disk does not support file locks; wait until that process ends, or set "
    "the environment variable HDF5_USE_FILE_LOCKING=FALSE"
)


def errno_of(error: BaseException) -> int | None:
    """Return the system's error number of an error, which HDF5 gives in its message only; None if there is none."""
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    found = _ERRNO_IN_TEXT.search(str(error)) if isinstance(error, (OSError, RuntimeError)) else None
    return int(found.group(1)) if found else None


def reason_of(error: BaseException) -> str:
    """Return the reason of an error: one line, without a capital letter and without a full stop.

    If the system could not access the file (no permission, too many open files, a lock, a full disk), the reason also
    says what to do. Otherwise, it is the message of the error.
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
    """Return whether the system refused access to a file, which is then not reported as damaged."""
    if _LOCK_IN_TEXT in str(error):
        return True
    number = errno_of(error)
    # EIO means a failing disk; EINVAL, EFAULT and EOVERFLOW mean a damaged file read by HDF5.
    return number is not None and number not in (errno.EIO, errno.EINVAL, errno.EFAULT, errno.EOVERFLOW)


def _lower_first(text: str) -> str:
    # Abbreviations, such as CRC, stay in capitals.
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
