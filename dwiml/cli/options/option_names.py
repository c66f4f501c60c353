"""Say the options of a command where a message of the library says its parameters: ``--resume auto``."""

from __future__ import annotations

import argparse
import re
import shlex

from dwiml.cli.options.derived import Flag, Reader

# The library's sentences give values of flags and of texts, such as resume='auto'.
_ARGUMENT = re.compile(r"(?<![\w.'\"/-])([a-z]\w*)=(True|False|'[\w.+/:~ -]+')(?!\w)")


def with_option_names(message: str, parser: argparse.ArgumentParser) -> str:
    """Return a message of the library with the options of a command.

    ``overwrite=True`` becomes ``-f``, ``resume='auto'`` becomes ``--resume auto``, and ``verbose=False`` becomes
    ``--no_verbose``. Parameters that are not options of the command stay as they are.

    Parameters
    ----------
    message
        The message.
    parser
        The parser of the command.
    """
    actions = {action.dest: action for action in parser._actions if action.option_strings}

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        action = actions.get(name) or actions.get(f"new_{name}")
        return found[0] if action is None else _option(action, value) or found[0]

    return _ARGUMENT.sub(option, message)


def _option(action: argparse.Action, value: str) -> str | None:
    """Return an option with its value, or None if it does not take the value."""
    is_bool = value in ("True", "False")
    if isinstance(action, Flag):
        spellings = [each for each in action.option_strings if (each in action.off) == (value == "False")]
        return max(spellings, key=len, default=None) if is_bool else None
    if action.nargs == 0:
        return action.option_strings[-1] if value == "True" and action.const is True else None
    if is_bool != (isinstance(action.type, Reader) and action.type.kind == "bool"):
        return None
    text = {"True": "yes", "False": "no"}.get(value, value.strip("'"))
    return f"{action.option_strings[-1]} {shlex.quote(text)}"
