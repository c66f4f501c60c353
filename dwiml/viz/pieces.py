"""Cut streamlines into pieces of uniform color, to draw them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize

from dwiml.matplotlib_backend import COLOR_QUANTILES, value_colormap
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
# Data with these names and three values are red, green and blue, from 0 to 255.
_COLORS = ("color", "colors", "colour", "rgb")


@dataclass(frozen=True)
class DrawnTractogram:
    """Streamlines to draw.

    Attributes
    ----------
    name
        Name of the tractogram in the figure.
    points
        Shape (N, 3), float32, rasmm: points of all streamlines, concatenated.
    lengths
        Shape (S,), int64: number of points of each streamline.
    values
        Shape (N,), float32: a value at each point, which gives its color; NaN where there is none. Or shape (N, 3),
        float32: the colors (red, green and blue, from 0 to 1). None: the color does not depend on values.
    nb_in_file
        Number of streamlines in the file, if these are a sample; None: these are all the streamlines.
    is_counted
        Whether the number of streamlines is shown beside a row.
    """

    name: str
    points: Floats
    lengths: Integers
    values: Floats | None = None
    nb_in_file: int | None = None
    is_counted: bool = True

    @classmethod
    def from_file(cls, path: str | Path, *, color: str, max_streamlines: int) -> DrawnTractogram:
        """Read evenly spaced streamlines of a tractogram, and the values that give their colors.

        Parameters
        ----------
        path
            The file; its formats are those of :func:`~dwiml.tractograms.reading.open_tractogram`.
        color
            ``"direction"``, ``"uniform"``, or the name of data per point or per streamline.
        max_streamlines
            Maximal number of streamlines. Among them, the invalid ones are ignored with a warning.

        Returns
        -------
        DrawnTractogram

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, has another format, or does not contain these data.
        """
        tractogram = open_tractogram(path)
        name = None if color in (DIRECTION, UNIFORM) else color
        sample = tractogram.sample(max_streamlines, name, hint=f" '{DIRECTION}' and '{UNIFORM}' do not need any.")
        kept, rows = _find_valid(sample, tractogram.path)
        values = None if sample.values is None else _to_values_or_colors(sample.values[rows], color, tractogram.path)
        return cls(
            name=tractogram.path.stem,
            points=sample.points[rows].astype(np.float32),
            lengths=sample.lengths[kept].astype(np.int64),
            values=values,
            nb_in_file=sample.nb_in_file,
        )

    @property
    def has_values(self) -> bool:
        """Whether there are values to be converted to colors."""
        return self.values is not None and self.values.ndim == 1


@dataclass(frozen=True)
class Pieces:
    """Pieces of streamlines, cut halfway between points: there is one piece of uniform color around each point.

    Attributes
    ----------
    vertices
        Shape (M, 3, 3), float32, rasmm. The three vertices of a piece are halfway to the previous point, the point
        itself, and halfway to the next point.
    colors
        Shape (M, 3), float32: red, green and blue, from 0 to 1.
    """

    vertices: Floats
    colors: Floats

    def __len__(self) -> int:
        return len(self.vertices)

    def select(self, wanted: npt.NDArray[Any]) -> Pieces:
        """Return some of the pieces: a mask, shape (M,), or indices in the order in which they are drawn."""
        return Pieces(self.vertices[wanted], self.colors[wanted])

    @classmethod
    def concatenate(cls, parts: Sequence[Pieces]) -> Pieces:
        """Concatenate the pieces of several tractograms."""
        return cls(np.concatenate([part.vertices for part in parts]), np.concatenate([part.colors for part in parts]))


@dataclass(frozen=True)
class Coloring:
    """The conversion of points to colors.

    Attributes
    ----------
    color
        ``"direction"``, ``"uniform"``, or the name of the values.
    low, high
        Values at the ends of the color map.
    is_cut
        Whether some values are below ``low``, and whether some are above ``high``.
    nb_tractograms
        Number of tractograms, which have different colors if ``color`` is ``"uniform"``.
    """

    color: str
    low: float = 0.0
    high: float = 1.0
    is_cut: tuple[bool, bool] = (False, False)
    nb_tractograms: int = 1

    @classmethod
    def choose(
        cls, color: str, tractograms: Sequence[DrawnTractogram], color_range: Sequence[float] | None = None
    ) -> Coloring:
        """Choose the ends of the color map: ``color_range``, or the 5th and 95th percentiles of all values."""
        parts = [
            tractogram.values for tractogram in tractograms if tractogram.values is not None and tractogram.has_values
        ]
        values = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
        values = values[np.isfinite(values)]
        if color in (DIRECTION, UNIFORM) or not len(values):
            return cls(color, nb_tractograms=len(tractograms))
        low, high = np.quantile(values, COLOR_QUANTILES).tolist() if color_range is None else color_range
        if low == high:
            low, high = float(values.min()), float(values.max())
        return cls(color, low, high, (bool(values.min() < low), bool(values.max() > high)))

    def colors_of(self, tractogram: DrawnTractogram, number: int, rows: Integers, vertices: Floats) -> Floats:
        """Return the colors of pieces.

        Parameters
        ----------
        tractogram
            The streamlines.
        number
            Index of the tractogram in the figure, from 0.
        rows
            Shape (M,), int64: index of the point of each piece.
        vertices
            Shape (M, 3, 3), float32, rasmm: the pieces, as in :class:`Pieces`.

        Returns
        -------
        array
            Shape (M, 3), float32: red, green and blue, from 0 to 1.
        """
        if self.color == DIRECTION:
            return direction_colors(vertices[:, 2] - vertices[:, 0])
        if self.color == UNIFORM or tractogram.values is None:
            return np.tile(np.array(uniform_color(number, self.nb_tractograms), dtype=np.float32), (len(rows), 1))
        values = tractogram.values[rows]
        return values.astype(np.float32) if values.ndim == 2 else self.value_colors(values)

    def value_colors(self, values: Floats) -> Floats:
        """Return the color of each value in the color map, shape (M,) to (M, 3), from 0 to 1; gray for NaN."""
        shares = Normalize(self.low, self.high, clip=True)(np.nan_to_num(values, nan=self.low))
        colors: Floats = value_colormap()(np.asarray(shares))[:, :3].astype(np.float32)
        colors[np.isnan(values)] = NO_VALUE
        return colors


def direction_colors(directions: npt.NDArray[Any]) -> Floats:
    """Return the usual colors of directions: red for left-right, green for front-back and blue for up-down.

    Parameters
    ----------
    directions
        Shape (M, 3): vectors of any length along the rasmm axes.

    Returns
    -------
    array
        Shape (M, 3), float32: absolute values of the unit vectors as red, green and blue, from 0 to 1; gray where the
        vector is zero.

    References
    ----------
    Pajevic and Pierpaoli (1999), Color schemes to represent the orientation of anisotropic tissues from diffusion
    tensor data, doi:10.1002/(SICI)1522-2594(199909)42:3<526::AID-MRM15>3.0.CO;2-J.
    """
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    colors: Floats = np.abs(directions / np.maximum(lengths, 1e-12)).astype(np.float32)
    colors[lengths[:, 0] == 0] = NO_VALUE
    return colors


def uniform_color(number: int, total: int) -> tuple[float, float, float]:
    """Return the color (red, green and blue, from 0 to 1) of one of several tractograms of different colors."""
    red, green, blue, _ = colormaps["tab10"](number) if total <= 10 else colormaps["hsv"](number / total)
    return red, green, blue


def cut(points: Floats, lengths: Integers, *, stride: int = 1) -> tuple[Integers, Floats]:
    """Cut streamlines into pieces.

    Parameters
    ----------
    points
        Shape (N, 3), float32, rasmm: points of all streamlines, concatenated.
    lengths
        Shape (S,), int64: number of points of each streamline.
    stride
        Keep every ``stride``-th point of each streamline, and its last point.

    Returns
    -------
    rows
        Shape (M,), int64: indices of the points that are kept, one for each piece. A streamline of a single point has
        no piece.
    vertices
        Shape (M, 3, 3), float32, rasmm: as in :class:`Pieces`.
    """
    ends = np.cumsum(lengths)
    line = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(points)) - (ends - lengths)[line]
    kept = ((place % stride == 0) | (place == lengths[line] - 1)) & (lengths[line] > 1)
    rows = np.flatnonzero(kept)
    line, kept_points = line[rows], points[rows].astype(np.float32)
    vertices = np.repeat(kept_points[:, None], 3, axis=1)
    same_line = line[1:] == line[:-1]
    midpoints = (kept_points[1:] + kept_points[:-1]) / 2
    vertices[1:, 0][same_line] = midpoints[same_line]
    vertices[:-1, 2][same_line] = midpoints[same_line]
    return rows, vertices


def _find_valid(sample: Sample, path: Path) -> tuple[Flags, Flags]:
    """Return masks of the streamlines (S,) and points (N,) that can be drawn; warn about the others."""
    line = sequence_ids(sample.lengths)
    bad = sample.lengths < 2
    bad[line[~np.isfinite(sample.points).all(axis=1)]] = True
    if bad.any():
        logger.warning(
            "%d streamlines of '%s' contain NaN or infinity, or have fewer than two points; they are ignored.",
            bad.sum(),
            path,
        )
    return ~bad, ~bad[line]


def _to_values_or_colors(values: npt.NDArray[Any], name: str, path: Path) -> Floats:
    """Return the value (N,) or the color (N, 3), from 0 to 1, at each point."""
    if values.shape[1] == 1:
        return values[:, 0].astype(np.float32)
    if values.shape[1] == 3 and name.lower() in _COLORS:
        return np.clip(values / 255, 0, 1).astype(np.float32)
    raise ValueError(f"'{name}' of '{path}' must have one value per point or streamline, got {values.shape[1]}.")
