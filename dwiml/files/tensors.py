"""Write files of tensors with a digest, and read them so that an untrusted file can do no harm."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, cast

import torch

from dwiml.files.archive import COMMENT_SIZE, NotPlainError, check_archive
from dwiml.files.opening import explained, open_regular

# The file is a zip archive written by torch.save, and its SHA-256 (FIPS 180-4) is the archive comment, at its
# end. It can therefore be read by torch.load and unzip. torch itself does not verify any checksum.
KINDS = ("checkpoint", "weights")
_LABEL = re.compile(rb"dwiml (checkpoint|weights)\s+sha256:")
_SIZE_FIELD = COMMENT_SIZE.to_bytes(2, "little")
_NO_COMMENT = bytes(2)
_CHUNK = 1 << 22


def write_tensors(content: Any, stream: IO[bytes], *, kind: str) -> None:
    """Write a file with ``torch.save``, with its SHA-256 as the archive comment.

    Parameters
    ----------
    content
        Plain values and tensors, which are not checked; see :func:`check_plain`.
    stream
        An empty seekable file.
    kind
        One of :data:`KINDS`, recorded in the comment.
    """
    hashed = _Hashed(stream)
    torch.save(content, cast("IO[bytes]", hashed))
    # The last field of an archive is the size of its comment.
    stream.seek(-len(_SIZE_FIELD), io.SEEK_CUR)
    label = f"dwiml {kind:<10} sha256:".encode()
    stream.write(_SIZE_FIELD + label + hashed.digest())


def read_tensors(
    path: str | os.PathLike[str], what: str, *, advice: str = "", max_bytes: int | None = None
) -> tuple[Any, bool]:
    """Read a file of plain values and tensors to the CPU. It cannot run code or use more memory than its size.

    Parameters
    ----------
    path
        The file; links are followed, devices and pipes are refused.
    what
        Beginning of error messages, for instance ``"Checkpoint"``.
    advice
        What to do about a damaged file; empty if the caller adds it.
    max_bytes
        Maximum size of the file, in bytes; None for any size.

    Returns
    -------
    content
        The saved object.
    has_digest
        Whether the file has a digest, which was verified. Files written by ``torch.save`` alone have none.

    Raises
    ------
    FileNotFoundError, OSError
        If the file is missing or cannot be opened.
    ValueError
        If it is not a regular file, is damaged or too large, or holds anything other than plain values and tensors.
    """
    path = Path(path)
    then = f"; {advice}" if advice else ""
    with open_regular(path, what) as stream:
        size = stream.seek(0, io.SEEK_END)
        if max_bytes is not None and size > max_bytes:
            raise ValueError(
                f"{what} '{path}' has {_megabytes(size)}, but this model needs {_megabytes(max_bytes)} at most; give "
                "the file of this model."
            )
        has_digest = _check_digest(stream, size, what=f"{what} '{path}'", then=then)
        try:
            check_archive(stream, size, comment_size=COMMENT_SIZE if has_digest else 0)
            stream.seek(0)
            return torch.load(stream, map_location="cpu", weights_only=True), has_digest
        except OSError as error:
            with explained(path, what):
                raise error
        except MemoryError as error:
            raise ValueError(f"{what} '{path}' does not fit in the memory of this machine.") from error
        except Exception as error:
            # torch's own message suggests loading the file in a way that runs code.
            reason = str(error) if isinstance(error, NotPlainError) else type(error).__name__
            raise ValueError(
                f"{what} '{path}' was not loaded: it holds other objects than plain values and tensors, or was not "
                f"written by torch.save ({reason})."
            ) from error
    raise AssertionError("open_regular does not suppress errors")


def check_plain(content: Any) -> None:
    """Check that an object could be read by :func:`read_tensors`, on a copy without its tensors.

    Raises
    ------
    ValueError
        If it holds anything other than plain values and tensors.
    """
    stream = io.BytesIO()
    torch.save(_without_tensors(content), stream)
    check_archive(stream, stream.tell(), comment_size=0)
    stream.seek(0)
    torch.load(stream, weights_only=True)


def ends_in_digest(path: Path) -> bool:
    """Return whether a file ends with a digest of dwiml, without verifying it."""
    try:
        with open_regular(path) as stream:
            stream.seek(-COMMENT_SIZE, io.SEEK_END)
            return _LABEL.match(stream.read()) is not None
    except (OSError, ValueError):
        return False


def _check_digest(stream: IO[bytes], size: int, *, what: str, then: str) -> bool:
    """Verify the digest at the end of the file, if there is one; return whether there is one."""
    if not size:
        raise ValueError(f"{what} is damaged: it is empty{then}.")
    left = size - COMMENT_SIZE - len(_SIZE_FIELD)
    stream.seek(max(left, 0))
    end = stream.read(COMMENT_SIZE + len(_SIZE_FIELD))
    found = _LABEL.match(end[len(_SIZE_FIELD) :])
    if left < 0 or found is None or not end.startswith(_SIZE_FIELD):
        # torch.save itself writes no comment; any other comment is a modified digest.
        if end.endswith(_NO_COMMENT):
            return False
        raise ValueError(f"{what} is damaged, or was not written by dwiml: it does not end with a digest{then}.")
    digest = hashlib.sha256()
    stream.seek(0)
    # If the file shrinks in the meantime, the digest differs.
    while left > 0 and (chunk := stream.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    digest.update(_NO_COMMENT)
    if end[len(_SIZE_FIELD) + found.end() :] != digest.hexdigest().encode():
        raise ValueError(f"{what} is damaged: its content does not match its digest{then}.")
    return True


def _without_tensors(value: Any) -> Any:
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        return None
    if type(value) in (dict, OrderedDict):
        return {key: _without_tensors(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_without_tensors(item) for item in value]
    return value


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


class _Hashed:
    """A stream for torch.save that computes the digest of the bytes written."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()

    def digest(self) -> bytes:
        return self._digest.hexdigest().encode()
