"""Tractograms written as they are made: .trk, .tck and .trx, with bounded memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.arguments import check_number, check_whole
from dwiml.files import check_target, sync_folder
from dwiml.ops.ragged import sequence_of_row, slabs
from dwiml.ops.resampling import compress as compressed
from dwiml.ops.spaces import from_vox_corner
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.writing.appending import GrowingTractogram
from dwiml.tractograms.writing.partial import Claim, check_partial, partial_of, remove_partial
from dwiml.tractograms.writing.single_file import GrowingTck, GrowingTrk
from dwiml.tractograms.writing.trx_folder import GrowingTrx

logger = logging.getLogger(__name__)

FORMATS: Mapping[str, type[GrowingTractogram]] = {".trk": GrowingTrk, ".tck": GrowingTck, ".trx": GrowingTrx}
"""By file name extension."""

# Farther from the curve than this, a streamline is no longer the one that was tracked.
_MOST_COMPRESSION_MM = 10.0
# Points converted and written at once.
_SLAB = 2**18


class TractogramWriter:
    """Writes a tractogram piece by piece; whatever happens, what was appended can be read.

    Streamlines go to ``OUT.partial.trk`` (or ``.tck``, ``.trx``) beside the file to write, which is a readable
    tractogram after each :meth:`append`. What becomes of it:

    - The ``with`` block ends well: it takes the name of the file to write, at once. So a file of that name is complete,
      and an older one is there until then. An older one also stays, with a warning, when there was no streamline.
    - The block ends by an exception: all that was appended stays in the partial file, and a warning says so; without
      any streamline, nothing stays.
    - The process is killed: the same, without a warning. A partial .trx is then a folder, which trx and dipy read as
      well. Killed in the midst of an append, that folder has to be cut by hand at what its header says; a .trk or .tck
      has all that was appended before (and may have a torn streamline after it).

    A partial file that a killed run has left is not replaced, unless ``overwrite`` is True; a warning tells it. One
    that another process is writing is never replaced.

    .trk files hold voxel axes in mm with the corner as origin, .tck and .trx files rasmm. Data per streamline are
    written as they are: points among them (the name ``seeds`` is a habit of the field) are in voxel space, corner
    origin, in dwiml.

    Parameters
    ----------
    path
        The file to write; its extension chooses the format. A link is followed.
    grid
        The voxels that the points are in.
    data_per_streamline
        {name: how many numbers each streamline has under this name}; every append gives them.
    compress
        Leave out points that are within this many mm of the curve that the others make; None: keep all.
    overwrite
        Whether an older file may be replaced.

    Raises
    ------
    FileExistsError
        When the file, or the partial one of another run, exists and may not be replaced, or another process writes it.
    FileNotFoundError
        When its folder does not exist.
    IsADirectoryError
        When it is a folder.
    ValueError
        When the extension is unknown, the format cannot hold the data per streamline or the grid, the file is a device,
        a pipe or a socket, or a number is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        grid: Grid,
        data_per_streamline: Mapping[str, int] | None = None,
        compress: float | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self._format = FORMATS[_extension_of(self.path)]
        self._widths = {
            name: check_whole(f"The size of '{name}'", width, low=1)
            for name, width in (data_per_streamline or {}).items()
        }
        self._format.check_names(self._widths, self.path)
        self._grid = grid
        _check_dimensions(grid.shape, self._format, self.path)
        if compress is not None:
            check_number("compress", compress, low=0, high=_MOST_COMPRESSION_MM, low_included=False)
        self._compress = compress
        self._overwrite = overwrite
        self._target = _checked_target(self.path, overwrite=overwrite)
        self.partial = partial_of(self._target)
        check_partial(self.partial, overwrite=overwrite)
        self._claim: Claim | None = None
        self._tractogram: GrowingTractogram | None = None
        self._nb_streamlines = 0

    @property
    def nb_streamlines(self) -> int:
        """How many streamlines were appended."""
        return self._nb_streamlines

    def __enter__(self) -> TractogramWriter:
        check_partial(self.partial, overwrite=self._overwrite)
        # Held until the new one is: of two processes that start at once, one goes on.
        left = None
        if os.path.lexists(self.partial):
            left = Claim(self.partial)
            logger.warning("'%s', which a stopped run has left, is replaced.", self.partial)
            remove_partial(self.partial)
        try:
            tractogram = self._format(self.partial, grid=self._grid, widths=self._widths)
            self._claim = Claim(self.partial)
        finally:
            if left is not None:
                left.release()
        self._tractogram = tractogram
        return self

    def append(
        self, points: ArrayLike, lengths: ArrayLike, data_per_streamline: Mapping[str, ArrayLike] | None = None
    ) -> None:
        """Write streamlines: all of them, or none when it fails.

        Parameters
        ----------
        points
            Shape (N, 3), float32: those of all streamlines, one after the other; voxel space, corner origin, in voxels.
        lengths
            Shape (S,): number of points of each streamline, at least 1.
        data_per_streamline
            {name: (S, K)}: what was announced, no less and no more.

        Raises
        ------
        ValueError
            When shapes do not fit together, a streamline has no point, or a coordinate is NaN or infinite.
        OSError
            When it cannot be written (a full disk), naming the file.
        """
        if self._tractogram is None:
            raise ValueError(f"The writer of '{self.path}' is not open; append inside its 'with' block.")
        lines, nb_points = _checked_lines(points, lengths)
        data = self._checked_data(data_per_streamline or {}, len(nb_points))
        if not len(nb_points):
            return
        tractogram = self._tractogram
        try:
            for some, theirs in slabs(nb_points, _SLAB):
                some_lines, some_lengths = lines[theirs], nb_points[some]
                if self._compress is not None:
                    some_lines, some_lengths = compressed(
                        some_lines, some_lengths, self._compress, self._grid.voxel_sizes
                    )
                stored = from_vox_corner(
                    some_lines,
                    space=tractogram.space,
                    origin=tractogram.origin,
                    affine=self._grid.affine,
                    voxel_sizes=self._grid.voxel_sizes,
                )
                tractogram.write(stored, some_lengths, {name: values[some] for name, values in data.items()})
            tractogram.commit()
        except BaseException:
            tractogram.forget()
            raise
        self._nb_streamlines = tractogram.nb_streamlines

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._tractogram is None or self._claim is None:
            return
        tractogram, self._tractogram = self._tractogram, None
        claim, self._claim = self._claim, None
        try:
            self._end(tractogram, claim, ends_well=error is None)
        finally:
            claim.release()

    def _end(self, tractogram: GrowingTractogram, claim: Claim, *, ends_well: bool) -> None:
        if not claim.holds():
            # Another process has removed it, on a disk without locks: what is there is not ours.
            message = f"'{self.partial}' was removed or replaced while it was written; '{self.path}' was not touched."
            if ends_well:
                raise FileNotFoundError(message)
            logger.warning("%s", message)
            return
        if ends_well:
            try:
                self._end_well(tractogram)
            except BaseException:
                self._tell_of_partial(tractogram)
                raise
            return
        try:
            tractogram.finish()
            if tractogram.nb_streamlines:
                tractogram.move_to(self.partial)
            else:
                remove_partial(self.partial)
        except OSError as failure:
            logger.warning("'%s' could not be finished (%s).", self.partial, failure)
        self._tell_of_partial(tractogram)

    def _end_well(self, tractogram: GrowingTractogram) -> None:
        """Give the tractogram its name."""
        tractogram.finish()
        if self._target.exists():
            if not tractogram.nb_streamlines:
                logger.warning("There is no streamline to write; the older '%s' stays as it was.", self.path)
                remove_partial(self.partial)
                return
            if not self._overwrite:
                raise FileExistsError(f"'{self.path}' appeared in the meantime; choose another name.")
        tractogram.move_to(self._target)
        sync_folder(self._target.parent)

    def _tell_of_partial(self, tractogram: GrowingTractogram) -> None:
        nb = tractogram.nb_streamlines
        if nb:
            made = "The streamline made until then is" if nb == 1 else f"The {nb} streamlines made until then are"
            logger.warning("%s in '%s'; '%s' was not touched.", made, self.partial, self.path)

    def _checked_data(self, data: Mapping[str, ArrayLike], nb_streamlines: int) -> dict[str, NDArray[np.float32]]:
        if nb_streamlines == 0 and not data:
            return {}
        if set(data) != set(self._widths):
            raise ValueError(
                f"Data per streamline of '{self.path}': {sorted(self._widths)} were announced, got {sorted(data)}."
            )
        checked = {name: np.asarray(data[name], dtype=np.float32) for name in self._widths}
        for name, values in checked.items():
            if values.shape != (nb_streamlines, self._widths[name]):
                raise ValueError(
                    f"Data per streamline '{name}' must have shape {(nb_streamlines, self._widths[name])}, "
                    f"got {values.shape}."
                )
        return checked


def _extension_of(path: Path) -> str:
    extension = path.suffix.lower()
    if extension not in FORMATS:
        raise ValueError(
            f"'{path}' does not say the tractogram's format; end its name with {', '.join(FORMATS)} (uncompressed)."
        )
    return extension


def _checked_lines(points: ArrayLike, lengths: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    lines, counts = np.asarray(points, dtype=np.float32), np.asarray(lengths)
    if counts.ndim != 1 or (len(counts) and not np.issubdtype(counts.dtype, np.integer)):
        raise ValueError(f"Lengths must be whole numbers of shape (S,), got {counts.dtype} of shape {counts.shape}.")
    counts = counts.astype(np.int64)
    if lines.ndim != 2 or lines.shape[1] != 3 or len(lines) != counts.sum():
        raise ValueError(f"Points must have shape ({counts.sum()}, 3), as the lengths say, got {lines.shape}.")
    if len(counts) and counts.min() < 1:
        raise ValueError(f"Streamline {int(counts.argmin())} of {len(counts)} has no point; leave it out.")
    finite = np.isfinite(lines).all(axis=1)
    if not finite.all():
        line = sequence_of_row(counts, int(finite.argmin()))
        raise ValueError(f"Streamline {line} of {len(counts)} holds a NaN or infinite coordinate; leave it out.")
    return lines, counts


def _check_dimensions(dimensions: tuple[int, int, int], kind: type[GrowingTractogram], path: Path) -> None:
    x, y, z = (check_whole("A dimension of the grid", size, low=1) for size in dimensions)
    if max(x, y, z) > kind.largest_dimension:
        raise ValueError(
            f"'{path}': this format holds grids of at most {kind.largest_dimension} voxels along an axis, "
            f"got {x} x {y} x {z}."
        )


def _checked_target(path: Path, *, overwrite: bool) -> Path:
    """Return where the file will be, links followed."""
    extension = _extension_of(path)
    check_target(path, "The tractogram", overwrite=overwrite)
    target = Path(os.path.realpath(path))
    if target.suffix.lower() != extension:
        raise ValueError(f"'{path}' is a link to '{target}', of another format; give another name.")
    return target
