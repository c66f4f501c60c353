"""Streamlines of a file, in place of those that a subject has in an HDF5 file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dwiml.data.streamlines import SubjectStreamlines
from dwiml.ops.ragged import offsets, run_rows
from dwiml.tractograms.reading import read_streamlines

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class GivenStreamlines(SubjectStreamlines):
    """Streamlines of a tractogram in the space of a subject, in memory, without data per streamline.

    Parameters
    ----------
    subject
        Streamlines of the subject, whose voxel grid is used.
    path
        A tractogram of any format, on any voxel grid of the same scanner space.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is damaged or empty, or a coordinate is NaN, infinite or implausibly far from the volume.
    """

    def __init__(self, subject: SubjectStreamlines, path: str | os.PathLike[str]) -> None:
        # Its affine, voxel sizes, dimensions and box.
        self.__dict__.update(subject.__dict__)
        self.label = f"tractogram '{path}' (in place of the {subject.label})"
        self._remedy = "remove this streamline"
        self.lazy, self.has_connectivity = False, False
        self._connectivity = None
        self.data_per_streamline = {}
        self._rows, self.lengths = read_streamlines(path, subject.affine)
        if not len(self.lengths):
            raise ValueError(f"The tractogram '{path}' has no streamline.")
        self.offsets = offsets(self.lengths)
        self.lengths_mm = self.check_points()

    def _read(self, chosen: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        lengths = self.lengths[chosen]
        return self._rows[run_rows(self.offsets[chosen], lengths)], lengths
