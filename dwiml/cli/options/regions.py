"""Options for regions, shared by the connectivity commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwiml.ops.regions import Regions
    from dwiml.tractograms.grid import Grid

# Per axis; more than the number of voxels in any image.
_MOST_BLOCS = 100_000


def add_regions(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the options for regions to a parser; either `--nb_blocs` or `--labels` may be required."""
    group = parser.add_argument_group("regions (give --nb_blocs or --labels)")
    exclusive = group.add_mutually_exclusive_group(required=required)
    exclusive.add_argument(
        "--nb_blocs",
        type=int,
        nargs="+",
        metavar="N",
        help="number of equal blocs along each axis of the volume; one number, or three (x, y and z)",
    )
    exclusive.add_argument(
        "--labels", metavar="LABELS", help="label image; each label other than 0 is a region, in ascending order"
    )
    group.add_argument(
        "--reference",
        metavar="IMAGE",
        help="image whose volume is divided into blocs [the volume in the tractogram header; required for .tck]",
    )


def regions_of(arguments: argparse.Namespace, tractograms: Sequence[str]) -> tuple[Regions, Grid]:
    """Return the regions that the options define, and their voxel grid.

    Raises
    ------
    FileNotFoundError, ValueError
        If an option or a file is invalid, or files have different grids.
    """
    from dwiml.scoring.connectivity_scores import read_regions

    blocs = None if arguments.nb_blocs is None else _three(arguments.nb_blocs)
    return read_regions(tractograms, labels=arguments.labels, nb_blocs=blocs, reference=arguments.reference)


def _three(numbers: list[int]) -> tuple[int, int, int]:
    three = numbers * 3 if len(numbers) == 1 else numbers
    if len(three) != 3 or min(three) < 1 or max(three) > _MOST_BLOCS:
        given = " ".join(map(str, numbers))
        raise ValueError(f"--nb_blocs must be one or three whole numbers from 1 to {_MOST_BLOCS}, got {given}.")
    x, y, z = three
    return x, y, z


def describe(regions: Regions) -> str:
    """Return the number and type of the regions, such as ``7 x 6 x 5 blocs`` or ``20 labels``."""
    from dwiml.ops.regions import BlocRegions

    if isinstance(regions, BlocRegions):
        return f"{' x '.join(map(str, regions.nb_blocs))} blocs"
    return f"{regions.nb_regions} label{'s' * (regions.nb_regions != 1)}"


def percent(share: float | None) -> str:
    """Return a share (0 to 1) as a percentage, 9 characters wide; an empty string for None."""
    if share is None:
        return ""
    return "   <0.01%" if 0 < share < 1e-4 else f"{share:>9.2%}"
