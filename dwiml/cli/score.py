"""``dwiml score``: score tractograms against true bundles."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_overwrite, add_sidecar, add_verbose

if TYPE_CHECKING:
    from dwiml.scoring.ground_truth import GroundTruth
    from dwiml.scoring.scores import Scores


def build_parser() -> argparse.ArgumentParser:
    from dwiml.scoring.defaults import END_TOLERANCE_MM, MASK_TOLERANCE_MM, MAX_OUTSIDE, MIN_COVERAGE

    parser = argparse.ArgumentParser(
        prog="dwiml score",
        allow_abbrev=False,
        description="Score tractograms against true bundles, like the ISMRM 2015 tractography challenge: count valid, "
        "wrong path, invalid and no connections, and compare the volume of the valid streamlines of each bundle with "
        "its true volume.",
    )
    parser.add_argument("tractograms", metavar="TRACTOGRAM", nargs="+", help="a tractogram; several to compare")
    parser.add_argument(
        "--ground_truth",
        required=True,
        metavar="DIR",
        help="folder of the true bundles, with ground_truth.json (such as a subject of 'dwiml phantom') or else one "
        "NIfTI mask per bundle",
    )
    parser.add_argument("--config", metavar="JSON", help="file to read instead of ground_truth.json in DIR")
    rules = parser.add_argument_group("rules")
    rules.add_argument(
        "--mask_tolerance",
        type=float,
        default=MASK_TOLERANCE_MM,
        metavar="MM",
        help="distance from the mask of a bundle within which a streamline still counts as inside [%(default)g]",
    )
    rules.add_argument(
        "--end_tolerance",
        type=float,
        default=END_TOLERANCE_MM,
        metavar="MM",
        help="maximum distance from an end region to the end of a streamline [%(default)g]",
    )
    rules.add_argument(
        "--max_outside",
        type=float,
        default=MAX_OUTSIDE,
        metavar="SHARE",
        help="share of the length of a valid streamline, 0 to 1, that may lie outside the mask [%(default)g]",
    )
    rules.add_argument(
        "--min_coverage",
        type=float,
        default=MIN_COVERAGE,
        metavar="SHARE",
        help="share of the mask, 0 to 1, to cover for a bundle without end regions to be valid [%(default)g]",
    )
    output = parser.add_argument_group("output, in addition to the table")
    output.add_argument("--json", metavar="OUT", help="write all scores to this file")
    output.add_argument("--figure", metavar="OUT", help="save a figure of the scores (.png, .pdf, .svg, ...)")
    output.add_argument(
        "--save_split",
        metavar="DIR",
        help="save the streamlines in this folder, by kind of connection: valid/BUNDLE.trk, wrong_path/BUNDLE.trk, "
        "invalid.trk, no_connection.trk (several tractograms: one subfolder for each)",
    )
    add_sidecar(output, "each tractogram of --save_split")
    add_overwrite(parser, "replace these outputs if they exist")
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from dwiml import __version__
    from dwiml.cli.running.input_files import short_names
    from dwiml.cli.running.progress import progress_bar
    from dwiml.files import write_json
    from dwiml.scoring.ground_truth_files import read_ground_truth
    from dwiml.scoring.scores import score_streamlines
    from dwiml.scoring.tables import tables
    from dwiml.tractograms.reading import read_streamlines

    files = short_names(arguments.tractograms)
    _check(arguments, files)
    rules = {name: getattr(arguments, name) for name in ("mask_tolerance", "end_tolerance")}
    shares = {name: getattr(arguments, name) for name in ("max_outside", "min_coverage")}
    truth = read_ground_truth(arguments.ground_truth, config=arguments.config, **rules)
    if arguments.save_split:
        from dwiml.scoring.split import check_split, save_split

        folders = {name: Path(arguments.save_split, name if len(files) > 1 else "") for name in files}
        # The other outputs must not be replaced either.
        inputs = (*_inputs(arguments, files), arguments.json, arguments.figure)
        for folder in folders.values():
            check_split(
                folder,
                truth,
                inputs=inputs,
                overwrite=arguments.overwrite,
                label="--save_split",
                sidecars=arguments.sidecar,
            )
    scores: dict[str, Scores] = {}
    for name, path in files.items():
        points, lengths = read_streamlines(path, truth.grid.affine)
        with progress_bar(name, len(lengths)) as on_progress:
            scores[name] = score_streamlines(points, lengths, truth, on_progress=on_progress, **shares)
        if arguments.save_split:
            sources = [path, arguments.ground_truth, arguments.config] if arguments.sidecar else None
            save_split(folders[name], points, lengths, scores[name], truth, sources=sources, rules={**rules, **shares})
    if arguments.json:
        results = {name: {"file": str(path), **scores[name].as_dict()} for name, path in files.items()}
        truth_files = {"ground_truth": arguments.ground_truth, "config": arguments.config}
        write_json(
            arguments.json, {"dwiml_version": __version__, **truth_files, **rules, **shares, "tractograms": results}
        )
    print(tables(scores, truth, arguments.ground_truth, **shares))
    if arguments.figure:
        _draw(scores, truth, arguments)


def _check(arguments: argparse.Namespace, files: Mapping[str, Path]) -> None:
    """Check the options and files before the work starts."""
    from dwiml.arguments import check_number
    from dwiml.files import check_outputs
    from dwiml.scoring.defaults import MOST_TOLERANCE_MM
    from dwiml.tractograms.reading import open_tractogram

    if arguments.sidecar and not arguments.save_split:
        raise ValueError("--sidecar describes the tractograms of --save_split, which was not given.")
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
