"""Tractograms on the disk that grow: readable after each commit, whatever happens to the process afterwards."""

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
    """A tractogram on the disk to which streamlines are added.

    What is written counts once it is committed. Written but not committed, it is cut off by :meth:`finish`, or
    overwritten by the next write after :meth:`forget`.

    Parameters
    ----------
    path
        What to make; nothing may be there.
    grid
        The voxels.
    widths
        {name: how many numbers each streamline has under this name}.

    Attributes
    ----------
    nb_streamlines
        How many are committed.
    """

    space: ClassVar[str]
    """Of the points in the file."""
    origin: ClassVar[str]
    largest_dimension: ClassVar[int] = 2**31 - 1
    """What the file's header can hold."""

    def __init__(self, path: Path, *, grid: Grid, widths: Mapping[str, int]) -> None:
        self.path = path
        self._grid, self._widths = grid, dict(widths)
        self.nb_streamlines = 0
        self._nb_written = 0

    @classmethod
    def check_names(cls, widths: Mapping[str, int], path: Path) -> None:
        """Raise ValueError when the format cannot hold such data per streamline."""
        for name in widths:
            if not name or "\0" in name:
                raise ValueError(f"'{path}': data per streamline need a name, got {name!r}.")

    @abstractmethod
    def write(self, points: Points, lengths: Lengths, data: DataPerStreamline) -> None:
        """Add streamlines, in the file's space; each has a point, and what was declared for it."""

    @abstractmethod
    def commit(self) -> None:
        """Let all that was written count."""

    @abstractmethod
    def forget(self) -> None:
        """Let nothing count that was written since the last commit."""

    @abstractmethod
    def finish(self) -> None:
        """Leave on the disk, and closed, all that was committed and nothing else."""

    @abstractmethod
    def move_to(self, target: Path) -> None:
        """Give a finished tractogram its name, in the place of what was there."""


class GrowingFile:
    """A file that is written at given places, and grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def write(self, content: bytes, *, at: int) -> int:
        """Write all, and return where it ends."""
        left = memoryview(content)
        try:
            while left:
                nb_written = os.pwrite(self._handle, left, at)
                left, at = left[nb_written:], at + nb_written
        except OSError as error:
            # A full disk is told without a name.
            raise OSError(error.errno, os.strerror(error.errno or 0), str(self.path)) from error
        return at

    def close(self, *, size: int) -> None:
        """Cut the file at a size, have it on the disk, and close it."""
        try:
            os.ftruncate(self._handle, size)
            os.fsync(self._handle)
        finally:
            os.close(self._handle)
