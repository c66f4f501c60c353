"""Options that several commands have."""

from __future__ import annotations

import argparse


def add_verbose(parser: argparse._ActionsContainer, *, dest: str = "verbose") -> None:
    """Add the option -v of a command to its parser or to a group of options.

    Parameters
    ----------
    parser
        The parser or the group.
    dest
        Name of the value, if a parameter of the library is named ``verbose``.
    """
    parser.add_argument("-v", dest=dest, action="store_true", help="show informative messages")


def add_overwrite(parser: argparse._ActionsContainer, about: str) -> None:
    """Add the option -f of a command to its parser or to a group of options.

    Parameters
    ----------
    parser
        The parser or the group.
    about
        Help text: which outputs it replaces.
    """
    parser.add_argument("-f", dest="overwrite", action="store_true", help=about)


def add_sidecar(parser: argparse._ActionsContainer, about: str) -> None:
    """Add the option --sidecar of a command to its parser or to a group of options.

    Parameters
    ----------
    parser
        The parser or the group.
    about
        Name of the tractograms that get a sidecar, in the help text.
    """
    parser.add_argument(
        "--sidecar",
        action="store_true",
        help=f"also write a JSON file beside {about}, which says how it was created (BIDS, BEP046)",
    )


def add_moved_data(parser: argparse.ArgumentParser) -> None:
    """Add the option --hdf5_file of a command that uses the data of an experiment."""
    parser.add_argument(
        "--hdf5_file",
        metavar="HDF5",
        help="new path of the data, if they were moved: a file, or a folder of files [the recorded path]",
    )


def add_images(group: argparse._ActionsContainer) -> None:
    """Add the options of a command that reads the model's input from images: which ones, and how to standardize them.

    Parameters
    ----------
    group
        The parser or a group of options.
    """
    # It imports NumPy, which most commands do not need for their help.
    from dwiml.hdf5.config import STANDARDIZATIONS

    group.add_argument(
        "--input", nargs="+", metavar="IMAGE", help="image files of the model's input, in the order used for training"
    )
    group.add_argument(
        "--standardization",
        choices=STANDARDIZATIONS,
        help="how to standardize the --input images [as recorded in the experiment]",
    )
    group.add_argument(
        "--standardize_like",
        metavar="EXPERIMENT",
        help="standardize the --input images as the data of this other experiment",
    )
    group.add_argument(
        "--std_mask",
        nargs="+",
        metavar="MASK",
        help="mask files within which the mean and standard deviation of the --input images are computed",
    )
