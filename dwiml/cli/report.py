"""``dwiml report``: write a page about experiments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_overwrite, add_verbose


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml report",
        allow_abbrev=False,
        description="Write one HTML file about experiments that needs no network: interactive curves, parameters and "
        "their differences, data, scores, pictures of streamlines and versions of programs. Nothing that an experiment "
        "names is imported or run.",
    )
    parser.add_argument(
        "experiments", nargs="+", metavar="EXPERIMENT", help="experiment folder, or folder of experiments"
    )
    parser.add_argument("out", metavar="OUT.html", help="file to write")
    parser.add_argument(
        "--scores", nargs="+", default=[], metavar="JSON", help="files of 'dwiml score --json' to show as tables"
    )
    parser.add_argument(
        "--tractograms",
        nargs="+",
        default=[],
        metavar="FILE",
        help="tractograms to show from three sides, or folders of them; one with a loss at each point (dwiml "
        "show_loss) is colored by it",
    )
    parser.add_argument(
        "--background", metavar="IMAGE", help="image behind the streamlines, or FILE.hdf5:SUBJECT/GROUP"
    )
    parser.add_argument("--title", default="", help="title of the page [the names of the experiments]")
    add_overwrite(parser, "replace OUT.html if it exists")
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from dwiml.inspection.report import write_report

    path = write_report(
        arguments.experiments,
        arguments.out,
        scores=arguments.scores,
        tractograms=arguments.tractograms,
        background=arguments.background,
        title=arguments.title,
        overwrite=arguments.overwrite,
    )
    print(f"Report saved in {path}")
