"""Find and count the pairs of regions that streamlines join, and compare them with a known connectivity matrix.

Connections have no direction: (a, b) and (b, a) are the same pair. Only the pairs that are joined are stored, each as
one integer, ``a * nb_regions + b`` with a <= b. The 64 million possible pairs of 20 x 20 x 20 blocs therefore need no
more memory than the streamlines do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwiml.ops.regions import NO_REGION, BlocRegions, LabelRegions, Regions, as_points

JOINS_NONE, JOINS_UNCONNECTED, JOINS_CONNECTED = -1, 0, 1
"""The possible results of :func:`connection_status` for a streamline."""

_CHUNK = 2**17
# Number of values of a dense matrix that are read at once.
_BLOCK_VALUES = 2**23
_LARGEST_DENSE = 2**26


@dataclass(frozen=True, eq=False)
class ConnectivityMatrix:
    """A sparse symmetric connectivity matrix: the pairs of regions that are joined, each with a positive value.

    Attributes
    ----------
    nb_regions
        Number of regions, n.
    keys
        Shape (K,), int64, ascending: ``a * n + b`` with a <= b.
    values
        Shape (K,): positive value of each pair, for instance its number of streamlines.
    """

    nb_regions: int
    keys: NDArray[np.int64]
    values: NDArray[Any]

    @classmethod
    def from_dense(cls, matrix: Any) -> ConnectivityMatrix:
        """Create a sparse matrix from the non-zero values of a dense one.

        If (a, b) and (b, a) differ, as in a triangular matrix, the larger value is used.

        Parameters
        ----------
        matrix : array of shape (n, n)
            Non-negative numbers. It may be any object whose rows can be sliced (an array, a memory map, an HDF5
            dataset); a few rows are read at a time.

        Raises
        ------
        ValueError
            If it is not square, or holds NaN, infinite or negative values.
        """
        nb_regions = _side(matrix)
        keys, values = [np.zeros(0, dtype=np.int64)], []
        for start, rows in dense_blocks(matrix):
            row, column = np.nonzero(rows)
            values.append(rows[row, column])
            row += start
            keys.append(np.minimum(row, column) * nb_regions + np.maximum(row, column))
        if not values:
            return cls(nb_regions, keys[0], np.zeros(0))
        every_key, every_value = np.concatenate(keys), np.concatenate(values)
        order = np.argsort(every_key, kind="stable")
        every_key, every_value = every_key[order], every_value[order]
        first = np.flatnonzero(np.diff(every_key, prepend=-1))
        largest = np.maximum.reduceat(every_value, first) if len(first) else every_value
        return cls(nb_regions, every_key[first], largest)

    @property
    def pairs(self) -> NDArray[np.int64]:
        """Shape (K, 2): the regions a <= b of each pair."""
        return np.stack(np.divmod(self.keys, self.nb_regions), axis=1) if len(self.keys) else np.zeros((0, 2), np.int64)

    def include(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether each of S pairs of regions is joined.

        Parameters
        ----------
        first, last
            Shape (S,), int64: the two regions of each pair; :data:`~dwiml.ops.regions.NO_REGION` is joined to nothing.

        Returns
        -------
        array of shape (S,), bool
        """
        keys = _pair_keys(first, last, self.nb_regions)
        if not len(self.keys):
            return np.zeros(len(keys), dtype=np.bool_)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.asarray(self.keys[place] == keys)

    def to_dense(self, dtype: type[np.generic] = np.int64) -> NDArray[Any]:
        """Return the symmetric matrix, shape (n, n).

        Raises
        ------
        ValueError
            If it has more than 67 million values; use :meth:`dense_rows`.
        """
        if self.nb_regions**2 > _LARGEST_DENSE:
            raise ValueError(
                f"A matrix of {self.nb_regions} x {self.nb_regions} regions is too large for memory; use "
                "dense_rows, which yields a few rows at a time."
            )
        return next(self.dense_rows(dtype, nb_rows=self.nb_regions), np.zeros((0, 0), dtype))

    def dense_rows(self, dtype: type[np.generic] = np.int64, *, nb_rows: int | None = None) -> Iterator[NDArray[Any]]:
        """Yield the symmetric matrix a few rows at a time.

        Parameters
        ----------
        dtype
            Type of the values.
        nb_rows
            Number of rows at a time; None: as many as hold about 8 million values.

        Yields
        ------
        array of shape (rows, n), dtype
        """
        nb_rows = nb_rows or max(1, _BLOCK_VALUES // max(self.nb_regions, 1))
        first, last = self.pairs.T
        off_diagonal = first != last
        row = np.concatenate([first, last[off_diagonal]])
        column = np.concatenate([last, first[off_diagonal]])
        value = np.concatenate([self.values, self.values[off_diagonal]])
        order = np.argsort(row, kind="stable")
        row, column, value = row[order], column[order], value[order]
        for start in range(0, self.nb_regions, nb_rows):
            stop = min(start + nb_rows, self.nb_regions)
            begin, end = np.searchsorted(row, [start, stop])
            block = np.zeros((stop - start, self.nb_regions), dtype=dtype)
            block[row[begin:end] - start, column[begin:end]] = value[begin:end]
            yield block


def count_connections(first_points: Any, last_points: Any, regions: Regions) -> ConnectivityMatrix:
    """Count the streamlines that join each pair of regions.

    A streamline with an end in no region is not counted; one with both ends in region a counts once, at (a, a).

    Parameters
    ----------
    first_points, last_points : arrays or tensors of shape (S, 3)
        The two ends of each streamline, voxel space, corner origin, in voxels.
    regions
        The n regions.

    Returns
    -------
    ConnectivityMatrix
        Numbers of streamlines, of shape (n, n).

    Raises
    ------
    ValueError
        If the points do not have shape (S, 3), or first and last points differ in number.
    """
    n = regions.nb_regions
    keys = [_pair_keys(first, last, n) for first, last in _regions_by_chunk(first_points, last_points, regions)]
    every_key = np.concatenate([np.zeros(0, dtype=np.int64), *keys])
    found, counts = np.unique(every_key[every_key >= 0], return_counts=True)
    return ConnectivityMatrix(n, found, counts.astype(np.int64))


def connection_status(
    first_points: Any, last_points: Any, regions: Regions, connections: ConnectivityMatrix
) -> NDArray[np.int8]:
    """Return whether each streamline joins two regions that are known to be connected.

    For a streamline with both ends in one region, the diagonal of the matrix gives the answer.

    Parameters
    ----------
    first_points, last_points : arrays or tensors of shape (S, 3)
        The two ends of each streamline, voxel space, corner origin, in voxels.
    regions
        The regions.
    connections
        The pairs that are connected, for the same number of regions.

    Returns
    -------
    array of shape (S,), int8
        :data:`JOINS_CONNECTED`, :data:`JOINS_UNCONNECTED`, or :data:`JOINS_NONE` if an end is in no region.

    Raises
    ------
    ValueError
        If the regions and the matrix differ in number, the points do not have shape (S, 3), or first and last points
        differ in number.
    """
    check_same_number(regions, connections.nb_regions)
    status = [np.zeros(0, dtype=np.int8)]
    for first, last in _regions_by_chunk(first_points, last_points, regions):
        known = connections.include(first, last)
        in_regions = (first != NO_REGION) & (last != NO_REGION)
        status.append(np.where(in_regions, known, JOINS_NONE).astype(np.int8))
    return np.concatenate(status)


def joins_unconnected(
    first_points: Any, last_points: Any, regions: Regions, connections: ConnectivityMatrix
) -> NDArray[np.bool_]:
    """Return whether each streamline joins two regions that are not connected, shape (S,); see `connection_status`."""
    return np.asarray(connection_status(first_points, last_points, regions, connections) == JOINS_UNCONNECTED)


def connections_of(matrix: Any, regions: Regions) -> ConnectivityMatrix:
    """Return the connections of a dense matrix with one row per region.

    A matrix of labels may begin with a row and a column for the background (label 0), as in dwi_ml. They are ignored,
    because the background is not a region.

    Parameters
    ----------
    matrix : array of shape (n, n), or (n + 1, n + 1) with the background
        See :meth:`ConnectivityMatrix.from_dense`.
    regions
        The n regions.

    Raises
    ------
    ValueError
        If it is not square, has another number of rows, or holds NaN, infinite or negative values.
    """
    nb_rows = _side(matrix)
    check_same_number(regions, nb_rows, allow_background=True)
    connections = ConnectivityMatrix.from_dense(matrix)
    if nb_rows == regions.nb_regions:
        return connections
    pairs = connections.pairs
    in_regions = (pairs > 0).all(axis=1)
    first, last = (pairs[in_regions] - 1).T
    return ConnectivityMatrix(regions.nb_regions, first * regions.nb_regions + last, connections.values[in_regions])


def check_same_number(regions: Regions, nb_rows: int, *, allow_background: bool = False) -> None:
    """Check that a matrix has one row per region.

    Parameters
    ----------
    regions
        The regions.
    nb_rows
        Number of rows of the matrix.
    allow_background
        Whether a matrix of labels may have one more row, for label 0; see :func:`connections_of`.

    Raises
    ------
    ValueError
        If they differ. The message gives both numbers.
    """
    if regions.nb_regions == nb_rows:
        return
    if allow_background and is_background_counted(regions, nb_rows):
        return
    if isinstance(regions, BlocRegions):
        made_of = " x ".join(str(nb) for nb in regions.nb_blocs) + f" blocs are {regions.nb_regions} regions"
    else:
        made_of = (
            f"there are {regions.nb_regions} labels other than 0 (row i belongs to the i-th smallest of them, from "
            f"{regions.values[0]} to {regions.values[-1]}; one more row, the first, may be that of label 0)"
        )
    raise ValueError(f"The connectivity matrix has {nb_rows} rows but {made_of}; one row per region is expected.")


def is_background_counted(regions: Regions, nb_rows: int) -> bool:
    """Return whether a matrix of labels has one more row than there are regions, for label 0 (if any voxel has it)."""
    return isinstance(regions, LabelRegions) and nb_rows == regions.nb_regions + 1 and regions.has_background


def dense_blocks(matrix: Any, *, nb_rows: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (index of the first row, rows) for a whole matrix, a few rows at a time.

    Parameters
    ----------
    matrix : array of shape (n, n)
        See :meth:`ConnectivityMatrix.from_dense`.
    nb_rows
        Number of rows at a time; None: as many as hold about 8 million values.

    Raises
    ------
    ValueError
        If it is not square, or holds NaN, infinite or negative values.
    """
    side = _side(matrix)
    nb_rows = nb_rows or max(1, _BLOCK_VALUES // max(side, 1))
    for start in range(0, side, nb_rows):
        rows = np.asarray(matrix[start : start + nb_rows])
        if rows.dtype.kind not in "fiub" or not (np.isfinite(rows) & (rows >= 0)).all():
            raise ValueError("A connectivity matrix must hold numbers of 0 or more, no NaN, none infinite.")
        yield start, rows


def _side(matrix: Any) -> int:
    shape = tuple(int(size) for size in matrix.shape)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"A connectivity matrix must be square, got shape {shape}.")
    return shape[0]


def _pair_keys(first: NDArray[np.int64], last: NDArray[np.int64], nb_regions: int) -> NDArray[np.int64]:
    """Return one integer per pair, or -1 if one end is in no region."""
    low, high = np.minimum(first, last), np.maximum(first, last)
    return np.where(low < 0, np.int64(-1), low * nb_regions + high)


def _regions_by_chunk(
    first_points: Any, last_points: Any, regions: Regions
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the regions of both ends for a limited number of streamlines at a time, to limit memory."""
    first, last = as_points(first_points), as_points(last_points)
    if len(first) != len(last):
        raise ValueError(f"Each streamline has two ends, got {len(first)} first points and {len(last)} last points.")
    for start in range(0, len(first), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        yield regions.of_points(first[chunk]), regions.of_points(last[chunk])
