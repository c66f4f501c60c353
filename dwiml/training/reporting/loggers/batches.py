"""The local log of batches: ``logs/batches.jsonl``, with one line (a JSON object) for every few training batches."""

from __future__ import annotations

import itertools
import json
import logging
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dwiml.arguments import counted, quoted
from dwiml.files import reason_of
from dwiml.training.reporting.loggers.base import Logger
from dwiml.training.reporting.loggers.lines_file import MOST_BYTES, LinesFile, lines_of, read_content
from dwiml.training.reporting.metrics import BATCH, EPOCH, STEP

BATCHES_FILE = Path("logs") / "batches.jsonl"
_STATE = {"size", "sha256", "step", "pending"}
# What each line has.
_PLACE = (EPOCH, BATCH, STEP)
# Lines that are parsed at once.
_AT_ONCE = 2_000
_INVALID = (ValueError, TypeError, OverflowError, RecursionError)

logger = logging.getLogger(__name__)


class BatchLog(Logger):
    """Appends lines to ``logs/batches.jsonl`` in the experiment folder.

    Parameters
    ----------
    folder
        The experiment folder. It and ``logs/`` are created with the first line.

    Notes
    -----
    The state in a checkpoint is a position in the file: a resumed run cuts the file back to it, so that no batch
    appears twice. Lines that cannot be written (a full disk) are kept in memory and in the checkpoints, with one
    warning, and are written, in their place, with the next ones.
    """

    name = "batches"

    def __init__(self, folder: Path) -> None:
        self._file = LinesFile(folder / BATCHES_FILE)
        # The number of batches trained so far, in all epochs.
        self._step = 0
        # Epoch and index of the last batch in a line; none before the first one.
        self._last = (-1, -1)
        self.is_placed = False
        self._pending: list[str] = []
        self._has_warned = False

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Do nothing: epochs are in another file."""

    def log_batches(self, records: Sequence[Mapping[str, float]]) -> None:
        """Append one line per record; none of them fails the training."""
        self._pending += [json.dumps(dict(record), allow_nan=False) for record in records]
        if records:
            last = records[-1]
            self._step, self._last = int(last[STEP]), (int(last[EPOCH]), int(last[BATCH]))
        self._write_pending()

    @property
    def step(self) -> int:
        """The number of batches trained so far, up to the last record."""
        return self._step

    def next_batch(self, epoch: int) -> int:
        """Return the index of the first batch of an epoch that is in no line yet."""
        return self._last[1] + 1 if self._last[0] == epoch else 0

    def place(self, step: int, epoch: int, batch: int) -> None:
        """Go on after other batches than those of the log, which was off or did not exist: keep its lines before them.

        Parameters
        ----------
        step
            Number of batches trained so far, in all epochs.
        epoch, batch
            Where the training goes on: the epoch, and the number of batches done in it.
        """
        self.is_placed = True
        self._step, self._last = step, (epoch, batch - 1)
        try:
            content = read_content(self._file.path)
            kept = b"".join(line for line in lines_of(content) if _is_before(line, step))
            if kept != content:
                self._file.keep(kept, content)
        except OSError as error:
            self._warn(error)

    def begin_anew(self) -> None:
        """Remove the lines of an earlier run that was killed before its first checkpoint."""
        self.is_placed = True
        try:
            content = read_content(self._file.path)
            if content:
                self._file.keep(b"", content)
        except OSError as error:
            self._warn(error)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the file, and the lines that are not in it yet."""
        self._write_pending()
        try:
            position = self._file.position()
        except OSError as error:
            self._warn(error)
            position = {"size": 0, "sha256": ""}
        return {**position, "step": self._step, "pending": list(self._pending)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut the file back to its position in a checkpoint.

        Raises
        ------
        ValueError
            If the state is not one of this logger.
        """
        check_batches_state(state)
        self._step, self._pending = state["step"], list(state["pending"])
        try:
            if not self._file.cut_to(state["size"], state["sha256"]):
                self._keep_up_to(state["step"])
        except OSError as error:
            self._warn(error)
        self._last, self.is_placed = self._place_of_last(), True
        self._write_pending()

    def _place_of_last(self) -> tuple[int, int]:
        if self._pending:
            line = self._pending[-1].encode()
        else:
            try:
                line = next(iter(lines_of(read_content(self._file.path))[-1:]), b"")
            except OSError:
                line = b""
        if _step_of(line) is None:
            return -1, -1
        record = json.loads(line)
        return record[EPOCH], record[BATCH]

    def close(self) -> str | None:
        """Write pending lines; log an error if they cannot be written."""
        self._write_pending()
        if self._pending:
            missing = counted(len(self._pending), "line")
            logger.error("The log '%s' ends without its last %s.", self._file.path, missing)
        return None

    def _keep_up_to(self, step: int) -> None:
        """Keep the lines before a checkpoint in a file that has changed since."""
        content = read_content(self._file.path)
        kept = [line for line in lines_of(content) if _is_before(line, step)]
        logger.warning(
            "The log '%s' has changed since the checkpoint was written: %s of the batches before it kept.",
            self._file.path,
            f"{counted(len(kept), 'line')} {'is' if len(kept) == 1 else 'are'}",
        )
        self._file.keep(b"".join(kept), content)

    def _write_pending(self) -> None:
        try:
            self._file.append(self._pending)
        except OSError as error:
            self._warn(error)
        else:
            self._pending, self._has_warned = [], False

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "The log '%s' cannot be written (%s); its lines are kept in memory and written later.",
                self._file.path,
                reason_of(error),
            )


def check_batches_state(state: Any) -> None:
    """Check a state of :meth:`BatchLog.state_dict`, which may come from an untrusted file.

    Raises
    ------
    ValueError
        If it is invalid.
    """
    if type(state) is not dict or state.keys() != _STATE:
        raise ValueError("The state of the log of batches must have 'size', 'sha256', 'step' and 'pending'.")
    size, digest, step, pending = (state[name] for name in ("size", "sha256", "step", "pending"))
    if type(size) is not int or not 0 <= size <= MOST_BYTES or type(digest) is not str:
        raise ValueError("The state of the log of batches must have a number of bytes and their SHA-256.")
    if type(step) is not int or step < 0:
        raise ValueError(f"The step of the log of batches must be a number of batches, got {step!r}.")
    if type(pending) is not list or not all(type(line) is str and _step_of(line.encode()) for line in pending):
        raise ValueError("The pending lines of the log of batches must be JSON objects, each with its step.")
    if any("\n" in line for line in pending):
        raise ValueError("The pending lines of the log of batches must not contain line breaks.")


def read_batches(experiment: str | os.PathLike[str]) -> dict[str, NDArray[np.float64]]:
    """Read the ``logs/batches.jsonl`` of an experiment, also while a training is writing it.

    Parameters
    ----------
    experiment
        The experiment folder.

    Returns
    -------
    dict
        For ``epoch``, ``batch`` (index of the last batch of a line in its epoch, from 0), ``step`` (number of batches
        so far in all epochs) and each metric: its values, shape (L,), float64, for the lines in the order of the
        batches; NaN where a line lacks the metric. If a batch appears more than once, its last line is used. Without a
        log, the arrays are empty. An incomplete last line is ignored.

    Raises
    ------
    ValueError
        If a line is not a JSON object of numbers with these three; the message names the file and the line.
    OSError
        If the file cannot be read.
    """
    path = Path(experiment) / BATCHES_FILE
    lines = read_content(path).split(b"\n")[:-1]
    parts = [_columns(lines[start : start + _AT_ONCE], path, start) for start in range(0, len(lines), _AT_ONCE)]
    names = [*_PLACE, *sorted({name for part in parts for name in part} - set(_PLACE))]
    columns = {}
    for name in names:
        values = [part.get(name, np.full(len(part[EPOCH]), np.nan)) for part in parts]
        columns[name] = np.concatenate([np.zeros(0), *values])
    # Stable, so that of equal batches the last one stays.
    order = np.lexsort((columns[BATCH], columns[EPOCH]))
    epoch, batch = columns[EPOCH][order], columns[BATCH][order]
    is_last = np.append((epoch[1:] != epoch[:-1]) | (batch[1:] != batch[:-1]), [True] * bool(len(order)))
    kept = order[is_last.astype(bool)]
    return {name: values[kept] for name, values in columns.items()}


def records_after(experiment: Path, step: int) -> list[dict[str, float]]:
    """Return the lines of :func:`read_batches` after a number of batches, each as a dictionary."""
    columns = read_batches(experiment)
    return [
        {
            name: int(values[row]) if name in _PLACE else float(values[row])
            for name, values in columns.items()
            if not np.isnan(values[row])
        }
        for row in np.flatnonzero(columns[STEP] > step)
    ]


def _columns(lines: Sequence[bytes], path: Path, first: int) -> dict[str, NDArray[np.float64]]:
    """Return the values of consecutive lines by name; `first` is the index of the first of them in the file."""
    try:
        # Much faster than one line at a time.
        return _parsed(b"[" + b",".join(lines) + b"]")
    except _INVALID:
        for number, line in enumerate(lines, start=first + 1):
            try:
                _parsed(b"[" + line + b"]")
            except _INVALID as error:
                raise ValueError(
                    f"Line {number} of '{path}' is not an object of numbers with {quoted(_PLACE)} "
                    f"({reason_of(error)}); fix or remove it."
                ) from error
        raise


def _parsed(text: bytes) -> dict[str, NDArray[np.float64]]:
    records = json.loads(text, parse_constant=_refuse)
    if set(map(type, records)) - {dict}:
        raise TypeError("it is not an object")
    names = dict.fromkeys(itertools.chain.from_iterable(records))
    columns = {name: np.array(_values(records, name), dtype=np.float64) for name in names}
    if any(name not in columns or np.isnan(columns[name]).any() for name in _PLACE):
        raise ValueError("one of them is missing")
    return columns


def _values(records: Sequence[dict[str, Any]], name: str) -> list[Any]:
    try:
        # Nearly all lines have the same names, and this is faster.
        return list(map(operator.itemgetter(name), records))
    except KeyError:
        return [record.get(name, np.nan) for record in records]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


def _is_before(line: bytes, step: int) -> bool:
    found = _step_of(line)
    return line.endswith(b"\n") and found is not None and found <= step


def _step_of(line: bytes) -> int | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    complete = type(record) is dict and all(type(record.get(name)) is int for name in (EPOCH, BATCH, STEP))
    return record[STEP] if complete else None
