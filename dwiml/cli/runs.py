"""``dwiml runs``: print a table of the experiments in a folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_verbose

ORDERS = ("name", "status", "epoch", "best", "started", "left")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml runs",
        allow_abbrev=False,
        description="Print the experiments in a folder and its subfolders: which of them are running, stopped, done, "
        "failed or killed, how far they are, their best values, the time that is left, and which of their parameters "
        "differ. Nothing that an experiment names is imported or run.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder of experiments")
    parser.add_argument("--sort", choices=ORDERS, default="name", help="order of the table [%(default)s]")
    parser.add_argument("--json", action="store_true", help="print a JSON list, with all values")
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    import json
    import shutil
    import sys

    from dwiml.inspection.runs import describe_runs, runs_text

    runs = describe_runs(arguments.folder, order=arguments.sort)
    if arguments.json:
        print(json.dumps([run.as_dict() for run in runs], indent=2))
    else:
        # Not in a pipe, whose reader may look for a parameter in a line.
        print(runs_text(runs, width=shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
