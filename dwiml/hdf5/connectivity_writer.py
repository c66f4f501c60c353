"""Write the connectivity matrix of a group and its regions to the HDF5 file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dwiml.hdf5 import schema
from dwiml.hdf5.file_writer import check_room, write_digest
from dwiml.hdf5.inputs.connectivity import ConnectivityPlan, open_matrix
from dwiml.hdf5.stored.digests import ArrayDigest
from dwiml.ops.connectivity_matrix import dense_blocks
from dwiml.ops.regions import BlocRegions, LabelRegions

# Size of the rows that are compressed together.
_CHUNK_BYTES = 2**19


def write_connectivity(group: h5py.Group, plan: ConnectivityPlan) -> None:
    """Write the connectivity matrix of a streamlines group, a few rows at a time, and its regions.

    Both are compressed, since they are mostly zeros and are never memory-mapped.

    Raises
    ------
    ValueError
        If the matrix holds NaN, infinite or negative values, or a file was damaged in the meantime.
    """
    regions = plan.read_regions()
    if isinstance(regions, BlocRegions):
        group.attrs[schema.CONNECTIVITY_MATRIX_TYPE] = schema.FROM_BLOCS
        group.attrs[schema.CONNECTIVITY_NB_BLOCS] = np.array(regions.nb_blocs, dtype=np.int64)
    else:
        group.attrs[schema.CONNECTIVITY_MATRIX_TYPE] = schema.FROM_LABELS
        _write_labels(group, regions)
    matrix = open_matrix(plan.matrix, plan.label)
    dtype = matrix.dtype.newbyteorder("=")
    digest = ArrayDigest(matrix.shape, dtype)
    dataset = _compressed(group, schema.CONNECTIVITY_MATRIX, matrix.shape, dtype)
    try:
        for start, rows in dense_blocks(matrix, nb_rows=dataset.chunks[0]):
            rows = rows.astype(dtype, copy=False)
            digest.update(rows)
            _write_chunk(dataset, start, rows)
    except ValueError as error:
        raise ValueError(f"{plan.label}: '{plan.matrix}': {error}") from error
    write_digest(dataset, digest.text())


def _write_labels(group: h5py.Group, regions: LabelRegions) -> None:
    small = regions.values[-1] <= np.iinfo(np.int32).max
    values = np.append(regions.values, 0).astype(np.int32 if small else np.int64)
    dataset = _compressed(group, schema.CONNECTIVITY_LABEL_VOLUME, regions.shape, values.dtype)
    digest = ArrayDigest(regions.shape, values.dtype)
    for start in range(0, regions.shape[0], dataset.chunks[0]):
        # The background has region index -1, which selects the last value: 0.
        rows = values[regions.index[start : start + dataset.chunks[0]]]
        digest.update(rows)
        _write_chunk(dataset, start, rows)
    write_digest(dataset, digest.text())


def _compressed(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> h5py.Dataset:
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    chunk = (min(shape[0], max(1, _CHUNK_BYTES // row_bytes)), *shape[1:])
    return group.create_dataset(name, shape, dtype, chunks=chunk, compression="gzip", track_times=False)


def _write_chunk(dataset: h5py.Dataset, start: int, rows: NDArray[Any]) -> None:
    """Write the rows of one chunk and flush them: data buffered by HDF5 would escape the check of the disk space."""
    check_room(Path(dataset.file.filename), rows.nbytes)
    dataset[start : start + len(rows)] = rows
    dataset.flush()
