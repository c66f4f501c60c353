"""The data of ``dwiml track``: a subject of an HDF5 file, or image files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dwiml.tracking.sources import TrackingData

_MASKS = ("tracking_mask", "seeding_mask")
OF_IMAGES = ("standardization", "standardize_like", "std_mask")


def load_tracking_data(arguments: argparse.Namespace, recorded: dict[str, Any]) -> TrackingData:
    """Load the volume and the masks that the options name.

    Parameters
    ----------
    arguments
        Arguments of ``dwiml track``, with either a subject or input images.
    recorded
        Content of the ``parameters.json`` of the experiment; of the first one, for an ensemble.

    Raises
    ------
    FileNotFoundError, ValueError
        If something is missing, or options contradict each other.
    """
    from dwiml.trained.tracking_data import read_images, read_subject

    check_options_of_images(arguments)
    common = {name: getattr(arguments, name) for name in (*_MASKS, "mask_threshold", "hdf5_file")}
    if arguments.input is None:
        return read_subject(arguments.experiments[0], recorded, arguments.subject, **common)
    check_files(arguments, ("input", "std_mask", *_MASKS))
    return read_images(arguments.experiments[0], recorded, arguments.input, **options_of_images(arguments), **common)


def options_of_images(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how the images of --input are standardized, as keywords of the library."""
    return {**{name: getattr(arguments, name) for name in OF_IMAGES}, "std_mask": arguments.std_mask or ()}


def check_options_of_images(arguments: argparse.Namespace) -> None:
    """Raise ValueError if an option says how to standardize images, but --input is not given."""
    given = [name for name in OF_IMAGES if getattr(arguments, name) is not None]
    if given and arguments.input is None:
        raise ValueError(f"--{given[0]} is for --input: the subjects of an HDF5 file are standardized already.")


def check_files(arguments: argparse.Namespace, options: Sequence[str]) -> None:
    """Check that the files of some options exist: one path, or several.

    Raises
    ------
    FileNotFoundError
        If one does not; the message names its option.
    """
    for option in options:
        names = getattr(arguments, option) or []
        for path in [names] if isinstance(names, str) else names:
            # A .trx may be a folder.
            if not Path(path).exists():
                hint = "; with --input, masks are image files too" if option.endswith("_mask") else ""
                raise FileNotFoundError(f"--{option}: '{path}' was not found{hint}.")
