"""``dwiml import_dwi_ml``: import an experiment of dwi_ml."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dwiml.arguments import counted, grouped
from dwiml.cli import parse_and_run
from dwiml.cli.options.shared import add_overwrite, add_verbose

if TYPE_CHECKING:
    from dwiml.importing.experiment import Imported


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwiml import_dwi_ml",
        allow_abbrev=False,
        description="Import an experiment of dwi_ml 1.0 (Learn2Track, a transformer or the autoencoder): the model, "
        "its weights and the logs become an experiment folder for 'dwiml track', 'dwiml evaluate', 'dwiml show_loss', "
        "'dwiml autoencode' and 'visualize_logs'. The model computes the same outputs from the same inputs. Nothing in "
        "the files can run code. What differs from dwi_ml is printed.",
    )
    parser.add_argument(
        "experiment", metavar="EXPERIMENT", help="experiment folder of dwi_ml, or a folder with model_state.pkl"
    )
    parser.add_argument("out", metavar="OUT", help="experiment folder to create")
    parser.add_argument(
        "--use_latest_epoch",
        action="store_true",
        help="import the model of the last epoch, of the checkpoint [the best model; that of the checkpoint if there "
        "is none]",
    )
    parser.add_argument(
        "--no_volume_shift",
        dest="volume_shift",
        action="store_false",
        help="read volumes where they are [where dwi_ml read them, half a voxel off, as the model was trained]",
    )
    parser.add_argument(
        "--grid",
        metavar="IMAGE",
        help="for an autoencoder, required: image with the voxel grid of the subjects that it was trained on",
    )
    parser.add_argument("--hdf5_file", metavar="HDF5", help="HDF5 file of the data [the recorded path]")
    parser.add_argument("--input_group_name", metavar="NAME", help="volume group of the model's input [as recorded]")
    parser.add_argument("--streamline_group_name", metavar="NAME", help="streamline group [as recorded]")
    add_overwrite(parser, "replace OUT if it is an imported experiment")
    add_verbose(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return parse_and_run(build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> None:
    from dwiml.importing.experiment import import_dwi_ml

    imported = import_dwi_ml(
        arguments.experiment,
        arguments.out,
        weights="latest" if arguments.use_latest_epoch else "best",
        volume_shift=arguments.volume_shift,
        grid=arguments.grid,
        hdf5_file=arguments.hdf5_file,
        input_group_name=arguments.input_group_name,
        streamline_group_name=arguments.streamline_group_name,
        overwrite=arguments.overwrite,
    )
    print(report(imported, volume_shift=arguments.volume_shift))


def report(imported: Imported, *, volume_shift: bool) -> str:
    """Return what was imported, and what differs from dwi_ml, one item a line."""
    nb_weights = sum(each.numel() for each in imported.model.parameters())
    epochs = counted(imported.nb_epochs, "epoch")
    lines = [
        f"{imported.model_type} of '{imported.source}' ({grouped(nb_weights)} weights) is now the "
        f"{type(imported.model).__name__} of '{imported.folder}', with the logs of {epochs}.",
        "The outputs of the model are those of dwi_ml, up to rounding. What differs:",
    ]
    notes = list(imported.notes)
    if hasattr(imported.model, "nb_features"):
        where = "where they are. dwi_ml reads them half a voxel off, and the model was trained that way."
        if volume_shift:
            where = "half a voxel off, as in dwi_ml, because the model was trained that way (volume_shift 0.5)."
        where = f"Volumes are read {where}"
        tracking = (
            "Tracking: the default maximum angle of dwi_ml is 90 degrees (--theta 90). It keeps the last point, "
            "outside the mask, and can track without a mask; dwiml removes that point and needs a mask."
        )
        notes = [where, *notes, tracking]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines)
