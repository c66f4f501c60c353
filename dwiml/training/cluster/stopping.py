"""Stopping a training in time: signals, and a limit on the time that it may take."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dwiml.training.settings import TrainerSettings

MAX_TIME = "max_time"
# What may be wanted between two steps; the highest of all ranks counts.
NOTHING, SAVE, STOP = 0, 1, 2

# What a program cannot catch, what means that it is broken, and what torch's DataLoader needs for itself.
_UNUSABLE = frozenset({"SIGKILL", "SIGSTOP", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGCHLD"})
_FORMS = '"MM", "MM:SS", "HH:MM:SS", "D-HH", "D-HH:MM" or "D-HH:MM:SS"'
_TIME = r"[0-9]{1,9}(-[0-9]{1,9})?(:[0-9]{1,9}){0,2}"
_IMPORTED = time.monotonic()

logger = logging.getLogger(__name__)


class TrainingInterrupted(SystemExit):
    """Raised by the trainer after a signal, once the checkpoint is written.

    A script that does nothing about it leaves with this exit code and no traceback; run again, it goes on from where
    it was.

    Parameters
    ----------
    reason
        The signal's name, for instance ``"SIGTERM"``.
    code
        The process' exit code: 128 + the signal's number, as shells have it.
    """

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason, code)
        self.reason = reason
        self.code = code

    def __str__(self) -> str:
        return f"The training was interrupted by {self.reason} (exit code {self.code})."


class Requests:
    """What a training is asked for between two steps: to stop, by a signal or because its time is over; a checkpoint.

    As a context manager it handles SIGTERM, SIGINT (Ctrl-C), SIGHUP (a terminal that is closed; not under ``nohup``)
    and ``stop_signal``, and at its end gives them back to who had them before. The first signal is remembered, and the
    training is expected to look at :attr:`requested` after each step; a second SIGINT raises KeyboardInterrupt at once.
    Python lets only the main thread handle signals: in another one, only the time counts.

    Parameters
    ----------
    stop_signal
        One more signal, for instance that of SLURM's ``--signal=USR1@120``; None for none.
    max_time
        As :func:`parse_max_time` takes it, from the start of the process on: the time for loading the data counts.
        None for no limit.
    checkpoint_minutes
        After how many minutes without a checkpoint one is wanted; None for never.

    Attributes
    ----------
    reason
        ``"SIGTERM"``, ``"SIGINT"``, ..., ``"max_time"`` or, as long as nothing was asked, None. The first one stays.

    Raises
    ------
    ValueError
        For a signal that does not exist or cannot be used, or a time in no known form.
    """

    def __init__(
        self,
        *,
        stop_signal: str | None = "SIGUSR1",
        max_time: str | None = None,
        checkpoint_minutes: float | None = None,
    ) -> None:
        self.reason: str | None = None
        self._checkpoint_seconds = float("inf") if checkpoint_minutes is None else 60 * checkpoint_minutes
        self._last_checkpoint = time.monotonic()
        self._stop_signal = check_stop_signal(stop_signal)
        self._max_seconds = None if max_time is None else parse_max_time(max_time)
        self._nb_sigint = 0
        self._previous: dict[signal.Signals, Any] = {}

    @classmethod
    def of(cls, settings: TrainerSettings) -> Requests:
        """Return what a training with these settings may be asked for."""
        return cls(
            stop_signal=settings.stop_signal,
            max_time=settings.max_time,
            checkpoint_minutes=settings.checkpoint_minutes,
        )

    def __enter__(self) -> Requests:
        self.reason, self._nb_sigint = None, 0
        self.note_checkpoint()
        if threading.current_thread() is not threading.main_thread():
            logger.debug("Not in the main thread: no signal is handled.")
            return self
        hang_up = None if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else signal.SIGHUP
        for number in (signal.SIGTERM, signal.SIGINT, hang_up, self._stop_signal):
            if number is not None and number not in self._previous:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        while self._previous:
            number, previous = self._previous.popitem()
            # None: it was no handler of Python's, and cannot be put back.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)

    @property
    def wanted(self) -> int:
        """:data:`STOP`, :data:`SAVE` (a checkpoint is due) or :data:`NOTHING`."""
        if self.requested:
            return STOP
        return SAVE if time.monotonic() - self._last_checkpoint >= self._checkpoint_seconds else NOTHING

    def note_checkpoint(self) -> None:
        """Count the minutes to the next checkpoint from now on."""
        self._last_checkpoint = time.monotonic()

    @property
    def requested(self) -> bool:
        """Whether to stop: a signal came, or ``max_time`` is over."""
        if self.reason is None and self._max_seconds is not None and process_seconds() >= self._max_seconds:
            self.reason = MAX_TIME
        return self.reason is not None

    @property
    def exit_code(self) -> int:
        """What the process should leave with: 128 + the signal's number; 0 for ``max_time`` or when nothing came."""
        return 0 if self.reason is None or self.reason == MAX_TIME else 128 + signal.Signals[self.reason]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # It may interrupt anything, a log's own lock included: no logging here.
        if self.reason is None:
            self.reason = signal.Signals(number).name
        if number == signal.SIGINT:
            self._nb_sigint += 1
            if self._nb_sigint > 1:
                raise KeyboardInterrupt("at once, at the second Ctrl-C; the last checkpoint stays as it was")


def check_stop_signal(name: str | None) -> signal.Signals | None:
    """Return the signal of a name, ``"SIGUSR1"`` or ``"USR1"``; None for None.

    Raises
    ------
    ValueError
        When there is no such signal here, or it cannot ask a training to stop (SIGKILL, SIGSTOP, SIGSEGV, ...).
    """
    if name is None:
        return None
    full = name if isinstance(name, str) and name.startswith("SIG") else f"SIG{name}"
    if not isinstance(name, str) or full not in signal.Signals.__members__:
        raise ValueError(f'stop_signal must be the name of a signal, as "SIGUSR1" or "USR1", got {name!r}.')
    number = signal.Signals[full]
    if number.name in _UNUSABLE:
        raise ValueError(
            f'stop_signal cannot be {name!r}: a program cannot catch it, or means something else by it; use "SIGUSR1".'
        )
    return number


def parse_max_time(text: str) -> int:
    """Return the seconds of a time as SLURM writes it.

    ``"MM"``, ``"MM:SS"``, ``"HH:MM:SS"``, ``"D-HH"``, ``"D-HH:MM"`` or ``"D-HH:MM:SS"``: so ``"11:50:00"`` is nearly
    twelve hours, and ``"11:50"`` nearly twelve minutes. The first number may be of any size.

    Raises
    ------
    ValueError
        For any other form, for 60 minutes or seconds and more, or 24 hours and more, after a larger unit, and for no
        time at all.
    """
    sentence = f"max_time must be a time as SLURM has it, {_FORMS}, got {text!r}."
    if not isinstance(text, str) or not re.fullmatch(_TIME, text.strip()):
        raise ValueError(sentence)
    days, dash, rest = text.strip().rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        units = [int(days), *parts, 0, 0][:4]
    elif len(parts) == 3:
        units = [0, *parts]
    else:
        units = [0, 0, *parts, 0][:4]
    first = next((i for i, unit in enumerate(units) if unit), 4)
    for i, (name, limit) in enumerate((("hours", 24), ("minutes", 60), ("seconds", 60)), start=1):
        if i > first and units[i] >= limit:
            raise ValueError(f"{sentence[:-1]}: its {name} must be less than {limit}.")
    seconds = ((units[0] * 24 + units[1]) * 60 + units[2]) * 60 + units[3]
    if seconds == 0:
        raise ValueError(f"max_time must be more than no time, or None for no limit; got {text!r}.")
    return seconds


def process_seconds() -> float:
    """Return for how many seconds this process has been running; where /proc does not say, since the first import."""
    start = process_start(os.getpid())
    if start is not None and hasattr(time, "CLOCK_BOOTTIME"):
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start / os.sysconf("SC_CLK_TCK"))
    return time.monotonic() - _IMPORTED


def process_start(pid: int) -> int | None:
    """Return when a process began, in clock ticks since the machine's start; None where /proc does not say."""
    fields = process_stat(pid)
    return int(fields[19]) if fields is not None else None


def process_stat(pid: int) -> list[bytes] | None:
    """Return the fields of /proc/<pid>/stat from the third, the state, on (the 22nd is the start); None without."""
    try:
        # The second is the program's name in parentheses, and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields if len(fields) >= 20 and fields[19].isdigit() else None
