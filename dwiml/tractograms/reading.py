"""Open, check and read tractogram files, with the same functions for all formats."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.ops.ragged import first_not_finite
from dwiml.tractograms.headerless import HeaderlessTractogram
from dwiml.tractograms.in_hdf5 import Connections, Dpy
from dwiml.tractograms.kinds import SPACES, check_kind, kind_of
from dwiml.tractograms.tck import Tck
from dwiml.tractograms.tractogram import Streamlines, Tractogram
from dwiml.tractograms.trk import Trk
from dwiml.tractograms.trx import Trx
from dwiml.tractograms.vtk.reader import Vtk

_CLASSES: Mapping[str, type[Tractogram]] = {".trk": Trk, ".tck": Tck, ".h5": Connections}
_HEADERLESS: Mapping[str, type[HeaderlessTractogram]] = {".vtk": Vtk, ".fib": Vtk, ".vtp": Vtk, ".dpy": Dpy}


def open_tractogram(
    path: str | os.PathLike[str],
    label: str = "The tractogram",
    *,
    space: str | None = None,
    trx_groups: Sequence[str] = (),
) -> Tractogram:
    """Open a tractogram file. Its content is read later, when it is needed.

    Parameters
    ----------
    path
        A ``.trk``, ``.trk.gz``, ``.tck``, ``.tck.gz``, ``.trx``, ``.vtk``, ``.fib``, ``.vtp`` or ``.dpy`` file, or the
        ``.h5`` file of connections of scilpy. A .trx may be a folder of arrays, as it is while it is being written.
    label
        Start of the error messages.
    space
        Space of the points of a format that need not record it (.vtk, .fib, .vtp, .dpy): ``"rasmm"`` or ``"lpsmm"``.
        If it is None and the file does not state it, rasmm is assumed; for VTK files, with a warning when the points
        are read.
    trx_groups
        Names of groups of a .trx: only streamlines of at least one of them are read. Empty: all streamlines.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError, ValueError
        See :func:`dwiml.tractograms.kinds.check_kind`; also if the space is unknown, or groups are given for another
        format than .trx.
    """
    if space not in (None, *SPACES):
        raise ValueError(f"space must be one of {', '.join(SPACES)}, got {space!r}.")
    path = check_kind(path, label)
    kind = kind_of(path)
    if kind == ".trx":
        return Trx(path, label, trx_groups)
    if trx_groups:
        raise ValueError(
            f"{label}: groups of streamlines (trx_groups) are in .trx files only, but '{path}' is a {kind}."
        )
    return _HEADERLESS[kind](path, label, space) if kind in _HEADERLESS else _CLASSES[kind](path, label)


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
    check_finite(streamlines, path, label)
    return streamlines.points, streamlines.lengths


def check_finite(streamlines: Streamlines, path: str | os.PathLike[str], label: str) -> None:
    """Raise ValueError if coordinates that were read from a file are NaN or infinite; `label` starts the message."""
    wrong = first_not_finite(streamlines.points, streamlines.lengths)
    if wrong is not None:
        raise ValueError(
            f"{label} '{path}' holds NaN or infinite coordinates; remove these streamlines, the first of which is "
            f"number {wrong} (counted from 0, without those that have no points)."
        )
