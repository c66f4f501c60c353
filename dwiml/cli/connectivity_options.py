"""What the commands on connectivity share: how their options name the regions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwiml.ops.regions import Regions
    from dwiml.tractograms.grid import Grid

# Along an axis: more than voxels in any image.
_MOST_BLOCS = 100_000


def add_regions(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the options that name regions."""
    group = parser.add_argument_group("regions (give one of the first two)")
    either = group.add_mutually_exclusive_group(required=required)
    either.add_argument(
        "--nb_blocs",
        type=int,
        nargs="+",
        metavar="N",
        help="number of equal blocs that the volume is cut into along each axis; one number, or three (x, y and z)",
    )
    either.add_argument(
        "--labels", metavar="LABELS", help="label image: one region for each label, ascending, but for 0"
    )
    group.add_argument(
        "--reference",
        metavar="IMAGE",
        help="image whose volume is cut in blocs [that of the tractogram's header; a .tck has none]",
    )


def regions_of(arguments: argparse.Namespace, tractograms: Sequence[str]) -> tuple[Regions, Grid]:
    """Return the regions, and the grid of voxels that they are on.

    Raises
    ------
    FileNotFoundError, ValueError
        When an option or a file is wrong, or files of one volume are on different grids.
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
    """Return the number of regions, and what they are, in words."""
    from dwiml.ops.regions import BlocRegions

    if isinstance(regions, BlocRegions):
        return f"{' x '.join(map(str, regions.nb_blocs))} blocs"
    return f"{regions.nb_regions} label{'s' * (regions.nb_regions != 1)}"


def percent(share: float | None) -> str:
    """Return a share as the tables show it, 9 wide; nothing for None."""
    if share is None:
        return ""
    return "   <0.01%" if 0 < share < 1e-4 else f"{share:>9.2%}"
