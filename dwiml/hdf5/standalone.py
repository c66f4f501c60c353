"""Volumes read from image files as they would be for an HDF5 file, without one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dwiml.hdf5.config import VolumeGroup
from dwiml.hdf5.grid import Grid
from dwiml.hdf5.inspection import SubjectPlan, plan_volumes
from dwiml.hdf5.volumes import read_volume_group


def read_volumes(
    files: Sequence[str | Path],
    *,
    standardization: str = "none",
    std_mask: Sequence[str | Path] = (),
    same_as: Grid | None = None,
) -> tuple[NDArray[np.float32], Grid]:
    """Read images, concatenate them on the last axis, and standardize.

    Parameters
    ----------
    files
        What nibabel reads, of 3 or 4 axes, all on one grid.
    standardization, std_mask
        As in a groups config (see :class:`dwiml.hdf5.config.VolumeGroup`).
    same_as
        The grid that they must be on; None: any.

    Returns
    -------
    values
        Shape (X, Y, Z, F), float32.
    grid
        That of the files.

    Raises
    ------
    FileNotFoundError, ValueError
        When a file is missing, damaged, holds NaN, or is on another grid.
    """
    here = Path.cwd()
    plan = SubjectPlan("given by name", here, known_grid=same_as)
    group = VolumeGroup(
        name="images",
        files=tuple(map(str, files)),
        standardization=standardization,
        std_mask=tuple(map(str, std_mask)),
    )
    plan_volumes(plan, group)
    return read_volume_group(plan, group), plan.grid


def read_mask(path: str | Path, same_as: Grid | None = None) -> tuple[NDArray[np.bool_], Grid]:
    """Read a mask, shape (X, Y, Z): where the image is not 0.

    Parameters
    ----------
    path
        An image of one volume.
    same_as
        The grid that it must be on; None: any.

    Raises
    ------
    FileNotFoundError, ValueError
        When the file is missing, damaged, holds several volumes, or is on another grid.
    """
    values, grid = read_volumes([path], same_as=same_as)
    if values.shape[-1] != 1:
        raise ValueError(f"The mask '{path}' must be one volume, it holds {values.shape[-1]}.")
    return values[..., 0] != 0, grid
