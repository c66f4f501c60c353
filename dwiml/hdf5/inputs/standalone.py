"""Read volumes and masks from image files in the same way as for an HDF5 file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dwiml.arguments import check_choice
from dwiml.hdf5.config import STANDARDIZATIONS, VolumeGroup
from dwiml.hdf5.inputs.directions import directions_as_trained
from dwiml.hdf5.inputs.inspection import SubjectPlan, plan_volumes
from dwiml.hdf5.inputs.standardization import StandardizationReport
from dwiml.hdf5.inputs.volumes import mask_with_warning, read_volume_group
from dwiml.ops.axes.conventions import Directions
from dwiml.ops.masks import DEFAULT_THRESHOLD, Mask
from dwiml.tractograms.grid import Grid


class _GivenFiles(SubjectPlan):
    """Files given directly, without a subject; its name is the beginning of error messages."""

    def label(self, group: str) -> str:
        return self.name

    def add_grid(self, grid: Grid) -> None:
        if self.known_grid is not None:
            self.known_grid.check_same(grid, self.name)
        self.known_grid = self.known_grid or grid


def read_volumes(
    files: Sequence[str | Path],
    *,
    standardization: str = "none",
    std_mask: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    same_as: Grid | None = None,
    label: str = "The images",
    directions: Sequence[Directions | None] = (),
    reports: list[StandardizationReport] | None = None,
) -> tuple[NDArray[np.float32], Grid]:
    """Read images, concatenate them on the last axis, and standardize them.

    Parameters
    ----------
    files
        Images in any format that nibabel reads, of shape (X, Y, Z) or (X, Y, Z, F), all on the same grid.
    standardization, std_mask
        As in a groups config (see :class:`dwiml.hdf5.config.VolumeGroup`); the mask is one file, or several.
    same_as
        The grid that the images must be on; None for any grid.
    label
        Beginning of error messages, for instance ``"The images"``.
    directions
        For each file, the convention of the images of the training (see :mod:`dwiml.ops.axes.conventions`), from which
        they were converted; None where it is unknown. If empty, nothing is converted.
    reports
        A list to which the report of the standardization is added.

    Returns
    -------
    values
        Shape (X, Y, Z, F), float32.
    grid
        The voxel grid of the files.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing, damaged, holds NaN, or is on another grid, or the standardization is unknown.
    """
    check_choice("standardization", standardization, STANDARDIZATIONS)
    masks = [std_mask] if isinstance(std_mask, (str, os.PathLike)) else std_mask
    here = Path.cwd()
    plan = _GivenFiles(label, here, known_grid=same_as)
    group = VolumeGroup(
        name="images",
        files=tuple(map(str, files)),
        standardization=standardization,
        std_mask=tuple(map(str, masks)),
        directions=tuple(directions),
    )
    plan_volumes(plan, group, directions_as_trained)
    values = read_volume_group(plan, group)
    if reports is not None:
        reports.append(plan.statistics[group.name])
    return values, plan.grid


def read_mask(
    path: str | Path,
    same_as: Grid | None = None,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    label: str = "The mask",
) -> tuple[Mask, Grid]:
    """Read a mask (see :func:`dwiml.ops.masks.as_mask`), with a warning if its values are not 0 and 1.

    Parameters
    ----------
    path
        An image of shape (X, Y, Z).
    same_as
        The grid that it must be on; None for any grid.
    threshold
        Threshold applied to a probability map.
    label
        Beginning of error messages, for instance ``"The mask"``.

    Returns
    -------
    mask
        The mask, of shape (X, Y, Z).
    grid
        The voxel grid of the file.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, damaged, holds several volumes, is not a mask, or is on another grid.
    """
    values, grid = read_volumes([path], same_as=same_as, label=label)
    if values.shape[-1] != 1:
        raise ValueError(f"The mask '{path}' must be a single volume, got {values.shape[-1]} volumes.")
    return mask_with_warning(values[..., 0], f"The mask '{path}'", threshold=threshold), grid
