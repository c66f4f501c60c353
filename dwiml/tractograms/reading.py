"""Files of streamlines (.trk, .tck, .trx), opened, checked and read: the same calls for all formats."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.tractograms.grid import Grid
from dwiml.tractograms.kinds import check_kind
from dwiml.tractograms.tck import Tck
from dwiml.tractograms.tractogram import Tractogram
from dwiml.tractograms.trk import Trk
from dwiml.tractograms.trx import Trx

_CLASSES: Mapping[str, type[Tractogram]] = {".trk": Trk, ".tck": Tck, ".trx": Trx}


def open_tractogram(path: str | os.PathLike[str], label: str = "The tractogram") -> Tractogram:
    """Return a tractogram whose file is there and of a kind that is read; nothing is read of it yet.

    Parameters
    ----------
    path
        A ``.trk``, ``.tck`` or ``.trx`` file, or the folder of arrays that a .trx is while it is written.
    label
        How the sentence of an error begins.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError, ValueError
        As :func:`dwiml.tractograms.kinds.check_kind`.
    """
    path = check_kind(path, label)
    return _CLASSES[path.suffix.lower()](path, label)


def read_streamlines(
    path: str | os.PathLike[str], affine: ArrayLike, label: str = "The tractogram"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read a tractogram (.trk, .tck, .trx) into a voxel space, by way of the scanner's mm, from any grid.

    Parameters
    ----------
    path
        The file.
    affine : (4, 4)
        From voxel indices (centre origin) to rasmm.
    label
        How the sentence of an error begins.

    Returns
    -------
    points : (N, 3) float32
        Voxel space of the affine, corner origin, in voxels.
    lengths : (S,) int64
        Points of each streamline, at least one.

    Raises
    ------
    FileNotFoundError, ValueError
        When it is missing, damaged or of another kind, when a .trk header contradicts itself, or when coordinates are
        NaN or infinite.
    """
    streamlines = open_tractogram(path, label).read(affine)
    if not np.isfinite(streamlines.points).all():
        raise ValueError(f"{label} '{path}' holds NaN or infinite coordinates; remove these streamlines.")
    return streamlines.points, streamlines.lengths


def read_tractogram_grid(path: str | os.PathLike[str], label: str = "The tractogram") -> Grid:
    """Return the voxel grid of the header of a .trk or .trx; its streamlines are not read.

    Raises
    ------
    FileNotFoundError, ValueError
        When the file is missing or damaged, its header contradicts itself, or it has none (.tck).
    """
    grid = open_tractogram(path, label).grid
    if grid is None:
        raise ValueError(f"{label} '{path}' does not give its voxel grid; give an image on that grid.")
    return grid
