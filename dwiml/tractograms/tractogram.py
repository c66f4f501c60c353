"""The interface that all tractogram formats share."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.arguments import quoted
from dwiml.ops.ragged import slabs
from dwiml.ops.spaces import to_vox_corner
from dwiml.tractograms.grid import Grid

logger = logging.getLogger(__name__)

# Points converted at once.
_SLAB = 250_000

Array = NDArray[Any]


@dataclass(eq=False)
class Streamlines:
    """Streamlines in a voxel space.

    Attributes
    ----------
    points
        Points of all streamlines, concatenated; shape (N, 3), float32, voxel space, corner origin, in voxels.
    lengths
        Number of points of each streamline; shape (S,), int64.
    dps
        {key: data per streamline, shape (S, K), float32}.
    nb_removed
        Number of streamlines of the file that are left out: those without points, and those removed later.
    """

    points: NDArray[np.float32]
    lengths: NDArray[np.int64]
    dps: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    nb_removed: int = 0


@dataclass(eq=False)
class Sample:
    """Some streamlines of a file, in the order of the file.

    Attributes
    ----------
    nb_in_file
        Total number of streamlines in the file.
    points
        Points of the sampled streamlines, concatenated; shape (N, 3), rasmm, center origin, dtype of the file.
    lengths
        Number of points of each streamline; shape (S,), int64.
    values
        The requested data at each point, shape (N, K); None if no data were requested, or there is no streamline.
    """

    nb_in_file: int
    points: Array
    lengths: NDArray[np.int64]
    values: Array | None


@dataclass(eq=False)
class Stored:
    """Streamlines as stored in a file.

    Attributes
    ----------
    points
        Points of all streamlines, concatenated; shape (N, 3), rasmm, center origin, dtype of the file.
    lengths
        Number of points of each streamline, at least one; shape (S,), int64.
    dps
        {key: data per streamline, shape (S, K)}; empty if there are no streamlines.
    nb_without_points
        Number of streamlines without points, which are left out.
    """

    points: Array
    lengths: NDArray[np.int64]
    dps: dict[str, Array]
    nb_without_points: int


@dataclass(frozen=True)
class Overview:
    """What the header and the first streamline of a file tell.

    Attributes
    ----------
    nb_streamlines, nb_points
        Number of streamlines and of points; None if the header does not give it.
    per_streamline, per_point
        {name of data: number of values for each streamline, or for each point}.
    groups
        {name of a group of streamlines: their number}; only .trx files have groups.
    """

    nb_streamlines: int | None = None
    nb_points: int | None = None
    per_streamline: dict[str, int] = field(default_factory=dict)
    per_point: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)


class Tractogram(ABC):
    """A tractogram file, read on demand; created by :func:`~dwiml.tractograms.reading.open_tractogram`.

    Parameters
    ----------
    path
        The file; a .trx may be a folder of arrays.
    label
        Start of the error messages, for instance ``"The tractogram"``.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.path = path
        self.label = label

    @property
    @abstractmethod
    def grid(self) -> Grid | None:
        """The voxel grid of the header; None for a format that does not record one (.tck, .vtk, .fib, .vtp, .dpy).

        Raises
        ------
        FileNotFoundError, ValueError
            If the header cannot be read or is inconsistent.
        """

    @property
    @abstractmethod
    def dps_keys(self) -> list[str]:
        """Names of the data per streamline."""

    def overview(self) -> Overview:
        """Return what the header tells, without reading all streamlines; nothing by default.

        Raises
        ------
        FileNotFoundError, ValueError
            If the file is missing or damaged.
        """
        return Overview()

    @abstractmethod
    def has_streamlines(self) -> bool:
        """Return whether there is data after the header.

        Raises
        ------
        ValueError
            If there is no data but the header announces streamlines.
        """

    @abstractmethod
    def _read(self, dps_keys: Sequence[str]) -> Stored:
        """Return all streamlines, with the requested data per streamline."""

    @abstractmethod
    def _sample(self, most: int, name: str | None, hint: str) -> Sample:
        """Return some streamlines, with the data of this name."""

    def check_dps_keys(self, keys: Sequence[str], existing: Sequence[str] | None = None) -> None:
        """Check that the file has the requested data per streamline.

        Parameters
        ----------
        keys
            The requested names.
        existing
            The names in the file, if they were already read.

        Raises
        ------
        ValueError
            If a name does not exist; the message lists those that do.
        """
        existing = self.dps_keys if existing is None else existing
        missing = [key for key in keys if key not in existing]
        if missing:
            raise ValueError(
                f"{self.label}: data per streamline {quoted(missing)} not found in '{self.path}'; it has: "
                f"{quoted(existing)}."
            )

    def read(self, affine: ArrayLike, dps_keys: Sequence[str] = ()) -> Streamlines:
        """Read all streamlines into the voxel space of an affine.

        The points are converted through rasmm, so the file may be on any grid.

        Parameters
        ----------
        affine : (4, 4)
            From voxel indices (center origin) to rasmm.
        dps_keys
            Names of the data per streamline to read.

        Raises
        ------
        FileNotFoundError
            If the file does not exist.
        ValueError
            If the file is damaged, its header is inconsistent, or it does not have the requested data.
        """
        stored = self._read(dps_keys)
        points = np.empty(stored.points.shape, dtype=np.float32)
        for _, part in slabs(stored.lengths, _SLAB):
            points[part] = to_vox_corner(
                stored.points[part], space="rasmm", origin="center", affine=affine, voxel_sizes=np.ones(3)
            )
        dps = {key: self._as_float32(key, values) for key, values in stored.dps.items()}
        logger.info("%s: %d streamlines from '%s'.", self.label, len(stored.lengths), self.path)
        return Streamlines(points, stored.lengths, dps, stored.nb_without_points)

    def _as_float32(self, key: str, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return data per streamline as stored in the HDF5 file; warn of whole numbers that this changes."""
        with np.errstate(over="ignore"):
            converted = np.asarray(values, dtype=np.float32)
        if (np.isinf(converted) & np.isfinite(values)).any():
            raise ValueError(
                f"{self.label}: data per streamline '{key}' of '{self.path}' has values that are too large for float32."
            )
        is_whole = values == np.floor(values)
        if (is_whole & (converted.astype(values.dtype) != values)).any():
            logger.warning(
                "%s: data per streamline '%s' of '%s' has whole numbers above 16 777 216, which are rounded to "
                "float32: different numbers may become equal.",
                *(self.label, key, self.path),
            )
        return converted

    def sample(self, most: int, name: str | None = None, *, hint: str = "") -> Sample:
        """Read some streamlines, evenly spaced in the file, with bounded memory.

        Parameters
        ----------
        most
            Maximum number of streamlines to read.
        name
            Name of the data per point or per streamline to read as well.
        hint
            End of the error message if the file does not have these data.

        Raises
        ------
        FileNotFoundError
            If the file does not exist.
        ValueError
            If the file is damaged or does not have the requested data; the message lists those that exist.
        """
        sample = self._sample(most, name, hint)
        logger.info("%d of %d streamlines from '%s'.", len(sample.lengths), sample.nb_in_file, self.path)
        return sample

    def _check_name(self, name: str, per_point: Iterable[str], per_streamline: Iterable[str], hint: str) -> None:
        points, streamlines = sorted(per_point), sorted(per_streamline)
        if name not in (*points, *streamlines):
            raise ValueError(
                f"'{self.path}' has no data named '{name}'; it has per point: {quoted(points)}; per streamline: "
                f"{quoted(streamlines)}.{hint}"
            )


def evenly(nb: int, most: int) -> NDArray[np.int64]:
    """Return the indices of at most `most` of `nb` streamlines, evenly spaced, starting with the first."""
    nb_kept = min(nb, most)
    return np.arange(nb_kept) * nb // max(nb_kept, 1)
