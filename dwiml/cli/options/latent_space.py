"""Options that the commands of the latent space share."""

from __future__ import annotations

import argparse

from dwiml.cli.options.shared import add_overwrite, add_sidecar, add_verbose
from dwiml.cli.options.user_classes import add_class_options

MODEL_HELP = "an experiment of 'dwiml train autoencoder' (its best model is used), or the folder of a saved model"


def add_latent_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser, -f and -v among them."""
    parser.add_argument(
        "--grid", metavar="IMAGE", help="image with the voxel grid of OUT, if IN is a .tck, which has none"
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=1000,
        metavar="N",
        help="number of streamlines that the model gets at once; lower it to use less memory [%(default)s]",
    )
    add_sidecar(parser, "each output")
    add_overwrite(parser, "replace existing outputs")
    add_class_options(parser)
    add_verbose(parser)


def memory_advice(arguments: argparse.Namespace) -> str:
    """Return what to do if memory is exhausted."""
    return f"give a lower --batch_size (now: {arguments.batch_size})"
