"""The error for an unknown option, which suggests the intended one."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence

from dwiml.arguments import RENAMED

# Names of some options in other programs and in earlier versions.
_USUAL_NAMES = {
    **RENAMED,
    "epochs": "max_epochs",
    "nb_epochs": "max_epochs",
    "num_workers": "nb_cpu_processes",
    "device": "use_gpu",
}


def parse_known_options(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, positional: Sequence[str] = ()
) -> argparse.Namespace:
    """Parse a command line; the error for an unknown option suggests the intended one.

    Parameters
    ----------
    parser
        The command's parser.
    argv
        The arguments; None for those of the process.
    positional
        Options that may also be given without their names, in this order.
    """
    arguments, left = parser.parse_known_args(argv)
    place = left.index("--") if "--" in left else len(left)
    options = [option for action in parser._actions for option in action.option_strings]
    unknown = [_sentence(word, options) for word in left[:place] if word.startswith("-")]
    values = left[:place] + left[place + 1 :]
    if not unknown and len(values) > len(positional):
        unknown = [f"too many arguments: {' '.join(values[len(positional) :])}"]
    if unknown:
        parser.error("; ".join(unknown))
    vars(arguments).update(zip(positional, values, strict=False))
    return arguments


def meant_by(name: str, known: Sequence[str]) -> str:
    """Return the suggestion that follows the name of an unknown option; empty if no known option is similar.

    Parameters
    ----------
    name
        The unknown option.
    known
        The options of the command, with dashes if `name` has them.
    """
    dashes = name[: len(name) - len(name.lstrip("-"))]
    meant = _USUAL_NAMES.get(name[len(dashes) :], name[len(dashes) :])
    # The --max_epochs of 'dwiml train' is --new_max_epochs in 'dwiml resume'.
    near = [each for each in (f"{dashes}{meant}", f"{dashes}new_{meant}") if each in known]
    near = near or difflib.get_close_matches(name, known)
    return f": did you mean {' or '.join(near)}?" if near else ""


def _sentence(word: str, options: Sequence[str]) -> str:
    name = word.partition("=")[0]
    return f"there is no option {name}{meant_by(name, options)}"
