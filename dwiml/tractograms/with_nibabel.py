"""What .trk and .tck files have in common: nibabel reads them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from itertools import compress
from typing import Any
from warnings import catch_warnings, simplefilter

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from nibabel.streamlines.tractogram_file import HeaderWarning, TractogramFile
from numpy.typing import NDArray

from dwiml.files import open_regular
from dwiml.files.images import readable
from dwiml.tractograms.tractogram import Array, Sample, Stored, Tractogram, evenly


class NibabelTractogram(Tractogram):
    """A .trk or a .tck."""

    # What follows the header of a file without streamlines.
    _end_mark_bytes = 0

    def _load(self, *, lazy: bool) -> TractogramFile:
        with open_regular(self.path, f"{self.label}: the file"):
            pass
        with readable(self.path, self.label), np.errstate(divide="ignore", invalid="ignore"), catch_warnings():
            # What is odd in a header (voxel sizes of 0, no affine) is refused by check_trk_header, in one sentence.
            simplefilter("ignore", HeaderWarning)
            return nib.streamlines.load(self.path, lazy_load=lazy)

    @cached_property
    def _lazy(self) -> TractogramFile:
        return self._load(lazy=True)

    @property
    def dps_keys(self) -> list[str]:
        """Names of the data per streamline."""
        return list(self._lazy.tractogram.data_per_streamline)

    @abstractmethod
    def _nb_announced(self) -> int:
        """Return the number of streamlines in the header; 0: unknown."""

    @abstractmethod
    def _load_whole(self) -> TractogramFile:
        """Check the file, and load all of it."""

    @abstractmethod
    def _check_to_sample(self) -> NDArray[np.float64]:
        """Check the file; return (4, 4), to rasmm from the space of the streamlines that nibabel gives one by one."""

    def has_streamlines(self) -> bool:
        """Tell whether anything follows the header; see :meth:`Tractogram.has_streamlines`."""
        announced = self._nb_announced()
        if self.path.stat().st_size > self._lazy.header["_offset_data"] + self._end_mark_bytes:
            return True
        if announced:
            raise ValueError(
                f"{self.label}: '{self.path}' is cut off after its header: {announced} streamlines are announced, none "
                "is there; copy the file again or recreate it."
            )
        return False

    def _nb_read(self, file: TractogramFile) -> int:
        """Return how many streamlines were read, those without any point, which nibabel leaves out, included.

        It does not count those of a .tck.
        """
        return 0

    def _read(self, dps_keys: Sequence[str]) -> Stored:
        file = self._load_whole()
        streamlines, existing = file.tractogram.streamlines, file.tractogram.data_per_streamline
        lengths = np.fromiter(map(len, streamlines), dtype=np.int64, count=len(streamlines))
        if len(lengths):
            self.check_dps_keys(dps_keys, list(existing))
        dps = {key: existing[key] for key in dps_keys if len(lengths)}
        nb_without_points = max(self._nb_read(file) - len(lengths), 0)
        return Stored(streamlines.get_data().reshape(-1, 3), lengths, dps, nb_without_points)

    def _sample(self, most: int, name: str | None, hint: str) -> Sample:
        """Read the file once to count, once to keep some; one streamline in memory beside those."""
        to_rasmm = self._check_to_sample()
        # Its own iteration, unlike its `streamlines`, leaves out the affine.
        items = self._lazy.tractogram
        with readable(self.path, self.label):
            first = next(iter(items), None)
        if name is not None and first is not None:
            self._check_name(name, first.data_for_points, first.data_for_streamline, hint)
        points, values = [np.zeros((0, 3))], []
        # Infinite coordinates are reported later.
        with readable(self.path, self.label), np.errstate(invalid="ignore"):
            nb = sum(1 for _ in items)
            flags = np.zeros(nb, dtype=bool)
            flags[evenly(nb, most)] = True
            for item in compress(items, flags):
                # Copies: what nibabel gives are parts of buffers of 4 MB.
                points.append(apply_affine(to_rasmm, item.streamline))
                if name is not None:
                    values.append(_values_at_points(item, name))
        lengths = np.array([len(line) for line in points[1:]], dtype=np.int64)
        return Sample(nb, np.concatenate(points), lengths, np.concatenate(values) if values else None)


def _values_at_points(item: Any, name: str) -> Array:
    """Return a streamline's data, a row for each of its points, (n, K)."""
    if name in item.data_for_points:
        return np.array(item.data_for_points[name])
    return np.tile(item.data_for_streamline[name], (len(item.streamline), 1))
