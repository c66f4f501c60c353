"""Parse a command line, with errors that suggest the intended option."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dwiml.arguments import RENAMED, USUAL_NAMES, similar_names, why_absent
from dwiml.cli.options.derived import OFF, ON, Flag


def parse_known_options(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, positional: Sequence[str] = ()
) -> argparse.Namespace:
    """Parse a command line. An error ends the process; that for an unknown option suggests the intended one.

    Parameters
    ----------
    parser
        The command's parser.
    argv
        The arguments; None for those of the process.
    positional
        Options that may also be given without their names, in this order.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _refuse_values_of_flags(parser, words)
    arguments, left = parser.parse_known_args(words)
    place = left.index("--") if "--" in left else len(left)
    options = [option for action in parser._actions for option in action.option_strings]
    unknown = [_sentence(word, options) for word in left[:place] if word.startswith("-")]
    values = left[:place] + left[place + 1 :]
    if not unknown and len(values) > len(positional):
        unknown = [f"too many arguments: {' '.join(values[len(positional) :])}"]
    unknown = unknown or _given_twice(parser, words, dict(zip(positional, values, strict=False)), arguments)
    if unknown:
        parser.error("; ".join(unknown))
    vars(arguments).update(zip(positional, values, strict=False))
    return arguments


def meant_by(name: str, known: Sequence[str]) -> str:
    """Return what follows the name of an unknown option: a suggestion, or why the model has none; empty otherwise.

    Parameters
    ----------
    name
        The unknown option.
    known
        The options of the command, with dashes if `name` has them.
    """
    bare = name.lstrip("-")
    options = {each.lstrip("-"): each for each in known}
    if why := why_absent(bare, options):
        return f": {why.rstrip('.')}"
    meant = {**RENAMED, **USUAL_NAMES}.get(bare, bare)
    # The --max_epochs of 'dwiml train' is --new_max_epochs in 'dwiml resume'.
    near = [each for each in (meant, f"new_{meant}") if each in options] or similar_names(bare, options)
    return f": did you mean {' or '.join(options[each] for each in near)}?" if near else ""


def _refuse_values_of_flags(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Refuse ``--lazy true``, in which argparse would take ``true`` as the next positional argument."""
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, sign, value = word.partition("=")
        action = parser._option_string_actions.get(name)
        if word == "--" or not (action and name.startswith("--") and action.nargs == 0):
            continue
        if sign or following.lower() in (*ON, *OFF):
            on = [each for each in action.option_strings if not isinstance(action, Flag) or each not in action.off]
            off = [each for each in action.option_strings if each not in on and each.startswith("--")]
            parser.error(f"{name} takes no value, got '{value or following}': give {' or '.join([on[0], *off])} alone")


def _given_twice(
    parser: argparse.ArgumentParser, words: list[str], values: dict[str, str], arguments: argparse.Namespace
) -> list[str]:
    """Return a sentence for each value without an option whose option is given too."""
    options = words[: words.index("--")] if "--" in words else words
    used = {word.partition("=")[0] for word in options}
    sentences = []
    for action in parser._actions:
        if action.dest in values and used.intersection(action.option_strings):
            other = getattr(arguments, action.dest)
            text = " ".join(f"'{each}'" for each in (other if isinstance(other, list) else [other]))
            name = action.option_strings[-1]
            sentences.append(f"{action.dest} is given twice: '{values[action.dest]}' and {name} {text}")
    return sentences


def _sentence(word: str, options: Sequence[str]) -> str:
    name = word.partition("=")[0]
    return f"there is no option {name}{meant_by(name, options)}"
