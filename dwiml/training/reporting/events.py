"""The local log of events, ``logs/events.jsonl``: one line (a JSON object) for each start, checkpoint or stop."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from dwiml.files import open_regular, parse_json, reason_of
from dwiml.training.reporting.loggers.lines_file import MOST_BYTES, append_lines, check_size, size_of
from dwiml.training.state import Position

EVENTS_FILE = Path("logs") / "events.jsonl"
START, RESUME, EPOCH_END, CHECKPOINT, WARNING, STOP, FAILURE, END = EVENTS = (
    "start",
    "resume",
    "epoch",
    "checkpoint",
    "warning",
    "stop",
    "failure",
    "end",
)
"""The kinds of events. A run begins with ``start`` or ``resume``; one that was killed has no last event of its own."""

DONE = "epochs_done"
"""The field of ``start`` and ``resume`` with the number of epochs done, and the part of the one in progress."""
# Characters of an error.
_LONGEST = 2000

logger = logging.getLogger(__name__)


class EventLog:
    """Appends lines to ``logs/events.jsonl`` in the experiment folder.

    All runs of an experiment are in it: nothing is removed when it is resumed. A line that cannot be written is lost,
    with one warning.

    Parameters
    ----------
    folder
        The experiment folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / EVENTS_FILE
        self._may_write: Callable[[], bool] = _never
        self._has_warned = False

    @contextmanager
    def recording(self, planned: type[BaseException], may_write: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Record within the block: what is added, the warnings of dwiml, and the error that ends the block, if any.

        Parameters
        ----------
        planned
            Class of the exception that ends a block without being a failure.
        may_write
            Function that returns whether the experiment still belongs to this process.
        """
        handler = _Warnings(self)
        ours = logging.getLogger("dwiml")
        ours.addHandler(handler)
        self._may_write = may_write
        try:
            yield
        except planned:
            raise
        except BaseException as error:
            self.add(FAILURE, f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST].rstrip(": "))
            raise
        finally:
            ours.removeHandler(handler)
            self._may_write = _never

    def add(self, event: str, text: str, **fields: Any) -> None:
        """Add an event; does nothing outside :meth:`recording`.

        Parameters
        ----------
        event
            One of :data:`EVENTS`.
        text
            The sentence that the user sees.
        **fields
            More values, of JSON types.
        """
        if not self._may_write():
            return
        record = {"time": datetime.now().astimezone().isoformat(timespec="seconds"), "event": event, **fields}
        line = json.dumps({**record, "text": text}, allow_nan=False).encode()
        try:
            self._write(line)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                logger.warning("The log '%s' cannot be written (%s).", self.path, reason_of(error))

    def _write(self, line: bytes) -> None:
        size = size_of(self.path) or 0
        check_size(size + len(line))
        # After a crash of the machine, the last line may be incomplete.
        begins = size == 0 or _last_byte(self.path) == b"\n"
        append_lines(self.path, (b"" if begins else b"\n") + line + b"\n", sync=False)


def _never() -> bool:
    return False


class _Warnings(logging.Handler):
    """Records the warnings of dwiml as events."""

    def __init__(self, events: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        # The warning that this log cannot be written.
        if record.name != __name__:
            self._events.add(WARNING, record.getMessage())
        # Python prints warnings itself if no handler is installed; this handler must not prevent that.
        if logging.lastResort is not None and set(_handlers_of(logging.getLogger(record.name))) == {self}:
            logging.lastResort.handle(record)


def _handlers_of(log: logging.Logger | None) -> Iterator[logging.Handler]:
    """Yield the handlers that get the records of a logger."""
    while log is not None:
        yield from log.handlers
        log = log.parent if log.propagate else None


def note_checkpoint(events: EventLog, position: Position, *, written: bool, seconds: float) -> None:
    """Add the event of a checkpoint, and the time that it took."""
    where = f"epoch {position.epoch}" + (f", {position.phase}, batch {position.batch}" if position.is_inside else "")
    text = f"Checkpoint {'written' if written else 'NOT written'} at {where}, in {seconds:.2f} s."
    events.add(CHECKPOINT, text, epoch=position.epoch, batch=position.batch, seconds=round(seconds, 3))


def read_events(experiment: Path) -> list[dict[str, Any]]:
    """Return the events of an experiment, in order; empty if it has none. Lines that are not events are left out.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, or is not a regular file.
    """
    path = experiment / EVENTS_FILE
    if not os.path.lexists(path):
        return []
    with open_regular(path, "The log") as stream:
        content = stream.read(MOST_BYTES)
    found = []
    for line in content.split(b"\n"):
        with suppress(ValueError, RecursionError):
            record = parse_json(line)
            if type(record) is dict and all(type(record.get(name)) is str for name in ("time", "event", "text")):
                found.append(record)
    return found


def _last_byte(path: Path) -> bytes:
    with open_regular(path, follow_links=False) as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1)
