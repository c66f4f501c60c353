"""``dwiml show_batch``: draw what a model receives of a batch of its training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_moved_data, add_overwrite, add_verbose
from dwiml.cli.options.user_classes import add_class_options

_DPI = 150


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml show_batch",
        allow_abbrev=False,
        description="Draw streamlines of a batch as the training of an experiment loads it, over the input volume: as "
        "they are stored, as the model receives them (reversed, split, with noise), as the loss compares them, and the "
        "points of the neighborhood. The color goes from the first point of each streamline to its last one.",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help="experiment folder")
    parser.add_argument("out", metavar="OUT", help="figure to write: .png, .pdf, .svg, ...")
    parser.add_argument("--phase", choices=("training", "validation"), default="training", help="[%(default)s]")
    parser.add_argument("--epoch", type=int, default=0, metavar="N", help="index of the epoch, from 0 [%(default)s]")
    parser.add_argument("--batch", type=int, default=0, metavar="N", help="index of the batch, from 0 [%(default)s]")
    parser.add_argument(
        "--max_streamlines",
        type=int,
        default=20,
        metavar="N",
        help="draw the first N streamlines of the first subject in the batch [%(default)s]",
    )
    parser.add_argument("--dpi", type=float, default=_DPI, metavar="N", help="pixels per inch [%(default)s]")
    add_moved_data(parser)
    add_overwrite(parser, "replace OUT if it exists")
    add_class_options(parser)
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from dwiml.arguments import check_number
    from dwiml.cli.running.input_files import experiment_files
    from dwiml.evaluation.batch_rows import rows_of_batch
    from dwiml.files import check_outputs
    from dwiml.inspection.subject_figures import distance_from_background
    from dwiml.training.loading import rebuild_experiment
    from dwiml.viz.figure_file import check_figure_format, save_figure
    from dwiml.viz.pieces import DrawnTractogram
    from dwiml.viz.slices import Background
    from dwiml.viz.tractograms import plot_tractograms

    check_number("--dpi", arguments.dpi, low=10, high=1200)
    out = check_figure_format(arguments.out)
    inputs = experiment_files(arguments.experiment, arguments.hdf5_file)
    check_outputs({"OUT": out}, inputs=inputs, overwrite=arguments.overwrite)
    rebuilt = rebuild_experiment(
        arguments.experiment, model_class=arguments.model_class, hdf5_file=arguments.hdf5_file, lazy=True
    )
    found = rows_of_batch(
        rebuilt,
        phase=arguments.phase,
        epoch=arguments.epoch,
        batch=arguments.batch,
        nb=arguments.max_streamlines,
    )
    group = getattr(rebuilt.loader, "input_group_name", None)
    background = None
    if group is not None:
        volume = rebuilt.dataset.subset(arguments.phase).data_of(found.index).volumes[group]
        values = volume.as_tensor().cpu().numpy()
        image = values[..., 0].copy() if values.shape[-1] == 1 else distance_from_background(values)
        background = Background(image, volume.affine)
    name = Path(arguments.experiment).resolve().name
    title = (
        f"{name}: {arguments.phase} batch {arguments.batch} of epoch {arguments.epoch}, {found.subject}\n{found.text}"
    )
    figure = plot_tractograms(
        [
            DrawnTractogram(row.name, row.points, row.lengths, row.place, is_counted=not row.is_neighborhood)
            for row in found.rows
        ],
        background=background,
        color="from the first point (0) to the last one (1)",
        color_range=(0.0, 1.0),
        separate=True,
        title=title,
    )
    save_figure(figure, out, dpi=arguments.dpi)
    print(f"{out}: {found.text}")
