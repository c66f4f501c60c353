"""``dwiml show_loss``: show the loss of a trained model at each point of streamlines."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_images, add_moved_data, add_overwrite, add_sidecar, add_verbose
from dwiml.cli.options.user_classes import add_class_options
from dwiml.cli.running.loss_data import ALL
from dwiml.cli.running.tracking_data import OF_IMAGES

if TYPE_CHECKING:
    from dwiml.evaluation.losses_by_point import SubjectReader

SUMMARY = "summary.json"
HISTOGRAMS = "histograms.png"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml show_loss",
        allow_abbrev=False,
        usage="dwiml show_loss EXPERIMENT SUBJECT OUT_DIR [--tractogram FILE] [options]\n"
        "       dwiml show_loss EXPERIMENT SUBJECT OUT_DIR --input IMAGE [IMAGE ...] --tractogram FILE [options]",
        description="Run the best model of an experiment of 'dwiml train' along the true streamlines of a subject, or "
        "those of --tractogram. Each point gets the loss and, depending on the model, the distance in mm between the "
        "predicted and the true next point, and the probability that the streamline ends there. Writes loss.trk (all "
        "streamlines, colored by --color_by), best_10_percent.trk and worst_10_percent.trk (by mean loss), "
        "histograms.png and summary.json. To draw them: 'dwiml show_tractogram OUT_DIR/loss.trk OUT.png --color loss'.",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help="experiment folder")
    parser.add_argument(
        "subject",
        metavar="SUBJECT",
        help=f"a subject of the HDF5 file, or '{ALL}' for all subjects of a subset, each in its own folder in OUT_DIR; "
        "with --input, any name; it is used in messages and results",
    )
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder for the results; created if missing")
    parser.add_argument(
        "--subset",
        metavar="NAME",
        help=f"training, validation or testing [that of the subject; for '{ALL}': validation]",
    )
    parser.add_argument(
        "--tractogram",
        metavar="FILE",
        help="streamlines of the SUBJECT to use instead of its true ones, such as the output of 'dwiml track': a file "
        "of any format, in the same scanner space; the loss depends on the direction in which they are stored "
        "[required with --input]",
    )
    parser.add_argument(
        "--percent",
        type=float,
        default=10.0,
        metavar="X",
        help="percentage of best and worst streamlines [%(default)g]",
    )
    _add_colors(parser)
    parser.add_argument(
        "--batch_size",
        type=int,
        default=1000,
        metavar="N",
        help="number of streamlines per batch; lower it to use less memory [%(default)s]",
    )
    _add_images(parser)
    add_moved_data(parser)
    add_sidecar(parser, "each tractogram")
    add_overwrite(parser, "replace existing results in OUT_DIR")
    add_class_options(parser)
    add_verbose(parser)
    return parser


def _add_colors(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--color_by",
        default="loss",
        metavar="NAME",
        help="what the colors show: loss, displacement_mm (for a model that predicts directions) or eos_error (for "
        "a model that predicts where streamlines end) [%(default)s]",
    )
    parser.add_argument(
        "--color_range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="values of --color_by at the two ends of the color map; give the same ones to compare subjects or models "
        "[5th and 95th percentile of each subject]",
    )


def _add_images(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "images",
        "For a SUBJECT that is not in the HDF5 file: the images that the model reads, and --tractogram for its "
        "streamlines. The HDF5 file need not exist.",
    )
    add_images(group)


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv, memory_advice=_memory_advice)


def _memory_advice(arguments: argparse.Namespace) -> str:
    return f"give a lower --batch_size (now: {arguments.batch_size})"


def _run(arguments: argparse.Namespace) -> None:
    from dwiml.arguments import check_choice, check_number, check_whole
    from dwiml.cli.running.loss_data import load_loss_data
    from dwiml.evaluation.loss_tractograms import check_color_range
    from dwiml.evaluation.point_losses import COLOR_BY
    from dwiml.files import check_name

    check_number("--percent", arguments.percent, low=0, high=100, low_included=False)
    check_whole("--batch_size", arguments.batch_size, low=1)
    check_choice("--color_by", arguments.color_by, COLOR_BY)
    check_color_range(arguments.color_range)
    model, readers = load_loss_data(arguments)
    out_dir = Path(arguments.out_dir)
    # A subject name from an untrusted file must not lead out of OUT_DIR.
    folders = [
        out_dir / check_name(reader.data.subject_id, "Subject") if arguments.subject == ALL else out_dir
        for reader in readers
    ]
    for folder, reader in zip(folders, readers, strict=True):
        _check_folder(folder, arguments)
        # An error of the file is for now, not for after the work.
        reader.find_grid()
    for reader, folder in zip(readers, folders, strict=True):
        summary = _show(model, reader, folder, arguments)
        print(
            f"{_shown(reader, arguments)}: mean loss {summary['mean_loss']:.5g} over {summary['nb_losses']} steps "
            f"of {summary['nb_streamlines']} streamlines; results in {folder}",
            flush=True,
        )


def _shown(reader: SubjectReader, arguments: argparse.Namespace) -> str:
    """Return the subject and where it is from, for the user."""
    return f"{reader.data.subject_id} ({'images' if arguments.input else f'{reader.phase} set'})"


def _show(model: Any, reader: SubjectReader, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the results of one subject, and return its summary."""
    from dwiml.cli.running.progress import progress_bar
    from dwiml.evaluation.loss_tractograms import write_loss_tractograms
    from dwiml.evaluation.losses_by_point import measure_losses
    from dwiml.files import write_json
    from dwiml.viz.figure_file import save_figure
    from dwiml.viz.losses import DPI, plot_loss_histograms

    name = reader.data.subject_id
    with progress_bar(f"{name}, losses", reader.nb_streamlines) as on_progress:
        losses = measure_losses(model, reader, required=arguments.color_by, on_progress=on_progress)
    (folder / SUMMARY).unlink(missing_ok=True)
    with progress_bar(f"{name}, writing", None) as on_progress:
        summary = write_loss_tractograms(
            folder,
            reader,
            losses,
            percent=arguments.percent,
            color_by=arguments.color_by,
            color_range=arguments.color_range,
            on_progress=on_progress,
            sources=_sources(arguments) if arguments.sidecar else None,
        )
    summary = {**_origin(reader, arguments), **summary}
    write_json(folder / SUMMARY, summary)
    where = _shown(reader, arguments)
    if arguments.tractogram is not None:
        where = f"{Path(arguments.tractogram).name}, {where}"
    title = f"{Path(arguments.experiment).resolve().name}: loss on {where}"
    displacement = losses.displacement_mm
    figure = plot_loss_histograms(
        losses.loss,
        losses.streamline_means(),
        title=title,
        eos=losses.eos_probabilities_by_place(),
        loss_by_third=losses.by_third(losses.loss),
        displacement_by_third=None if displacement is None else losses.by_third(displacement),
    )
    save_figure(figure, folder / HISTOGRAMS, dpi=DPI)
    return summary


def _origin(reader: SubjectReader, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return which model and data the results are from, for the summary."""
    given = {name: getattr(arguments, name) for name in ("tractogram", "input", *OF_IMAGES)}
    given = {name: value for name, value in given.items() if value is not None}
    subset = {} if arguments.input else {"subset": reader.phase}
    return {"experiment": str(arguments.experiment), **given, **subset}


def _sources(arguments: argparse.Namespace) -> list[str | Path | None]:
    from dwiml.cli.running.input_files import experiment_files

    if arguments.input:
        data = [*arguments.input, *(arguments.std_mask or ())]
    else:
        data = [*experiment_files(arguments.experiment, arguments.hdf5_file)]
    return [arguments.experiment, arguments.tractogram, *data]


def _check_folder(folder: Path, arguments: argparse.Namespace) -> None:
    from dwiml.cli.running.input_files import experiment_files
    from dwiml.evaluation.loss_tractograms import loss_files
    from dwiml.files import check_output_folder
    from dwiml.tractograms.writing.sidecar import tractogram_sidecar

    tractograms = loss_files(arguments.percent)
    given = [arguments.tractogram, *(arguments.input or ()), *(arguments.std_mask or ())]
    sidecars = [str(tractogram_sidecar(file)) for file in tractograms] if arguments.sidecar else []
    check_output_folder(
        folder,
        [*tractograms, *sidecars, HISTOGRAMS, SUMMARY],
        "OUT_DIR",
        inputs=[*experiment_files(arguments.experiment, arguments.hdf5_file), *given],
        experiments=[arguments.experiment, arguments.standardize_like],
        overwrite=arguments.overwrite,
    )
