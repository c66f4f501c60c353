"""Connectivity matrices and their label volumes as files: checked, read and written with bounded memory.

Those of subjects are found and checked before the long work starts.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dwiml.files import check_file, open_regular, written_whole
from dwiml.files.images import check_image_end, open_image, readable
from dwiml.hdf5.config import ConnectivityFiles, GroupsConfig
from dwiml.hdf5.inspection import SubjectPlan
from dwiml.hdf5.subjects import find_files
from dwiml.ops.connectivity_matrix import ConnectivityMatrix, check_same_number, connections_of, is_background_counted
from dwiml.ops.regions import BlocRegions, LabelRegions, Regions
from dwiml.tractograms.grid import Grid

logger = logging.getLogger(__name__)

# Of a list of labels: more is another file.
_MOST_LABELS_BYTES = 2**24
_LABELS_HEADER = "# The label of each row (and column) of"


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

    @property
    def files(self) -> list[Path]:
        """What is read."""
        beside = labels_path(self.matrix)
        labels = [self.regions] if isinstance(self.regions, Path) else []
        return [self.matrix, *labels, *([beside] if beside.is_file() else [])]

    def read_regions(self) -> Regions:
        """Return the regions; labels are read from their file."""
        return (
            self.regions if isinstance(self.regions, BlocRegions) else read_label_regions(self.regions, self.label)[0]
        )


def plan_connectivity(plans: Sequence[SubjectPlan], config: GroupsConfig) -> dict[str, dict[str, ConnectivityPlan]]:
    """Find the matrices of all subjects, and check that they go with their regions.

    Label volumes are read, since their number of regions is told by their voxels only.

    Returns
    -------
    dict
        {subject: {streamlines group: its matrix and regions}}, of the groups that have them.

    Raises
    ------
    FileNotFoundError
        When a file is missing.
    ValueError
        When a file cannot be read, a matrix is not square or has not one row a region, or labels are on another grid.
    """
    return {
        plan.name: {
            group.name: _plan_group(plan, group.connectivity, plan.label(group.name))
            for group in config.of_subject(plan.name).streamlines
            if group.connectivity is not None
        }
        for plan in plans
    }


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
        plan.grid.check_same(grid, f"Subject '{plan.name}'")
    matrix = open_matrix(path, label)
    check_matrix(matrix, regions, path, label)
    check_row_labels(path, len(matrix), regions, label)
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
    path = check_file(path, f"{label}:")
    with readable(path, label):
        # Unlike numpy.load it takes nothing but .npy, and objects never.
        matrix = np.lib.format.open_memmap(path, mode="r")
        beside = path.stat().st_size - matrix.offset - matrix.nbytes
        if beside:
            raise ValueError(f"it holds {beside} bytes after the array that its header announces")
        return matrix


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
        check_same_number(regions, matrix.shape[0], allow_background=True)
    except ValueError as error:
        raise ValueError(f"{label}: '{path}': {error}") from error


def check_row_labels(path: str | Path, nb_rows: int, regions: Regions, label: str) -> None:
    """Compare the labels that are written beside a matrix, if any, with the regions that its rows stand for.

    Another label image, with as many labels, would be scored against rows of other regions.

    Parameters
    ----------
    path
        The matrix. The labels are in the text file of :func:`labels_path`, as ``dwiml connectivity_matrix`` writes it.
    nb_rows
        Of the matrix.
    regions
        What the rows are taken for.
    label
        How a sentence begins.

    Raises
    ------
    ValueError
        When they disagree.
    """
    beside = labels_path(Path(path))
    if not beside.is_file():
        return
    rows = _read_row_labels(beside, label)
    if rows is None:
        logger.warning("%s: '%s' is not a list of labels, so the rows of '%s' cannot be checked.", label, beside, path)
        return
    advice = f"use the labels that the matrix was made with, or recreate it; if '{beside.name}' is wrong, remove it."
    if len(rows) != nb_rows:
        raise ValueError(f"{label}: '{beside}' lists {len(rows)} labels, '{path}' has {nb_rows} rows; {advice}")
    if isinstance(regions, BlocRegions):
        raise ValueError(f"{label}: the rows of '{path}' are labels, as '{beside}' says, and not blocs; {advice}")
    values = regions.values.tolist()
    # Some matrices have a row for the background.
    known = [0, *values] if nb_rows == len(values) + 1 else values
    for row, (written, taken) in enumerate(zip(rows, known, strict=False)):
        if written != taken:
            raise ValueError(
                f"{label}: row {row} of '{path}' is label {written}, as '{beside}' says, and would be taken for label "
                f"{taken} of the label image; {advice}"
            )


def _read_row_labels(path: Path, label: str) -> list[int] | None:
    """Return whole numbers, one a line or between commas and spaces; None for any other text."""
    with open_regular(path, label) as stream:
        content = stream.read(_MOST_LABELS_BYTES)
    try:
        lines = [line.split("#")[0] for line in content.decode("utf-8-sig").splitlines()]
        return [int(word) for line in lines for word in line.strip(" []()").replace(",", " ").split()]
    except ValueError:
        return None


def read_label_regions(path: str | Path, label: str) -> tuple[LabelRegions, Grid]:
    """Read a label volume: its regions, and the grid that it is on.

    Raises
    ------
    FileNotFoundError
        When there is none.
    ValueError
        When it is damaged, holds several volumes, or values that are not whole numbers from 0 on.
    """
    path = check_file(path, f"{label}:")
    image = open_image(path, label)
    with readable(path, label):
        values = np.asarray(image.dataobj)
        check_image_end(image, label)
    try:
        regions = LabelRegions.from_volume(values)
    except ValueError as error:
        raise ValueError(f"{label}: '{path}': {error}") from error
    return regions, Grid.from_header(image.affine, regions.shape, path)


def read_connections(path: str | Path, regions: Regions, label: str) -> ConnectivityMatrix:
    """Read a matrix, some rows at a time: the pairs of regions that it connects.

    Raises
    ------
    FileNotFoundError, ValueError
        See :func:`open_matrix` and :func:`check_matrix`; also for NaN, infinite or negative values.
    """
    matrix = open_matrix(path, label)
    check_matrix(matrix, regions, path, label)
    check_row_labels(path, len(matrix), regions, label)
    try:
        if is_background_counted(regions, len(matrix)):
            logger.warning("%s: '%s': its first row is that of the background (label 0), and is left out.", label, path)
        return connections_of(matrix, regions)
    except ValueError as error:
        raise ValueError(f"{label}: '{path}': {error}") from error


def check_matrix_name(path: str | Path) -> Path:
    """Return the path of a matrix to write.

    Raises
    ------
    ValueError
        When it is no .npy file.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"The matrix '{path}' must be a .npy file.")
    return path


def check_labels_file(path: Path) -> None:
    """Check that what is in the place of a matrix's labels, if anything, was written with a matrix: it is replaced.

    Raises
    ------
    FileExistsError
        When it is another file, which nobody has named as an output.
    """
    if not os.path.lexists(path):
        return
    with suppress(OSError), open_regular(path, "The labels") as stream:
        if stream.read(len(_LABELS_HEADER)) == _LABELS_HEADER.encode():
            return
    raise FileExistsError(
        f"'{path}' exists and was not written with a matrix; it would be replaced: give the matrix another name."
    )


def labels_path(matrix: Path) -> Path:
    """Return the file that tells the label of each row of a matrix."""
    return matrix.with_name(f"{matrix.stem}_labels.txt")


def write_matrix(path: Path, connections: ConnectivityMatrix, regions: Regions, *, binary: bool = False) -> None:
    """Write a symmetric matrix as .npy, some rows at a time, whole or not at all.

    Beside one of labels goes a text file with the label of each row, a line each.

    Parameters
    ----------
    path
        The .npy file.
    connections
        The pairs that are joined, and by how many streamlines.
    regions
        What the rows are.
    binary
        Write uint8, 1 where a pair is joined; otherwise int32, the numbers of streamlines.

    Raises
    ------
    ValueError
        When it is larger than what is free on the disk.
    OSError
        When it cannot be written, or a file that holds no labels is in their place.
    """
    dtype = np.dtype(np.uint8 if binary else np.int32)
    if binary:
        connections = ConnectivityMatrix(connections.nb_regions, connections.keys, np.ones_like(connections.values))
    shape = (connections.nb_regions,) * 2
    size, free = connections.nb_regions**2 * dtype.itemsize, shutil.disk_usage(path.absolute().parent).free
    if size > free:
        raise ValueError(
            f"A matrix of {shape[0]} x {shape[1]} regions takes {size / 1e9:,.1f} GB, '{path.absolute().parent}' has "
            f"{free / 1e9:,.1f} GB left; take fewer regions."
        )
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    names = labels_path(path)
    check_labels_file(names)
    # Never the labels of one matrix beside another.
    with written_whole(path, before_naming=lambda: names.unlink(missing_ok=True)) as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for rows in connections.dense_rows(dtype.type):
            stream.write(rows.data)
    if isinstance(regions, LabelRegions):
        lines = [f"{_LABELS_HEADER} {path.name}, from row 0.", *map(str, regions.values)]
        with written_whole(names) as stream:
            stream.write(("\n".join(lines) + "\n").encode())
