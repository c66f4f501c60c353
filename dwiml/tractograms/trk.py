"""What a .trk header announces, compared with what the file holds; nibabel does not compare them."""

from __future__ import annotations

import logging
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import aff2axcodes
from nibabel.streamlines.tractogram_file import TractogramFile
from nibabel.streamlines.trk import get_affine_trackvis_to_rasmm, header_2_dtype
from numpy.typing import NDArray

from dwiml.files import open_regular
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.with_nibabel import NibabelTractogram

logger = logging.getLogger(__name__)

_HEADER_BYTES = header_2_dtype.itemsize
_COUNTS = ("nb_streamlines", "nb_scalars_per_point", "nb_properties_per_streamline")
# Some tools round the voxel sizes.
_SIZES_TOLERANCE = 1e-2


@dataclass(frozen=True)
class TrkCounts:
    """What a header announces.

    Attributes
    ----------
    byte_order
        ``<`` or ``>``.
    nb_streamlines
        0 means "unknown".
    nb_scalars, nb_properties
        Numbers that follow the 3 coordinates of each point, and the points of each streamline.
    """

    byte_order: str
    nb_streamlines: int
    nb_scalars: int
    nb_properties: int


def read_trk_counts(path: Path, label: str) -> TrkCounts:
    """Read what a header announces.

    Not through nibabel, which overwrites the number of streamlines with the number it read, and reads the first
    streamline even when it is lazy.

    Raises
    ------
    ValueError
        When this is not a .trk header, a count is negative, or no affine is recorded.
    """
    with open_regular(path, f"{label}: the file") as stream:
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
    # nibabel would go on with the identity, which those of version 1 always have.
    if header["version"] == 1 or header["voxel_to_rasmm"][3, 3] == 0:
        raise ValueError(
            f"{label}: the header of '{path}' does not record its affine (voxel_to_rasmm); save it again with a header "
            "made from the image it belongs to."
        )
    return TrkCounts(byte_order, *counts)


def is_default_header(header: Mapping[str, Any]) -> bool:
    """Tell whether a header is the default of nibabel, which says nothing of the voxel grid."""
    return tuple(header["dimensions"]) == (1, 1, 1) and np.array_equal(header["voxel_to_rasmm"], np.eye(4))


def check_trk_header(header: Mapping[str, Any], path: Path, label: str) -> None:
    """Check that a header as nibabel reads it describes one grid.

    The points are divided by ``voxel_sizes`` and turned from ``voxel_order`` before the affine is applied to them, so
    that a header whose affine has others puts them elsewhere.

    Raises
    ------
    ValueError
        When the header is the default of nibabel or contradicts itself.
    """
    affine = np.asarray(header["voxel_to_rasmm"], dtype=np.float64)
    sizes = np.asarray(header["voxel_sizes"], dtype=np.float64)
    if is_default_header(header):
        raise ValueError(
            f"{label}: '{path}' does not give its voxel grid (its header is nibabel's default: one voxel, the identity "
            "as affine); save it with a header made from the image it belongs to."
        )
    of_affine = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(sizes, of_affine, rtol=_SIZES_TOLERANCE, atol=0):
        raise ValueError(
            f"{label}: the header of '{path}' contradicts itself, its voxel_sizes are {_numbers(sizes)} mm and those "
            f"of its affine {_numbers(of_affine)} mm; save it again with a header made from the image it belongs to."
        )
    order = bytes(header["voxel_order"]).decode("latin1").upper()
    of_affine_order = "".join(aff2axcodes(affine))
    if order != of_affine_order:
        raise ValueError(
            f"{label}: the header of '{path}' contradicts itself, its voxel_order is '{order}' and that of its affine "
            f"'{of_affine_order}'; save it again with a header made from the image it belongs to."
        )


def check_trk_whole(path: Path, label: str) -> None:
    """Check that a file holds the streamlines that its header announces, and nothing after them.

    Only the streamlines' lengths are read. A streamline takes 4 + 4 * (3 + scalars) * points + 4 * properties bytes.

    Raises
    ------
    ValueError
        When streamlines are missing, or bytes are left.
    """
    counts = read_trk_counts(path, label)
    announced, offset = counts.nb_streamlines, _HEADER_BYTES
    point_bytes, other_bytes = 4 * (3 + counts.nb_scalars), 4 + 4 * counts.nb_properties
    read_length = struct.Struct(f"{counts.byte_order}i").unpack_from
    count, size = 0, path.stat().st_size
    with (
        open_regular(path, f"{label}: the file") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        while offset < size and (count < announced or not announced):
            nb_points = read_length(content, offset)[0] if offset + 4 <= size else 0
            offset += other_bytes + point_bytes * nb_points
            if nb_points < 0 or offset > size:
                announcing = f"{announced} are announced" if announced else "the file ends in the next"
                raise ValueError(
                    f"{label}: '{path}' is damaged or cut off, {count} streamlines can be read, {announcing}; "
                    "copy the file again or recreate it."
                )
            count += 1
    if count < announced:
        raise ValueError(
            f"{label}: '{path}' is cut off, or its header is wrong: {announced} streamlines are announced, {count} are "
            "there; copy the file again or recreate it."
        )
    if offset < size:
        raise ValueError(
            f"{label}: '{path}' holds {size - offset} bytes after the {announced} streamlines that its header "
            "announces; copy the file again or recreate it."
        )


def _numbers(values: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


class Trk(NibabelTractogram):
    """A .trk file."""

    @cached_property
    def grid(self) -> Grid:
        """The voxel grid of the header."""
        # The counts first: nibabel reads as many numbers as they say.
        read_trk_counts(self.path, self.label)
        header = self._lazy.header
        check_trk_header(header, self.path, self.label)
        return Grid.from_header(header["voxel_to_rasmm"], header["dimensions"], self.path)

    def _nb_announced(self) -> int:
        return read_trk_counts(self.path, self.label).nb_streamlines

    def _nb_read(self, file: TractogramFile) -> int:
        return int(file.header["nb_streamlines"])

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
