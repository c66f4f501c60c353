"""Connectivity matrices of subjects: found and checked before the long work starts, then copied some rows at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dwiml.hdf5.config import ConnectivityFiles, GroupsConfig
from dwiml.hdf5.grid import Grid
from dwiml.hdf5.inspection import SubjectPlan, open_volume, readable
from dwiml.hdf5.subjects import find_files
from dwiml.hdf5.volumes import check_gzip
from dwiml.ops.connectivity import check_same_number
from dwiml.ops.regions import BlocRegions, LabelRegions, Regions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConnectivityPlan:
    """One group's matrix.

    Attributes
    ----------
    matrix
        The ``.npy`` file.
    regions
        What its rows are: blocs, or the file of a label volume.
    label
        How errors name the group.
    """

    matrix: Path
    regions: BlocRegions | Path
    label: str

    def read_regions(self) -> Regions:
        """Return the regions; labels are read from their file."""
        return (
            self.regions if isinstance(self.regions, BlocRegions) else read_label_regions(self.regions, self.label)[0]
        )


def plan_connectivity(plans: Sequence[SubjectPlan], config: GroupsConfig) -> None:
    """Find the matrices of all subjects, and check that they go with their regions; fills ``plan.connectivity``.

    Label volumes are read, since their number of regions is told by their voxels only.

    Raises
    ------
    FileNotFoundError
        When a file is missing.
    ValueError
        When a file cannot be read, a matrix is not square or has not one row a region, or labels are on another grid.
    """
    for plan in plans:
        for group in config.streamlines:
            if group.connectivity is not None:
                plan.connectivity[group.name] = _plan_group(plan, group.connectivity, plan.label(group.name))


def _plan_group(plan: SubjectPlan, files: ConnectivityFiles, label: str) -> ConnectivityPlan:
    path = _find_one(plan, files.matrix, label)
    regions: Regions
    source: BlocRegions | Path
    if files.nb_blocs is not None:
        regions = source = BlocRegions(plan.grid.shape, files.nb_blocs)
    else:
        assert files.labels is not None
        source = _find_one(plan, files.labels, label)
        regions, grid = read_label_regions(source, label)
        plan.grid.check_same(grid, plan.name)
    check_matrix(open_matrix(path, label), regions, path, label)
    return ConnectivityPlan(path, source, label)


def _find_one(plan: SubjectPlan, pattern: str, label: str) -> Path:
    found = find_files(plan.folder, [pattern], label)
    if len(found) > 1:
        names = " and ".join(f"'{path}'" for path in found[:2])
        raise ValueError(f"{label}: '{pattern}' must be one file, it matches {len(found)}, such as {names}.")
    return found[0]


def open_matrix(path: str | Path, label: str) -> Any:
    """Open a ``.npy`` file as a memory map, its values unread.

    Raises
    ------
    FileNotFoundError
        When there is none.
    ValueError
        When it is damaged, or another kind of file; one that would run code is not opened.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{label}: '{path}' was not found.")
    with readable(path, label):
        # Unlike numpy.load it takes nothing but .npy, and objects never.
        return np.lib.format.open_memmap(path, mode="r")


def check_matrix(matrix: Any, regions: Regions, path: str | Path, label: str) -> None:
    """Check shape and type of a matrix; its values are checked as they are read.

    Raises
    ------
    ValueError
        When it is not square, holds no real numbers, or has not one row a region.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{label}: '{path}' must hold a square matrix, its shape is {matrix.shape}.")
    if matrix.dtype.kind not in "fiub":
        raise ValueError(f"{label}: '{path}' holds {matrix.dtype} values; real numbers are expected.")
    try:
        check_same_number(regions, matrix.shape[0])
    except ValueError as error:
        raise ValueError(f"{label}: '{path}': {error}") from error


def read_label_regions(path: str | Path, label: str) -> tuple[LabelRegions, Grid]:
    """Read a label volume: its regions, and the grid that it is on.

    Raises
    ------
    FileNotFoundError
        When there is none.
    ValueError
        When it is damaged, holds several volumes, or values that are not whole numbers from 0 on.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{label}: '{path}' was not found.")
    image = open_volume(path, label)
    with readable(path, label):
        values = np.asarray(image.dataobj)
        for part in image.file_map.values():
            check_gzip(part.filename)
    try:
        regions = LabelRegions.from_volume(values)
    except ValueError as error:
        raise ValueError(f"{label}: '{path}': {error}") from error
    return regions, Grid.from_header(image.affine, regions.shape, path)
