"""Write a .trx as a folder of growing arrays, packed into one file at the end."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dwiml.files import atomic_write
from dwiml.tractograms.writing.appending import DataPerStreamline, GrowingFile, GrowingTractogram, Lengths, Points


class GrowingTrx(GrowingTractogram):
    """A folder with the arrays of a .trx (rasmm), packed into one file when it is moved to its final name.

    The folder is a valid .trx for readers that accept folders. Replacing ``header.json`` commits the streamlines.
    """

    space, origin = "rasmm", "center"
    largest_dimension = 2**16 - 1
    _HEADER, _NEW_HEADER, _POSITIONS, _OFFSETS = "header.json", "new.json", "positions.3.float32", "offsets.uint64"

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        path.mkdir()
        if self._widths:
            (path / "dps").mkdir()
        self._positions, self._offsets = (GrowingFile(path / name) for name in (self._POSITIONS, self._OFFSETS))
        self._data = {name: GrowingFile(path / "dps" / self._dps_name(name)) for name in self._widths}
        self._nb_points = self._nb_points_written = 0
        self._offsets.write(bytes(8), at=0)
        self.commit()

    @classmethod
    def check_names(cls, widths: Mapping[str, int], path: Path) -> None:
        """Raise a ValueError if a name cannot be a file name."""
        super().check_names(widths, path)
        for name in widths:
            if set(name) & set("./"):
                raise ValueError(
                    f"A .trx file cannot hold data named '{name}': the name becomes a file name; leave "
                    "out dots and slashes."
                )

    def write(self, points: Points, lengths: Lengths, data: DataPerStreamline) -> None:
        """Append to each array."""
        ends = np.cumsum(lengths) + self._nb_points_written
        self._positions.write(points.astype("<f4").tobytes(), at=12 * self._nb_points_written)
        self._offsets.write(ends.astype("<u8").tobytes(), at=8 * (1 + self._nb_written))
        for name, width in self._widths.items():
            self._data[name].write(data[name].astype("<f4").tobytes(), at=4 * width * self._nb_written)
        self._nb_points_written += len(points)
        self._nb_written += len(lengths)

    def commit(self) -> None:
        """Replace the header."""
        header = {
            "VOXEL_TO_RASMM": self._grid.affine.tolist(),
            "DIMENSIONS": list(self._grid.shape),
            "NB_VERTICES": self._nb_points_written,
            "NB_STREAMLINES": self._nb_written,
        }
        # Readers of a folder skip .json files, so a killed process may leave this one.
        (self.path / self._NEW_HEADER).write_text(json.dumps(header))
        os.replace(self.path / self._NEW_HEADER, self.path / self._HEADER)
        self._nb_points, self.nb_streamlines = self._nb_points_written, self._nb_written

    def forget(self) -> None:
        """Go back to the end of the arrays according to the header."""
        self._nb_points_written, self._nb_written = self._nb_points, self.nb_streamlines

    def finish(self) -> None:
        """Truncate the arrays to the sizes in the header, and close them."""
        self.forget()
        self._positions.close(size=12 * self._nb_points)
        self._offsets.close(size=8 * (1 + self.nb_streamlines))
        for name, file in self._data.items():
            file.close(size=4 * self._widths[name] * self.nb_streamlines)
        self.commit()

    def move_to(self, target: Path) -> None:
        """Pack the arrays into one file, uncompressed so that readers can map it; needs twice the disk space.

        Raises
        ------
        OSError
            If the file cannot be written (a full disk).
        """
        # A file can replace a folder only in two steps.
        packed = target if target != self.path else self.path.with_name(f".{self.path.name}.packed")
        with atomic_write(packed) as stream, zipfile.ZipFile(stream, "w") as archive:
            for name in self._members():
                # Without a time stamp, so that equal streamlines give identical files.
                member = zipfile.ZipInfo(name)
                member.file_size = (self.path / name).stat().st_size
                with open(self.path / name, "rb") as source, archive.open(member, "w") as archived:
                    shutil.copyfileobj(source, archived, 2**20)
        aside = self.path
        if packed != target:
            aside = self.path.with_name(f".{self.path.name}.aside")
            os.rename(self.path, aside)
            os.replace(packed, target)
        shutil.rmtree(aside, ignore_errors=True)

    def _members(self) -> list[str]:
        return [
            self._HEADER,
            self._POSITIONS,
            self._OFFSETS,
            *(f"dps/{self._dps_name(name)}" for name in self._widths),
        ]

    def _dps_name(self, name: str) -> str:
        return array_name(name, self._widths[name])

    @classmethod
    def lock_file(cls, folder: Path) -> Path:
        """Return the file to lock in place of a folder."""
        return folder / cls._POSITIONS

    @classmethod
    def is_one(cls, folder: Path) -> bool:
        """Return whether this class created a folder and the folder holds nothing else."""
        known = {cls._HEADER, cls._NEW_HEADER, cls._POSITIONS, cls._OFFSETS, "dps"}
        with suppress(OSError):
            names = set(os.listdir(folder))
            return {cls._POSITIONS, cls._OFFSETS} <= names <= known
        return False


def array_name(name: str, width: int) -> str:
    """Return the name of an array of float32 in a .trx, with `width` numbers in a row."""
    return f"{name}.float32" if width == 1 else f"{name}.{width}.float32"
