"""The commands: one thin module each, every heavy import inside ``main``."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

BAD_INPUT = 2
INTERRUPTED = 130


def run_command(action: Callable[[], int | None], *, verbose: bool = False) -> int:
    """Run a command's work; bad input ends in one sentence on stderr and exit code 2, never in a traceback.

    Parameters
    ----------
    action
        The work. Its return value is the exit code (None: 0).
    verbose
        Show the library's informative messages, not its warnings only.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("dwiml").setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        with _termination_cleans_up(), _warnings_on_one_line():
            return action() or 0
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except (MemoryError, RecursionError) as error:
        print(f"error: too large for this machine's memory ({type(error).__name__}: {error}).", file=sys.stderr)
        return BAD_INPUT
    except (ValueError, OSError, KeyError, TypeError, ArithmeticError) as error:
        # KeyError's str() is the repr of its message.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
        return BAD_INPUT


@contextmanager
def _termination_cleans_up() -> Iterator[None]:
    """Let a SIGTERM (a cluster's time limit) unwind the program, so that no temporary file stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _warnings_on_one_line() -> Iterator[None]:
    """Show a warning as its sentence, without the line of code that it comes from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: logging.getLogger("dwiml").warning("%s", message)
        yield
