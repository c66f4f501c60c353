"""The log that every experiment has: ``logs/metrics.jsonl``, one JSON object a line, one line an epoch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from dwiml.files import written_whole
from dwiml.training.loggers.base import plain_epoch, plain_metrics

METRICS_FILE = Path("logs") / "metrics.jsonl"


class LocalLogger:
    """Appends a line an epoch to ``logs/metrics.jsonl`` in the experiment's folder.

    Parameters
    ----------
    folder
        The experiment's folder. It and ``logs/`` are made when the first line is written.

    Notes
    -----
    A line is one ``write`` call, then on the disk (fsync). What cannot stay is removed before the next line is added:
    a part of a line, left by a crash of the machine, and the lines of epochs that are run again.
    Parameters are not written here: they are in ``parameters.json``.
    """

    name: str = "local"

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / METRICS_FILE

    def log_parameters(self, params: Mapping[str, Any]) -> None:
        """Do nothing: the trainer writes ``parameters.json``."""

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Append one line.

        Raises
        ------
        ValueError
            For a value that is not one finite number (JSON has neither NaN nor Infinity). Nothing is then written.
        OSError
            When the line could not be written whole (a full disk). The part that was written is removed.
        """
        epoch = plain_epoch(epoch)
        record = {"epoch": epoch, **plain_metrics(metrics, epoch)}
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        content = self.path.read_bytes() if self.path.exists() else b""
        kept = b"".join(each for each in content.splitlines(keepends=True) if self._stays(each, epoch))
        if kept != content:
            self._rewrite(kept)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            _append(descriptor, line, self.path)
        finally:
            os.close(descriptor)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole lines of the file, so that a checkpoint and the log always agree."""
        content = self.path.read_bytes() if self.path.exists() else b""
        return {"lines": content.decode().split("\n")[:-1]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rewrite the file (whole or not at all) with the lines of a checkpoint."""
        if set(state) != {"lines"}:
            raise ValueError(f"The local log's state must have the key 'lines' only, got {sorted(state)}.")
        self._rewrite("".join(f"{line}\n" for line in state["lines"]).encode())

    def close(self) -> str | None:
        """Do nothing: every line is on the disk already."""
        return None

    def _stays(self, line: bytes, epoch: int) -> bool:
        # A line that cannot be read is for a person to look at: read_metrics names it.
        try:
            return line.endswith(b"\n") and bool(json.loads(line)["epoch"] < epoch)
        except (ValueError, KeyError, TypeError):
            return True

    def _rewrite(self, content: bytes) -> None:
        with written_whole(self.path) as stream:
            stream.write(content)


def read_metrics(experiment: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read an experiment's ``logs/metrics.jsonl``, also while a training is writing it.

    Parameters
    ----------
    experiment
        The experiment's folder.

    Returns
    -------
    list of dict
        One an epoch, in the epochs' order: ``epoch`` (an integer, from 0) and the metrics by name. Of an epoch that is
        there more than once, the last line counts. A last line that is only there in part is left out.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        When there is no such folder, or no log in it.
    ValueError
        When a line is not a JSON object with an epoch, or has a number too large for a float: file and line number
        are named.
    """
    folder = Path(experiment)
    if not folder.exists():
        raise FileNotFoundError(f"Experiment's folder '{folder}' does not exist.")
    if not folder.is_dir():
        raise NotADirectoryError(f"'{folder}' is not an experiment's folder but a file; give the folder.")
    path = folder / METRICS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"'{folder}' has no {METRICS_FILE}: it is not an experiment's folder, or no epoch is finished yet."
        )
    content = path.read_bytes()
    lines = content.split(b"\n")
    half_line = lines.pop()
    records = [_parse(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]
    if half_line.strip():
        records.extend(_parse_half(half_line, path, len(lines) + 1))
    by_epoch = {record["epoch"]: record for record in records}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _parse_half(line: bytes, path: Path, number: int) -> list[dict[str, Any]]:
    # A line being written begins as one does; anything else, a binary file for example, never was a log.
    begins_well = line.lstrip().startswith(b"{") and b"\0" not in line
    # But a crash of the machine may leave anything after lines that are whole.
    if number > 1 or begins_well:
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            return []
    return [_parse(line, path, number)]


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Line {number} of '{path}' is not valid JSON ({error}); mend or remove it.") from error
    if not isinstance(record, dict) or type(record.get("epoch")) is not int:
        raise ValueError(f"Line {number} of '{path}' must be an object with an integer 'epoch'; mend or remove it.")
    for name, value in record.items():
        if _is_too_large(value):
            raise ValueError(f"'{name}' in line {number} of '{path}' is too large a number; mend or remove that line.")
    return record


def _is_too_large(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not math.isfinite(value)
    except OverflowError:
        return True


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


def _append(descriptor: int, line: bytes, path: Path) -> None:
    size = os.fstat(descriptor).st_size
    if os.write(descriptor, line) != len(line):
        os.ftruncate(descriptor, size)
        raise OSError(f"A line of '{path}' could not be written whole; is the disk full?")
    os.fsync(descriptor)
