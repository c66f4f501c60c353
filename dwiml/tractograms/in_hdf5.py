"""Read the streamlines of DIPY's .dpy files and of scilpy's .h5 files of connections, which are HDF5 files.

They are read with the checks of :mod:`dwiml.hdf5.stored`: links are followed inside the file only, and sizes are
checked before memory is allocated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dwiml.files import check_memory, open_regular
from dwiml.hdf5.stored import StoredDataset, StoredFile, StoredGroup
from dwiml.ops.spaces import from_vox_corner
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.headerless import HeaderlessTractogram, WholeTractogram
from dwiml.tractograms.tractogram import Array, Stored, Tractogram

CONNECTION_KEYS = ("connection_a", "connection_b")
"""Data per streamline of a .h5 of scilpy: the two labels that a streamline joins."""

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LABELS = re.compile(r"([0-9]{1,9})_([0-9]{1,9})")
# Arrays of a connection that are not data per streamline.
_ARRAYS = ("data", "offsets", "lengths")
# Whole numbers above this are not all float32 numbers.
_LARGEST_LABEL = 2**24


def _opened(tractogram: Tractogram) -> StoredFile:
    with open_regular(tractogram.path, f"{tractogram.label}: the file") as stream:
        start = stream.read(len(_SIGNATURE))
    if start != _SIGNATURE:
        raise ValueError(
            f"{tractogram.label}: the file '{tractogram.path}' is damaged (it does not begin as an HDF5 file); copy it "
            "again or recreate it."
        )
    return StoredFile(tractogram.path)


def _check_columns(data: StoredDataset, width: int | None) -> None:
    """Check that a dataset has the shape (N, width), or (N,) if the width is None."""
    if len(data.shape) != (1 if width is None else 2) or (width is not None and data.shape[1] != width):
        shape = "(N,)" if width is None else f"(N, {width})"
        data.file.refuse(data.name, f"it has the shape {data.shape}; {shape} is expected")


class Dpy(HeaderlessTractogram):
    """A .dpy file of DIPY: datasets ``streamlines/tracks``, (N, 3), and ``streamlines/offsets``, (S + 1,)."""

    def has_streamlines(self) -> bool:
        """Return whether the file holds more than the first offset."""
        with _opened(self) as file:
            offsets = file.dataset("streamlines/offsets")
            _check_columns(offsets, None)
            return offsets.shape[0] > 1

    def _read(self, dps_keys: Sequence[str]) -> Stored:
        with _opened(self) as file:
            tracks, offsets = file.dataset("streamlines/tracks"), file.dataset("streamlines/offsets")
            _check_columns(tracks, 3)
            _check_columns(offsets, None)
            points, starts = tracks.read(), offsets.read().astype(np.int64)
            if len(starts) and (starts[0] != 0 or starts[-1] != len(points) or (starts[1:] < starts[:-1]).any()):
                file.refuse(offsets.name, f"the offsets do not increase from 0 to the {len(points)} points")
        lengths = starts[1:] - starts[:-1]
        there = lengths > 0
        self._check_no_dps(dps_keys, int(there.sum()))
        return Stored(self._to_rasmm(points, None, warn=False), lengths[there], {}, int(np.count_nonzero(~there)))


class Connections(WholeTractogram):
    """A .h5 file of scilpy: a group for each connection, named after the two labels, such as ``4_12``.

    A group has the datasets ``data``, shape (N, 3), voxel space, corner origin; ``offsets`` and ``lengths``, shape
    (S,); and possibly data per streamline, shape (S,) or (S, K), or one value for all its streamlines. The root
    attributes give the voxel grid.

    References
    ----------
    scilpy 2, ``scilpy/io/hdf5.py``.
    """

    @cached_property
    def grid(self) -> Grid:
        """The voxel grid of the root attributes."""
        with _opened(self) as file:
            return self._grid_of(file)

    def _grid_of(self, file: StoredFile) -> Grid:
        missing = [name for name in ("affine", "dimensions") if not file.root.has_attribute(name)]
        if missing:
            raise ValueError(
                f"{self.label}: '{self.path}' has no root attribute '{missing[0]}', which scilpy's files of "
                "connections have; give one of these, or a tractogram in another format."
            )
        affine, shape = (np.asarray(file.root.attribute(name)) for name in ("affine", "dimensions"))
        if affine.dtype.kind not in "fiu" or shape.dtype.kind not in "fiu" or shape.ndim != 1:
            file.refuse("", "its affine and dimensions are not numbers")
        return Grid.from_header(affine, shape, self.path)

    @property
    def dps_keys(self) -> list[str]:
        """Names of the data per streamline that all connections with streamlines have."""
        with _opened(self) as file:
            return self._dps_keys_of(list(_connections(file)))

    def _dps_keys_of(self, connections: list[StoredGroup]) -> list[str]:
        common: set[str] | None = None
        for connection in connections:
            own = {name for name in connection.names if name not in _ARRAYS and not connection.is_group(name)}
            common = own if common is None else common & own
        labels = [] if any(_LABELS.fullmatch(each.name) is None for each in connections) else CONNECTION_KEYS
        return [*(labels if connections else ()), *sorted((common or set()).difference(labels))]

    def has_streamlines(self) -> bool:
        """Return whether a connection has streamlines."""
        with _opened(self) as file:
            return next(_connections(file), None) is not None

    def _read(self, dps_keys: Sequence[str]) -> Stored:
        with _opened(self) as file:
            grid, connections = self._grid_of(file), list(_connections(file))
            if connections:
                self.check_dps_keys(dps_keys, self._dps_keys_of(connections))
            check_memory(sum(each.dataset("data").nb_bytes for each in connections), "its points")
            points, lengths = [np.zeros((0, 3), np.float32)], [np.zeros(0, np.int64)]
            dps: dict[str, list[Array]] = {key: [] for key in dps_keys if connections}
            for connection in connections:
                own = self._lengths_of(connection)
                points.append(connection.dataset("data").read())
                lengths.append(own)
                for key, values in dps.items():
                    values.append(_values_of(connection, key, len(own)))
        all_lengths = np.concatenate(lengths)
        there = all_lengths > 0
        data = {key: self._joined(key, values)[there] for key, values in dps.items()}
        rasmm = from_vox_corner(
            np.concatenate(points), space="rasmm", origin="center", affine=grid.affine, voxel_sizes=grid.voxel_sizes
        )
        return Stored(rasmm, all_lengths[there], data, int(np.count_nonzero(~there)))

    def _lengths_of(self, connection: StoredGroup) -> NDArray[np.int64]:
        """Return the number of points of each streamline of a connection, which follow each other in its data."""
        data, starts, lengths = (connection.dataset(name) for name in ("data", "offsets", "lengths"))
        _check_columns(data, 3)
        _check_columns(starts, None)
        _check_columns(lengths, None)
        own = lengths.read().astype(np.int64)
        ends = np.cumsum(own)
        if (own < 0).any() or ends[-1] != data.shape[0] or not np.array_equal(starts.read(), ends - own):
            connection.file.refuse(
                connection.name, "its offsets and lengths are not those of streamlines that follow each other"
            )
        return own

    def _joined(self, key: str, values: list[Array]) -> Array:
        widths = sorted({each.shape[1] for each in values})
        if len(widths) > 1:
            raise ValueError(
                f"{self.label}: data per streamline '{key}' of '{self.path}' has {widths[0]} to {widths[-1]} values in "
                "its connections; the same number is needed in all of them."
            )
        return np.concatenate(values)


def _connections(file: StoredFile) -> Iterator[StoredGroup]:
    """Yield the groups that have streamlines, sorted by name."""
    for name in file.root.names:
        if file.root.is_group(name) and "data" in (group := file.root.group(name)):
            lengths = group.dataset("lengths")
            if lengths.shape and lengths.shape[0]:
                yield group


def _values_of(connection: StoredGroup, key: str, nb: int) -> Array:
    """Return the data of the streamlines of a connection, shape (nb, K)."""
    labels = _LABELS.fullmatch(connection.name)
    if key in CONNECTION_KEYS and labels is not None:
        label = int(labels[1 + CONNECTION_KEYS.index(key)])
        if label > _LARGEST_LABEL:
            connection.file.refuse(connection.name, f"the label {label} is not a float32 number", "use smaller labels")
        return np.full((nb, 1), label, dtype=np.float32)
    values = connection.dataset(key).read()
    if values.ndim == 0:
        return np.full((nb, 1), values)
    if len(values) != nb or values.ndim > 2:
        connection.file.refuse(f"{connection.name}/{key}", f"it has the shape {values.shape} for {nb} streamlines")
    return values.reshape(nb, -1)
