"""Read .trk files, and check the content against the header, which nibabel does not do.

The format is described in "TrackVis documentation: Track file (.trk) format", version 2.
"""

from __future__ import annotations

import logging
import mmap
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from nibabel.orientations import aff2axcodes
from nibabel.streamlines.tractogram_file import TractogramFile
from nibabel.streamlines.trk import decode_value_from_name, get_affine_trackvis_to_rasmm, header_2_dtype
from numpy.typing import NDArray

from dwiml.files import open_regular
from dwiml.files.images import readable
from dwiml.ops.ragged import offsets
from dwiml.tractograms.grid import GRID_TOLERANCE_VOXELS, Grid
from dwiml.tractograms.gzipped import content_size, open_content
from dwiml.tractograms.kinds import is_gzipped
from dwiml.tractograms.tractogram import Stored
from dwiml.tractograms.with_nibabel import NibabelTractogram

logger = logging.getLogger(__name__)

_HEADER_BYTES = header_2_dtype.itemsize
_COUNTS = ("nb_streamlines", "nb_scalars_per_point", "nb_properties_per_streamline")
# Some tools round the voxel sizes.
_SIZES_TOLERANCE = 1e-2


@dataclass(frozen=True)
class TrkCounts:
    """Counts in a .trk header.

    Attributes
    ----------
    byte_order
        ``<`` or ``>``.
    nb_streamlines
        Number of streamlines; 0 if unknown.
    nb_scalars
        Number of values stored after the 3 coordinates of each point.
    nb_properties
        Number of values stored after the points of each streamline.
    """

    byte_order: str
    nb_streamlines: int
    nb_scalars: int
    nb_properties: int


def read_trk_counts(path: Path, label: str) -> TrkCounts:
    """Read the counts of a .trk header.

    nibabel is not used here: it replaces the number of streamlines by the number it read, and reads the first
    streamline even in lazy mode.

    Raises
    ------
    ValueError
        If the file does not begin with a .trk header, a count is negative, or no affine is recorded.
    """
    with open_content(path, f"{label}: the file") as stream, readable(path, label):
        content = stream.read(_HEADER_BYTES)
    byte_order = next((order for order in "<>" if content[-4:] == struct.pack(f"{order}i", _HEADER_BYTES)), None)
    if len(content) < _HEADER_BYTES or byte_order is None:
        raise ValueError(f"{label}: '{path}' cannot be read, it does not begin with the header of a .trk file.")
    header = np.frombuffer(content, dtype=header_2_dtype.newbyteorder(byte_order), count=1)[0]
    counts = [int(header[name]) for name in _COUNTS]
    for name, count in zip(_COUNTS, counts, strict=True):
        if count < 0:
            raise ValueError(
                f"{label}: the header of '{path}' is damaged, its {name} is {count}; copy it again or recreate it."
            )
    # nibabel would use the identity instead. Version 1 of the format has no affine.
    if header["version"] == 1 or header["voxel_to_rasmm"][3, 3] == 0:
        raise ValueError(
            f"{label}: the header of '{path}' does not record its affine (voxel_to_rasmm); save it again with the "
            "header of the image that it belongs to."
        )
    return TrkCounts(byte_order, *counts)


def is_default_header(header: Mapping[str, Any]) -> bool:
    """Return whether a header is nibabel's default, which does not describe a voxel grid."""
    return tuple(header["dimensions"]) == (1, 1, 1) and np.array_equal(header["voxel_to_rasmm"], np.eye(4))


def check_trk_header(header: Mapping[str, Any], path: Path, label: str) -> None:
    """Check that the fields of a header, as nibabel reads it, describe the same voxel grid.

    The points are divided by ``voxel_sizes`` and reoriented from ``voxel_order`` before the affine is applied. If these
    fields disagree with the affine, the streamlines are misplaced.

    Raises
    ------
    ValueError
        If the header is nibabel's default or is inconsistent.
    """
    affine = np.asarray(header["voxel_to_rasmm"], dtype=np.float64)
    sizes = np.asarray(header["voxel_sizes"], dtype=np.float64)
    if is_default_header(header):
        raise ValueError(
            f"{label}: '{path}' does not give its voxel grid (its header is nibabel's default: one voxel, the identity "
            "as affine); save it with the header of the image that it belongs to."
        )
    of_affine = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(sizes, of_affine, rtol=_SIZES_TOLERANCE, atol=0):
        raise ValueError(
            f"{label}: the header of '{path}' contradicts itself: its voxel_sizes are {_numbers(sizes)} mm, but those "
            f"of its affine are {_numbers(of_affine)} mm; save it again with the header of the image that it belongs "
            "to."
        )
    moved = np.abs(sizes / of_affine - 1) * np.asarray(header["dimensions"], dtype=np.float64)
    if (moved > GRID_TOLERANCE_VOXELS).any():
        logger.warning(
            "%s: the voxel_sizes of the header of '%s' (%s mm) are not exactly those of its affine (%s mm), which "
            "moves streamlines by up to %.2f voxels at the far end of the grid.",
            *(label, path, _numbers(sizes), _numbers(of_affine), moved.max()),
        )
    order = bytes(header["voxel_order"]).decode("latin1").upper()
    of_affine_order = "".join(aff2axcodes(affine))
    if order != of_affine_order:
        raise ValueError(
            f"{label}: the header of '{path}' contradicts itself: its voxel_order is '{order}', but that of its affine "
            f"is '{of_affine_order}'; save it again with the header of the image that it belongs to."
        )


def check_trk_whole(path: Path, label: str) -> list[int]:
    """Check that a file holds as many streamlines as its header announces, and no data after them.

    Only the lengths of the streamlines are read. A streamline takes 4 + 4 * (3 + scalars) * points + 4 * properties
    bytes.

    Returns
    -------
    list
        The number of points of each streamline.

    Raises
    ------
    ValueError
        If streamlines are missing, or there are bytes after them.
    """
    counts = read_trk_counts(path, label)
    announced, offset = counts.nb_streamlines, _HEADER_BYTES
    point_bytes, other_bytes = 4 * (3 + counts.nb_scalars), 4 + 4 * counts.nb_properties
    read_length = struct.Struct(f"{counts.byte_order}i").unpack_from
    size = content_size(path, label) if is_gzipped(path) else path.stat().st_size
    lengths: list[int] = []
    with _open_bytes(path, label) as bytes_at:
        while offset < size and (len(lengths) < announced or not announced):
            nb_points = read_length(*bytes_at(offset))[0] if offset + 4 <= size else 0
            offset += other_bytes + point_bytes * nb_points
            if nb_points < 0 or offset > size:
                expected = f"{announced} are announced" if announced else "the file ends within the next"
                raise ValueError(
                    f"{label}: '{path}' is damaged or truncated: {len(lengths)} streamlines can be read, but "
                    f"{expected}; copy the file again or recreate it."
                )
            lengths.append(nb_points)
    if len(lengths) < announced:
        raise ValueError(
            f"{label}: '{path}' is truncated, or its header is wrong: {announced} streamlines are announced, "
            f"but it holds {len(lengths)}; copy the file again or recreate it."
        )
    if offset < size:
        raise ValueError(
            f"{label}: '{path}' holds {size - offset} bytes after the {announced} streamlines that its header "
            "announces; copy the file again or recreate it."
        )
    return lengths


@contextmanager
def _open_bytes(path: Path, label: str) -> Iterator[Callable[[int], tuple[Any, int]]]:
    """Yield a function that takes an offset and returns a buffer and where the bytes at the offset are in it."""
    if not is_gzipped(path):
        with (
            open_regular(path, f"{label}: the file") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            yield lambda offset: (content, offset)
        return
    with open_content(path, f"{label}: the file") as stream:

        def four_bytes(offset: int) -> tuple[bytes, int]:
            with readable(path, label):
                stream.seek(offset)
                return stream.read(4), 0

        yield four_bytes


def _numbers(values: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _property_columns(names: Iterable[bytes], nb: int) -> dict[str, slice]:
    """Return the columns of each property, by name; those without a name are ``properties``, as in nibabel."""
    columns: dict[str, slice] = {}
    end = 0
    for encoded in names if nb else ():
        name, width = decode_value_from_name(encoded)
        if width > 0:
            columns[name] = slice(end, end + width)
            end += width
    if end < nb:
        columns["properties"] = slice(end, nb)
    if end > nb:
        raise ValueError(f"its header names {end} properties of {nb}")
    return columns


class Trk(NibabelTractogram):
    """A .trk file."""

    @cached_property
    def grid(self) -> Grid:
        """The voxel grid of the header."""
        # Check the counts first: nibabel trusts them.
        read_trk_counts(self.path, self.label)
        header = self._lazy.header
        check_trk_header(header, self.path, self.label)
        return Grid.from_header(header["voxel_to_rasmm"], header["dimensions"], self.path)

    def _nb_announced(self) -> int:
        return read_trk_counts(self.path, self.label).nb_streamlines

    def _nb_read(self, file: TractogramFile) -> int:
        return int(file.header["nb_streamlines"])

    def _read(self, dps_keys: Sequence[str]) -> Stored:
        if is_gzipped(self.path):
            return super()._read(dps_keys)
        # The file is one array. nibabel reads streamline by streamline, three times slower, and cannot read data per
        # streamline of a streamline without points.
        counts = read_trk_counts(self.path, self.label)
        lengths = np.array(check_trk_whole(self.path, self.label), dtype=np.int64)
        header = self._lazy.header
        check_trk_header(header, self.path, self.label)
        with readable(self.path, self.label):
            columns = _property_columns(header["property_name"], counts.nb_properties)
        if lengths.any():
            self.check_dps_keys(dps_keys, list(columns))
        with readable(self.path, self.label):
            words = np.fromfile(self.path, f"{counts.byte_order}f4", offset=_HEADER_BYTES)
        # Of each streamline: its number of points, its points with their scalars, its properties.
        starts = offsets(1 + (3 + counts.nb_scalars) * lengths + counts.nb_properties)
        ends = np.append(starts[1:], len(words))[: len(starts)]
        properties = words[ends[:, None] - np.arange(counts.nb_properties, 0, -1)]
        is_of_point = np.ones(len(words), dtype=bool)
        is_of_point[starts] = False
        is_of_point[ends[:, None] - np.arange(counts.nb_properties, 0, -1)] = False
        points = words[is_of_point].reshape(-1, 3 + counts.nb_scalars)[:, :3].astype(np.float32, copy=False)
        with np.errstate(invalid="ignore", over="ignore"):
            # In float32, as nibabel does.
            points = apply_affine(get_affine_trackvis_to_rasmm(header), points)
        has_points = lengths > 0
        dps = {key: properties[has_points, columns[key]].astype(np.float32) for key in dps_keys if key in columns}
        return Stored(points, lengths[has_points], dps, int(np.count_nonzero(~has_points)))

    def _load_whole(self) -> TractogramFile:
        check_trk_whole(self.path, self.label)
        file = self._load(lazy=False)
        check_trk_header(file.header, self.path, self.label)
        return file

    def _check_to_sample(self) -> NDArray[np.float64]:
        check_trk_whole(self.path, self.label)
        header = self._lazy.header
        if is_default_header(header):
            logger.warning("'%s' does not give its voxel grid; its points are taken as they are, in mm.", self.path)
        else:
            check_trk_header(header, self.path, self.label)
        to_rasmm: NDArray[np.float64] = get_affine_trackvis_to_rasmm(header)
        return to_rasmm
