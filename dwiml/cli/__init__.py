"""The commands: one short module each, with heavy imports inside ``main``."""

from __future__ import annotations

import argparse
import errno
import logging
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from dwiml.cli.options.option_names import OptionNames, with_option_names
from dwiml.cli.options.parsing import parse_known_options
from dwiml.failures import GPU, MEMORY, ResourceError, resource_error
from dwiml.files import reason_of
from dwiml.files.streams import SafeStream, guarded_streams
from dwiml.signals import ENDING, EndedBySignal, ended_by_signals
from dwiml.user_classes.user_code import error_in_user_code

_NEGATIVE_NUMBER = re.compile(r"^-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$", re.IGNORECASE)
FAILED = 1
BAD_INPUT = 2


def parse_and_run(
    parser: argparse.ArgumentParser,
    action: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None,
    *,
    memory_advice: Callable[[argparse.Namespace], str] | None = None,
    parse: Callable[[argparse.ArgumentParser, Sequence[str] | None], argparse.Namespace] = parse_known_options,
) -> int:
    """Parse a command line and run the command with :func:`run_command`.

    Parameters
    ----------
    parser
        The command's parser, with the option of :func:`dwiml.cli.options.shared.add_verbose`.
    action
        Function that does the work with the parsed arguments. Its return value is the exit code; None means 0.
    argv
        The arguments; None for those of the process.
    memory_advice
        Function that returns what to do if the memory of the computer or of the GPU is exhausted, given the parsed
        arguments; None for no advice.
    parse
        Function that parses the command line; an error in it ends the process with exit code 2.

    Returns
    -------
    int
        The exit code.
    """
    # Numbers such as -1e-3 too, which argparse takes for options.
    parser._negative_number_matcher = _NEGATIVE_NUMBER
    arguments = parse(parser, argv)
    advice = None if memory_advice is None else dict.fromkeys((MEMORY, GPU), memory_advice(arguments))
    return run_command(lambda: action(arguments), parser=parser, verbose=arguments.verbose, advice=advice)


def run_command(
    action: Callable[[], int | None],
    *,
    parser: argparse.ArgumentParser,
    verbose: bool = False,
    signals: Iterable[str] = ENDING,
    stop_message: str = "the command was not finished",
    after_stop: Callable[[], object] | None = None,
    advice: dict[str, str] | None = None,
) -> int:
    """Run a command, and report failures as one sentence on stderr with an exit code, without a traceback.

    A command continues if its messages cannot be written (full disk, closed pipe). An error that is raised by a class
    of the user, not by dwiml, is reported with its type and its place in the user's file.

    Parameters
    ----------
    action
        Function that does the work. Its return value is the exit code; None means 0.
    parser
        The command's parser. Errors name its options instead of the library's parameters (``-f`` for
        ``overwrite=True``).
    verbose
        Whether to show the informative messages of the library; its warnings are always shown.
    signals
        Names of the signals that stop the command, in addition to Ctrl-C.
    stop_message
        Message after such a signal or Ctrl-C, about the state of the work.
    after_stop
        Function to call after such a signal or Ctrl-C.
    advice
        {kind of resource: what to do if it is exhausted}: see :func:`dwiml.failures.resource_error`.

    Returns
    -------
    int
        The exit code of `action`; 2 for invalid input; 1 if a resource is exhausted or the results could not be
        printed; 128 + the number of the signal that stopped the command.
    """
    with guarded_streams() as streams:
        messages = logging.StreamHandler()
        messages.setFormatter(OptionNames(parser))
        logging.basicConfig(handlers=[messages])
        logging.getLogger("dwiml").setLevel(logging.INFO if verbose else logging.WARNING)
        try:
            code = _run(action, parser, signals, advice)
        except (EndedBySignal, KeyboardInterrupt) as end:
            name = end.reason if isinstance(end, EndedBySignal) else "SIGINT"
            # A training that has started gives its own message.
            own_message = str(end) if isinstance(end, KeyboardInterrupt) else ""
            print(f"Stopped ({name}): {own_message or stop_message}.", file=sys.stderr)
            if after_stop is not None and not own_message:
                after_stop()
            code = 128 + signal.Signals[name]
        return _flushed_code(code, streams.out)


def _run(
    action: Callable[[], int | None],
    parser: argparse.ArgumentParser,
    signals: Iterable[str],
    advice: dict[str, str] | None,
) -> int:
    try:
        with ended_by_signals(signals), _short_warnings():
            return action() or 0
    except RecursionError as error:
        _print_error(error_in_user_code(error) or f"the input is nested too deeply ({error}).")
        return BAD_INPUT
    except Exception as error:
        failure = resource_error(error, advice)
        if failure is not None:
            _print_error(with_option_names(str(failure), parser))
            return FAILED if isinstance(error, ResourceError) else BAD_INPUT
        if not isinstance(error, (ValueError, OSError, KeyError, TypeError, ArithmeticError)):
            raise
        _print_error(error_in_user_code(error) or with_option_names(_error_message(error), parser))
        return BAD_INPUT


def _error_message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        # Raised by the system, for instance "[Errno 28] No space left on device: 'OUT'".
        reason = f"{reason_of(error)}."
        return f"'{error.filename}': {reason}" if error.filename is not None else reason[:1].upper() + reason[1:]
    # str() of a KeyError is the repr of its message.
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def _flushed_code(code: int, out: SafeStream) -> int:
    """Flush the output and return the exit code; print an error if the results could not be printed."""
    out.flush()
    # A closed pipe (`| head`) is not a failure.
    if out.error is None or isinstance(out.error, BrokenPipeError):
        return code
    reason = "it is closed" if out.error.errno == errno.EBADF else reason_of(out.error)
    _print_error(f"the results could not be printed (standard output: {reason}); the output files were written.")
    return code or FAILED


def _print_error(sentence: str) -> None:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Show only the message of a warning, without its line of code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: logging.getLogger("dwiml").warning("%s", message)
        yield
