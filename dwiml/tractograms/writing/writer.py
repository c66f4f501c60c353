"""Write .trk, .tck and .trx files incrementally, with bounded memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.arguments import check_number, check_whole
from dwiml.files import check_target, sync_folder
from dwiml.ops.ragged import first_not_finite, slabs
from dwiml.ops.resampling import compress as compressed
from dwiml.ops.spaces import from_vox_corner
from dwiml.params import checks_arguments
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.writing.appending import GrowingTractogram
from dwiml.tractograms.writing.partial import Claim, check_partial, partial_of, remove_partial
from dwiml.tractograms.writing.sidecar import tractogram_sidecar, write_sidecar
from dwiml.tractograms.writing.single_file import GrowingTck, GrowingTrk
from dwiml.tractograms.writing.trx_folder import GrowingTrx

logger = logging.getLogger(__name__)

FORMATS: Mapping[str, type[GrowingTractogram]] = {".trk": GrowingTrk, ".tck": GrowingTck, ".trx": GrowingTrx}
"""By file name extension."""

# A larger tolerance would change the shape of the streamlines.
_MOST_COMPRESSION_MM = 10.0
# Points converted and written at once.
_SLAB = 2**18


@checks_arguments
class TractogramWriter:
    """Write a tractogram incrementally; appended streamlines remain readable whatever happens.

    Streamlines go to ``OUT.partial.trk`` (or ``.tck``, ``.trx``) beside the output file. The partial file is a readable
    tractogram after each :meth:`append`. At the end:

    - If the ``with`` block succeeds, the partial file is renamed to the output file in one step. The output file is
      therefore always complete, and an existing one remains until then. If there are no streamlines, a warning says
      that an existing file is replaced by an empty one.
    - If the block raises an exception, the appended streamlines stay in the partial file and a warning says so. If
      there are none, the partial file is removed.
    - If the process is killed, the partial file stays, without a warning. A partial .trx is a folder, which trx-python
      and DIPY also read. If the process is killed during an append, the arrays of that folder must be truncated by hand
      to the sizes in the header; a .trk or .tck holds all earlier streamlines, possibly followed by an incomplete one.

    The partial file of a killed run is replaced only if ``overwrite`` is True, with a warning. One that another process
    is writing is never replaced.

    .trk files are in voxmm with corner origin, .tck and .trx files in rasmm. Data per streamline are written unchanged.
    If they hold points (usually named ``seeds``), dwiml's are in voxel space, corner origin.

    Parameters
    ----------
    path
        The file to write; its extension gives the format. Symbolic links are followed.
    grid
        The voxel grid of the points.
    data_per_streamline
        {name: number of values for each streamline}; each append must give these data.
    compress
        Remove points that are within this distance, in mm, of the curve through the others; None keeps all points.
    overwrite
        Whether an existing file may be replaced.
    sidecar
        Content of a JSON file that is written beside the tractogram, once it is complete; None for none.

    Raises
    ------
    FileExistsError
        If the file, its sidecar, or the partial file of another run, exists and may not be replaced, or if another
        process is writing it.
    FileNotFoundError
        If the folder of the file does not exist.
    IsADirectoryError
        If the file is a folder.
    ValueError
        If the extension is unknown, if the format cannot hold the data per streamline or the grid, if the file is a
        device, a pipe or a socket, or if a number is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        grid: Grid,
        data_per_streamline: Mapping[str, int] | None = None,
        compress: float | None = None,
        overwrite: bool = False,
        sidecar: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self._format = FORMATS[extension_of(self.path)]
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
        self._sidecar = sidecar
        if sidecar is not None:
            check_target(tractogram_sidecar(self.path), "The sidecar", overwrite=overwrite)
        self.partial = partial_of(self._target)
        check_partial(self.partial, overwrite=overwrite)
        self._claim: Claim | None = None
        self._tractogram: GrowingTractogram | None = None
        self._nb_streamlines = 0

    @property
    def nb_streamlines(self) -> int:
        """Number of appended streamlines."""
        return self._nb_streamlines

    def __enter__(self) -> TractogramWriter:
        check_partial(self.partial, overwrite=self._overwrite)
        # The old lock is held until the new one is acquired, so that only one of two concurrent processes continues.
        left = None
        if os.path.lexists(self.partial):
            left = Claim(self.partial)
            logger.warning("'%s', left by a run that was stopped, is replaced.", self.partial)
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
        """Append streamlines. If this fails, none of them are added.

        Parameters
        ----------
        points : (N, 3) float32
            Points of all streamlines, concatenated; voxel space, corner origin, in voxels.
        lengths : (S,) int
            Number of points of each streamline, at least 1.
        data_per_streamline
            {name: (S, K) float32}, with exactly the names and sizes that were declared.

        Raises
        ------
        ValueError
            If shapes are inconsistent, a streamline has no points, a coordinate is NaN or infinite, or the writer is
            not open.
        OSError
            If the file cannot be written, for instance on a full disk; the message names the file.
        """
        if self._tractogram is None:
            raise ValueError(f"The writer of '{self.path}' is not open; append inside its 'with' block.")
        lines, nb_points = _checked_lines(points, lengths)
        data = self._checked_data(data_per_streamline or {}, len(nb_points))
        if not len(nb_points):
            return
        tractogram = self._tractogram
        try:
            for some, rows in slabs(nb_points, _SLAB):
                some_lines, some_lengths = lines[rows], nb_points[some]
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
            # Without locks, another process may have replaced the file, which must then be left alone.
            message = f"'{self.partial}' was removed or replaced while it was written; '{self.path}' was not touched."
            if ends_well:
                raise FileNotFoundError(message)
            logger.warning("%s", message)
            return
        if ends_well:
            try:
                self._end_well(tractogram)
            except BaseException:
                self._warn_of_partial(tractogram)
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
        self._warn_of_partial(tractogram)

    def _end_well(self, tractogram: GrowingTractogram) -> None:
        """Give the tractogram its name."""
        tractogram.finish()
        if self._target.exists():
            if not self._overwrite:
                if not tractogram.nb_streamlines:
                    remove_partial(self.partial)
                raise FileExistsError(f"'{self.path}' appeared in the meantime; choose another name.")
            if not tractogram.nb_streamlines:
                logger.warning("There are no streamlines: '%s' is replaced by an empty tractogram.", self.path)
        if self._sidecar is not None:
            check_target(tractogram_sidecar(self.path), "The sidecar", overwrite=self._overwrite)
            # It describes the older tractogram.
            tractogram_sidecar(self.path).unlink(missing_ok=True)
        tractogram.move_to(self._target)
        sync_folder(self._target.parent)
        if self._sidecar is not None:
            write_sidecar(self.path, self._sidecar)

    def _warn_of_partial(self, tractogram: GrowingTractogram) -> None:
        nb = tractogram.nb_streamlines
        if nb:
            written = "The streamline written so far is" if nb == 1 else f"The {nb} streamlines written so far are"
            logger.warning("%s in '%s'; '%s' was not touched.", written, self.partial, self.path)

    def _checked_data(self, data: Mapping[str, ArrayLike], nb_streamlines: int) -> dict[str, NDArray[np.float32]]:
        if nb_streamlines == 0 and not data:
            return {}
        if set(data) != set(self._widths):
            raise ValueError(
                f"Data per streamline of '{self.path}': {sorted(self._widths)} were declared, got {sorted(data)}."
            )
        checked = {name: np.asarray(data[name], dtype=np.float32) for name in self._widths}
        for name, values in checked.items():
            if values.shape != (nb_streamlines, self._widths[name]):
                raise ValueError(
                    f"Data per streamline '{name}' must have shape {(nb_streamlines, self._widths[name])}, "
                    f"got {values.shape}."
                )
        return checked


def extension_of(path: Path) -> str:
    """Return the extension of a tractogram, in lower case, which gives its format.

    Raises
    ------
    ValueError
        If it is not one of :data:`FORMATS`.
    """
    extension = path.suffix.lower()
    if extension not in FORMATS:
        raise ValueError(
            f"'{path}' does not have the extension of a tractogram; use one of {', '.join(FORMATS)} (uncompressed)."
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
        raise ValueError(f"Streamline {int(counts.argmin())} of {len(counts)} has no points; leave it out.")
    line = first_not_finite(lines, counts)
    if line is not None:
        raise ValueError(
            f"Streamline {line} (counted from 0) of {len(counts)} holds a NaN or infinite coordinate; leave it out."
        )
    return lines, counts


def _check_dimensions(dimensions: tuple[int, int, int], kind: type[GrowingTractogram], path: Path) -> None:
    x, y, z = (check_whole("A dimension of the grid", size, low=1) for size in dimensions)
    if max(x, y, z) > kind.largest_dimension:
        raise ValueError(
            f"'{path}': this format holds grids of at most {kind.largest_dimension} voxels along an axis, "
            f"got {x} x {y} x {z}."
        )


def _checked_target(path: Path, *, overwrite: bool) -> Path:
    """Return the path of the output file, with symbolic links resolved."""
    extension = extension_of(path)
    check_target(path, "The tractogram", overwrite=overwrite)
    target = Path(os.path.realpath(path))
    if target.suffix.lower() != extension:
        raise ValueError(f"'{path}' is a link to '{target}', of another format; give another name.")
    return target
