"""Read .tck files, and check their number of streamlines against the header, which nibabel does not do."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.streamlines.tractogram_file import TractogramFile
from numpy.typing import NDArray

from dwiml.files.images import readable
from dwiml.tractograms.gzipped import content_size, open_content
from dwiml.tractograms.kinds import is_gzipped
from dwiml.tractograms.with_nibabel import NibabelTractogram

logger = logging.getLogger(__name__)

# Triplets read at once.
_SLAB = 2**20


def announced_streamlines(header: Mapping[str, Any]) -> int:
    """Return the ``count`` of a header as nibabel reads it; 0 if it is unknown (absent, 0, or not a number)."""
    try:
        return max(int(str(header.get("count", 0)).strip()), 0)
    except ValueError:
        return 0


def check_tck_whole(path: Path, header: Mapping[str, Any], label: str) -> None:
    """Check that a file holds as many streamlines as its header announces; warn if it holds more.

    In the format [1]_, three NaN end a streamline and three infinite numbers end the file.

    Parameters
    ----------
    path
        The file.
    header
        The header as nibabel reads it.
    label
        Start of the error messages.

    Raises
    ------
    ValueError
        If streamlines are missing.

    References
    ----------
    .. [1] MRtrix3 documentation, "Tracks file format (.tck)".
    """
    announced = announced_streamlines(header)
    if not announced:
        return
    with readable(path, label):
        there = _count(path, int(header["_offset_data"]), np.dtype(header["_dtype"]))
    if there < announced:
        raise ValueError(
            f"{label}: '{path}' is truncated, or its header is wrong: {announced} streamlines are announced (count), "
            f"but it holds {there}; copy the file again or recreate it."
        )
    if there > announced:
        logger.warning(
            "%s: the header of '%s' announces %d streamlines (count) but it holds %d; all of them are read.",
            *(label, path, announced, there),
        )


def _count(path: Path, offset: int, dtype: np.dtype[Any]) -> int:
    """Count the NaN triplets before the triplet of infinite numbers."""
    count = 0
    with open_content(path) as stream:
        stream.seek(offset)
        while content := stream.read(3 * dtype.itemsize * _SLAB):
            whole = len(content) // (3 * dtype.itemsize) * 3
            triplets = np.frombuffer(content, dtype=dtype, count=whole).reshape(-1, 3)
            ends = np.flatnonzero(np.isinf(triplets).all(axis=1))
            if len(ends):
                triplets = triplets[: ends[0]]
            count += int(np.count_nonzero(np.isnan(triplets).all(axis=1)))
            if len(ends):
                break
    return count


class Tck(NibabelTractogram):
    """A .tck file, which does not record a voxel grid."""

    # Three infinite float32 numbers.
    _end_mark_bytes = 12
    grid = None

    def _nb_announced(self) -> int:
        return announced_streamlines(self._lazy.header)

    def _load_whole(self) -> TractogramFile:
        if is_gzipped(self.path):
            content_size(self.path, self.label)
        file = self._load(lazy=False)
        check_tck_whole(self.path, file.header, self.label)
        return file

    def _check_to_sample(self) -> NDArray[np.float64]:
        check_tck_whole(self.path, self._lazy.header, self.label)
        return np.eye(4)
