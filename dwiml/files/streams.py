"""Make standard output and standard error robust: failing to print never stops a computation."""

from __future__ import annotations

import atexit
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple


class SafeStream:
    """A text stream that ignores failures, such as a full disk, a pipe whose reader has ended, or a closed stream.

    Text that cannot be written is lost, and the first error is kept in :attr:`error`. Characters that the encoding of
    the stream cannot represent are escaped.

    Parameters
    ----------
    find
        Returns the stream to write to, or None if it was closed before the program started.

    Attributes
    ----------
    error
        The first error; None if all text was written.
    """

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write text if possible; return its number of characters."""
        self._attempt(lambda stream: _write(stream, text))
        return len(text)

    def flush(self) -> None:
        """Flush the buffer if possible."""
        if self._find() is not None:
            self._attempt(lambda stream: stream.flush())

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        stream = self._find()
        try:
            return stream is not None and bool(stream.isatty())
        except ValueError:
            # The stream is closed.
            return False

    def __getattr__(self, name: str) -> Any:
        # Other attributes of the stream, such as its encoding.
        return getattr(self._find(), name)

    def _attempt(self, act: Callable[[Any], object]) -> None:
        stream = self._find()
        try:
            if stream is None:
                raise OSError(errno.EBADF, "it is closed")
            act(stream)
        except (OSError, ValueError) as error:
            if self.error is None:
                self.error = error if isinstance(error, OSError) else OSError(errno.EBADF, "it is closed")
                atexit.register(_discard_buffer, stream)


class GuardedStreams(NamedTuple):
    """The streams that replace ``sys.stdout`` and ``sys.stderr``."""

    out: SafeStream
    err: SafeStream


safe_stderr = SafeStream(lambda: sys.stderr)
"""Writes to the current ``sys.stderr``."""


@contextmanager
def guarded_streams() -> Iterator[GuardedStreams]:
    """Ignore errors of printing within the block. Nested calls have no further effect.

    Yields
    ------
    GuardedStreams
        The streams that replace ``sys.stdout`` and ``sys.stderr``.
    """
    if isinstance(sys.stdout, SafeStream) and isinstance(sys.stderr, SafeStream):
        yield GuardedStreams(sys.stdout, sys.stderr)
        return
    fill_missing_descriptors()
    out, err = sys.stdout, sys.stderr
    guarded = GuardedStreams(SafeStream(lambda: out), SafeStream(lambda: err))
    sys.stdout, sys.stderr = guarded
    try:
        yield guarded
    finally:
        guarded.out.flush()
        guarded.err.flush()
        sys.stdout, sys.stderr = out, err


def _write(stream: Any, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def fill_missing_descriptors() -> None:
    """Open /dev/null for each closed standard stream, so that no file of the user gets its descriptor."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # os.open returns the lowest free descriptor, which is this one.
            os.open(os.devnull, os.O_RDWR)


def _discard_buffer(stream: Any) -> None:
    """Discard the buffer at exit; otherwise Python would try to write it again, and exit with code 120."""
    with suppress(OSError, ValueError, AttributeError):
        try:
            stream.flush()
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)
