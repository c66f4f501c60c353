"""Reading through nibabel, shared by .trk and .tck files."""

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
from dwiml.tractograms.gzipped import open_content
from dwiml.tractograms.kinds import is_gzipped
from dwiml.tractograms.tractogram import Array, Sample, Stored, Tractogram, evenly


class NibabelTractogram(Tractogram):
    """A .trk or .tck file, which may be compressed with gzip."""

    # Number of bytes after the header of a file without streamlines.
    _end_mark_bytes = 0

    def _load(self, *, lazy: bool) -> TractogramFile:
        with open_regular(self.path, f"{self.label}: the file"):
            pass
        with readable(self.path, self.label), np.errstate(divide="ignore", invalid="ignore"), catch_warnings():
            # check_trk_header reports invalid headers (voxel sizes of 0, no affine).
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
        """Return the number of streamlines in the header; 0 if unknown."""

    @abstractmethod
    def _load_whole(self) -> TractogramFile:
        """Check the file and load all of it."""

    @abstractmethod
    def _check_to_sample(self) -> NDArray[np.float64]:
        """Check the file; return the affine (4, 4) from the space of nibabel's lazy streamlines to rasmm."""

    def has_streamlines(self) -> bool:
        """Return whether there is data after the header; see :meth:`Tractogram.has_streamlines`."""
        announced = self._nb_announced()
        if self._is_longer_than(int(self._lazy.header["_offset_data"]) + self._end_mark_bytes):
            return True
        if announced:
            raise ValueError(
                f"{self.label}: '{self.path}' is truncated after its header: {announced} streamlines are announced, "
                "but it holds none; copy the file again or recreate it."
            )
        return False

    def _is_longer_than(self, nb_bytes: int) -> bool:
        if not is_gzipped(self.path):
            return self.path.stat().st_size > nb_bytes
        with readable(self.path, self.label), open_content(self.path) as stream:
            stream.seek(nb_bytes)
            return bool(stream.read(1))

    def _nb_read(self, file: TractogramFile) -> int:
        """Return the number of streamlines that were read, including those without points, which nibabel leaves out.

        For a .tck file, nibabel does not count them: 0 is returned.
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
        """Read the file twice, to count and then to keep some; besides those, one streamline is in memory at a time."""
        to_rasmm = self._check_to_sample()
        # Iterating over the tractogram does not apply the affine, whereas its `streamlines` do.
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
                # Copied: nibabel's arrays are views of 4 MB buffers.
                points.append(apply_affine(to_rasmm, item.streamline))
                if name is not None:
                    values.append(_values_at_points(item, name))
        lengths = np.array([len(line) for line in points[1:]], dtype=np.int64)
        return Sample(nb, np.concatenate(points), lengths, np.concatenate(values) if values else None)


def _values_at_points(item: Any, name: str) -> Array:
    """Return the data of a streamline at each of its points, (n, K)."""
    if name in item.data_for_points:
        return np.array(item.data_for_points[name])
    return np.tile(item.data_for_streamline[name], (len(item.streamline), 1))
