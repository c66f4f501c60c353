"""Checkpoints: whole or absent, and unable to run code."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import torch

from dwiml.files import written_whole
from dwiml.hdf5.schema import quoted

FORMAT_VERSION = 2
KEYS = frozenset(
    {
        "format_version",
        "parameters",
        "position",
        "model",
        "optimizer",
        "schedule",
        "scaler",
        "averaged_weights",
        "best",
        "loggers",
        "generators",
        "monitors",
    }
)
# Those whose content is always a dictionary.
DICTIONARIES = frozenset({"parameters", "position", "model", "optimizer", "schedule", "scaler", "best", "loggers"})
LATEST = "latest.pt"
PREVIOUS = "previous.pt"
DAMAGED = "damaged.pt"

# The file is what torch.save writes, a zip archive; its SHA-256 is the archive's comment, the last bytes of the file.
# So torch.load and unzip read it as it is. torch itself checks no checksum of what it reads.
_LABEL = b"dwiml checkpoint sha256:"
_COMMENT_SIZE = len(_LABEL) + 64
_SIZE_FIELD = _COMMENT_SIZE.to_bytes(2, "little")
_NO_COMMENT = bytes(2)
_CHUNK = 1 << 22

logger = logging.getLogger(__name__)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write ``latest.pt``; the one before becomes ``previous.pt``. At no moment is there none.

    Parameters
    ----------
    folder
        The experiment's ``checkpoint`` folder.
    state
        With the keys :data:`KEYS`, but the version, which is added.

    Raises
    ------
    ValueError
        When the state lacks a key, has an unknown one, or holds what :func:`load_checkpoint` would refuse.
    OSError
        When it cannot be written (a full disk). The checkpoints that are there stay as they are.
    """
    content = {"format_version": FORMAT_VERSION, **state}
    _check_content(content, "The new checkpoint")
    _check_plain(content)
    latest = folder / LATEST
    try:
        with written_whole(latest, before_naming=lambda: _keep_previous(folder)) as stream:
            write_with_digest(content, stream)
    except OSError as error:
        reason = _reason(error)
        failure = OSError(f"Checkpoint '{latest}' could not be written ({reason}); those before it stay as they were.")
        failure.errno = error.errno
        raise failure from error


def save_or_warn(folder: Path, state: dict[str, Any]) -> bool:
    """Write a checkpoint as :func:`save_checkpoint` does; on a full disk, warn and leave it at that.

    Returns
    -------
    bool
        Whether it was written.

    Raises
    ------
    ValueError
        As :func:`save_checkpoint`.
    """
    try:
        save_checkpoint(folder, state)
    except OSError as error:
        # What the system said: the sentence of save_checkpoint is for those who stop here.
        reason = _reason(error.__cause__ or error)
        logger.warning(
            "%s: checkpoint '%s' not written, %s; trying again at the next.",
            reason[:1].upper() + reason[1:],
            folder / LATEST,
            _what_stays(folder),
        )
        return False
    return True


def write_with_digest(content: Any, stream: IO[bytes]) -> None:
    """Write to a new file what torch.save writes, with its SHA-256 as the archive's comment; nothing is checked."""
    hashed = _Hashed(stream)
    torch.save(content, cast("IO[bytes]", hashed))
    # An archive ends in the size of its comment.
    stream.seek(-len(_SIZE_FIELD), io.SEEK_CUR)
    stream.write(_SIZE_FIELD + _LABEL + hashed.digest())


def has_checkpoint(folder: Path) -> bool:
    """Tell whether there is anything to resume from."""
    return (folder / LATEST).exists() or (folder / PREVIOUS).exists()


def checkpoint_stamp(folder: Path) -> tuple[int, int] | None:
    """Return what changes when another checkpoint is written: the file's number and time; None without a checkpoint."""
    for name in (LATEST, PREVIOUS):
        with suppress(FileNotFoundError):
            status = (folder / name).stat()
            return status.st_ino, status.st_mtime_ns
    return None


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read ``latest.pt``, or ``previous.pt`` with a warning when the latest cannot be used.

    A latest one that cannot be used is renamed ``damaged.pt``.

    Raises
    ------
    FileNotFoundError
        When there is neither.
    ValueError
        When none of them can be used: damaged (its digest differs from its content), made by another version or
        program, or holding anything but plain values and tensors; the message says which.
    """
    if not has_checkpoint(folder):
        raise FileNotFoundError(f"No checkpoint in '{folder}': nothing to resume.")
    reasons = []
    for name in (LATEST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = _read(path)
        except ValueError as error:
            reasons.append(str(error).rstrip("."))
            continue
        if reasons:
            logger.warning("%s. %sGoing on from '%s', the one before.", reasons[0], _set_aside(folder), path)
        return state
    raise ValueError("; ".join(reasons) + ".")


def _keep_previous(folder: Path) -> None:
    """Give ``latest.pt`` the name ``previous.pt`` as well: a kill before the new one takes over leaves both names."""
    latest, previous, spare = folder / LATEST, folder / PREVIOUS, folder / f".{PREVIOUS}.tmp"
    if not latest.exists():
        return
    spare.unlink(missing_ok=True)
    try:
        os.link(latest, spare)
    except OSError:
        # A disk without hard links. A kill between this move and the next leaves the previous one to go on from.
        os.replace(latest, previous)
        return
    try:
        os.replace(spare, previous)
    finally:
        # A file is not moved onto another name of its own: after a kill both may be the same.
        spare.unlink(missing_ok=True)


def _set_aside(folder: Path) -> str:
    """Rename a damaged latest: the next checkpoint would put it in the place of the good one. Tell its new name."""
    with suppress(OSError):
        os.replace(folder / LATEST, folder / DAMAGED)
        return f"It is now '{folder / DAMAGED}'. "
    return ""


def _what_stays(folder: Path) -> str:
    for name in (LATEST, PREVIOUS):
        with suppress(OSError):
            written = time.localtime((folder / name).stat().st_mtime)
            return f"the one of {time.strftime('%Y-%m-%d %H:%M:%S', written)} stays"
    return "there is none yet"


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            _check_digest(stream, path)
            stream.seek(0)
            content = _load_plain(stream, path)
    except OSError as error:
        raise ValueError(f"Checkpoint '{path}' cannot be read ({_reason(error)}).") from error
    if type(content) is not dict:
        raise ValueError(f"Checkpoint '{path}' holds a {type(content).__name__}, not the state of a training.")
    version = content.get("format_version")
    if type(version) is int and version != FORMAT_VERSION:
        raise ValueError(f"Checkpoint '{path}' has format version {version}; this dwiml reads {FORMAT_VERSION}.")
    _check_content(content, f"Checkpoint '{path}'")
    return content


def _check_digest(stream: IO[bytes], path: Path) -> None:
    """Compare the file with the digest that it ends in; raise ValueError when any bit of it has changed."""
    size = stream.seek(0, io.SEEK_END)
    left = size - _COMMENT_SIZE - len(_SIZE_FIELD)
    stream.seek(max(left, 0))
    end = stream.read()
    if left < 0 or not end.startswith(_SIZE_FIELD + _LABEL):
        raise ValueError(
            f"Checkpoint '{path}' is damaged, or was written without a digest by an older dwiml (format version 1) or "
            f"by another program; this dwiml reads format version {FORMAT_VERSION} only."
        )
    digest = hashlib.sha256()
    stream.seek(0)
    while left > 0:
        # A file that shrinks meanwhile gives an empty chunk, and so a wrong digest.
        chunk = stream.read(min(left, _CHUNK)) or b"\0"
        digest.update(chunk)
        left -= len(chunk)
    digest.update(_NO_COMMENT)
    if end != _SIZE_FIELD + _LABEL + digest.hexdigest().encode():
        raise ValueError(f"Checkpoint '{path}' is damaged: its content does not match its digest.")


def _load_plain(stream: IO[bytes], path: Path) -> Any:
    try:
        return torch.load(stream, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # What is no checkpoint shows as any of a dozen errors of zip, pickle and torch.
        reason = type(error).__name__
        raise ValueError(
            f"Checkpoint '{path}' holds more than plain values and tensors, or is no file of torch ({reason})."
        ) from error


def _check_content(content: dict[str, Any], what: str) -> None:
    missing, unknown = KEYS - content.keys(), content.keys() - KEYS
    if missing or unknown:
        # A key from a stranger may be anything, a line break included.
        strange = sorted(" ".join(str(each).split())[:80] for each in unknown)
        raise ValueError(
            f"{what} does not fit: missing keys: {quoted(sorted(missing))}; unknown: {quoted(strange, limit=10)}."
        )
    if type(content["format_version"]) is not int:
        raise ValueError(f"{what} has no number as its format version but a {_kind(content['format_version'])}.")
    for key in sorted(DICTIONARIES & KEYS):
        if not isinstance(content[key], dict):
            raise ValueError(f"{what} must have a dictionary as '{key}', got a {_kind(content[key])}.")


def _check_plain(content: dict[str, Any]) -> None:
    """Refuse to write what could not be read again; it is found out on a copy with empty tensors, which is small."""
    for key, value in content.items():
        stream = io.BytesIO()
        torch.save(_without_tensors(value), stream)
        stream.seek(0)
        try:
            torch.load(stream, weights_only=True)
        except Exception as error:
            raise ValueError(
                f"The new checkpoint's '{key}' must hold plain values and tensors only, to be read again without "
                f"running code; it has something else ({type(error).__name__})."
            ) from error


def _without_tensors(value: Any) -> Any:
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        return None
    if type(value) in (dict, OrderedDict):
        return {key: _without_tensors(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return [_without_tensors(each) for each in value]
    return value


def _kind(value: Any) -> str:
    return type(value).__name__


def _reason(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror).lower() if strerror else " ".join(str(error).split())


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
