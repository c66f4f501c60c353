"""Write a .trk or .trx file with data per point, one part at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, pairwise
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
from dwiml.tractograms.writing.appending import GrowingFile
from dwiml.tractograms.writing.sidecar import tractogram_sidecar, write_sidecar
from dwiml.tractograms.writing.trx_folder import GrowingTrx, array_name


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


def write_with_data(path: Path, grid: Grid, parts: Iterable[Part], *, sidecar: Mapping[str, Any] | None = None) -> None:
    """Write a .trk file (:func:`write_trk`) or a .trx file (:func:`write_trx`), as the extension says.

    Parameters
    ----------
    path, grid, parts
        As in these functions.
    sidecar
        Content of the JSON file beside the tractogram (:func:`dwiml.tractograms.writing.sidecar.describe`); None for
        none.

    Raises
    ------
    ValueError
        If `path` has another extension.
    OSError
        If the file cannot be written.
    """
    writers = {".trk": write_trk, ".trx": write_trx}
    if path.suffix.lower() not in writers:
        raise ValueError(f"'{path}': data per point are written to a .trk or .trx file; give one of these extensions.")
    if sidecar is not None:
        # It describes the older tractogram.
        tractogram_sidecar(path).unlink(missing_ok=True)
    writers[path.suffix.lower()](path, grid, parts)
    if sidecar is not None:
        write_sidecar(path, sidecar)


def write_trx(path: Path, grid: Grid, parts: Iterable[Part]) -> None:
    """Write a .trx file atomically: it appears only when it is complete. One part is in memory at a time.

    Parameters
    ----------
    path
        The .trx file; an existing one is replaced.
    grid
        The voxel grid of the points.
    parts
        The streamlines. All parts must have the same names of data, which are written as float32.

    Raises
    ------
    ValueError
        If a name cannot be a file name.
    OSError
        If the file cannot be written; it needs twice the disk space.
    """
    given = iter(parts)
    first = next(given, Part(np.empty((0, 3), dtype=np.float32), np.empty(0, dtype=np.int64)))
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as folder:
        tractogram = _TrxWithPointData(Path(folder) / "trx", grid, first)
        try:
            for part in chain([first], given):
                tractogram.write_part(part)
        finally:
            tractogram.finish()
        tractogram.move_to(path)


class _TrxWithPointData(GrowingTrx):
    """The arrays of a .trx, with those of the data per point (``dpv``); the first part gives names and sizes."""

    def __init__(self, path: Path, grid: Grid, first: Part) -> None:
        widths = {name: values.shape[1] for name, values in first.data_per_streamline.items()}
        self._point_widths = {name: values.shape[1] for name, values in first.data_per_point.items()}
        self.check_names({**widths, **self._point_widths}, path)
        super().__init__(path, grid=grid, widths=widths)
        (path / "dpv").mkdir()
        self._per_point = {name: GrowingFile(path / self._point_array(name)) for name in self._point_widths}

    def write_part(self, part: Part) -> None:
        """Append streamlines and their data."""
        for name, width in self._point_widths.items():
            content = part.data_per_point[name].astype("<f4").tobytes()
            self._per_point[name].write(content, at=4 * width * self._nb_points_written)
        grid = self._grid
        points = from_vox_corner(
            part.points, space=self.space, origin=self.origin, affine=grid.affine, voxel_sizes=grid.voxel_sizes
        )
        self.write(points, part.lengths, part.data_per_streamline)
        self.commit()

    def finish(self) -> None:
        """Truncate the arrays to the sizes in the header, and close them."""
        super().finish()
        for name, file in self._per_point.items():
            file.close(size=4 * self._point_widths[name] * self._nb_points)

    def _members(self) -> list[str]:
        return [*super()._members(), *map(self._point_array, self._point_widths)]

    def _point_array(self, name: str) -> str:
        return f"dpv/{array_name(name, self._point_widths[name])}"


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
