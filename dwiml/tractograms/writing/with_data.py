"""Write a .trk file with data per point, one part at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from nibabel.streamlines import Field
from nibabel.streamlines.tractogram import TractogramItem
from nibabel.streamlines.trk import TrkFile
from numpy.typing import NDArray

from dwiml.files import atomic_write
from dwiml.ops.ragged import borders
from dwiml.ops.spaces import from_vox_corner
from dwiml.tractograms.grid import Grid


@dataclass(frozen=True, eq=False)
class Part:
    """Some streamlines and their data.

    Attributes
    ----------
    points
        Points of all streamlines, concatenated; shape (N, 3), float32, voxel space, corner origin, in voxels.
    lengths
        Number of points of each streamline; shape (S,), int64.
    data_per_point
        {name: shape (N, K)}.
    data_per_streamline
        {name: shape (S, K)}.
    """

    points: NDArray[np.float32]
    lengths: NDArray[np.int64]
    data_per_point: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    data_per_streamline: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def write_trk(path: Path, grid: Grid, parts: Iterable[Part]) -> None:
    """Write a .trk file atomically: it appears only when it is complete. One part is in memory at a time.

    Parameters
    ----------
    path
        The .trk file; an existing one is replaced.
    grid
        The voxel grid of the points.
    parts
        The streamlines. All parts must have the same names of data.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    header = {
        Field.VOXEL_TO_RASMM: grid.affine,
        Field.VOXEL_SIZES: grid.voxel_sizes,
        Field.DIMENSIONS: np.array(grid.shape, dtype=np.int16),
        Field.VOXEL_ORDER: grid.voxel_order,
    }
    with atomic_write(path) as stream:
        TrkFile(_Streamed(grid, parts), header=header).save(stream)


class _Streamed:
    """The tractogram interface that nibabel needs to save a file.

    nibabel's LazyTractogram is not used: it drops the affine if one function gives both points and data (nibabel 5.4).
    """

    def __init__(self, grid: Grid, parts: Iterable[Part]) -> None:
        self._grid = grid
        self._parts = parts
        self._to_asked: NDArray[np.float64] = np.eye(4)

    def to_world(self, lazy: bool) -> _Streamed:
        return self

    def apply_affine(self, affine: NDArray[np.float64], lazy: bool) -> _Streamed:
        self._to_asked = affine @ self._to_asked
        return self

    def __iter__(self) -> Iterator[TractogramItem]:
        grid = self._grid
        for part in self._parts:
            points = from_vox_corner(
                part.points, space="rasmm", origin="center", affine=grid.affine, voxel_sizes=grid.voxel_sizes
            )
            points = apply_affine(self._to_asked, points)
            rows = borders(part.lengths)
            for number, (start, stop) in enumerate(pairwise(rows)):
                yield TractogramItem(
                    points[start:stop],
                    {name: values[number] for name, values in part.data_per_streamline.items()},
                    {name: values[start:stop] for name, values in part.data_per_point.items()},
                )
