"""The standard output and error as streams that may be full, closed, or a pipe that has ended: work continues."""

from __future__ import annotations

import atexit
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple


class SafeStream:
    """A text stream for people to read, whose failures stop nothing.

    A disk that is full, a pipe whose reader has ended, a stream that is closed: what cannot be written is lost, and
    the first failure is kept in :attr:`error`. Characters that the stream's encoding lacks are written as escapes.

    Parameters
    ----------
    find
        Returns the stream to write to; None where there is none (closed before the program began).

    Attributes
    ----------
    error
        Why something could not be written; None when all was.
    """

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write, if that is possible; return how many characters were given."""
        self._attempt(lambda stream: _write(stream, text))
        return len(text)

    def flush(self) -> None:
        """Pass on what is buffered, if that is possible."""
        if self._find() is not None:
            self._attempt(lambda stream: stream.flush())

    def isatty(self) -> bool:
        """Tell whether a person looks at it."""
        stream = self._find()
        try:
            return stream is not None and bool(stream.isatty())
        except ValueError:
            # Closed.
            return False

    def __getattr__(self, name: str) -> Any:
        # What else a stream has: its encoding, its number.
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
                atexit.register(_drop_what_is_left, stream)


class GuardedStreams(NamedTuple):
    """What stands in the place of ``sys.stdout`` and ``sys.stderr``."""

    out: SafeStream
    err: SafeStream


safe_stderr = SafeStream(lambda: sys.stderr)
"""Whatever ``sys.stderr`` is at the moment."""


@contextmanager
def guarded_streams() -> Iterator[GuardedStreams]:
    """Within the block, let nothing that is printed raise; a second guard inside the first changes nothing."""
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
    """Open /dev/null where a standard stream was closed: or a file of the user's would take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free.
            os.open(os.devnull, os.O_RDWR)


def _drop_what_is_left(stream: Any) -> None:
    """At Python's end: it would write what is buffered once more, complain, and leave with exit code 120."""
    with suppress(OSError, ValueError, AttributeError):
        try:
            stream.flush()
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)
