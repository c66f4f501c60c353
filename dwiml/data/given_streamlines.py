"""Streamlines of a file, in place of those of an HDF5 file, or of a subject that is not in one."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dwiml.data import runs
from dwiml.data.streamlines import SubjectStreamlines
from dwiml.ops.ragged import offsets, run_rows
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.reading import open_tractogram, read_streamlines

if TYPE_CHECKING:
    import numpy.typing as npt


logger = logging.getLogger(__name__)


class GivenStreamlines(SubjectStreamlines):
    """Streamlines of a tractogram in the space of a subject, in memory, without data per streamline.

    Parameters
    ----------
    path
        A tractogram of any format, on any voxel grid of the same scanner space.
    grid
        The voxel grid of the subject; a shape of zeros if it is unknown.
    in_place_of
        The streamlines of the HDF5 file that they replace, for messages; None if there are none.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is damaged or empty, or a coordinate is NaN, infinite or implausibly far from the volume.
    """

    _remedy = "remove this streamline"

    def __init__(
        self, path: str | os.PathLike[str], grid: Grid, *, in_place_of: SubjectStreamlines | None = None
    ) -> None:
        self.label = f"tractogram '{path}'" + (f" (in place of the {in_place_of.label})" if in_place_of else "")
        self._place = (Path(grid.source), "", "")
        self.affine, self.voxel_sizes = grid.affine, grid.voxel_sizes.astype(np.float32)
        self.dimensions = np.asarray(grid.shape, dtype=np.int64)
        self._box = runs.allowed_box(self.dimensions)
        self.space, self.origin = "vox", "corner"
        self.lazy, self.has_connectivity = False, False
        self._connectivity = None
        self.data_per_streamline = {}
        self._rows, self.lengths = read_streamlines(path, self.affine)
        if not len(self.lengths):
            raise ValueError(f"The tractogram '{path}' has no streamline.")
        self._compare(open_tractogram(path).grid, grid)
        self.offsets = offsets(self.lengths)
        self.lengths_mm = self.check_points()

    def _compare(self, own: Grid | None, grid: Grid) -> None:
        """Warn if the file was written on another voxel grid, which may be that of another subject."""
        difference = "" if own is None or 0 in grid.shape else own.difference(grid)
        if difference:
            logger.warning(
                "The %s was written on another voxel grid than that of the subject (%s): check that it is of this "
                "subject, in the same scanner space.",
                self.label,
                difference,
            )

    def _read(self, chosen: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        lengths = self.lengths[chosen]
        return self._rows[run_rows(self.offsets[chosen], lengths)], lengths
