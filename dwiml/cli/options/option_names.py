"""Say the options of a command where a message of the library says its parameters: ``--resume auto``."""

from __future__ import annotations

import argparse
import logging
import re
import shlex

from dwiml.cli.options.derived import Flag, Reader

# The library's sentences give values of flags, of texts and of several numbers, such as resume='auto'.
_ARGUMENT = re.compile(r"(?<![\w.'\"/-])([a-z]\w*)=(True|False|'[\w.+/:~ -]+'|\([\d., ]+\))(?!\w)")
# Parameters without a value: "give step_size, in mm", "as std_mask", "created with step_size = 1.0". Other words of
# these sentences may be options too ("as input of the model").
_NAME = re.compile(r"\b(as|[Gg]ive|with|without) ([a-z]+)((?:_[a-z]+)*)( = |(?=[,.;]?(?:\s|$)))")


def with_option_names(message: str, parser: argparse.ArgumentParser) -> str:
    """Return a message of the library with the options of a command.

    ``overwrite=True`` becomes ``-f``, ``resume='auto'`` becomes ``--resume auto``, ``verbose=False`` becomes
    ``--no_verbose``, and "give step_size" becomes "give ``--step_size``". Parameters that are not options of the
    command stay as they are.

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

    def named(found: re.Match[str]) -> str:
        word, first, others, equals = found.groups()
        action = actions.get(first + others)
        is_parameter = others or equals or found.string[found.end() : found.end() + 1] in tuple(",.;")
        if action is None or not is_parameter:
            return found[0]
        return f"{word} {action.option_strings[0 if isinstance(action, Flag) else -1]}{' ' if equals else ''}"

    return _NAME.sub(named, _ARGUMENT.sub(option, message))


class OptionNames(logging.Formatter):
    """Formats the warnings of the library with the options of a command.

    Parameters
    ----------
    parser
        The parser of the command.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__("%(levelname)s: %(message)s")
        self._parser = parser

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the message of a record, without its traceback."""
        return with_option_names(super().formatMessage(record), self._parser)


def _option(action: argparse.Action, value: str) -> str | None:
    """Return an option with its value, or None if it does not take the value."""
    is_bool = value in ("True", "False")
    if isinstance(action, Flag):
        spellings = [each for each in action.option_strings if (each in action.off) == (value == "False")]
        return max(spellings, key=len, default=None) if is_bool else None
    if action.nargs == 0:
        return action.option_strings[-1] if value == "True" and action.const is True else None
    if value.startswith("("):
        numbers = value.strip("()").replace(",", " ").split()
        return " ".join([action.option_strings[-1], *numbers]) if action.nargs in ("+", len(numbers)) else None
    if is_bool != (isinstance(action.type, Reader) and action.type.kind == "bool"):
        return None
    text = {"True": "yes", "False": "no"}.get(value, value.strip("'"))
    return f"{action.option_strings[-1]} {shlex.quote(text)}"
