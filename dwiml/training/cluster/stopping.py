"""Stopping a training in time: signals and the time limit."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

MAX_TIME = "max_time"
# Requests handled between two steps; the highest of all ranks is used.
NOTHING, SAVE, STOP = 0, 1, 2

# Signals that cannot be caught, that report a crash, or that torch's DataLoader uses.
_UNUSABLE = frozenset({"SIGKILL", "SIGSTOP", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGCHLD"})
_FORMS = '"MM", "MM:SS", "HH:MM:SS", "D-HH", "D-HH:MM" or "D-HH:MM:SS"'
_TIME = r"[0-9]{1,9}(-[0-9]{1,9})?(:[0-9]{1,9}){0,2}"
_IMPORTED = time.monotonic()

logger = logging.getLogger(__name__)


class TrainingInterrupted(SystemExit):
    """Raised by the trainer after a signal, once the checkpoint is written.

    A script that does not catch it exits with this code and no traceback.

    Parameters
    ----------
    reason
        Name of the signal, such as ``"SIGTERM"``, or ``"max_time"``.
    code
        Exit code of the process: 128 + the number of the signal, as in shells; 0 for ``"max_time"``.
    """

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason, code)
        self.reason = reason
        self.code = code

    def __str__(self) -> str:
        return f"The training was interrupted by {self.reason} (exit code {self.code})."


class Requests:
    """Requests to a training between two steps: to stop (after a signal or `max_time`), or to write a checkpoint.

    As a context manager, it handles SIGTERM, SIGINT (Ctrl-C), SIGHUP (a closed terminal; not under ``nohup``) and
    ``stop_signal``, and restores the previous handlers at its end. The first signal is stored, and the training checks
    :attr:`requested` after each step; a second SIGINT raises KeyboardInterrupt immediately. Only the main thread can
    handle signals: in another thread, only `max_time` has an effect.

    Parameters
    ----------
    stop_signal
        One more signal, such as that of SLURM's ``--signal=USR1@120``; None for no other signal.
    max_time
        Time limit, in a form of :func:`parse_max_time`, from the start of the process (including the time for loading
        the data); None for no limit.
    checkpoint_minutes
        Minutes between two checkpoints within an epoch; None for no such checkpoint.

    Attributes
    ----------
    reason
        Reason to stop: ``"SIGTERM"``, ``"SIGINT"``, ..., or ``"max_time"``; None if there is none. The first one is
        kept.

    Raises
    ------
    ValueError
        If the signal does not exist or cannot be used, or the time is invalid.
    """

    def __init__(
        self,
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
            # None: the previous handler was not set from Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)

    @property
    def wanted(self) -> int:
        """:data:`STOP`, :data:`SAVE` (a checkpoint is due) or :data:`NOTHING`."""
        if self.requested:
            return STOP
        return SAVE if time.monotonic() - self._last_checkpoint >= self._checkpoint_seconds else NOTHING

    def note_checkpoint(self) -> None:
        """Restart the time to the next checkpoint."""
        self._last_checkpoint = time.monotonic()

    @property
    def requested(self) -> bool:
        """Whether to stop: a signal arrived, or ``max_time`` is over."""
        if self.reason is None and self._max_seconds is not None and process_seconds() >= self._max_seconds:
            self.reason = MAX_TIME
        return self.reason is not None

    @property
    def exit_code(self) -> int:
        """Exit code of the process: 128 + the number of the signal; 0 for ``max_time`` or without a request."""
        return 0 if self.reason is None or self.reason == MAX_TIME else 128 + signal.Signals[self.reason]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # It may interrupt anything, including code that holds the lock of a log: no logging here.
        if self.reason is None:
            self.reason = signal.Signals(number).name
        if number == signal.SIGINT:
            self._nb_sigint += 1
            if self._nb_sigint > 1:
                raise KeyboardInterrupt("immediately, at the second Ctrl-C; the last checkpoint is unchanged")


def check_stop_signal(name: str | None) -> signal.Signals | None:
    """Return the signal of a name such as ``"SIGUSR1"`` or ``"USR1"``; None for None.

    Raises
    ------
    ValueError
        If there is no such signal, or it cannot be used to stop a training (SIGKILL, SIGSTOP, SIGSEGV, ...).
    """
    if name is None:
        return None
    full = name if isinstance(name, str) and name.startswith("SIG") else f"SIG{name}"
    if not isinstance(name, str) or full not in signal.Signals.__members__:
        raise ValueError(f'stop_signal must be the name of a signal, such as "SIGUSR1" or "USR1", got {name!r}.')
    number = signal.Signals[full]
    if number.name in _UNUSABLE:
        raise ValueError(
            f'stop_signal cannot be {name!r}: a program cannot catch it, or it has another meaning; use "SIGUSR1".'
        )
    return number


def parse_max_time(text: str) -> int:
    """Return a time in SLURM's format, in seconds.

    The forms are those of ``sbatch --time``: ``"MM"``, ``"MM:SS"``, ``"HH:MM:SS"``, ``"D-HH"``, ``"D-HH:MM"`` and
    ``"D-HH:MM:SS"``. So ``"11:50:00"`` is nearly twelve hours, and ``"11:50"`` nearly twelve minutes. The first number
    may be of any size.

    Raises
    ------
    ValueError
        If the form is another one, a number after a larger unit is too large (60 for minutes and seconds, 24 for
        hours), or the time is zero.
    """
    sentence = f"max_time must be a time in SLURM's format, {_FORMS}, got {text!r}."
    if not isinstance(text, str) or not re.fullmatch(_TIME, text.strip()):
        raise ValueError(sentence)
    days, dash, rest = text.strip().rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    # Without days, two numbers or one are minutes and seconds.
    hours = [0] if not dash and len(parts) < 3 else []
    units = [int(days or 0), *hours, *parts, 0, 0][:4]
    first = next((i for i, unit in enumerate(units) if unit), 4)
    for i, (name, limit) in enumerate((("hours", 24), ("minutes", 60), ("seconds", 60)), start=1):
        if i > first and units[i] >= limit:
            raise ValueError(f"{sentence[:-1]}: its {name} must be less than {limit}.")
    seconds = ((units[0] * 24 + units[1]) * 60 + units[2]) * 60 + units[3]
    if seconds == 0:
        raise ValueError(f"max_time must be positive, or None for no limit; got {text!r}.")
    return seconds


def process_seconds() -> float:
    """Return the time since the start of this process, in seconds; without /proc, since the first import."""
    start = process_start(os.getpid())
    if start is not None and hasattr(time, "CLOCK_BOOTTIME"):
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start / os.sysconf("SC_CLK_TCK"))
    return time.monotonic() - _IMPORTED


def process_start(pid: int) -> int | None:
    """Return the start of a process, in clock ticks since boot; None without /proc."""
    fields = process_stat(pid)
    return int(fields[19]) if fields is not None else None


def process_stat(pid: int) -> list[bytes] | None:
    """Return the fields of /proc/<pid>/stat from the third (the state); the 22nd is the start; None without /proc."""
    try:
        # The second field is the name of the program in parentheses, which may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields if len(fields) >= 20 and fields[19].isdigit() else None
