"""``dwiml filter_plausible``: keep the streamlines that a trained classifier finds plausible."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from dwiml.cli import parse_and_run
from dwiml.cli.options.declarations import parameters_of
from dwiml.cli.options.derived import add_option
from dwiml.cli.options.shared import add_images, add_moved_data, add_overwrite, add_sidecar, add_verbose
from dwiml.cli.options.user_classes import add_class_options
from dwiml.cli.running.scanner_streamlines import check_tractogram_outputs, describe_kept, read_scanner_streamlines

ACCEPTANCE = "dwiml.tracking.acceptance.Acceptance"
PLAUSIBILITY = "plausibility"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml filter_plausible",
        allow_abbrev=False,
        usage="dwiml filter_plausible EXPERIMENT SUBJECT IN OUT [options]\n"
        "       dwiml filter_plausible EXPERIMENT IN OUT --input IMAGE [IMAGE ...] [options]",
        description="Keep the streamlines of a tractogram, of any tracker, that a trained classifier finds plausible. "
        f"The probability of each streamline is the data per streamline '{PLAUSIBILITY}' of the outputs (.trk, .trx).",
    )
    parser.add_argument(
        "model", metavar="EXPERIMENT", help="experiment of 'dwiml train streamline-classifier'; its best model is used"
    )
    parser.add_argument(
        "subject", metavar="SUBJECT", nargs="?", help="a subject of the HDF5 file of the experiment; not with --input"
    )
    parser.add_argument("tractogram", metavar="IN", help="tractogram to filter, in the scanner space of the subject")
    parser.add_argument("out", metavar="OUT", help="tractogram to write, with the streamlines that are kept")
    add_option(parser, parameters_of(ACCEPTANCE)["min_plausibility"])
    parser.add_argument("--rejected", metavar="FILE", help="also write the streamlines that are not kept")
    parser.add_argument(
        "--batch_size",
        type=int,
        default=2000,
        metavar="N",
        help="number of streamlines that the classifier gets at once; lower it to use less memory [%(default)s]",
    )
    add_images(parser.add_argument_group("images, for a subject that is not in the HDF5 file"))
    add_moved_data(parser)
    add_sidecar(parser, "each output")
    add_overwrite(parser, "replace existing outputs")
    add_class_options(parser)
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv, memory_advice=_memory_advice)


def _memory_advice(arguments: argparse.Namespace) -> str:
    return f"give a lower --batch_size (now: {arguments.batch_size})"


def _run(arguments: argparse.Namespace) -> None:
    import torch

    from dwiml.cli.running.progress import progress_bar
    from dwiml.ops.sequences import TensorSequence
    from dwiml.ops.spaces import to_vox_corner
    from dwiml.tracking.acceptance import Acceptance, check_classifier, plausibility_of
    from dwiml.training.loading import load_best_model

    outputs = {"OUT": arguments.out, "--rejected": arguments.rejected}
    _check(arguments, outputs)
    classifier = load_best_model(arguments.model, model_class=arguments.model_class).eval()
    minimum = Acceptance(classifier, min_plausibility=arguments.min_plausibility).min_plausibility
    volume, grid = _read_volume(arguments)
    check_classifier(classifier, volume)
    lines = read_scanner_streamlines(arguments.tractogram, "IN", otherwise=grid)
    sidecars = {path: _sidecar(arguments, path) for path in outputs.values() if path is not None}
    writers = {
        path: lines.writer(
            path, {PLAUSIBILITY: 1}, overwrite=arguments.overwrite, sidecar=content if arguments.sidecar else None
        )
        for path, content in sidecars.items()
    }
    lengths = lines.stored.lengths
    space: dict[str, Any] = {"space": "rasmm", "origin": "center", "affine": grid.affine}
    points = to_vox_corner(lines.points, voxel_sizes=grid.voxel_sizes, **space)
    every = TensorSequence(torch.from_numpy(points), torch.from_numpy(lengths))
    sizes, volume = torch.from_numpy(grid.voxel_sizes), volume.to(classifier.device)
    _warn_of_outside(points, lengths, grid.shape, arguments.tractogram)
    with progress_bar("Classifying", len(lengths)) as count:
        found = plausibility_of(
            classifier, every, volume, sizes, batch_size=arguments.batch_size, on_progress=count
        ).numpy()
    kept = found >= minimum
    lines.stored.dps[PLAUSIBILITY] = found[:, None]
    for path, chosen in ((arguments.out, kept), (arguments.rejected, ~kept)):
        if path is not None:
            lines.write(path, writers[path], chosen)
    print(describe_kept(kept, arguments.out))


def _warn_of_outside(points: Any, lengths: Any, shape: tuple[int, int, int], path: str) -> None:
    """Warn of streamlines whose points are all outside the volume, where the input is that of its border."""
    import logging

    import numpy as np

    from dwiml.data.runs import count_outside

    nb = count_outside(points, lengths, np.array(shape, dtype=np.int64))
    if nb:
        logging.getLogger(__name__).warning(
            "%d of the %d streamlines of '%s' lie entirely outside the volume; check the space of the tractogram.",
            *(nb, len(lengths), path),
        )


def _check(arguments: argparse.Namespace, outputs: dict[str, str | None]) -> None:
    """Check the options, and that no output is an input or lies in an experiment that is used."""
    from dwiml.cli.running.tracking_data import check_files, check_options_of_images
    from dwiml.hdf5.stored.collection import files_of
    from dwiml.training.experiment.parameters import recorded_files
    from dwiml.training.loading import recorded_parameters

    if (arguments.subject is None) == (arguments.input is None):
        raise ValueError("Give either a SUBJECT of the HDF5 file or image files with --input.")
    check_options_of_images(arguments)
    check_files(arguments, ("input", "std_mask"))
    like = [] if arguments.standardize_like is None else [arguments.standardize_like]
    read = [*(arguments.input or ()), *(arguments.std_mask or ())]
    read += files_of(arguments.hdf5_file) if arguments.hdf5_file else []
    read += [path for each in (arguments.model, *like) for path in recorded_files(recorded_parameters(each))]
    check_tractogram_outputs(arguments, outputs, read, experiments=like)


def _read_volume(arguments: argparse.Namespace) -> Any:
    from dwiml.cli.running.tracking_data import options_of_images
    from dwiml.trained.input_volume import read_input_volume
    from dwiml.training.loading import recorded_parameters

    options = options_of_images(arguments) if arguments.input is not None else {}
    recorded, given = recorded_parameters(arguments.model), arguments.input or arguments.subject
    return read_input_volume(arguments.model, recorded, given, hdf5_file=arguments.hdf5_file, **options)


def _sidecar(arguments: argparse.Namespace, path: str) -> dict[str, Any]:
    """Return the content of the sidecar of an output."""
    from pathlib import Path

    from dwiml.tractograms.writing.sidecar import ACCEPTANCE as CRITERIA
    from dwiml.tractograms.writing.sidecar import describe
    from dwiml.trained.sidecar import input_files
    from dwiml.training.loading import recorded_parameters

    recorded, given = recorded_parameters(arguments.model), arguments.input or arguments.subject
    files = input_files(arguments.model, recorded, given, hdf5_file=arguments.hdf5_file)
    is_out = path == arguments.out
    limit = {"Minimum" if is_out else "Below": arguments.min_plausibility}
    return describe(
        f"Streamlines of a tractogram that a trained classifier finds {'plausible' if is_out else 'implausible'}.",
        [arguments.tractogram, *files, *(arguments.std_mask or ()), arguments.model],
        {CRITERIA: {"Plausibility": {"Classifier": Path(arguments.model), **limit}}},
    )
