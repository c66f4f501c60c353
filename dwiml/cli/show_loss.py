"""``dwiml show_loss``: a trained model's loss at each point of true streamlines, to look at."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwiml.cli import run_command
from dwiml.cli.unknown_options import parse_known_options
from dwiml.failures import GPU, MEMORY

if TYPE_CHECKING:
    from dwiml.data.dataset import MultiSubjectDataset
    from dwiml.evaluation.losses_by_point import SubjectReader

ALL = "all"
SUMMARY = "summary.json"
HISTOGRAMS = "histograms.png"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml show_loss",
        allow_abbrev=False,
        description="Run the best model of an experiment of 'dwiml train' along a subject's true streamlines and write "
        "its loss at each point, and the probability that the streamline ends there where the model tells it: loss.trk "
        "(every streamline, coloured by its loss), best_10_percent.trk and worst_10_percent.trk (by mean loss), "
        "histograms.png and summary.json. 'dwiml show_tractogram OUT_DIR/loss.trk OUT.png --color loss' draws them.",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help="the experiment's folder")
    parser.add_argument(
        "subject",
        metavar="SUBJECT",
        help=f"a subject of the HDF5 file, or '{ALL}' for those of a subset, each in a folder of its own in OUT_DIR",
    )
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder of the results; made if it is missing")
    parser.add_argument(
        "--subset",
        metavar="NAME",
        help=f"training, validation or testing [where the subject is; for '{ALL}': validation]",
    )
    parser.add_argument(
        "--percent", type=float, default=10.0, metavar="X", help="share of best and worst streamlines [%(default)g]"
    )
    parser.add_argument(
        "--color_range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="losses at the two ends of the colours, the same for several subjects or models to be compared "
        "[each subject's 5th and 95th percentile]",
    )
    parser.add_argument(
        "--batch_size", type=int, default=1000, metavar="N", help="streamlines at a time, for memory [%(default)s]"
    )
    parser.add_argument("--hdf5_file", metavar="HDF5", help="where the data are now [where they were]")
    parser.add_argument("-f", dest="overwrite", action="store_true", help="replace results that are in OUT_DIR")
    parser.add_argument("-v", dest="verbose", action="store_true", help="show informative messages")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_known_options(build_parser(), argv)
    fewer = f"give a lower --batch_size (now: {arguments.batch_size})"
    return run_command(lambda: _run(arguments), verbose=arguments.verbose, advice={MEMORY: fewer, GPU: fewer})


def _run(arguments: argparse.Namespace) -> None:
    import torch

    from dwiml.arguments import check_number, check_whole
    from dwiml.evaluation.loss_tractograms import check_color_range
    from dwiml.evaluation.losses_by_point import SubjectReader
    from dwiml.files import check_name
    from dwiml.training.loading import rebuild_experiment

    check_number("--percent", arguments.percent, low=0, high=100, low_included=False)
    check_whole("--batch_size", arguments.batch_size, low=1)
    check_color_range(arguments.color_range)
    # Lazy: one subject at a time is looked at.
    rebuilt = rebuild_experiment(arguments.experiment, hdf5_file=arguments.hdf5_file, load_testing=True, lazy=True)
    model = type(rebuilt.model).load(rebuilt.folder.best_model, device="cuda" if torch.cuda.is_available() else "cpu")
    phase, subjects = _find(rebuilt.dataset, arguments.subject, arguments.subset)
    names = rebuilt.dataset.subset(phase).subjects
    out_dir = Path(arguments.out_dir)
    # A name from a stranger's file must not lead out of OUT_DIR.
    folders = [
        out_dir / check_name(names[each], "Subject") if arguments.subject == ALL else out_dir for each in subjects
    ]
    for folder in folders:
        _check_folder(folder, arguments)
    for subject, folder in zip(subjects, folders, strict=True):
        reader = SubjectReader(rebuilt.loader, phase, subject, batch_size=arguments.batch_size)
        summary = _show(model, reader, folder, arguments)
        print(
            f"{names[subject]} ({phase} set): mean loss {summary['mean_loss']:.5g} over {summary['nb_losses']} steps "
            f"of {summary['nb_streamlines']} streamlines; results in {folder}",
            flush=True,
        )


def _show(model: Any, reader: SubjectReader, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Write one subject's results: the tractograms, the summary, and last what only shows them."""
    from dwiml.cli.progress import counted
    from dwiml.evaluation.loss_tractograms import write_loss_tractograms
    from dwiml.evaluation.losses_by_point import measure_losses
    from dwiml.files import write_json
    from dwiml.viz.figure_file import save_figure
    from dwiml.viz.losses import DPI, plot_loss_histograms

    name = reader.data.subject_id
    with counted(f"{name}, losses", reader.nb_streamlines) as on_progress:
        losses = measure_losses(model, reader, on_progress=on_progress)
    (folder / SUMMARY).unlink(missing_ok=True)
    with counted(f"{name}, writing", None) as on_progress:
        summary = write_loss_tractograms(
            folder,
            reader,
            losses,
            percent=arguments.percent,
            color_range=arguments.color_range,
            on_progress=on_progress,
        )
    summary = {"experiment": str(arguments.experiment), **summary}
    write_json(folder / SUMMARY, summary)
    title = f"{Path(arguments.experiment).resolve().name}: loss on {name} ({reader.phase} set)"
    figure = plot_loss_histograms(losses.loss, losses.streamline_means(), title=title, eos=losses.eos_by_place())
    save_figure(figure, folder / HISTOGRAMS, dpi=DPI)
    return summary


def _find(dataset: MultiSubjectDataset, subject: str, subset: str | None) -> tuple[str, list[int]]:
    """Return the subset, and the indices in it, of the subjects that are asked for."""
    from dwiml.data.dataset import SUBSETS

    if subset is not None and subset not in SUBSETS:
        raise ValueError(f"--subset must be one of {', '.join(SUBSETS)}, got '{subset}'.")
    if subject == ALL:
        phase = subset or "validation"
        if not dataset.subset(phase).subjects:
            raise ValueError(f"The {phase} set of {dataset.hdf5_file} has no subject.")
        return phase, list(range(len(dataset.subset(phase))))
    phases = SUBSETS if subset is None else (subset,)
    for phase in phases:
        if subject in dataset.subset(phase).subjects:
            return phase, [dataset.subset(phase).subjects.index(subject)]
    known = "; ".join(f"{phase}: {', '.join(dataset.subset(phase).subjects) or 'none'}" for phase in phases)
    raise ValueError(f"Subject '{subject}' not found in {dataset.hdf5_file}; it has: {known}.")


def _check_folder(folder: Path, arguments: argparse.Namespace) -> None:
    from dwiml.cli.inputs import data_of
    from dwiml.evaluation.loss_tractograms import loss_files
    from dwiml.files import check_output_folder

    check_output_folder(
        folder,
        [*loss_files(arguments.percent), HISTOGRAMS, SUMMARY],
        "OUT_DIR",
        inputs=[data_of(arguments.experiment, arguments.hdf5_file)],
        experiments=[arguments.experiment],
        overwrite=arguments.overwrite,
    )
