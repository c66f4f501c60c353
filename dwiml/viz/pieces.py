"""Streamlines as a figure draws them: cut into pieces, each of one colour."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize

from dwiml.matplotlib_backend import value_colormap
from dwiml.ops.ragged import sequence_ids
from dwiml.tractograms.reading import open_tractogram
from dwiml.tractograms.tractogram import Sample

if TYPE_CHECKING:
    import numpy.typing as npt

    from dwiml.viz.slices import Floats

    Integers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]

logger = logging.getLogger(__name__)

DIRECTION, UNIFORM = "direction", "uniform"
NO_VALUE = (0.5, 0.5, 0.5)
# Three numbers of these names are red, green and blue, from 0 to 255.
_COLORS = ("color", "colors", "colour", "rgb")
# The scale ends at these shares of the values: a few extreme ones would leave one colour for all others.
_QUANTILES = (0.05, 0.95)


@dataclass(frozen=True)
class DrawnTractogram:
    """Streamlines to be drawn.

    Attributes
    ----------
    name
        What the figure calls them.
    points
        Shape (N, 3), float32, rasmm (the scanner's mm): those of all streamlines, one after the other.
    lengths
        Shape (S,), int64: number of points of each streamline.
    values
        Shape (N,): a number at each point, for its colour; NaN where there is none. Or (N, 3): the colours themselves,
        red, green and blue from 0 to 1. None: not needed.
    nb_in_file
        Of how many streamlines these were picked; None: of these.
    """

    name: str
    points: Floats
    lengths: Integers
    values: Floats | None = None
    nb_in_file: int | None = None

    @classmethod
    def from_file(cls, path: str | Path, *, color: str, most: int) -> DrawnTractogram:
        """Read some of the streamlines of a tractogram, evenly picked, and what colours them.

        Parameters
        ----------
        path
            A ``.trk``, ``.tck`` or ``.trx`` file, or the folder of raw arrays that a .trx is while it is written.
        color
            ``"direction"``, ``"uniform"``, or the name of data per point or per streamline.
        most
            How many streamlines are kept, at most; of those, the invalid ones are left out with a warning.

        Raises
        ------
        FileNotFoundError, ValueError
            When it is missing, damaged or of another kind, or has no such data.
        """
        tractogram = open_tractogram(path)
        name = None if color in (DIRECTION, UNIFORM) else color
        sample = tractogram.sample(most, name, hint=f" '{DIRECTION}' and '{UNIFORM}' need none.")
        kept, rows = _valid(sample, tractogram.path)
        values = None if sample.values is None else _numbers_or_colors(sample.values[rows], color, tractogram.path)
        return cls(
            name=tractogram.path.stem,
            points=sample.points[rows].astype(np.float32),
            lengths=sample.lengths[kept].astype(np.int64),
            values=values,
            nb_in_file=sample.nb_in_file,
        )

    @property
    def has_numbers(self) -> bool:
        """Whether the values are numbers, not colours."""
        return self.values is not None and self.values.ndim == 1


@dataclass(frozen=True)
class Pieces:
    """Streamlines cut half-way between their points: each point has a piece, of its own colour.

    Attributes
    ----------
    vertices
        Shape (M, 3, 3), float32, rasmm: half-way to the point before, the point, half-way to the point after.
    colors
        Shape (M, 3), float32: red, green and blue from 0 to 1.
    """

    vertices: Floats
    colors: Floats

    def __len__(self) -> int:
        return len(self.vertices)

    def select(self, wanted: npt.NDArray[Any]) -> Pieces:
        """Return some of them: flags, or numbers in the order to draw them in."""
        return Pieces(self.vertices[wanted], self.colors[wanted])

    @classmethod
    def joined(cls, parts: Sequence[Pieces]) -> Pieces:
        """Return those of several tractograms as one."""
        return cls(np.concatenate([part.vertices for part in parts]), np.concatenate([part.colors for part in parts]))


@dataclass(frozen=True)
class Coloring:
    """How points become colours.

    Attributes
    ----------
    color
        ``"direction"``, ``"uniform"``, or the name of the values.
    low, high
        The values at the ends of the colour map.
    is_cut
        Whether there are values below, and above.
    nb_tractograms
        How many there are to be told apart.
    """

    color: str
    low: float = 0.0
    high: float = 1.0
    is_cut: tuple[bool, bool] = (False, False)
    nb_tractograms: int = 1

    @classmethod
    def of(
        cls, color: str, tractograms: Sequence[DrawnTractogram], color_range: Sequence[float] | None = None
    ) -> Coloring:
        """Choose the ends of the colour map: those given, or the 5th and 95th percentile of all values."""
        parts = [each.values for each in tractograms if each.values is not None and each.has_numbers]
        values = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
        values = values[np.isfinite(values)]
        if color in (DIRECTION, UNIFORM) or not len(values):
            return cls(color, nb_tractograms=len(tractograms))
        low, high = np.quantile(values, _QUANTILES).tolist() if color_range is None else color_range
        if low == high:
            low, high = float(values.min()), float(values.max())
        return cls(color, low, high, (bool(values.min() < low), bool(values.max() > high)))

    def colors_of(self, tractogram: DrawnTractogram, number: int, rows: Integers, vertices: Floats) -> Floats:
        """Return the colour of each piece, (M, 3).

        Parameters
        ----------
        tractogram, number
            The streamlines, and which of the tractograms they are, from 0.
        rows
            Shape (M,): the points that have a piece.
        vertices
            Shape (M, 3, 3): the pieces.
        """
        if self.color == DIRECTION:
            return direction_colors(vertices[:, 2] - vertices[:, 0])
        if self.color == UNIFORM or tractogram.values is None:
            return np.tile(np.array(uniform_color(number, self.nb_tractograms), dtype=np.float32), (len(rows), 1))
        values = tractogram.values[rows]
        return values.astype(np.float32) if values.ndim == 2 else self.value_colors(values)

    def value_colors(self, values: Floats) -> Floats:
        """Return the colour map's colour of each value, (M,) -> (M, 3); grey for NaN."""
        shares = Normalize(self.low, self.high, clip=True)(np.nan_to_num(values, nan=self.low))
        colors: Floats = value_colormap()(np.asarray(shares))[:, :3].astype(np.float32)
        colors[np.isnan(values)] = NO_VALUE
        return colors


def direction_colors(directions: npt.NDArray[Any]) -> Floats:
    """Return red for left-right, green for front-back and blue for up-down: (M, 3), rasmm, of any length.

    Where there is no direction, the colour is grey.
    """
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    colors: Floats = np.abs(directions / np.maximum(lengths, 1e-12)).astype(np.float32)
    colors[lengths[:, 0] == 0] = NO_VALUE
    return colors


def uniform_color(number: int, total: int) -> tuple[float, float, float]:
    """Return the colour of one of several tractograms that have a colour each."""
    red, green, blue, _ = colormaps["tab10"](number) if total <= 10 else colormaps["hsv"](number / total)
    return red, green, blue


def cut(points: Floats, lengths: Integers, *, stride: int = 1) -> tuple[Integers, Floats]:
    """Cut streamlines into pieces.

    Parameters
    ----------
    points
        Shape (N, 3), rasmm.
    lengths
        Shape (S,).
    stride
        Keep one point out of so many along each streamline, and its last one.

    Returns
    -------
    rows
        Shape (M,): the points that are kept, and have a piece. Streamlines of one point have none.
    vertices
        Shape (M, 3, 3), as in :class:`Pieces`.
    """
    ends = np.cumsum(lengths)
    line = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(points)) - (ends - lengths)[line]
    kept = ((place % stride == 0) | (place == lengths[line] - 1)) & (lengths[line] > 1)
    rows = np.flatnonzero(kept)
    line, mine = line[rows], points[rows].astype(np.float32)
    vertices = np.repeat(mine[:, None], 3, axis=1)
    goes_on = line[1:] == line[:-1]
    halves = (mine[1:] + mine[:-1]) / 2
    vertices[1:, 0][goes_on] = halves[goes_on]
    vertices[:-1, 2][goes_on] = halves[goes_on]
    return rows, vertices


def _valid(sample: Sample, path: Path) -> tuple[Flags, Flags]:
    """Return which streamlines (S,), and which points (N,), can be drawn; warn of the others."""
    line = sequence_ids(sample.lengths)
    bad = sample.lengths < 2
    bad[line[~np.isfinite(sample.points).all(axis=1)]] = True
    if bad.any():
        logger.warning(
            "%d streamlines of '%s' hold NaN or infinity, or have fewer than two points; they are left out.",
            bad.sum(),
            path,
        )
    return ~bad, ~bad[line]


def _numbers_or_colors(values: npt.NDArray[Any], name: str, path: Path) -> Floats:
    """Return a number (N,), or a colour (N, 3) from 0 to 1, at each point."""
    if values.shape[1] == 1:
        return values[:, 0].astype(np.float32)
    if values.shape[1] == 3 and name.lower() in _COLORS:
        return np.clip(values / 255, 0, 1).astype(np.float32)
    raise ValueError(f"'{name}' of '{path}' holds {values.shape[1]} numbers each; a colour needs one.")
