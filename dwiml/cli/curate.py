"""``dwiml curate``: keep the streamlines of tractograms that are worth training on, balanced between bundles."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_overwrite, add_sidecar, add_verbose

# Options that have an effect only with others.
_OF_BUNDLES = ("config", "mask_tolerance", "end_tolerance", "max_outside")
_OF_CONFIDENCE = ("max_mdf", "power")
_SETTINGS = ("min_confidence", *_OF_CONFIDENCE, "max_streamlines", "max_mm", "min_streamlines", "choose", "seed")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml curate",
        allow_abbrev=False,
        usage="dwiml curate TRACTOGRAM [TRACTOGRAM ...] (--bundles DIR | --labelled) -o OUT [options]",
        description="Keep the streamlines of tractograms, of any trackers and formats, that are worth training on: the "
        "valid connections of true bundles; on request without outliers, and in about equal numbers for each bundle. "
        "The data per streamline 'bundle_id' of OUT is the index of the bundle, as in the table that is printed; "
        "'dwiml train --balance_by bundle_id' uses it.",
    )
    parser.add_argument("tractograms", metavar="TRACTOGRAM", nargs="+", help="tractogram of streamlines to choose from")
    parser.add_argument("-o", dest="out", required=True, metavar="OUT", help="tractogram to write: .trk or .trx")
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument(
        "--bundles",
        metavar="DIR",
        help="keep the valid connections of the bundles of this folder, as 'dwiml score --ground_truth' reads it "
        "(masks and end regions)",
    )
    kinds.add_argument(
        "--labelled", action="store_true", help="each TRACTOGRAM is one bundle, named after its file: keep all of it"
    )
    _add_rules(parser)
    _add_outliers(parser)
    _add_balance(parser)
    output = parser.add_argument_group("output, in addition to OUT and the table")
    output.add_argument(
        "--candidates",
        metavar="FILE",
        help="write all streamlines to this file (.trk or .trx), with the data per streamline 'valid': 1 for valid "
        "connections, 0 for the others; 'dwiml train streamline-classifier' learns from it",
    )
    output.add_argument("--report", metavar="JSON", help="write the names of the bundles and all numbers to this file")
    output.add_argument(
        "--grid",
        metavar="IMAGE",
        help="image with the voxel grid of OUT, for --labelled [the grid of the first TRACTOGRAM that has one]",
    )
    add_sidecar(output, "OUT")
    add_overwrite(parser, "replace these outputs if they exist")
    add_verbose(parser)
    return parser


def _add_rules(parser: argparse.ArgumentParser) -> None:
    from dwiml.scoring.defaults import END_TOLERANCE_MM, MASK_TOLERANCE_MM, MAX_OUTSIDE

    rules = parser.add_argument_group("valid connections, with --bundles; as in 'dwiml score'")
    rules.add_argument("--config", metavar="JSON", help="file to read instead of ground_truth.json in DIR")
    rules.add_argument(
        "--mask_tolerance",
        type=float,
        metavar="MM",
        help=f"distance from the mask of a bundle within which a streamline is still inside "
        f"[{MASK_TOLERANCE_MM:g}; in scilpy's format, 0]",
    )
    rules.add_argument(
        "--end_tolerance",
        type=float,
        metavar="MM",
        help=f"maximum distance from an end region to the end of a streamline [{END_TOLERANCE_MM:g}]",
    )
    rules.add_argument(
        "--max_outside",
        type=float,
        metavar="SHARE",
        help=f"share of the length of a valid streamline, 0 to 1, that may lie outside the mask "
        f"[{MAX_OUTSIDE:g}; in scilpy's format, 0]",
    )


def _add_outliers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("outliers of a bundle")
    group.add_argument(
        "--min_confidence",
        type=float,
        metavar="X",
        help="remove streamlines whose cluster confidence (Jordan et al., 2018) is below X: the sum of 1 / distance to "
        "the other streamlines of the bundle, up to --max_mdf [none are removed]",
    )
    group.add_argument(
        "--max_mdf",
        type=float,
        metavar="MM",
        help="average distance (MDF) of two streamlines up to which they support each other [5]",
    )
    group.add_argument("--power", type=float, metavar="P", help="power of the distance in the confidence [1]")


def _add_balance(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("balance of the bundles")
    group.add_argument("--max_streamlines", type=int, metavar="N", help="keep at most N streamlines of a bundle")
    group.add_argument(
        "--max_mm", type=float, metavar="MM", help="keep streamlines of a bundle with at most this total length"
    )
    group.add_argument(
        "--min_streamlines",
        type=int,
        metavar="N",
        help="repeat the streamlines of a bundle with fewer, until there are N (within --max_mm)",
    )
    group.add_argument(
        "--choose",
        metavar="{coverage,random}",
        help="how streamlines are drawn from a bundle with too many: with weights that favor voxels which few of them "
        "cross, or with equal weights [coverage]",
    )
    group.add_argument("--seed", type=int, metavar="N", help="seed of the draws [drawn, and in the report]")


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from dwiml.cli.running.input_files import refuse_repeated
    from dwiml.cli.running.progress import progress_bar
    from dwiml.curation.curating import curate_tractograms
    from dwiml.curation.settings import CurationSettings
    from dwiml.curation.tables import tables

    _refuse_without_effect(arguments)
    refuse_repeated(arguments.tractograms)
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    result = curate_tractograms(
        arguments.tractograms,
        arguments.out,
        bundles=arguments.bundles,
        labelled=arguments.labelled,
        grid=arguments.grid,
        settings=CurationSettings(**{name: given[name] for name in _SETTINGS if name in given}),
        report=arguments.report,
        candidates=arguments.candidates,
        sidecar=arguments.sidecar,
        overwrite=arguments.overwrite,
        progress=progress_bar,
        **{name: given[name] for name in _OF_BUNDLES if name in given},
    )
    print(tables(result))


def _refuse_without_effect(arguments: argparse.Namespace) -> None:
    for name in _OF_BUNDLES:
        if arguments.labelled and getattr(arguments, name) is not None:
            raise ValueError(f"--{name} has no effect with --labelled, which keeps whole bundles; leave it out.")
    if arguments.labelled and arguments.candidates is not None:
        raise ValueError("--candidates needs --bundles: with --labelled, all streamlines are assumed to be valid.")
    if arguments.bundles is not None and arguments.grid is not None:
        raise ValueError("--grid has no effect with --bundles, whose grid the output gets; leave it out.")
    for name in _OF_CONFIDENCE:
        if arguments.min_confidence is None and getattr(arguments, name) is not None:
            raise ValueError(f"--{name} has no effect without --min_confidence; give both.")
