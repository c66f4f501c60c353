"""Open, check and read tractogram files, with the same functions for all formats."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.tractograms.kinds import check_kind, kind_of
from dwiml.tractograms.tck import Tck
from dwiml.tractograms.tractogram import Tractogram
from dwiml.tractograms.trk import Trk
from dwiml.tractograms.trx import Trx

_CLASSES: Mapping[str, type[Tractogram]] = {".trk": Trk, ".tck": Tck, ".trx": Trx}


def open_tractogram(path: str | os.PathLike[str], label: str = "The tractogram") -> Tractogram:
    """Open a tractogram file. Its content is read later, when it is needed.

    Parameters
    ----------
    path
        A ``.trk``, ``.trk.gz``, ``.tck``, ``.tck.gz`` or ``.trx`` file. A .trx may be a folder of arrays, as it is
        while it is being written.
    label
        Start of the error messages.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError, ValueError
        See :func:`dwiml.tractograms.kinds.check_kind`.
    """
    path = check_kind(path, label)
    return _CLASSES[kind_of(path)](path, label)


def read_streamlines(
    path: str | os.PathLike[str], affine: ArrayLike, label: str = "The tractogram"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read a tractogram into the voxel space of an affine.

    The points are converted through rasmm, so the file may be on any grid.

    Parameters
    ----------
    path
        The file.
    affine : (4, 4)
        From voxel indices (center origin) to rasmm.
    label
        Start of the error messages.

    Returns
    -------
    points : (N, 3) float32
        Voxel space of the affine, corner origin, in voxels.
    lengths : (S,) int64
        Number of points of each streamline, at least one.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is damaged or its format is not supported, if a .trk header is inconsistent, or if coordinates are
        NaN or infinite.
    """
    streamlines = open_tractogram(path, label).read(affine)
    if not np.isfinite(streamlines.points).all():
        raise ValueError(f"{label} '{path}' holds NaN or infinite coordinates; remove these streamlines.")
    return streamlines.points, streamlines.lengths
