"""The local log of each experiment: ``logs/metrics.jsonl``, with one line (a JSON object) per epoch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dwiml.files import open_regular, parse_json, reason_of
from dwiml.training.reporting.loggers.base import Logger, plain_epoch, plain_metrics
from dwiml.training.reporting.loggers.lines_file import (
    MOST_BYTES,
    append_lines,
    lines_of,
    read_content,
    rewrite,
)

METRICS_FILE = Path("logs") / "metrics.jsonl"
# An integer of JSON can be larger, and a number such as 1e999 is read as infinity.
_LARGEST = sys.float_info.max
_MOST_EPOCHS = 10**7

logger = logging.getLogger(__name__)


class LocalLogger(Logger):
    """Appends one line per epoch to ``logs/metrics.jsonl`` in the experiment folder.

    Parameters
    ----------
    folder
        The experiment folder. It and ``logs/`` are created with the first line.

    Notes
    -----
    Each line is written by one ``write`` call, followed by ``fsync``. Before the next line is added, invalid lines are
    removed: an incomplete line after a crash of the machine, and lines of epochs that are repeated.

    A line that cannot be written (a full disk) is kept in memory and in the checkpoints, with one warning; it is
    written, in its place, with the next line or at the end.

    The state in a checkpoint is a position in the file, and a digest of the content up to it: a resumed run truncates
    the file there. If the file has changed since, or is missing, a warning is logged, and its lines of these epochs are
    kept.

    The file is never opened through a symbolic link, and a file with a second name (a hard link) is rewritten.
    Parameters are not written here but to ``parameters.json``.
    """

    name = "local"

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / METRICS_FILE
        # Lines that are not in the file yet, by epoch, in order.
        self._pending: dict[int, str] = {}
        self._has_warned = False
        # Used for a checkpoint if the file cannot be read.
        self._position = _position(b"")

    def log_parameters(self, params: Mapping[str, Any]) -> None:
        """Do nothing: the trainer writes ``parameters.json``."""

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Append one line, after those that could not be written before.

        Raises
        ------
        ValueError
            If a value is not a single finite number (JSON has neither NaN nor Infinity). Nothing is written then.
        """
        epoch = plain_epoch(epoch)
        record = {"epoch": epoch, **plain_metrics(metrics, epoch)}
        line = json.dumps(record, allow_nan=False)
        self._pending = {each: text for each, text in self._pending.items() if each < epoch} | {epoch: line}
        try:
            self._write_pending()
        except OSError as error:
            self._warn(error)
        else:
            self._has_warned = False

    @property
    def pending(self) -> bool:
        """Whether there are lines that could not be written yet."""
        return bool(self._pending)

    def retry(self) -> bool:
        """Retry to write pending lines; return whether all lines are now in the file."""
        with suppress(OSError):
            self._write_pending()
        return not self._pending

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the file, and the lines that are not in it yet."""
        with suppress(OSError):
            self._position = _position(b"".join(self._kept(read_content(self.path))))
        return {**self._position, "pending": list(self._pending.values())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Truncate the file to its position in a checkpoint, and write the lines that were pending then.

        Raises
        ------
        ValueError
            If the state is not one of this logger.
        OSError
            If the file must be truncated and cannot be written.
        """
        check_local_state(state)
        self._pending = {}
        content, size = read_content(self.path), state["size"]
        kept = content[:size]
        if hashlib.sha256(kept).hexdigest() != state["sha256"]:
            kept = self._kept_of_changed(content, size, state["last_epoch"])
        if kept != content:
            rewrite(self.path, kept)
        self._position = _position(kept)
        self._pending = {json.loads(line)["epoch"]: line for line in state["pending"]}
        try:
            self._write_pending()
        except OSError as error:
            self._warn(error)

    def close(self) -> str | None:
        """Write pending lines; log an error that names the epochs that could not be written."""
        try:
            self._write_pending()
        except OSError as error:
            logger.error(
                "The log '%s' ends without %s (%s); checkpoints written since then hold the missing lines.",
                self.path,
                _epochs(self._pending),
                reason_of(error),
            )
        return None

    def _write_pending(self) -> None:
        if not self._pending:
            return
        content = read_content(self.path)
        kept = b"".join(self._kept(content))
        lines = "".join(f"{line}\n" for line in self._pending.values()).encode()
        if kept != content:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            rewrite(self.path, kept)
        append_lines(self.path, lines, sync=True)
        self._position, self._pending = _position(kept + lines), {}

    def _kept_of_changed(self, content: bytes, size: int, last_epoch: int | None) -> bytes:
        """Warn that the file has changed since the checkpoint; return its lines of the epochs before."""
        lines = [] if last_epoch is None else [line for line in lines_of(content) if _stays(line, last_epoch + 1)]
        kept = b"".join(lines)
        exists = os.path.lexists(self.path)
        how = "was deleted" if not exists else "has become shorter" if len(content) < size else "has changed"
        logger.warning(
            "The log '%s' %s since the checkpoint was written: %d lines of the epochs before it are kept.",
            self.path,
            how,
            len(lines),
        )
        return kept

    def _kept(self, content: bytes) -> list[bytes]:
        """Return the whole lines of the epochs before the first pending one."""
        first = next(iter(self._pending), None)
        return [line for line in lines_of(content) if _stays(line, first)]

    def _warn(self, error: OSError) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        logger.warning(
            "The log '%s' cannot be written (%s); %s is kept in memory and will be written with the next one.",
            self.path,
            reason_of(error),
            _epochs(self._pending),
        )


def read_metrics(experiment: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the ``logs/metrics.jsonl`` of an experiment, also while a training is writing it.

    Parameters
    ----------
    experiment
        The experiment folder.

    Returns
    -------
    list of dict
        One dictionary per epoch, in order: ``epoch`` (an integer, from 0) and the metrics by name. If an epoch appears
        more than once, its last line is used. An incomplete last line is ignored.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such folder, or no log in it.
    ValueError
        If a line is not a JSON object with an epoch, or has a number too large for a float; the message names the file
        and the line.
    """
    folder = Path(experiment)
    if not folder.exists():
        raise FileNotFoundError(f"Experiment folder '{folder}' does not exist.")
    if not folder.is_dir():
        raise NotADirectoryError(f"'{folder}' is a file, not an experiment folder; give the folder.")
    path = folder / METRICS_FILE
    if not os.path.lexists(path):
        raise FileNotFoundError(
            f"'{folder}' has no {METRICS_FILE}: it is not an experiment folder, or no epoch is finished yet."
        )
    with open_regular(path, "The log") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"The log '{path}' is larger than {MOST_BYTES / 1e6:.0f} MB, the limit for a log of dwiml.")
    lines = content.split(b"\n")
    half_line = lines.pop()
    records = [_parse(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]
    if half_line.strip():
        records.extend(_parse_half(half_line, path, len(lines) + 1))
    by_epoch = {record["epoch"]: record for record in records}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def check_local_state(state: Any) -> None:
    """Check a state of :meth:`LocalLogger.state_dict`, which may come from an untrusted file.

    Raises
    ------
    ValueError
        If it is invalid.
    """
    if type(state) is not dict or state.keys() != {"size", "sha256", "last_epoch", "pending"}:
        raise ValueError("The local log's state must have 'size', 'sha256', 'last_epoch' and 'pending'.")
    size, digest, last, pending = (state[name] for name in ("size", "sha256", "last_epoch", "pending"))
    if type(size) is not int or not 0 <= size <= MOST_BYTES:
        raise ValueError(f"The local log's 'size' must be a number of bytes, got {size!r}.")
    if type(digest) is not str or len(digest) != 64 or not (last is None or type(last) is int):
        raise ValueError("The local log's state must have a SHA-256 and the last epoch's number.")
    if type(pending) is not list or not all(type(line) is str and "\n" not in line for line in pending):
        raise ValueError("The local log's 'pending' must be a list of lines.")
    try:
        epochs = [json.loads(line)["epoch"] for line in pending]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("The local log's pending lines must be JSON objects, each with its epoch.") from error
    if not all(type(epoch) is int for epoch in epochs) or sorted(set(epochs)) != epochs:
        raise ValueError("The local log's pending lines must have unique epochs, in order.")


def _parse_half(line: bytes, path: Path, number: int) -> list[dict[str, Any]]:
    # A line that is being written starts like a JSON object; otherwise (a binary file), this is not a log.
    starts_well = line.lstrip().startswith(b"{") and b"\0" not in line
    # After complete lines, however, a crash of the machine may leave anything.
    if number > 1 or starts_well:
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            return []
    return [_parse(line, path, number)]


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"Line {number} of '{path}' is not valid JSON ({reason_of(error)}); fix or remove it."
        ) from error
    if not isinstance(record, dict) or type(record.get("epoch")) is not int:
        raise ValueError(f"Line {number} of '{path}' must be an object with an integer 'epoch'; fix or remove it.")
    for name, value in record.items():
        if type(value) in (int, float) and not -_LARGEST <= value <= _LARGEST:
            raise ValueError(f"'{name}' in line {number} of '{path}' is too large a number; fix or remove that line.")
    if not 0 <= record["epoch"] < _MOST_EPOCHS:
        raise ValueError(f"The epoch in line {number} of '{path}' is negative or too large; fix or remove that line.")
    return record


def _position(content: bytes) -> dict[str, Any]:
    return {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "last_epoch": _last_epoch(content),
    }


def _last_epoch(content: bytes) -> int | None:
    for line in reversed(lines_of(content)):
        try:
            epoch = json.loads(line)["epoch"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if type(epoch) is int:
            return epoch
    return None


def _stays(line: bytes, first: int | None) -> bool:
    if not line.endswith(b"\n"):
        return False
    if first is None:
        return True
    # A line that cannot be parsed is kept for the user to inspect: read_metrics names it.
    try:
        return bool(json.loads(line)["epoch"] < first)
    except (ValueError, KeyError, TypeError, RecursionError):
        return True


def _epochs(pending: Iterable[int]) -> str:
    epochs = list(pending)
    return f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
