"""``dwiml show_attention``: show what a trained transformer attends to along true streamlines."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_moved_data, add_overwrite, add_sidecar, add_verbose
from dwiml.cli.options.user_classes import add_class_options

if TYPE_CHECKING:
    from dwiml.evaluation.attention import StreamlineAttention
    from dwiml.evaluation.losses_by_point import SubjectReader

ALL = "all"
_RESULTS = ("attention_*.png", "attention_*.trk", "streamlines_*.png")
# Of an experiment in a title.
_LONGEST_NAME = 40


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml show_attention",
        allow_abbrev=False,
        usage="dwiml show_attention EXPERIMENT SUBJECT --out FOLDER [options]",
        description="Run the best model of an experiment, a transformer, along true streamlines of a subject, and draw "
        "its attention: the matrices of each streamline (attention_ID.png) and, for each group of layers, such as the "
        "encoder, the streamlines colored by the attention that each point receives (streamlines_GROUP.png and "
        "attention_GROUP.trk).",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help="experiment folder")
    parser.add_argument("subject", metavar="SUBJECT", help="a subject of the HDF5 file")
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="folder for the results; created if missing [required]"
    )
    parser.add_argument("--subset", metavar="NAME", help="training, validation or testing [that of the subject]")
    _add_selection(parser)
    add_moved_data(parser)
    add_sidecar(parser, "each tractogram")
    add_overwrite(parser, "replace existing results in FOLDER")
    add_class_options(parser)
    add_verbose(parser)
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--streamlines",
        type=int,
        nargs="+",
        metavar="ID",
        help="streamlines to show, by their index in the HDF5 file, from 0 [drawn at random]",
    )
    chosen.add_argument(
        "--nb", type=int, default=3, metavar="N", help="number of streamlines drawn at random [%(default)s]"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draw [%(default)s]")
    parser.add_argument(
        "--group",
        nargs="+",
        metavar="NAME",
        help="groups of layers to show: encoder, decoder, cross (of the decoder to the encoder) [all]",
    )
    parser.add_argument("--layer", type=int, nargs="+", metavar="N", help="layers of each group to show, from 0 [all]")
    parser.add_argument(
        "--head",
        nargs="+",
        metavar="N",
        help=f"heads to show, from 0, or '{ALL}', one matrix each: attention_ID_GROUP.png [their mean]",
    )
    parser.add_argument(
        "--point",
        type=int,
        metavar="N",
        help="color the streamlines by the attention of this point to the points before it: its index from 0, or from "
        "the end if negative (-1: the last point) [mean over all points]",
    )


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv, memory_advice=_memory_advice)


def _memory_advice(_: argparse.Namespace) -> str:
    return "choose shorter streamlines with --streamlines"


def _run(arguments: argparse.Namespace) -> None:
    from dwiml.arguments import check_whole, counted
    from dwiml.cli.running.input_files import find_subject
    from dwiml.cli.running.progress import progress_bar
    from dwiml.evaluation.attention import check_has_attention, choose_streamlines, measure_attention
    from dwiml.evaluation.losses_by_point import SubjectReader
    from dwiml.ops.randomness import check_seed
    from dwiml.tractograms.writing.sidecar import tractogram_sidecar
    from dwiml.trained.experiment import load_experiment

    check_whole("--nb", arguments.nb, low=1)
    check_seed(arguments.seed)
    by_head, heads = arguments.head is not None, _heads(arguments.head)
    experiment = load_experiment(arguments.experiment, arguments.model_class)
    check_has_attention(experiment.model)
    # Lazy, because only one subject is read.
    dataset = experiment.open_dataset(arguments.hdf5_file, lazy=True)
    phase, subject = find_subject(dataset, arguments.subject, arguments.subset)
    reader = SubjectReader(experiment.batch_loader(dataset), phase, subject)
    # An error of the file is for now, not for after the work.
    reader.find_grid()
    ids = choose_streamlines(reader, ids=arguments.streamlines, nb=arguments.nb, seed=arguments.seed)
    # The names of the groups are known with the first result.
    _check_folder(arguments, [])
    attentions: list[StreamlineAttention] = []
    with progress_bar(f"{arguments.subject}, attention", len(ids)) as on_progress:
        for found in measure_attention(experiment.model, reader, ids, on_progress=on_progress):
            attention = found.select(groups=arguments.group, layers=arguments.layer, heads=heads)
            for group in attention.weights:
                attention.at_points(group, arguments.point)
            files = [*_matrices(attention, by_head=by_head), *_of_groups(attention)]
            sidecars = [str(tractogram_sidecar(file)) for file in files if file.endswith(".trk")]
            _check_folder(arguments, [*files, *(sidecars if arguments.sidecar else [])])
            attentions.append(attention)
    _write_matrices(arguments, attentions, by_head=by_head)
    _write_streamlines(arguments, reader, attentions)
    _name_older(arguments, attentions, by_head=by_head)
    nb = counted(len(ids), "streamline")
    print(f"Attention along {nb} of {arguments.subject} ({phase} set); results in {arguments.out}")


def _name_older(arguments: argparse.Namespace, attentions: Sequence[StreamlineAttention], *, by_head: bool) -> None:
    """Name the results of an earlier run that are still in the folder."""
    from dwiml.arguments import quoted

    written = {name for each in attentions for name in (*_matrices(each, by_head=by_head), *_of_groups(each))}
    found = {path.name for pattern in _RESULTS for path in Path(arguments.out).glob(pattern)}
    if older := sorted(found - written):
        print(f"Results of an earlier run are still in {arguments.out}: {quoted(older, limit=5)}.")


def _heads(given: list[str] | None) -> list[int] | None:
    """Return the numbers of the heads; None for all."""
    if given is None or given == [ALL]:
        return None
    if not all(each.isascii() and each.isdecimal() for each in given):
        raise ValueError(f"--head must be numbers of heads, from 0, or '{ALL}', got {' '.join(given)}.")
    return [int(each) for each in given]


def _of_groups(attention: StreamlineAttention) -> dict[str, str]:
    """Return {file: group} of the files with all streamlines: a tractogram and a figure for each group."""
    from dwiml.files import check_name

    # A model of the user may have any name.
    names = [check_name(group, "Group of attention") for group in attention.weights]
    return {
        f"{kind}_{name}.{end}": name for name in names for kind, end in (("attention", "trk"), ("streamlines", "png"))
    }


def _matrices(attention: StreamlineAttention, *, by_head: bool) -> dict[str, tuple[str, dict[str, dict[str, Any]]]]:
    """Return {file: (what it shows, {row of panels: {panel: matrix}})} of a streamline.

    A figure has groups by layers or, for each group, layers by heads.
    """
    weights, name = attention.weights, f"attention_{attention.id}"
    if by_head:
        return {
            f"{name}_{group}.png": (
                group,
                {
                    f"layer {layer}": {f"head {head}": matrix for head, matrix in heads.items()}
                    for layer, heads in layers.items()
                },
            )
            for group, layers in weights.items()
        }
    rows = {
        group: {f"layer {layer}": attention.mean(group, layer) for layer in layers} for group, layers in weights.items()
    }
    return {f"{name}.png": ("mean over heads", rows)}


def _check_folder(arguments: argparse.Namespace, files: Sequence[str]) -> None:
    from dwiml.cli.running.input_files import experiment_files
    from dwiml.files import check_output_folder

    check_output_folder(
        arguments.out,
        files,
        "--out",
        inputs=experiment_files(arguments.experiment, arguments.hdf5_file),
        experiments=[arguments.experiment],
        overwrite=arguments.overwrite,
    )


def _write_matrices(arguments: argparse.Namespace, attentions: Sequence[StreamlineAttention], *, by_head: bool) -> None:
    from dwiml.viz.attention import DPI, plot_attention
    from dwiml.viz.figure_file import save_figure

    for attention in attentions:
        for file, (what, matrices) in _matrices(attention, by_head=by_head).items():
            title = f"{_title(arguments)}, streamline {attention.id}, {what}"
            save_figure(plot_attention(matrices, attention.mm, title=title), Path(arguments.out, file), dpi=DPI)


def _write_streamlines(
    arguments: argparse.Namespace, reader: SubjectReader, attentions: Sequence[StreamlineAttention]
) -> None:
    """Write the tractogram and the figure of each group."""
    import numpy as np

    from dwiml.cli.running.input_files import experiment_files
    from dwiml.evaluation.attention_tractogram import write_attention_tractogram
    from dwiml.ops.spaces import from_vox_corner
    from dwiml.viz.attention import plot_attended_streamlines
    from dwiml.viz.figure_file import save_figure
    from dwiml.viz.pieces import DrawnTractogram
    from dwiml.viz.tractograms import DPI

    grid = reader.find_grid()
    points = from_vox_corner(
        np.concatenate([each.points for each in attentions]),
        space="rasmm",
        origin="center",
        affine=grid.affine,
        voxel_sizes=grid.voxel_sizes,
    )
    lengths = np.array([len(each.points) for each in attentions])
    point = arguments.point
    sources = None
    if arguments.sidecar:
        sources = [arguments.experiment, *experiment_files(arguments.experiment, arguments.hdf5_file)]
    color = "mean attention received" if point is None else f"attention of point {point} (gray: later points)"
    for group in attentions[0].weights:
        tractogram, figure = (
            Path(arguments.out, name) for name, each in _of_groups(attentions[0]).items() if each == group
        )
        ratios = write_attention_tractogram(tractogram, reader, attentions, group, point=point, sources=sources)
        drawn = DrawnTractogram(group, points, lengths, np.concatenate(ratios).astype(np.float32))
        title = f"{_title(arguments)}, {group}, {_chosen(attentions[0], group)}"
        plotted = plot_attended_streamlines(drawn, color=f"{color}, relative to equal attention", title=title)
        save_figure(plotted, figure, dpi=DPI)


def _chosen(attention: StreamlineAttention, group: str) -> str:
    """Return what the values of a group are: ``layer 0, mean over heads``."""
    layers = attention.weights[group]
    single: list[str] = []
    averaged: list[str] = []
    for name, numbers in (("layer", list(layers)), ("head", list(next(iter(layers.values()))))):
        (single if len(numbers) == 1 else averaged).append(
            f"{name} {numbers[0]}" if len(numbers) == 1 else f"{name}s {', '.join(map(str, numbers))}"
        )
    return ", ".join([*single, *([f"mean over {' and '.join(averaged)}"] if averaged else [])])


def _title(arguments: argparse.Namespace) -> str:
    from dwiml.viz.figure_file import shorten

    return f"{shorten(Path(arguments.experiment).resolve().name, _LONGEST_NAME)}: attention on {arguments.subject}"
