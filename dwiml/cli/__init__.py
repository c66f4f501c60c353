"""The commands: one thin module each, every heavy import inside ``main``."""

from __future__ import annotations

import errno
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from dwiml.failures import ResourceError, resource_error
from dwiml.files import reason_of
from dwiml.files.streams import SafeStream, guarded_streams
from dwiml.signals import ENDING, EndedBySignal, ended_by_signals

FAILED = 1
BAD_INPUT = 2


def run_command(
    action: Callable[[], int | None],
    *,
    verbose: bool = False,
    signals: Iterable[str] = ENDING,
    when_stopped: str = "the command was not finished",
    after_stop: Callable[[], object] | None = None,
    advice: dict[str, str] | None = None,
) -> int:
    """Run a command's work; what goes wrong ends in one sentence on stderr and an exit code, never in a traceback.

    The code is 2 for bad input, 1 when the work was done and its results could not be printed, or when the machine
    could not give what it needs, 128 + the number of the signal that ended it. Messages that cannot be written (a full
    disk, a pipe that has ended) stop nothing.

    Parameters
    ----------
    action
        The work. Its return value is the exit code (None: 0).
    verbose
        Show the library's informative messages, not its warnings only.
    signals
        Those that end it, beside Ctrl-C.
    when_stopped
        What is said of the work after such a signal, or Ctrl-C.
    after_stop
        Called then.
    advice
        What to do when memory, open files or workers fail: see :func:`dwiml.failures.resource_error`.
    """
    with guarded_streams() as streams:
        logging.basicConfig(format="%(levelname)s: %(message)s")
        logging.getLogger("dwiml").setLevel(logging.INFO if verbose else logging.WARNING)
        try:
            code = _run(action, signals, advice)
        except (EndedBySignal, KeyboardInterrupt) as end:
            name = end.reason if isinstance(end, EndedBySignal) else "SIGINT"
            # A training that has begun tells itself what becomes of it.
            told = str(end) if isinstance(end, KeyboardInterrupt) else ""
            print(f"Stopped ({name}): {told or when_stopped}.", file=sys.stderr)
            if after_stop is not None and not told:
                after_stop()
            code = 128 + signal.Signals[name]
        return _code_when_told(code, streams.out)


def _run(action: Callable[[], int | None], signals: Iterable[str], advice: dict[str, str] | None) -> int:
    try:
        with ended_by_signals(signals), _warnings_on_one_line():
            return action() or 0
    except RecursionError as error:
        _tell_error(f"the input is nested too deeply ({error}).")
        return BAD_INPUT
    except Exception as error:
        failure = resource_error(error, advice)
        if failure is not None:
            _tell_error(str(failure))
            return FAILED if isinstance(error, ResourceError) else BAD_INPUT
        if not isinstance(error, (ValueError, OSError, KeyError, TypeError, ArithmeticError)):
            raise
        _tell_error(_sentence_of(error))
        return BAD_INPUT


def _sentence_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        # The system's own, as "[Errno 28] No space left on device: 'OUT'".
        why = f"{reason_of(error)}."
        return f"'{error.filename}': {why}" if error.filename is not None else why[:1].upper() + why[1:]
    # KeyError's str() is the repr of its message.
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def _code_when_told(code: int, out: SafeStream) -> int:
    """Return the exit code, with a sentence where the results could not be printed."""
    out.flush()
    # A reader that has seen enough (`| head`) is not a failure.
    if out.error is None or isinstance(out.error, BrokenPipeError):
        return code
    reason = "it is closed" if out.error.errno == errno.EBADF else reason_of(out.error)
    _tell_error(f"the results could not be printed (standard output: {reason}); files that were asked for are written.")
    return code or FAILED


def _tell_error(sentence: str) -> None:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)


@contextmanager
def _warnings_on_one_line() -> Iterator[None]:
    """Show a warning as its sentence, without the line of code that it comes from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: logging.getLogger("dwiml").warning("%s", message)
        yield
