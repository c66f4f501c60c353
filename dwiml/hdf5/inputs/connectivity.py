"""Find, check, read and write connectivity matrices and their label volumes, with bounded memory.

The files of all subjects are checked before any long computation starts.
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

from dwiml.arguments import grouped
from dwiml.files import atomic_write, check_file, open_regular
from dwiml.files.images import open_image, read_voxels, readable
from dwiml.hdf5.config import ConnectivityFiles, GroupsConfig
from dwiml.hdf5.inputs.inspection import SubjectPlan
from dwiml.hdf5.inputs.subjects import find_files
from dwiml.ops.connectivity_matrix import ConnectivityMatrix, check_same_number, connections_of, is_background_counted
from dwiml.ops.regions import BlocRegions, LabelRegions, Regions
from dwiml.tractograms.grid import Grid

logger = logging.getLogger(__name__)

# A larger file is not a list of labels.
_MAX_LABELS_BYTES = 2**24
_LABELS_HEADER = "# The label of each row (and column) of"


@dataclass(frozen=True)
class ConnectivityPlan:
    """The connectivity files of one streamlines group.

    Attributes
    ----------
    matrix
        Path of the ``.npy`` file.
    regions
        The regions that its rows stand for: blocs, or the path of a label volume.
    label
        Description of the group, used in error messages.
    """

    matrix: Path
    regions: BlocRegions | Path
    label: str

    @property
    def files(self) -> list[Path]:
        """The files that are read."""
        row_labels = labels_path(self.matrix)
        label_volume = [self.regions] if isinstance(self.regions, Path) else []
        return [self.matrix, *label_volume, *([row_labels] if row_labels.is_file() else [])]

    def read_regions(self) -> Regions:
        """Return the regions, read from the label volume if there is one; see :func:`read_label_regions`."""
        return (
            self.regions if isinstance(self.regions, BlocRegions) else read_label_regions(self.regions, self.label)[0]
        )


def plan_connectivity(plans: Sequence[SubjectPlan], config: GroupsConfig) -> dict[str, dict[str, ConnectivityPlan]]:
    """Find the matrices of all subjects and check that they match their regions.

    Label volumes are read, because the number of regions is known only from their voxels.

    Returns
    -------
    dict
        {subject: {streamlines group: its matrix and regions}}, for the groups that have a matrix.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file cannot be read, a matrix is not square or does not have one row per region, or a label volume is on
        another grid.
    """
    return {
        plan.name: {
            group.name: _plan_group(plan, group.connectivity, plan.label(group.name))
            for group in config.of_subject(plan.values).streamlines
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
    found = find_files(plan.folder, [pattern], label, root=plan.root)
    if len(found) > 1:
        names = " and ".join(f"'{path}'" for path in found[:2])
        raise ValueError(f"{label}: '{pattern}' must match one file, but matches {len(found)}, such as {names}.")
    return found[0]


def open_matrix(path: str | Path, label: str) -> Any:
    """Open a ``.npy`` file as a read-only memory map, without reading its values.

    Parameters
    ----------
    path
        The ``.npy`` file (NumPy Enhancement Proposal 1).
    label
        Beginning of error messages.

    Returns
    -------
    numpy.memmap
        The array, with the shape and dtype stored in the file.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is damaged, is not a ``.npy`` file, or holds Python objects, which could run code.
    """
    path = check_file(path, f"{label}:")
    with readable(path, label):
        # Unlike numpy.load, this reads only .npy files and never Python objects.
        matrix = np.lib.format.open_memmap(path, mode="r")
        excess = path.stat().st_size - matrix.offset - matrix.nbytes
        if excess:
            raise ValueError(f"it holds {excess} bytes after the array that its header announces")
        return matrix


def check_matrix(matrix: Any, regions: Regions, path: str | Path, label: str) -> None:
    """Check the shape and dtype of a matrix. Its values are checked when they are read.

    Parameters
    ----------
    matrix
        Shape (R, R), real numbers.
    regions
        The R regions; a matrix may have one more row, for the background.
    path, label
        The file and the group, used in error messages.

    Raises
    ------
    ValueError
        If it is not square, does not hold real numbers, or does not have one row per region.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{label}: '{path}' must hold a square matrix, got shape {matrix.shape}.")
    if matrix.dtype.kind not in "fiub":
        raise ValueError(f"{label}: '{path}' holds {matrix.dtype} values; real numbers are expected.")
    try:
        check_same_number(regions, matrix.shape[0], allow_background=True)
    except ValueError as error:
        raise ValueError(f"{label}: '{path}': {error}") from error


def check_row_labels(path: str | Path, nb_rows: int, regions: Regions, label: str) -> None:
    """Compare the row labels saved with a matrix, if any, with the regions that its rows stand for.

    Otherwise a label volume with the same number of labels but other values would silently be scored against the
    wrong rows.

    Parameters
    ----------
    path
        The matrix. Its labels are in the text file :func:`labels_path`, written by ``dwiml connectivity_matrix``.
    nb_rows
        Number of rows of the matrix.
    regions
        The regions that the rows are assumed to stand for.
    label
        Beginning of error messages.

    Raises
    ------
    ValueError
        If they disagree.
    """
    labels_file = labels_path(Path(path))
    if not labels_file.is_file():
        return
    rows = _read_row_labels(labels_file, label)
    if rows is None:
        logger.warning(
            "%s: '%s' is not a list of labels, so the rows of '%s' cannot be checked.", label, labels_file, path
        )
        return
    advice = (
        f"use the labels that the matrix was computed with, or recreate it; delete '{labels_file.name}' if it is wrong."
    )
    if len(rows) != nb_rows:
        raise ValueError(
            f"{label}: '{labels_file}' lists {len(rows)} labels, but '{path}' has {nb_rows} rows; {advice}"
        )
    if isinstance(regions, BlocRegions):
        raise ValueError(f"{label}: the rows of '{path}' are labels according to '{labels_file}', not blocs; {advice}")
    values = regions.values.tolist()
    # Some matrices have a row for the background.
    expected = [0, *values] if nb_rows == len(values) + 1 else values
    for row, (found, wanted) in enumerate(zip(rows, expected, strict=False)):
        if found != wanted:
            raise ValueError(
                f"{label}: row {row} of '{path}' is label {found} according to '{labels_file}', but label {wanted} "
                f"according to the label image; {advice}"
            )


def _read_row_labels(path: Path, label: str) -> list[int] | None:
    """Return integers separated by newlines, commas or spaces; None if the text holds anything else."""
    with open_regular(path, label) as stream:
        content = stream.read(_MAX_LABELS_BYTES)
    try:
        lines = [line.split("#")[0] for line in content.decode("utf-8-sig").splitlines()]
        return [int(word) for line in lines for word in line.strip(" []()").replace(",", " ").split()]
    except ValueError:
        return None


def read_label_regions(path: str | Path, label: str) -> tuple[LabelRegions, Grid]:
    """Read a label volume, in any format that nibabel reads.

    Parameters
    ----------
    path
        An image of shape (X, Y, Z), whose values are non-negative integers; 0 is the background.
    label
        Beginning of error messages.

    Returns
    -------
    regions
        The regions, one per non-zero label.
    grid
        The voxel grid of the image.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is damaged, holds several volumes, or holds values other than non-negative integers.
    """
    path = check_file(path, f"{label}:")
    image = open_image(path, label)
    with readable(path, label):
        values = read_voxels(image, label)
    try:
        regions = LabelRegions.from_volume(values)
    except ValueError as error:
        raise ValueError(f"{label}: '{path}': {error}") from error
    return regions, Grid.from_header(image.affine, regions.shape, path)


def read_connections(path: str | Path, regions: Regions, label: str) -> ConnectivityMatrix:
    """Read the pairs of regions that a matrix connects, a few rows at a time.

    Parameters
    ----------
    path
        A ``.npy`` file of shape (R, R), real non-negative numbers.
    regions
        The R regions that its rows stand for.
    label
        Beginning of error messages.

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
            logger.warning("%s: '%s': the first row is the background (label 0); it is ignored.", label, path)
        return connections_of(matrix, regions)
    except ValueError as error:
        raise ValueError(f"{label}: '{path}': {error}") from error


def check_matrix_name(path: str | Path) -> Path:
    """Return the path of a matrix to write.

    Raises
    ------
    ValueError
        If the name does not end in .npy.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"The name of the matrix must end in .npy, got '{path}'.")
    return path


def check_labels_file(path: Path) -> None:
    """Check that an existing file of row labels, which will be replaced, was written by :func:`write_matrix`.

    Raises
    ------
    FileExistsError
        If it is any other file: the user did not name it as an output.
    """
    if not os.path.lexists(path):
        return
    with suppress(OSError), open_regular(path, "The labels") as stream:
        if stream.read(len(_LABELS_HEADER)) == _LABELS_HEADER.encode():
            return
    raise FileExistsError(
        f"'{path}' would be replaced, but it was not written together with a matrix; give the matrix another name."
    )


def labels_path(matrix: Path) -> Path:
    """Return the path of the text file that holds the label of each row of a matrix."""
    return matrix.with_name(f"{matrix.stem}_labels.txt")


def write_matrix(path: Path, connections: ConnectivityMatrix, regions: Regions, *, binary: bool = False) -> None:
    """Write a symmetric matrix as a .npy file, atomically and a few rows at a time.

    If the regions are labels, a text file with one label per row is written next to it (:func:`labels_path`).

    Parameters
    ----------
    path
        The .npy file to write, of shape (R, R).
    connections
        The connected pairs of regions, with their number of streamlines.
    regions
        The R regions that the rows stand for.
    binary
        Write uint8, 1 for a connected pair and 0 otherwise; by default int32, the numbers of streamlines.

    Raises
    ------
    ValueError
        If the matrix is larger than the free space on the disk.
    OSError
        If it cannot be written, or its file of labels would replace an unrelated file.
    """
    dtype = np.dtype(np.uint8 if binary else np.int32)
    if binary:
        connections = ConnectivityMatrix(connections.nb_regions, connections.keys, np.ones_like(connections.values))
    shape = (connections.nb_regions,) * 2
    size, free = connections.nb_regions**2 * dtype.itemsize, shutil.disk_usage(path.absolute().parent).free
    if size > free:
        raise ValueError(
            f"A matrix of {shape[0]} x {shape[1]} regions needs {grouped(size / 1e9, 1)} GB, but "
            f"'{path.absolute().parent}' has {grouped(free / 1e9, 1)} GB left; use fewer regions or another disk."
        )
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    names = labels_path(path)
    check_labels_file(names)
    # The labels of the previous matrix must never accompany the new one.
    with atomic_write(path, before_naming=lambda: names.unlink(missing_ok=True)) as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for rows in connections.dense_rows(dtype.type):
            stream.write(rows.data)
    if isinstance(regions, LabelRegions):
        write_row_labels(path, regions.values.tolist())


def write_row_labels(matrix: Path, labels: Sequence[int]) -> None:
    """Write the label of each row of a matrix to the file beside it (:func:`labels_path`), atomically."""
    lines = [f"{_LABELS_HEADER} {matrix.name}, from row 0.", *map(str, labels)]
    with atomic_write(labels_path(matrix)) as stream:
        stream.write(("\n".join(lines) + "\n").encode())
