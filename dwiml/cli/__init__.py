"""The commands: one thin module each, every heavy import inside ``main``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

BAD_INPUT = 2


def run_command(action: Callable[[], int | None], *, verbose: bool = False) -> int:
    """Run a command's work; bad input ends in one sentence on stderr and exit code 2, never in a traceback.

    Parameters
    ----------
    action
        The work. Its return value is the exit code (None: 0).
    verbose
        Show the library's informative messages, not its warnings only.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return action() or 0
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except (ValueError, OSError, KeyError, TypeError, ArithmeticError) as error:
        # KeyError's str() is the repr of its message.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {message}", file=sys.stderr)
        return BAD_INPUT
