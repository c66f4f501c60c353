"""Files of tensors: what ``torch.save`` writes, with a digest; read so that a stranger's file can do no harm."""

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

# The file is what torch.save writes, a zip archive; its SHA-256 is the archive's comment, the last bytes of the file.
# So torch.load and unzip read it as it is. torch itself checks no checksum of what it reads.
KINDS = ("checkpoint", "weights")
_LABEL = re.compile(rb"dwiml (checkpoint|weights)\s+sha256:")
_SIZE_FIELD = COMMENT_SIZE.to_bytes(2, "little")
_NO_COMMENT = bytes(2)
_CHUNK = 1 << 22


def write_tensors(content: Any, stream: IO[bytes], *, kind: str) -> None:
    """Write to a new file what torch.save writes, with its SHA-256 as the archive's comment.

    Parameters
    ----------
    content
        Plain values and tensors (see :func:`check_plain`; it is not checked here).
    stream
        Empty, and can seek.
    kind
        One of :data:`KINDS`, for whoever looks at the file.
    """
    hashed = _Hashed(stream)
    torch.save(content, cast("IO[bytes]", hashed))
    # An archive ends in the size of its comment.
    stream.seek(-len(_SIZE_FIELD), io.SEEK_CUR)
    label = f"dwiml {kind:<10} sha256:".encode()
    stream.write(_SIZE_FIELD + label + hashed.digest())


def read_tensors(
    path: str | os.PathLike[str], what: str, *, advice: str = "", most_bytes: int | None = None
) -> tuple[Any, bool]:
    """Read a file of plain values and tensors, onto the CPU; it cannot run code, nor take more memory than its size.

    Parameters
    ----------
    path
        The file; links are followed, devices and pipes are not read.
    what
        How the sentences of errors begin: ``"Checkpoint"``.
    advice
        What to do about a damaged one; empty where the caller says it.
    most_bytes
        The largest file that is read; None for any.

    Returns
    -------
    content
        What was saved.
    has_digest
        Whether the file ends in a digest (which it then agrees with). One of ``torch.save`` has none.

    Raises
    ------
    FileNotFoundError, OSError
        When it is missing, or the system refuses it.
    ValueError
        When it is no regular file, is damaged, is too large, or holds anything but plain values and tensors.
    """
    path = Path(path)
    then = f"; {advice}" if advice else ""
    with open_regular(path, what) as stream:
        size = stream.seek(0, io.SEEK_END)
        if most_bytes is not None and size > most_bytes:
            raise ValueError(
                f"{what} '{path}' does not fit: it has {_megabytes(size)}, more than the {_megabytes(most_bytes)} "
                "that this model can need."
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
            raise ValueError(f"{what} '{path}' does not fit into this machine's memory.") from error
        except Exception as error:
            # torch's own words advise to load it in a way that runs code.
            reason = str(error) if isinstance(error, NotPlainError) else type(error).__name__
            raise ValueError(
                f"{what} '{path}' holds more than plain values and tensors, or is not from torch.save ({reason}); "
                "it is not loaded."
            ) from error
    raise AssertionError("open_regular hides no error")


def check_plain(content: Any) -> None:
    """Check that what is about to be written could be read again; it is tried on a copy without the tensors.

    Raises
    ------
    ValueError
        When it holds anything but plain values and tensors.
    """
    stream = io.BytesIO()
    torch.save(_without_tensors(content), stream)
    check_archive(stream, stream.tell(), comment_size=0)
    stream.seek(0)
    torch.load(stream, weights_only=True)


def ends_in_digest(path: Path) -> bool:
    """Tell whether a file ends as those of dwiml do, without a look at the rest."""
    try:
        with open_regular(path) as stream:
            stream.seek(-COMMENT_SIZE, io.SEEK_END)
            return _LABEL.match(stream.read()) is not None
    except (OSError, ValueError):
        return False


def _check_digest(stream: IO[bytes], size: int, *, what: str, then: str) -> bool:
    """Compare the file with the digest that it ends in, if any; raise ValueError when any bit of it has changed."""
    if not size:
        raise ValueError(f"{what} is damaged: it is empty{then}.")
    left = size - COMMENT_SIZE - len(_SIZE_FIELD)
    stream.seek(max(left, 0))
    end = stream.read(COMMENT_SIZE + len(_SIZE_FIELD))
    found = _LABEL.match(end[len(_SIZE_FIELD) :])
    if left < 0 or found is None or not end.startswith(_SIZE_FIELD):
        # Without any comment it may be what torch.save wrote; with another one it is a digest that has changed.
        if end.endswith(_NO_COMMENT):
            return False
        raise ValueError(f"{what} is damaged, or was not written by dwiml: it does not end in a digest{then}.")
    digest = hashlib.sha256()
    stream.seek(0)
    # A file that shrinks meanwhile has another digest.
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
        return {key: _without_tensors(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return [_without_tensors(each) for each in value]
    return value


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


class _Hashed:
    """A stream for torch.save, which computes the digest of what passes."""

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
