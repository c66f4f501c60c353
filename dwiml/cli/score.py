"""``dwiml score``: how much of the true bundles a tractogram holds."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dwiml.cli import run_command
from dwiml.cli.unknown_options import parse_known_options

if TYPE_CHECKING:
    from dwiml.scoring.ground_truth import GroundTruth
    from dwiml.scoring.scores import Scores


def build_parser() -> argparse.ArgumentParser:
    from dwiml.scoring.defaults import END_TOLERANCE_MM, MASK_TOLERANCE_MM, MAX_OUTSIDE, MIN_COVERAGE

    parser = argparse.ArgumentParser(
        prog="dwiml score",
        allow_abbrev=False,
        description="Score tractograms against true bundles, in the manner of the ISMRM 2015 tractography challenge: "
        "which streamlines are valid, wrong path, invalid or no connections, and how the valid ones of each bundle "
        "overlap its true volume.",
    )
    parser.add_argument("tractograms", metavar="TRACTOGRAM", nargs="+", help=".trk, .tck or .trx; several to compare")
    parser.add_argument(
        "--ground_truth",
        required=True,
        metavar="DIR",
        help="folder of the true bundles: it holds ground_truth.json (a subject of 'dwiml phantom' does), or else one "
        "NIfTI mask a bundle",
    )
    parser.add_argument("--config", metavar="JSON", help="to read instead of the ground_truth.json of DIR")
    rules = parser.add_argument_group("rules")
    rules.add_argument(
        "--mask_tolerance",
        type=float,
        default=MASK_TOLERANCE_MM,
        metavar="MM",
        help="how far from a bundle's mask a streamline still counts as in it [%(default)g]",
    )
    rules.add_argument(
        "--end_tolerance",
        type=float,
        default=END_TOLERANCE_MM,
        metavar="MM",
        help="how far from an end region a streamline may end [%(default)g]",
    )
    rules.add_argument(
        "--max_outside",
        type=float,
        default=MAX_OUTSIDE,
        metavar="SHARE",
        help="share of its length, 0 to 1, that a valid streamline may have outside [%(default)g]",
    )
    rules.add_argument(
        "--min_coverage",
        type=float,
        default=MIN_COVERAGE,
        metavar="SHARE",
        help="for bundles without end regions: share of the mask that makes them valid [%(default)g]",
    )
    output = parser.add_argument_group("output, beside the table")
    output.add_argument("--json", metavar="OUT", help="write all scores there")
    output.add_argument("--figure", metavar="OUT", help="draw them there (.png, .pdf, .svg, ...)")
    output.add_argument(
        "--save_split",
        metavar="DIR",
        help="write the streamlines there, apart by what they are: valid/BUNDLE.trk, wrong_path/BUNDLE.trk, "
        "invalid.trk, no_connection.trk (of several tractograms, each in a folder of its own)",
    )
    parser.add_argument("-f", dest="overwrite", action="store_true", help="replace these outputs if they exist")
    parser.add_argument("-v", dest="verbose", action="store_true", help="show informative messages")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_known_options(build_parser(), argv)
    return run_command(lambda: _run(arguments), verbose=arguments.verbose)


def _run(arguments: argparse.Namespace) -> None:
    from dwiml import __version__
    from dwiml.cli.inputs import names_of
    from dwiml.cli.progress import counted
    from dwiml.files import write_json
    from dwiml.scoring.ground_truth_files import read_ground_truth
    from dwiml.scoring.scores import score_streamlines
    from dwiml.scoring.tables import tables
    from dwiml.tractograms.reading import read_streamlines

    files = names_of(arguments.tractograms)
    _check(arguments, files)
    rules = {name: getattr(arguments, name) for name in ("mask_tolerance", "end_tolerance")}
    shares = {name: getattr(arguments, name) for name in ("max_outside", "min_coverage")}
    truth = read_ground_truth(arguments.ground_truth, config=arguments.config, **rules)
    if arguments.save_split:
        from dwiml.scoring.split import check_split, save_split

        folders = {name: Path(arguments.save_split, name if len(files) > 1 else "") for name in files}
        # What is written beside must not be replaced either.
        inputs = (*_inputs(arguments, files), arguments.json, arguments.figure)
        for folder in folders.values():
            check_split(folder, truth, inputs=inputs, overwrite=arguments.overwrite, label="--save_split")
    scores: dict[str, Scores] = {}
    for name, path in files.items():
        points, lengths = read_streamlines(path, truth.grid.affine)
        with counted(name, len(lengths)) as on_progress:
            scores[name] = score_streamlines(points, lengths, truth, on_progress=on_progress, **shares)
        if arguments.save_split:
            save_split(folders[name], points, lengths, scores[name], truth)
    if arguments.json:
        told = {name: {"file": str(path), **scores[name].as_dict()} for name, path in files.items()}
        where = {"ground_truth": arguments.ground_truth, "config": arguments.config}
        write_json(arguments.json, {"dwiml_version": __version__, **where, **rules, **shares, "tractograms": told})
    print(tables(scores, truth, arguments.ground_truth, **shares))
    if arguments.figure:
        _draw(scores, truth, arguments)


def _check(arguments: argparse.Namespace, files: Mapping[str, Path]) -> None:
    """Check what can be checked before the work."""
    from dwiml.arguments import check_number
    from dwiml.files import check_outputs
    from dwiml.scoring.defaults import MOST_TOLERANCE_MM
    from dwiml.tractograms.reading import open_tractogram

    for option in ("mask_tolerance", "end_tolerance"):
        check_number(f"--{option}", getattr(arguments, option), low=0, high=MOST_TOLERANCE_MM)
    for option in ("max_outside", "min_coverage"):
        check_number(f"--{option}", getattr(arguments, option), low=0, high=1)
    for path in files.values():
        open_tractogram(path)
    if arguments.figure is not None:
        from dwiml.viz.figure_file import check_figure_format

        check_figure_format(arguments.figure)
    outputs = {"--json": arguments.json, "--figure": arguments.figure}
    check_outputs(outputs, inputs=_inputs(arguments, files), overwrite=arguments.overwrite)
    if arguments.json and arguments.save_split and Path(arguments.json) == Path(arguments.save_split):
        raise ValueError(f"'{arguments.json}' cannot be both the JSON file and the folder of --save_split.")


def _inputs(arguments: argparse.Namespace, files: Mapping[str, Path]) -> list[str | os.PathLike[str]]:
    from dwiml.scoring.ground_truth_files import ground_truth_files

    return [*files.values(), *ground_truth_files(arguments.ground_truth, arguments.config)]


def _draw(scores: Mapping[str, Scores], truth: GroundTruth, arguments: argparse.Namespace) -> None:
    from dwiml.viz.figure_file import save_figure
    from dwiml.viz.score_figure import DPI, plot_scores

    folder = Path(arguments.ground_truth).resolve().name
    names = ", ".join(scores) if len(scores) <= 2 else f"{len(scores)} tractograms"
    figure = plot_scores(scores, title=f"{names} against the {len(truth.names)} bundles of {folder}")
    save_figure(figure, Path(arguments.figure), dpi=DPI)
