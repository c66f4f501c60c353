"""The error for an unknown option, with the option that may be meant."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence

from dwiml.params import RENAMED

# What other programs, and earlier versions, call some of our options.
_USUAL_NAMES = {
    **{f"--{old}": f"--{new}" for old, new in RENAMED.items()},
    "--epochs": "--max_epochs",
    "--nb_epochs": "--max_epochs",
    "--num_workers": "--nb_cpu_processes",
    "--device": "--use_gpu",
}


def parse_known_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; an unknown option ends in the usage of the subcommand, and what may be meant.

    Python's own ``parse_args`` would show the usage of the command above, without any of the options.
    """
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        chosen = _chosen(parser, arguments)
        options = [option for action in chosen._actions for option in action.option_strings]
        chosen.error("; ".join(_sentence(word, options) for word in unknown if word.startswith("-")) or _extra(unknown))
    return arguments


def _chosen(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> argparse.ArgumentParser:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            child: argparse.ArgumentParser = action.choices[getattr(arguments, action.dest)]
            return child
    return parser


def _sentence(word: str, options: Sequence[str]) -> str:
    name = word.partition("=")[0]
    meant = _USUAL_NAMES.get(name, name)
    # 'dwiml resume' has --new_max_epochs for the --max_epochs of 'dwiml train'.
    near = [each for each in (meant, f"--new_{meant[2:]}") if each in options]
    near = near or difflib.get_close_matches(name, options)
    return f"there is no option {name}" + (f": did you mean {' or '.join(near)}?" if near else "")


def _extra(words: Sequence[str]) -> str:
    return f"too many arguments: {' '.join(words)}"
