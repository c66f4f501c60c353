"""Checkpoints: whole or absent, and unable to run code."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dwiml.arguments import quoted
from dwiml.files import atomic_write, reason_of
from dwiml.files.archive import NotPlainError
from dwiml.files.tensors import check_plain, read_tensors, write_tensors

FORMAT_VERSION = 3
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
# What a script has registered; absent where it has registered nothing.
REGISTERED = "registered"
# Those whose content is always a dictionary.
DICTIONARIES = frozenset({"parameters", "position", "model", "optimizer", "schedule", "scaler", "best", "loggers"})
LATEST = "latest.pt"
PREVIOUS = "previous.pt"
DAMAGED = "damaged.pt"

# Beside the model itself: moments of the optimizer, averaged weights, and the rest in plain values.
_COPIES = 12
_BYTES_OF_THE_REST = 64 * 2**20

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
        with atomic_write(latest, before_naming=lambda: _keep_previous(folder), follow_links=False) as stream:
            write_tensors(content, stream, kind="checkpoint")
    except OSError as error:
        reason = reason_of(error)
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
        reason = reason_of(error.__cause__ or error)
        logger.warning(
            "%s: checkpoint '%s' not written, %s; trying again at the next.",
            reason[:1].upper() + reason[1:],
            folder / LATEST,
            _what_stays(folder),
        )
        return False
    return True


def has_checkpoint(folder: Path) -> bool:
    """Tell whether there is anything to resume from."""
    return any(os.path.lexists(folder / name) for name in (LATEST, PREVIOUS))


def checkpoint_stamp(folder: Path) -> tuple[int, int] | None:
    """Return what changes when another checkpoint is written: the file's number and time; None without a checkpoint."""
    for name in (LATEST, PREVIOUS):
        with suppress(FileNotFoundError):
            status = (folder / name).lstat()
            return status.st_ino, status.st_mtime_ns
    return None


def max_bytes_for(model: torch.nn.Module) -> int:
    """Return how large a checkpoint of a model can be: nobody's file makes a resume take more memory than that."""
    own = sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))
    return _COPIES * own + _BYTES_OF_THE_REST


def load_checkpoint(folder: Path, *, max_bytes: int | None = None) -> dict[str, Any]:
    """Read ``latest.pt``, or ``previous.pt`` with a warning when the latest cannot be used.

    A latest one that cannot be used is renamed ``damaged.pt``. One that the system refuses (no permission, too many
    open files) may be in order: it stays where it is, and nothing else is used in its place.

    Parameters
    ----------
    folder
        The experiment's ``checkpoint`` folder.
    max_bytes
        The largest file that is read (see :func:`max_bytes_for`); None for any.

    Raises
    ------
    FileNotFoundError
        When there is neither.
    OSError
        When the system refuses the latest, with its reason.
    ValueError
        When none of them can be used: damaged (its digest differs from its content), made by another version or
        program, or holding anything but plain values and tensors; the message says which.
    """
    if not has_checkpoint(folder):
        raise FileNotFoundError(f"No checkpoint in '{folder}': nothing to resume.")
    reasons = []
    for name in (LATEST, PREVIOUS):
        path = folder / name
        if not os.path.lexists(path):
            continue
        try:
            state = _read(path, max_bytes)
        except (ValueError, IsADirectoryError, FileNotFoundError) as error:
            reasons.append(str(error).rstrip("."))
            continue
        if reasons:
            logger.warning("%s. %sGoing on from '%s', the one before.", reasons[0], _set_aside(folder), path)
        return state
    raise ValueError(f"{'; '.join(reasons)}. Bring back a copy of it, or start another experiment.")


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


def _read(path: Path, max_bytes: int | None) -> dict[str, Any]:
    what = f"Checkpoint '{path}'"
    content, has_digest = read_tensors(path, "Checkpoint", max_bytes=max_bytes)
    if type(content) is not dict:
        raise ValueError(f"{what} holds a {type(content).__name__}, not the state of a training.")
    version = content.get("format_version")
    if type(version) is int and version < FORMAT_VERSION:
        raise ValueError(
            f"{what} was written by an older dwiml (format version {version}; this one reads {FORMAT_VERSION}): finish "
            "that training with the version in its parameters.json, or start another experiment. Its best model can "
            "still be used."
        )
    if type(version) is int and version > FORMAT_VERSION:
        raise ValueError(f"{what} has format version {version}; this dwiml reads {FORMAT_VERSION}: use a newer one.")
    _check_content(content, what)
    if not has_digest:
        raise ValueError(f"{what} is without a digest: it was not written by dwiml, or is damaged.")
    return content


def _check_content(content: dict[str, Any], what: str) -> None:
    missing, unknown = KEYS - content.keys(), content.keys() - KEYS - {REGISTERED}
    if missing or unknown:
        # A key from a stranger may be anything, a line break included.
        strange = sorted(" ".join(str(each).split())[:80] for each in unknown)
        raise ValueError(
            f"{what} does not fit: missing keys: {quoted(sorted(missing))}; unknown: {quoted(strange, limit=10)}."
        )
    if type(content["format_version"]) is not int:
        raise ValueError(f"{what} has no number as its format version but a {_kind(content['format_version'])}.")
    for key in sorted((DICTIONARIES & KEYS) | ({REGISTERED} & content.keys())):
        if not isinstance(content[key], dict):
            raise ValueError(f"{what} must have a dictionary as '{key}', got a {_kind(content[key])}.")


def _check_plain(content: dict[str, Any]) -> None:
    """Refuse to write what could not be read again."""
    for key, value in content.items():
        try:
            check_plain(value)
        except Exception as error:
            reason = str(error) if isinstance(error, NotPlainError) else type(error).__name__
            raise ValueError(
                f"The new checkpoint's '{key}' must hold plain values and tensors only, to be read again without "
                f"running code; it has something else ({reason})."
            ) from error


def _kind(value: Any) -> str:
    return type(value).__name__
