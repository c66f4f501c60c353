"""Compare the voxel grid of the input of tracking with those of the training subjects."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from dwiml.arguments import quoted
from dwiml.hdf5.schema import GRIDS, OBLIQUITY, VOXEL_ORDERS, VOXEL_SIZES
from dwiml.ops.spaces import obliquity_degrees
from dwiml.tractograms.grid import Grid

logger = logging.getLogger(__name__)

FACTOR_OF_SIZE = 1.5
"""A voxel size is far if it differs from all of the training, along the same axis, by more than this factor."""
MORE_OBLIQUE = 30.0
"""A grid is far if it is more oblique than all of the training by more than this, in degrees."""
# For each letter of a voxel order: its axis, and its direction along it.
_AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def warn_of_other_grid(what: str, grid: Grid, entry: Mapping[str, Any]) -> None:
    """Warn of a voxel grid in which the brain is not as in those of the training subjects.

    A model reads positions and directions along voxel axes. The brain is mirrored in a grid of the other handedness,
    rotated in one with another voxel order or that is much more oblique, and scaled in one with other voxel sizes.

    Parameters
    ----------
    what
        What has this grid, for the message, such as ``"the input"``.
    grid
        The grid.
    entry
        The entry of the input group in the groups config of the training; see
        :func:`dwiml.hdf5.stored.provenance.recorded_config`. If it does not record grids, nothing is compared.
    """
    differences: list[str] = []
    with suppress(KeyError, IndexError, TypeError, ValueError, OverflowError):
        known = entry[GRIDS]
        orders = [str(order) for order in known[VOXEL_ORDERS]]
        most_oblique = float(known[OBLIQUITY][1])
        low, high = np.asarray(known[VOXEL_SIZES], dtype=np.float64).reshape(3, 2).T
        differences = _differences(grid, orders, most_oblique, (low, high))
    if differences:
        logger.warning(
            "The voxel grid of %s differs from those of the training subjects: %s. The model reads the volume along "
            "voxel axes; reorient or resample the images as those of the training.",
            *(what, "; ".join(differences)),
        )


def _differences(grid: Grid, orders: list[str], most_oblique: float, limits: tuple[Any, Any]) -> list[str]:
    differences = []
    order = grid.voxel_order
    if orders and order not in orders:
        sides = {_handedness(each) for each in orders}
        effect = "the brain is mirrored" if _handedness(order) not in sides else "the brain is rotated"
        differences.append(f"its voxel order is {order} instead of {quoted(orders, 5)} ({effect})")
    oblique = obliquity_degrees(grid.affine)
    if oblique > most_oblique + MORE_OBLIQUE:
        differences.append(f"it is oblique by {oblique:.0f} degrees instead of at most {most_oblique:.0f}")
    sizes, (low, high) = grid.voxel_sizes, limits
    if (sizes > high * FACTOR_OF_SIZE).any() or (sizes < low / FACTOR_OF_SIZE).any():
        pairs = zip(low, high, strict=True)
        trained = [f"{least:.3g}" if least == most else f"{least:.3g} to {most:.3g}" for least, most in pairs]
        own = " x ".join(f"{size:.3g}" for size in sizes)
        differences.append(f"its voxel sizes are {own} mm instead of {' x '.join(trained)} mm")
    return differences


def _handedness(order: str) -> int:
    """Return the sign of the determinant of a voxel order: 1 for ``RAS``, -1 for ``LAS``."""
    axes = np.zeros((3, 3))
    for column, letter in enumerate(order):
        row, sign = _AXES[letter]
        axes[row, column] = sign
    return int(np.sign(np.linalg.det(axes)))
