"""The single-file formats, written by appending: .trk and .tck."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwiml.tractograms.writing.appending import DataPerStreamline, GrowingFile, GrowingTractogram, Lengths, Points


class _SingleFile(GrowingTractogram):
    """A single file that ends with the last streamline."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        self._file = GrowingFile(path)
        self._end = self._committed_end = 0

    def forget(self) -> None:
        """Go back to the end of the last commit."""
        self._end, self._nb_written = self._committed_end, self.nb_streamlines

    def finish(self) -> None:
        """Truncate the file at the end of the last commit, and close it."""
        self.forget()
        try:
            self.commit()
        finally:
            self._file.close(size=self._size())

    def move_to(self, target: Path) -> None:
        """Rename the file."""
        os.replace(self.path, target)

    def _size(self) -> int:
        return self._committed_end


class GrowingTrk(_SingleFile):
    """A .trk file (voxmm, corner origin). Writing the number of streamlines in the header commits them.

    Format: TrackVis documentation, "Track file (.trk) format", version 2.
    """

    space, origin = "voxmm", "corner"
    largest_dimension = 2**15 - 1

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        self._end = self._committed_end = len(self._header(0))
        self.commit()

    @classmethod
    def check_names(cls, widths: Mapping[str, int], path: Path) -> None:
        """Raise a ValueError if the header cannot hold the names."""
        super().check_names(widths, path)
        from nibabel.streamlines.trk import MAX_NB_NAMED_PROPERTIES_PER_STREAMLINE, encode_value_in_name

        if len(widths) > MAX_NB_NAMED_PROPERTIES_PER_STREAMLINE:
            most = MAX_NB_NAMED_PROPERTIES_PER_STREAMLINE
            raise ValueError(f"A .trk file holds at most {most} names of data per streamline, got {len(widths)}.")
        for name, width in widths.items():
            try:
                encode_value_in_name(width, name)
            except ValueError as error:
                raise ValueError(
                    f"A .trk file cannot hold data per streamline named '{name}': the name is too long or has "
                    "characters outside of Latin-1; use at most 17 Latin characters."
                ) from error

    def write(self, points: Points, lengths: Lengths, data: DataPerStreamline) -> None:
        """Write the number of points, the points and the data of each streamline."""
        nb_numbers = sum(self._widths.values())
        starts = np.cumsum(lengths) - lengths
        rows = np.arange(len(lengths))
        counts_at = 3 * starts + rows * (1 + nb_numbers)
        words = np.empty(3 * len(points) + len(lengths) * (1 + nb_numbers), dtype="<f4")
        is_coordinate = np.ones(len(words), dtype=bool)
        words.view("<i4")[counts_at] = lengths
        is_coordinate[counts_at] = False
        numbers_at = counts_at + 1 + 3 * lengths
        for name, width in self._widths.items():
            places = numbers_at[:, None] + np.arange(width)
            words[places] = data[name]
            is_coordinate[places] = False
            numbers_at = numbers_at + width
        words[is_coordinate] = points.ravel()
        self._end = self._file.write(words.tobytes(), at=self._end)
        self._nb_written += len(lengths)

    def commit(self) -> None:
        """Write the number of streamlines."""
        self._file.write(self._header(self._nb_written), at=0)
        self._committed_end, self.nb_streamlines = self._end, self._nb_written

    def _header(self, nb_streamlines: int) -> bytes:
        from nibabel.streamlines.trk import encode_value_in_name, header_2_dtype

        header: NDArray[Any] = np.zeros((), dtype=header_2_dtype.newbyteorder("<"))
        header["magic_number"], header["version"], header["hdr_size"] = b"TRACK", 2, header.itemsize
        header["dimensions"] = self._grid.shape
        header["voxel_sizes"] = self._grid.voxel_sizes
        header["voxel_to_rasmm"] = self._grid.affine
        header["voxel_order"] = self._grid.voxel_order.encode()
        header["nb_streamlines"] = nb_streamlines
        # nibabel cannot read an empty file that announces data per streamline.
        if nb_streamlines:
            header["nb_properties_per_streamline"] = sum(self._widths.values())
            for i, (name, width) in enumerate(self._widths.items()):
                header["property_name"][i] = encode_value_in_name(width, name)
        return header.tobytes()


class GrowingTck(_SingleFile):
    """A .tck file (rasmm). Overwriting the end-of-file marker after the last commit commits the new streamlines.

    Another marker is always kept at the end of the file, where nibabel expects it.

    Format: MRtrix3 documentation, "Tracks file format (.tck)".
    """

    space, origin = "rasmm", "center"
    _DELIMITER = np.full(3, np.nan, dtype="<f4")
    _MARKER = np.full(3, np.inf, dtype="<f4").tobytes()

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        # The bytes that will replace the marker.
        self._held = b""
        self._end = self._committed_end = len(self._header(0))
        self._file.write(self._header(0) + self._MARKER, at=0)

    @classmethod
    def check_names(cls, widths: Mapping[str, int], path: Path) -> None:
        """Raise a ValueError for any data per streamline, which the format does not have."""
        if widths:
            raise ValueError(
                f"'{path}': a .tck file cannot hold data per streamline ({', '.join(widths)}); write a .trk or .trx."
            )

    def write(self, points: Points, lengths: Lengths, data: DataPerStreamline) -> None:
        """Write points, with NaN after each streamline; the bytes that replace the marker are kept for the commit."""
        triplets = np.empty((len(points) + len(lengths), 3), dtype="<f4")
        is_point = np.ones(len(triplets), dtype=bool)
        is_point[np.cumsum(lengths + 1) - 1] = False
        triplets[is_point] = points
        triplets[~is_point] = self._DELIMITER
        if self._end == self._committed_end:
            self._held, triplets = triplets[0].tobytes(), triplets[1:]
            self._end += len(self._held)
        content = triplets.tobytes()
        # The end first, so that the file always ends with a marker.
        last = len(self._MARKER)
        self._file.write(content[-last:] + self._MARKER, at=self._end + len(content) - last)
        self._end = self._file.write(content[:-last], at=self._end) + last
        self._nb_written += len(lengths)

    def commit(self) -> None:
        """Write over the old marker, then write the number of streamlines."""
        held = self._MARKER if self._end == self._committed_end else self._held
        self._file.write(held, at=self._committed_end)
        self._file.write(self._header(self._nb_written), at=0)
        self._committed_end, self.nb_streamlines = self._end, self._nb_written

    def _size(self) -> int:
        return self._committed_end + len(self._MARKER)

    @staticmethod
    def _header(nb_streamlines: int) -> bytes:
        """Return the header; its size does not depend on the count."""
        size = 128
        text = f"mrtrix tracks\ncount: {nb_streamlines:010d}\ndatatype: Float32LE\nfile: . {size}\nEND\n".encode()
        return text.ljust(size, b"\0")
