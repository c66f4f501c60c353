"""Checkpoint files: written atomically, and read without running code."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch

from dwiml.arguments import kind_shown, quoted
from dwiml.files import atomic_write, reason_of
from dwiml.files.archive import NotPlainError
from dwiml.files.tensors import as_plain, read_tensors, write_tensors

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
# States registered by the script; absent if there are none.
REGISTERED = "registered"
# Keys whose value is always a dictionary.
DICTIONARIES = frozenset({"parameters", "position", "model", "optimizer", "schedule", "scaler", "best", "loggers"})
LATEST = "latest.pt"
PREVIOUS = "previous.pt"
DAMAGED = "damaged.pt"

# Room for the model, the optimizer's moments and averaged weights; and for registered states and plain values.
_COPIES = 12
_BYTES_OF_THE_REST = 2**30

logger = logging.getLogger(__name__)


def save_checkpoint(folder: Path, state: dict[str, Any], *, max_bytes: int | None = None) -> None:
    """Write ``latest.pt`` atomically; the previous one becomes ``previous.pt``, so that there is always a checkpoint.

    Parameters
    ----------
    folder
        The ``checkpoint`` folder of the experiment.
    state
        The values of all :data:`KEYS` except the version, which is added.
    max_bytes
        As in :func:`load_checkpoint`, which would refuse a larger file.

    Raises
    ------
    ValueError
        As :func:`readable`. The existing checkpoints are unchanged.
    OSError
        If it cannot be written (a full disk). The existing checkpoints are unchanged.
    """
    content = readable(state, max_bytes=max_bytes)
    latest = folder / LATEST
    try:
        with atomic_write(latest, before_naming=lambda: _keep_previous(folder), follow_links=False) as stream:
            write_tensors(content, stream, kind="checkpoint")
    except OSError as error:
        reason = reason_of(error)
        failure = OSError(f"Checkpoint '{latest}' could not be written ({reason}); the previous ones are unchanged.")
        failure.errno = error.errno
        raise failure from error


def save_or_warn(folder: Path, state: dict[str, Any], *, max_bytes: int | None = None) -> bool:
    """Write a checkpoint with :func:`save_checkpoint`; if the disk refuses it, only warn.

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
        save_checkpoint(folder, state, max_bytes=max_bytes)
    except OSError as error:
        # The system's own message; that of save_checkpoint is for callers that stop here.
        reason = reason_of(error.__cause__ or error)
        logger.warning(
            "%s: checkpoint '%s' not written, %s; the next one will be tried.",
            reason[:1].upper() + reason[1:],
            folder / LATEST,
            _last_written(folder),
        )
        return False
    return True


def readable(state: dict[str, Any], *, max_bytes: int | None = None) -> dict[str, Any]:
    """Return the content of a checkpoint, after checking that :func:`load_checkpoint` would accept it.

    Raises
    ------
    ValueError
        If the state lacks a key, has an unknown one, is larger than ``max_bytes``, or holds anything other than plain
        values and tensors.
    """
    content = {"format_version": FORMAT_VERSION, **state}
    _check_content(content, "The new checkpoint")
    return cast("dict[str, Any]", as_saved(content, "The new checkpoint", max_bytes=max_bytes))


def as_saved(content: Any, what: str, *, max_bytes: int | None = None) -> Any:
    """Return a state, or a part of it, as :func:`~dwiml.files.tensors.as_plain` does.

    Parameters
    ----------
    content
        The state.
    what
        Beginning of the error message.
    max_bytes
        As in :func:`load_checkpoint`.

    Raises
    ------
    ValueError
        If it could not be read again; the message has the keys that lead to the wrong value.
    """
    try:
        return as_plain(content, max_bytes=max_bytes)
    except NotPlainError as error:
        raise ValueError(
            f"{what} cannot be saved ({error}): a state may hold only numbers, strings, dense tensors, and lists and "
            "dictionaries of them, which can be read without running code."
        ) from error


def has_checkpoint(folder: Path) -> bool:
    """Return whether there is a checkpoint to resume from."""
    return any(os.path.lexists(folder / name) for name in (LATEST, PREVIOUS))


def checkpoint_stamp(folder: Path) -> tuple[int, int] | None:
    """Return the inode and time of the latest checkpoint, which identify it; None if there is no checkpoint."""
    for name in (LATEST, PREVIOUS):
        with suppress(FileNotFoundError):
            status = (folder / name).lstat()
            return status.st_ino, status.st_mtime_ns
    return None


def max_bytes_for(model: torch.nn.Module) -> int:
    """Return the largest size in bytes that a checkpoint of a model can have, so that no file takes more memory."""
    own = sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))
    return _COPIES * own + _BYTES_OF_THE_REST


def load_checkpoint(folder: Path, *, max_bytes: int | None = None, resuming: bool = True) -> dict[str, Any]:
    """Read ``latest.pt``, or ``previous.pt`` with a warning if the latest is damaged.

    When resuming, a damaged ``latest.pt`` is renamed ``damaged.pt``; otherwise nothing is changed. If the system cannot
    open it (no permission, too many open files), it may still be good: it stays in place, and ``previous.pt`` is not
    used instead.

    Parameters
    ----------
    folder
        The ``checkpoint`` folder of the experiment.
    max_bytes
        Maximum size of the file (see :func:`max_bytes_for`); None for any size.
    resuming
        Whether a training will continue from the checkpoint, and write others.

    Returns
    -------
    dict
        The value of each of :data:`KEYS`; tensors are on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    OSError
        If the system cannot open the latest checkpoint.
    ValueError
        If no checkpoint can be used. The message gives the reason: it is damaged (its digest does not match its
        content), was written by another version or program, or holds more than plain values and tensors.
    """
    if not has_checkpoint(folder):
        raise FileNotFoundError(f"No checkpoint in '{folder}'{': nothing to resume' if resuming else ''}.")
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
            use = f"{_set_aside(folder)}Resuming from" if resuming else "Loaded instead:"
            logger.warning("%s. %s the previous one, '%s'.", reasons[0], use, path)
        return state
    raise ValueError(f"{'; '.join(reasons)}. Restore a copy of it, or start another experiment.")


def _keep_previous(folder: Path) -> None:
    """Link ``latest.pt`` as ``previous.pt`` too: after a kill at this point, both names are there."""
    latest, previous, spare = folder / LATEST, folder / PREVIOUS, folder / f".{PREVIOUS}.tmp"
    if not latest.exists():
        return
    spare.unlink(missing_ok=True)
    try:
        os.link(latest, spare)
    except OSError:
        # A disk without hard links. After a kill at this point, previous.pt is there to resume from.
        os.replace(latest, previous)
        return
    try:
        os.replace(spare, previous)
    finally:
        # os.replace does nothing if both names are the same file, as they may be after a kill.
        spare.unlink(missing_ok=True)


def _set_aside(folder: Path) -> str:
    """Rename a damaged ``latest.pt``, so that it never replaces a good ``previous.pt``; return a sentence about it."""
    with suppress(OSError):
        os.replace(folder / LATEST, folder / DAMAGED)
        return f"It is now '{folder / DAMAGED}'. "
    return ""


def _last_written(folder: Path) -> str:
    for name in (LATEST, PREVIOUS):
        with suppress(OSError):
            written = time.localtime((folder / name).stat().st_mtime)
            return f"the one of {time.strftime('%Y-%m-%d %H:%M:%S', written)} is kept"
    return "no earlier one exists"


def _read(path: Path, max_bytes: int | None) -> dict[str, Any]:
    what = f"Checkpoint '{path}'"
    content, has_digest = read_tensors(path, "Checkpoint", max_bytes=max_bytes)
    if type(content) is not dict:
        raise ValueError(f"{what} holds {kind_shown(content)}, not the state of a training.")
    version = content.get("format_version")
    if type(version) is int and version < FORMAT_VERSION:
        raise ValueError(
            f"{what} was written by an older dwiml (format version {version}; this one reads {FORMAT_VERSION}): finish "
            "that training with the version recorded in its parameters.json, or start another experiment. Its best "
            "model can still be used."
        )
    if type(version) is int and version > FORMAT_VERSION:
        raise ValueError(f"{what} has format version {version}; this dwiml reads {FORMAT_VERSION}: use a newer dwiml.")
    _check_content(content, what)
    if not has_digest:
        raise ValueError(f"{what} has no digest: it was not written by dwiml, or is damaged.")
    return content


def _check_content(content: dict[str, Any], what: str) -> None:
    missing, unknown = KEYS - content.keys(), content.keys() - KEYS - {REGISTERED}
    if missing or unknown:
        # A key of an untrusted file may be anything, including a line break.
        strange = sorted(" ".join(str(each).split())[:80] for each in unknown)
        raise ValueError(
            f"{what} has wrong keys: missing: {quoted(sorted(missing))}; unknown: {quoted(strange, limit=10)}."
        )
    version = content["format_version"]
    if type(version) is not int:
        raise ValueError(f"{what} must have a number as its format version, got {kind_shown(version)}.")
    for key in sorted((DICTIONARIES & KEYS) | ({REGISTERED} & content.keys())):
        if not isinstance(content[key], dict):
            raise ValueError(f"{what} must have a dictionary as '{key}', got {kind_shown(content[key])}.")
