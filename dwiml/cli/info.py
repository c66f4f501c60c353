"""``dwiml info``: print what an HDF5 file, an experiment or a tractogram contains."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_verbose


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml info",
        allow_abbrev=False,
        description="Print what an HDF5 file, an experiment folder or a tractogram contains. Points and volumes are "
        "not read, except the points of small tractograms. Nothing that an experiment names is imported or run.",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="HDF5 file of subjects, folder of such files, folder of an experiment, or tractogram (.trk, .tck, .trx, "
        "...)",
    )
    parser.add_argument(
        "--all", action="store_true", dest="all_subjects", help="HDF5 file: list all subjects [the first 10]"
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="tractogram: read all streamlines to count and measure them, whatever the size of the file [if it is "
        "smaller than 33 MB]",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object with all values; for several files, a list of such objects",
    )
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    import json

    from dwiml.inspection.description import describe, expanded, text_of

    found = [describe(path, measure=arguments.measure or None) for path in expanded(arguments.paths)]
    if arguments.json:
        print(json.dumps(found[0] if len(found) == 1 else found, indent=2, allow_nan=False))
    else:
        print("\n\n".join(text_of(each, all_subjects=arguments.all_subjects) for each in found))
