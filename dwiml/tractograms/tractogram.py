"""What any file of streamlines can be asked for, whatever its format."""

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
        Shape (N, 3), float32, voxel space, corner origin, in voxels: those of all streamlines, one after the other.
    lengths
        Shape (S,), int64: points of each streamline.
    dps
        {key: data per streamline, shape (S, K), float32}.
    nb_removed
        How many streamlines of the file are not here: those without any point, and what was removed later.
    """

    points: NDArray[np.float32]
    lengths: NDArray[np.int64]
    dps: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    nb_removed: int = 0


@dataclass(eq=False)
class Sample:
    """Some streamlines of a file, in its own order.

    Attributes
    ----------
    nb_in_file
        Of how many streamlines these were picked.
    points
        Shape (N, 3): rasmm, centre origin, in mm; of the file's own type.
    lengths
        Shape (S,), int64: points of each streamline.
    values
        Shape (N, K): the data asked for by name, at each point; None: there were none to read.
    """

    nb_in_file: int
    points: Array
    lengths: NDArray[np.int64]
    values: Array | None


@dataclass(eq=False)
class Stored:
    """Streamlines as a file holds them.

    Attributes
    ----------
    points
        Shape (N, 3): rasmm, centre origin, in mm; of the file's own type.
    lengths
        Shape (S,), int64: points of each streamline, at least one.
    dps
        {key: data per streamline, shape (S, K)}; empty without streamlines.
    nb_without_points
        How many other streamlines the file holds.
    """

    points: Array
    lengths: NDArray[np.int64]
    dps: dict[str, Array]
    nb_without_points: int


class Tractogram(ABC):
    """A file of streamlines, of which nothing is read before it is asked for; made by :func:`open_tractogram`.

    Parameters
    ----------
    path
        The file, or the folder of arrays that a .trx may be.
    label
        How the sentence of an error begins, for instance ``"The tractogram"``.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.path = path
        self.label = label

    @property
    @abstractmethod
    def grid(self) -> Grid | None:
        """The voxel grid of the header; None for a .tck, which has none.

        Raises
        ------
        FileNotFoundError, ValueError
            When the header cannot be read, or contradicts itself.
        """

    @property
    @abstractmethod
    def dps_keys(self) -> list[str]:
        """Names of the data per streamline."""

    @abstractmethod
    def has_streamlines(self) -> bool:
        """Tell whether anything follows the header.

        Raises
        ------
        ValueError
            When nothing does, and the header announces streamlines.
        """

    @abstractmethod
    def _read(self, dps_keys: Sequence[str]) -> Stored:
        """Return all streamlines, with the data per streamline that are asked for."""

    @abstractmethod
    def _sample(self, most: int, name: str | None, hint: str) -> Sample:
        """Return some streamlines, with the data of a name."""

    def check_dps_keys(self, keys: Sequence[str], existing: Sequence[str] | None = None) -> None:
        """Check that there are the data per streamline that are asked for; `existing`: those known to be there.

        Raises
        ------
        ValueError
            Naming those that exist.
        """
        existing = self.dps_keys if existing is None else existing
        missing = [key for key in keys if key not in existing]
        if missing:
            raise ValueError(
                f"{self.label}: data per streamline {quoted(missing)} not found in '{self.path}'; it has: "
                f"{quoted(existing)}."
            )

    def read(self, affine: ArrayLike, dps_keys: Sequence[str] = ()) -> Streamlines:
        """Read all streamlines into a voxel space, by way of the scanner's mm, from any grid.

        Parameters
        ----------
        affine
            Shape (4, 4): from voxel indices (center origin) to rasmm.
        dps_keys
            The data per streamline to read.

        Raises
        ------
        FileNotFoundError, ValueError
            When the file is missing or damaged, its header contradicts itself, or there are no such data.
        """
        stored = self._read(dps_keys)
        points = np.empty(stored.points.shape, dtype=np.float32)
        for _, part in slabs(stored.lengths, _SLAB):
            points[part] = to_vox_corner(
                stored.points[part], space="rasmm", origin="center", affine=affine, voxel_sizes=np.ones(3)
            )
        dps = {key: np.asarray(values, dtype=np.float32) for key, values in stored.dps.items()}
        logger.info("%s: %d streamlines from '%s'.", self.label, len(stored.lengths), self.path)
        return Streamlines(points, stored.lengths, dps, stored.nb_without_points)

    def sample(self, most: int, name: str | None = None, *, hint: str = "") -> Sample:
        """Read some streamlines, evenly picked, with bounded memory.

        Parameters
        ----------
        most
            How many are read, at most.
        name
            The data per point or per streamline to read with them.
        hint
            What the sentence of an error ends with, where there are no such data.

        Raises
        ------
        FileNotFoundError, ValueError
            When the file is missing or damaged, or has no such data; the message names those that exist.
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
    """Return the numbers of at most `most` of `nb` streamlines, evenly spaced, the first one included."""
    nb_kept = min(nb, most)
    return np.arange(nb_kept) * nb // max(nb_kept, 1)
