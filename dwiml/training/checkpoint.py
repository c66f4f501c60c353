"""Checkpoints: whole or absent, and unable to run code."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from dwiml.files import written_whole
from dwiml.hdf5.schema import quoted

FORMAT_VERSION = 1
KEYS = frozenset(
    {"format_version", "parameters", "next_epoch", "model", "optimizer", "best", "loggers", "torch_rng", "cuda_rng"}
)
LATEST = "latest.pt"
PREVIOUS = "previous.pt"
DAMAGED = "damaged.pt"

logger = logging.getLogger(__name__)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write ``latest.pt``; the one before becomes ``previous.pt``. At no moment is there none.

    Parameters
    ----------
    folder
        The experiment's ``checkpoint`` folder.
    state
        With the keys :data:`KEYS`, but the version, which is added.
    """
    content = {"format_version": FORMAT_VERSION, **state}
    _check_keys(content, "the new checkpoint")
    latest = folder / LATEST
    if latest.exists():
        # A second name for the same file, not a move: a kill here leaves both.
        spare = folder / f".{PREVIOUS}.tmp"
        spare.unlink(missing_ok=True)
        try:
            os.link(latest, spare)
        except OSError:
            with written_whole(spare) as stream:
                stream.write(latest.read_bytes())
        os.replace(spare, folder / PREVIOUS)
    with written_whole(latest) as stream:
        torch.save(content, stream)


def has_checkpoint(folder: Path) -> bool:
    """Tell whether there is anything to resume from."""
    return (folder / LATEST).exists() or (folder / PREVIOUS).exists()


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read ``latest.pt``, or ``previous.pt`` with a warning when the latest is damaged.

    Raises
    ------
    FileNotFoundError
        When there is neither.
    ValueError
        When none of them can be used; the message says why.
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
            reasons.append(str(error))
            continue
        if reasons:
            # Out of the way: the next checkpoint would put it in the place of the good one.
            os.replace(folder / LATEST, folder / DAMAGED)
            logger.warning(
                "%s It is now '%s'. Going on from '%s', an epoch earlier.", reasons[0], folder / DAMAGED, path
            )
        return state
    raise ValueError(" ".join(reasons))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damage shows as any of a dozen errors of zip, pickle and torch; all mean the same to the user.
        reason = type(error).__name__
        raise ValueError(f"Checkpoint '{path}' is damaged or holds more than plain values ({reason}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"Checkpoint '{path}' holds a {type(content).__name__}, not the state of a training.")
    _check_keys(content, f"checkpoint '{path}'")
    if content["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"Checkpoint '{path}' has format version {content['format_version']}; this dwiml reads {FORMAT_VERSION}."
        )
    return content


def _check_keys(content: dict[str, Any], what: str) -> None:
    missing, unknown = KEYS - content.keys(), content.keys() - KEYS
    if missing or unknown:
        raise ValueError(f"In {what}, missing keys: {quoted(sorted(missing))}; unknown: {quoted(sorted(unknown))}.")
