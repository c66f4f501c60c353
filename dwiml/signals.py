"""Ending at a signal in good order: temporary files are removed, and one line says so."""

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

# What a cluster, a shell or a terminal that is closed sends to end a program. Ctrl-C is Python's own KeyboardInterrupt.
ENDING = ("SIGTERM", "SIGUSR1", "SIGHUP")

_SECONDS_TO_ASK_AGAIN = 0.05

logger = logging.getLogger(__name__)


class EndedBySignal(SystemExit):
    """Raised where the program was when a signal came; it unwinds as an error does, and leaves without a traceback.

    Parameters
    ----------
    name
        The signal's name, for instance ``"SIGTERM"``.

    Attributes
    ----------
    reason
        The name.
    code
        The process' exit code: 128 + the signal's number, as shells have it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.reason = name
        self.code = 128 + signal.Signals[name]

    def __str__(self) -> str:
        return f"Ended by {self.reason} (exit code {self.code})."


@contextmanager
def ended_by_signals(names: Iterable[str] = ENDING, *, library: str | None = None) -> Iterator[None]:
    """Have signals raise :class:`EndedBySignal` within the block, the first one only: what cleans up is left to end.

    A signal that the process was told to ignore (``nohup``) is left alone. Python lets only the main thread handle
    signals: in another one, this does nothing. An error that is raised in the callback of a weak reference is lost to
    Python: the signal is then sent once more.

    Parameters
    ----------
    names
        Which signals.
    library
        For the library's own functions, in a program of somebody else: what was being done, which a warning then
        tells. Signals that the program handles itself are left alone.
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
        if not isinstance(unraisable.exc_value, EndedBySignal):
            hook(unraisable)
            return
        ended = False
        number = signal.Signals[unraisable.exc_value.reason]
        threading.Timer(_SECONDS_TO_ASK_AGAIN, os.kill, (os.getpid(), number)).start()

    for name in names:
        # Windows lacks some.
        if name not in signal.Signals.__members__:
            continue
        number = signal.Signals[name]
        handler = signal.getsignal(number)
        if handler in (None, signal.SIG_IGN) or (library and handler != signal.SIG_DFL):
            continue
        previous[number] = handler
    hook = sys.unraisablehook
    try:
        for number in previous:
            signal.signal(number, end)
        sys.unraisablehook = end_after_all
        yield
    except EndedBySignal as error:
        if library:
            logger.warning("Stopped (%s) while %s.", error.reason, library)
        raise
    finally:
        sys.unraisablehook = hook
        for number, handler in previous.items():
            signal.signal(number, handler)
