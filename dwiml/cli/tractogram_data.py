"""What ``dwiml show_tractogram`` draws, read from its files: a few streamlines in memory, however many there are."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.affines import apply_affine
from nibabel.streamlines.trk import get_affine_trackvis_to_rasmm

from dwiml.arguments import quoted
from dwiml.files import check_file
from dwiml.hdf5.inspection import open_tractogram, open_volume, readable
from dwiml.hdf5.volumes import check_end
from dwiml.ops.ragged import sequence_ids
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.kinds import check_kind
from dwiml.tractograms.tck import check_tck_whole
from dwiml.tractograms.trk import check_trk_header, check_trk_whole
from dwiml.tractograms.trx import TrxFile
from dwiml.viz.pieces import DIRECTION, UNIFORM, DrawnTractogram
from dwiml.viz.slices import Background

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)

_LABEL = "The tractogram"
# Three numbers of these names are red, green and blue, from 0 to 255.
_COLORS = ("color", "colors", "colour", "rgb")


@dataclass
class _Picked:
    """Streamlines of a file, in rasmm.

    Attributes
    ----------
    nb_in_file
        Of how many.
    points, lengths
        Shapes (N, 3) and (S,).
    values
        Shape (N, K), what was asked for by name; None: nothing was.
    """

    nb_in_file: int
    points: Array
    lengths: Array
    values: Array | None


def read_drawn(path: str | Path, *, color: str, most: int) -> DrawnTractogram:
    """Read some of the streamlines of a tractogram, evenly picked, and what colours them.

    Parameters
    ----------
    path
        A ``.trk``, ``.tck`` or ``.trx`` file, or the folder of raw arrays that a .trx is while it is written.
    color
        ``"direction"``, ``"uniform"``, or the name of data per point or per streamline.
    most
        How many streamlines are kept, at most.

    Returns
    -------
    DrawnTractogram
        In rasmm. Its values are those of the points, or of their streamlines.

    Raises
    ------
    FileNotFoundError, ValueError
        When it is missing, damaged or of another kind, or has no such data.
    """
    path = check_kind(path, _LABEL)
    suffix = path.suffix.lower()
    wanted = None if color in (DIRECTION, UNIFORM) else color
    picked = (_read_trx if suffix == ".trx" else _read_with_nibabel)(path, wanted, most)
    _drop_invalid(picked, path)
    logger.info("%d of %d streamlines from '%s'.", len(picked.lengths), picked.nb_in_file, path)
    values = None if picked.values is None else _numbers_or_colors(picked.values, color, path)
    return DrawnTractogram(
        name=path.stem,
        points=picked.points.astype(np.float32),
        lengths=picked.lengths.astype(np.int64),
        values=values,
        nb_in_file=picked.nb_in_file,
    )


def read_background(path: str | Path, volume: int | None) -> Background:
    """Read the image to see slices of.

    Parameters
    ----------
    path
        What nibabel reads, of 3 or 4 axes.
    volume
        Which one of the fourth axis, from 0; None: the first.

    Raises
    ------
    FileNotFoundError, ValueError
        When it is missing, damaged, or has no such volume.
    """
    path, label = Path(path), "The background"
    check_file(path, label)
    image = open_volume(path, label)
    shape = image.shape
    if len(shape) not in (3, 4) or 0 in shape or image.get_data_dtype().kind not in "biuf":
        raise ValueError(
            f"{label} '{path}' has shape {shape} and {image.get_data_dtype()} values; 3 or 4 axes of real numbers are "
            "expected."
        )
    grid = Grid.from_header(image.affine, shape[:3], path)
    nb_volumes = shape[3] if len(shape) == 4 else 1
    if not 0 <= (volume or 0) < nb_volumes:
        raise ValueError(f"--background_volume must be from 0 to {nb_volumes - 1} in '{path}', got {volume}.")
    with readable(path, label):
        data = np.asarray(image.dataobj[..., volume or 0] if len(shape) == 4 else image.dataobj, dtype=np.float32)
        check_end(image, label)
    return Background(data, grid.affine)


def _evenly(nb: int, most: int) -> Array:
    """Return the numbers of at most `most` of `nb` streamlines, evenly spaced, the first one included."""
    nb_kept = min(nb, most)
    return np.arange(nb_kept) * nb // max(nb_kept, 1)


def _read_with_nibabel(path: Path, wanted: str | None, most: int) -> _Picked:
    """Read a .trk or .tck: once to count, once to keep some; one streamline in memory beside those."""
    to_rasmm = np.eye(4)
    if path.suffix.lower() == ".trk":
        check_trk_whole(path, _LABEL)
        header = open_tractogram(path, _LABEL, lazy=True).header
        if tuple(header["dimensions"]) == (1, 1, 1) and np.array_equal(header["voxel_to_rasmm"], np.eye(4)):
            logger.warning("'%s' does not give its voxel grid; its points are taken as they are, in mm.", path)
        else:
            check_trk_header(header, path, _LABEL)
        to_rasmm = get_affine_trackvis_to_rasmm(header)
    else:
        check_tck_whole(path, open_tractogram(path, _LABEL, lazy=True).header, _LABEL)

    def items() -> Iterator[Any]:
        # Its own iteration, unlike its `streamlines`, leaves out the affine.
        yield from open_tractogram(path, _LABEL, lazy=True).tractogram

    with readable(path, _LABEL):
        first = next(items(), None)
    if wanted is not None and first is not None:
        _check_known(wanted, first.data_for_points, first.data_for_streamline, path)
    points, values = [np.zeros((0, 3))], []
    # Infinite coordinates are reported later.
    with readable(path, _LABEL), np.errstate(invalid="ignore"):
        nb = sum(1 for _ in items())
        flags = np.zeros(nb, dtype=bool)
        flags[_evenly(nb, most)] = True
        for item in compress(items(), flags):
            # Copies: what nibabel gives are parts of buffers of 4 MB.
            points.append(apply_affine(to_rasmm, item.streamline))
            if wanted is not None:
                values.append(_values_of(item, wanted))
    lengths = np.array([len(line) for line in points[1:]], dtype=np.int64)
    return _Picked(nb, np.concatenate(points), lengths, np.concatenate(values) if values else None)


def _values_of(item: Any, wanted: str) -> Array:
    """Return a streamline's data, a row for each of its points, (n, K)."""
    if wanted in item.data_for_points:
        return np.array(item.data_for_points[wanted])
    return np.tile(item.data_for_streamline[wanted], (len(item.streamline), 1))


def _read_trx(path: Path, wanted: str | None, most: int) -> _Picked:
    with readable(path, _LABEL):
        file = TrxFile(path)
    with file:
        by_name = wanted is not None and file.nb_streamlines > 0
        if by_name:
            _check_known(str(wanted), file.names("dpv"), file.names("dps"), path)
        with readable(path, _LABEL):
            ids = _evenly(file.nb_streamlines, most)
            lengths, points, values = file.lengths[ids], file.rows_of("positions", ids), None
            if by_name and wanted in file.names("dpv"):
                values = file.rows_of(f"dpv/{wanted}", ids)
            elif by_name:
                values = np.repeat(file.values(f"dps/{wanted}")[ids], lengths, axis=0)
    return _Picked(file.nb_streamlines, points, lengths, values)


def _check_known(wanted: str, per_point: Iterable[str], per_streamline: Iterable[str], path: Path) -> None:
    points, streamlines = sorted(per_point), sorted(per_streamline)
    if wanted not in (*points, *streamlines):
        raise ValueError(
            f"'{path}' has no data named '{wanted}' for --color; it has per point: {quoted(points)}; per streamline: "
            f"{quoted(streamlines)}. '{DIRECTION}' and '{UNIFORM}' need none."
        )


def _drop_invalid(picked: _Picked, path: Path) -> None:
    """Leave out streamlines that cannot be drawn, and say so."""
    line = sequence_ids(picked.lengths)
    bad = picked.lengths < 2
    bad[line[~np.isfinite(picked.points).all(axis=1)]] = True
    if bad.any():
        logger.warning(
            "%d streamlines of '%s' hold NaN or infinity, or have fewer than two points; they are left out.",
            bad.sum(),
            path,
        )
        kept = ~bad[line]
        picked.points, picked.lengths = picked.points[kept], picked.lengths[~bad]
        picked.values = None if picked.values is None else picked.values[kept]


def _numbers_or_colors(values: Array, name: str, path: Path) -> Array:
    """Return a number (N,), or a colour (N, 3) from 0 to 1, at each point."""
    if values.shape[1] == 1:
        return values[:, 0].astype(np.float32)
    if values.shape[1] == 3 and name.lower() in _COLORS:
        return np.clip(values / 255, 0, 1).astype(np.float32)
    raise ValueError(f"'{name}' of '{path}' holds {values.shape[1]} numbers each; a colour needs one.")
