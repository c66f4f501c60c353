"""Tractograms to which streamlines are appended, readable after each commit even if the process is killed."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dwiml.tractograms.grid import Grid

Points = NDArray[np.float32]
Lengths = NDArray[np.int64]
DataPerStreamline = Mapping[str, NDArray[np.float32]]


class GrowingTractogram(ABC):
    """A tractogram on disk to which streamlines are appended.

    Streamlines are part of the tractogram once they are committed. Uncommitted data is cut off by :meth:`finish`, or
    overwritten by the next write after :meth:`forget`.

    Parameters
    ----------
    path
        File or folder to create; it must not exist.
    grid
        The voxel grid.
    widths
        {name of data per streamline: number of values for each streamline}.

    Attributes
    ----------
    nb_streamlines
        Number of committed streamlines.
    """

    space: ClassVar[str]
    """Space of the points in the file."""
    origin: ClassVar[str]
    """Origin of the points in the file."""
    largest_dimension: ClassVar[int] = 2**31 - 1
    """Largest number of voxels along an axis that the header can hold."""

    def __init__(self, path: Path, *, grid: Grid, widths: Mapping[str, int]) -> None:
        self.path = path
        self._grid, self._widths = grid, dict(widths)
        self.nb_streamlines = 0
        self._nb_written = 0

    @classmethod
    def check_names(cls, widths: Mapping[str, int], path: Path) -> None:
        """Raise a ValueError if the format cannot hold such data per streamline."""
        for name in widths:
            if not name or "\0" in name:
                raise ValueError(f"'{path}': data per streamline need a name, got {name!r}.")

    @abstractmethod
    def write(self, points: Points, lengths: Lengths, data: DataPerStreamline) -> None:
        """Append streamlines, each with at least one point.

        Parameters
        ----------
        points : (N, 3) float32
            Points of all streamlines, concatenated, in the space and origin of the file.
        lengths : (S,) int64
            Number of points of each streamline.
        data
            {name: (S, K) float32}, with the names and widths that were declared.

        Raises
        ------
        OSError
            If the file cannot be written (a full disk).
        """

    @abstractmethod
    def commit(self) -> None:
        """Make all written streamlines part of the tractogram."""

    @abstractmethod
    def forget(self) -> None:
        """Discard everything written since the last commit."""

    @abstractmethod
    def finish(self) -> None:
        """Discard uncommitted data and close the files."""

    @abstractmethod
    def move_to(self, target: Path) -> None:
        """Move a finished tractogram to its final name, replacing an existing file.

        Raises
        ------
        OSError
            If the file cannot be written or renamed.
        """


class GrowingFile:
    """A new file that is written at given offsets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def write(self, content: bytes, *, at: int) -> int:
        """Write bytes at an offset, and return the offset of their end."""
        left = memoryview(content)
        try:
            while left:
                nb_written = os.pwrite(self._handle, left, at)
                left, at = left[nb_written:], at + nb_written
        except OSError as error:
            # The system's error for a full disk does not name the file.
            raise OSError(error.errno, os.strerror(error.errno or 0), str(self.path)) from error
        return at

    def close(self, *, size: int) -> None:
        """Truncate the file to a size in bytes, flush it to disk and close it."""
        try:
            os.ftruncate(self._handle, size)
            os.fsync(self._handle)
        finally:
            os.close(self._handle)
