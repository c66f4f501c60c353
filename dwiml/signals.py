"""Stop cleanly when a signal is received: temporary files are removed, and one line reports it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Sent by a cluster, a shell or a closed terminal to end a program. Ctrl-C raises Python's own KeyboardInterrupt.
ENDING = ("SIGTERM", "SIGUSR1", "SIGHUP")

_SECONDS_UNTIL_RESENT = 0.05

logger = logging.getLogger(__name__)


class EndedBySignal(SystemExit):
    """Raised when a signal is received, so that the program cleans up and exits without a traceback.

    Parameters
    ----------
    name
        Name of the signal, for instance ``"SIGTERM"``.

    Attributes
    ----------
    reason
        Name of the signal.
    code
        Exit code of the process: 128 + the number of the signal, the convention of shells.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.reason = name
        self.code = 128 + signal.Signals[name]

    def __str__(self) -> str:
        return f"Ended by {self.reason} (exit code {self.code})."


@contextmanager
def _freed_of_system_errors() -> Iterator[None]:
    """Raise the error of a signal again that a C function has turned into a SystemError."""
    try:
        yield
    except SystemError as error:
        if isinstance(error.__cause__, (EndedBySignal, KeyboardInterrupt)):
            raise error.__cause__ from None
        raise


@contextmanager
def ended_by_signals(names: Iterable[str] = ENDING, *, activity: str | None = None) -> Iterator[None]:
    """Raise :class:`EndedBySignal` when a signal is received in the block.

    Only the first signal raises it, so that clean-up is not interrupted. Signals that the process ignores (``nohup``)
    stay ignored. In threads other than the main one, this has no effect, since Python handles signals in the main
    thread only. Python loses an error raised in the callback of a weak reference; the signal is then sent again, also
    that of Ctrl-C.

    Parameters
    ----------
    names
        Names of the signals.
    activity
        For functions of the library that are called from a user's program: what was being done, reported in a warning.
        Signals that the program handles itself are then not changed.

    Raises
    ------
    EndedBySignal
        If one of the signals is received.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[signal.Signals, Any] = {}
    ended = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        if not ended:
            ended = True
            raise EndedBySignal(signal.Signals(number).name)

    def end_after_all(unraisable: sys.UnraisableHookArgs) -> None:
        nonlocal ended
        error = unraisable.exc_value
        if isinstance(error, EndedBySignal):
            ended = False
            number = signal.Signals[error.reason]
        elif isinstance(error, KeyboardInterrupt):
            number = signal.SIGINT
        else:
            hook(unraisable)
            return
        threading.Timer(_SECONDS_UNTIL_RESENT, os.kill, (os.getpid(), number)).start()

    for name in names:
        # Windows does not have all of them.
        if name not in signal.Signals.__members__:
            continue
        number = signal.Signals[name]
        handler = signal.getsignal(number)
        if handler in (None, signal.SIG_IGN) or (activity and handler != signal.SIG_DFL):
            continue
        previous[number] = handler
    hook = sys.unraisablehook
    try:
        for number in previous:
            signal.signal(number, end)
        sys.unraisablehook = end_after_all
        with _freed_of_system_errors():
            yield
    except EndedBySignal as error:
        if activity:
            logger.warning("Stopped (%s) while %s.", error.reason, activity)
        raise
    finally:
        sys.unraisablehook = hook
        for number, handler in previous.items():
            signal.signal(number, handler)
