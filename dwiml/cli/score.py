"""``dwiml score``: score tractograms against true bundles."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_overwrite, add_sidecar, add_verbose

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dwiml.scoring.ground_truth import GroundTruth
    from dwiml.scoring.scores import Scores


def build_parser() -> argparse.ArgumentParser:
    from dwiml.scoring.defaults import PRESETS

    parser = argparse.ArgumentParser(
        prog="dwiml score",
        allow_abbrev=False,
        description="Score tractograms against true bundles, like the ISMRM 2015 tractography challenge: count valid, "
        "wrong path, invalid and no connections, and compare the volume of the valid streamlines of each bundle with "
        "its true volume (overlap, overreach, F1, which is the Dice coefficient, and bundle adjacency).",
    )
    parser.add_argument("tractograms", metavar="TRACTOGRAM", nargs="+", help="a tractogram; several to compare")
    parser.add_argument(
        "--ground_truth",
        required=True,
        metavar="DIR",
        help="folder of the true bundles, with ground_truth.json (such as a subject of 'dwiml phantom') or else one "
        "NIfTI mask per bundle",
    )
    parser.add_argument(
        "--config",
        metavar="JSON",
        help="file to read instead of ground_truth.json in DIR; one in scilpy's format is recognized",
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help="DIR holds the scoring data of the ISMRM 2015 challenge (Renauld et al., 2023), in scilpy's format",
    )
    _add_rules(parser)
    _add_comparison(parser)
    output = parser.add_argument_group("output, in addition to the table")
    output.add_argument("--json", metavar="OUT", help="write all scores to this file")
    output.add_argument("--figure", metavar="OUT", help="save a figure of the scores (.png, .pdf, .svg, ...)")
    output.add_argument(
        "--confusion",
        metavar="OUT.csv",
        help="save the number of invalid connections between each pair of end regions, as a symmetric matrix, and show "
        "it (several tractograms: one matrix below the other)",
    )
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


def _add_rules(parser: argparse.ArgumentParser) -> None:
    from dwiml.scoring.defaults import END_TOLERANCE_MM, MASK_TOLERANCE_MM, MAX_OUTSIDE, MIN_COVERAGE

    rules = parser.add_argument_group("rules")
    rules.add_argument(
        "--mask_tolerance",
        type=float,
        metavar="MM",
        help="distance from the mask of a bundle within which a streamline still counts as inside "
        f"[{MASK_TOLERANCE_MM:g}; in scilpy's format, 0]",
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
        metavar="SHARE",
        help="share of the length of a valid streamline, 0 to 1, that may lie outside the mask "
        f"[{MAX_OUTSIDE:g}; in scilpy's format, 0]",
    )
    rules.add_argument(
        "--min_coverage",
        type=float,
        default=MIN_COVERAGE,
        metavar="SHARE",
        help="share of the mask, 0 to 1, to cover for a bundle without end regions to be valid [%(default)g]",
    )


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--compare", action="store_true", help="show a compact table: the total scores, one row per tractogram"
    )
    group.add_argument(
        "--repeats",
        action="store_true",
        help="the tractograms are repetitions with the same tracker, for instance with different seeds: show the mean "
        "and the standard deviation of the total scores",
    )
    group.add_argument(
        "--bootstrap",
        type=int,
        metavar="N",
        help="show 95%% percentile intervals from N resamples: of the bundles, for mean overlap, overreach, F1 and "
        "adjacency, and of the streamlines, for the connections",
    )
    group.add_argument("--seed", type=int, metavar="N", help="seed of --bootstrap [0]")


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from dwiml.cli.running.input_files import short_names
    from dwiml.cli.running.progress import progress_bar
    from dwiml.scoring.ground_truth_files import read_ground_truth
    from dwiml.scoring.scores import score_streamlines
    from dwiml.tractograms.reading import read_streamlines

    files = short_names(arguments.tractograms)
    _check(arguments, files)
    truth = read_ground_truth(
        arguments.ground_truth,
        config=arguments.config,
        preset=arguments.preset,
        mask_tolerance=arguments.mask_tolerance,
        end_tolerance=arguments.end_tolerance,
    )
    rules = {"mask_tolerance": truth.mask_tolerance, "end_tolerance": truth.end_tolerance}
    max_outside = truth.max_outside if arguments.max_outside is None else arguments.max_outside
    shares = {"max_outside": max_outside, "min_coverage": arguments.min_coverage}
    if arguments.confusion and not truth.has_ends.any():
        raise ValueError("No bundle has end regions, which are needed for invalid connections; leave out --confusion.")
    folders = _check_split(arguments, files, truth) if arguments.save_split else {}
    scores: dict[str, Scores] = {}
    for name, path in files.items():
        points, lengths = read_streamlines(path, truth.grid.affine)
        with progress_bar(name, len(lengths)) as on_progress:
            scores[name] = score_streamlines(points, lengths, truth, on_progress=on_progress, **shares)
        if arguments.save_split:
            from dwiml.scoring.split import save_split

            sources = [path, arguments.ground_truth, arguments.config] if arguments.sidecar else None
            save_split(folders[name], points, lengths, scores[name], truth, sources=sources, rules={**rules, **shares})
    _report(arguments, files, truth, scores, rules=rules, shares=shares)
    if arguments.figure:
        _draw(scores, truth, arguments)


def _report(
    arguments: argparse.Namespace,
    files: Mapping[str, Path],
    truth: GroundTruth,
    scores: Mapping[str, Scores],
    *,
    rules: Mapping[str, float],
    shares: Mapping[str, float],
) -> None:
    """Write the JSON file and the confusion matrices, and print the tables."""
    from dwiml import __version__
    from dwiml.files import write_json
    from dwiml.scoring.comparison.confusion import confusion_matrix, write_confusion
    from dwiml.scoring.comparison.intervals import CONFIDENCE, bootstrap_intervals
    from dwiml.scoring.comparison.totals import over_repeats

    results = {name: {"file": str(path), **scores[name].as_dict()} for name, path in files.items()}
    written = {"dwiml_version": __version__, "ground_truth": arguments.ground_truth, "config": arguments.config}
    written |= {**rules, **shares}
    if arguments.preset:
        written["preset"] = arguments.preset
    repeats = over_repeats(scores) if arguments.repeats else None
    if repeats:
        written["repeats"] = repeats
    intervals = {}
    if arguments.bootstrap is not None:
        options = {"nb_resamples": arguments.bootstrap, "seed": arguments.seed or 0}
        intervals = {name: bootstrap_intervals(each, **options) for name, each in scores.items()}
        written["bootstrap"] = {**options, "confidence": CONFIDENCE}
        for name, found in intervals.items():
            results[name]["intervals"] = found
    matrices = {name: confusion_matrix(each, truth.regions) for name, each in scores.items()}
    if arguments.json:
        write_json(arguments.json, {**written, "tractograms": results})
    if arguments.confusion:
        write_confusion(Path(arguments.confusion), matrices, truth.regions)
    print("\n\n".join(_tables(arguments, truth, scores, shares, repeats, intervals, matrices)))


def _tables(
    arguments: argparse.Namespace,
    truth: GroundTruth,
    scores: Mapping[str, Scores],
    shares: Mapping[str, float],
    repeats: Mapping[str, Mapping[str, float | int | None]] | None,
    intervals: Mapping[str, Mapping[str, tuple[float, float] | None]],
    matrices: Mapping[str, NDArray[np.int64]],
) -> Iterator[str]:
    from dwiml.scoring.comparison.confusion import confusion_table
    from dwiml.scoring.comparison.table import comparison_table, interval_table
    from dwiml.scoring.tables import heading, tables

    if arguments.compare:
        yield heading(truth, arguments.ground_truth, **shares)
        yield comparison_table(scores, repeats)
    else:
        yield tables(scores, truth, arguments.ground_truth, **shares)
        if repeats:
            yield comparison_table({}, repeats)
    if intervals:
        yield interval_table(intervals)
    if arguments.confusion:
        for name, matrix in matrices.items():
            title = f"{name}\n" if len(matrices) > 1 else ""
            yield title + confusion_table(matrix, truth.regions)


def _check_split(arguments: argparse.Namespace, files: Mapping[str, Path], truth: GroundTruth) -> dict[str, Path]:
    """Return the folder of --save_split of each tractogram, after checking that its files can be written."""
    from dwiml.scoring.split import check_split

    folders = {name: Path(arguments.save_split, name if len(files) > 1 else "") for name in files}
    # The other outputs must not be replaced either.
    inputs = (*_inputs(arguments, files), arguments.json, arguments.figure, arguments.confusion)
    for folder in folders.values():
        check_split(
            folder,
            truth,
            inputs=inputs,
            overwrite=arguments.overwrite,
            label="--save_split",
            sidecars=arguments.sidecar,
        )
    return folders


def _check(arguments: argparse.Namespace, files: Mapping[str, Path]) -> None:
    """Check the options and files before the work starts."""
    from dwiml.files import check_outputs
    from dwiml.tractograms.reading import open_tractogram

    _check_options(arguments, len(files))
    for path in files.values():
        open_tractogram(path)
    if arguments.figure is not None:
        from dwiml.viz.figure_file import check_figure_format

        check_figure_format(arguments.figure)
    if arguments.confusion is not None and Path(arguments.confusion).suffix.lower() != ".csv":
        raise ValueError(f"--confusion: '{arguments.confusion}' must end in .csv.")
    outputs = {"--json": arguments.json, "--figure": arguments.figure, "--confusion": arguments.confusion}
    check_outputs(outputs, inputs=_inputs(arguments, files), overwrite=arguments.overwrite)
    if arguments.json and arguments.save_split and Path(arguments.json) == Path(arguments.save_split):
        raise ValueError(f"'{arguments.json}' cannot be both the JSON file and the folder of --save_split.")


def _check_options(arguments: argparse.Namespace, nb_tractograms: int) -> None:
    from dwiml.arguments import check_number, check_whole
    from dwiml.ops.randomness import check_seed
    from dwiml.scoring.comparison.intervals import FEWEST_RESAMPLES, MOST_RESAMPLES
    from dwiml.scoring.defaults import MOST_TOLERANCE_MM

    if arguments.sidecar and not arguments.save_split:
        raise ValueError("--sidecar describes the tractograms of --save_split, which was not given.")
    limits = {"mask_tolerance": MOST_TOLERANCE_MM, "end_tolerance": MOST_TOLERANCE_MM}
    for option, high in (limits | {"max_outside": 1, "min_coverage": 1}).items():
        if getattr(arguments, option) is not None:
            check_number(f"--{option}", getattr(arguments, option), low=0, high=high)
    if arguments.bootstrap is not None:
        check_whole("--bootstrap", arguments.bootstrap, low=FEWEST_RESAMPLES, high=MOST_RESAMPLES)
    check_seed(arguments.seed)
    if arguments.seed is not None and arguments.bootstrap is None:
        raise ValueError("--seed is that of --bootstrap, which was not given.")
    if arguments.repeats and nb_tractograms < 2:
        raise ValueError("--repeats needs at least two tractograms of the same tracker, got one.")


def _inputs(arguments: argparse.Namespace, files: Mapping[str, Path]) -> list[str | os.PathLike[str]]:
    from dwiml.scoring.ground_truth_files import ground_truth_files

    return [*files.values(), *ground_truth_files(arguments.ground_truth, arguments.config, arguments.preset)]


def _draw(scores: Mapping[str, Scores], truth: GroundTruth, arguments: argparse.Namespace) -> None:
    from dwiml.viz.figure_file import save_figure
    from dwiml.viz.score_figure import DPI, plot_scores

    folder = Path(arguments.ground_truth).resolve().name
    names = ", ".join(scores) if len(scores) <= 2 else f"{len(scores)} tractograms"
    figure = plot_scores(scores, title=f"{names} against the {len(truth.names)} bundles of {folder}")
    save_figure(figure, Path(arguments.figure), dpi=DPI)
