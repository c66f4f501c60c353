"""Some streamlines of a .trx, which may be larger than the memory, and which may be written by nobody."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

# Rows read at once.
_SLAB = 2**18


class TrxFile:
    """A .trx, zipped or a folder; what its header counts is read, of arrays that may be longer.

    Unlike trx-python, which maps files for writing, it reads files that are read-only.

    Parameters
    ----------
    path
        The file or the folder.

    Raises
    ------
    OSError, ValueError, KeyError
        When it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive: zipfile.ZipFile | None = None
        try:
            if path.is_dir():
                names = [each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()]
            else:
                self._archive = zipfile.ZipFile(path)
                names = self._archive.namelist()
            # positions.3.float32, dpv/loss.float32: a name, how many numbers in a row, their type.
            self._members = {name.split(".")[0]: name for name in names if not name.endswith((".json", "/"))}
            self._read_counts()
        except BaseException as error:
            self.close()
            if isinstance(error, zipfile.BadZipFile):
                raise ValueError(str(error)) from error
            raise

    def _read_counts(self) -> None:
        with self._open("header.json") as stream:
            header = json.load(stream)
        self.nb_streamlines, self._nb_points = int(header["NB_STREAMLINES"]), int(header["NB_VERTICES"])
        # Some files have one offset more, where the last streamline ends.
        offsets = self._read("offsets", self.nb_streamlines) if self.nb_streamlines else np.zeros((0, 1))
        ends = np.append(offsets[1:, 0].astype(np.int64), self._nb_points)[: self.nb_streamlines]
        self.lengths = ends - offsets[:, 0].astype(np.int64)
        if (self.lengths < 0).any():
            raise ValueError("its offsets do not increase")

    def close(self) -> None:
        """Close the file."""
        if self._archive is not None:
            self._archive.close()

    def __enter__(self) -> TrxFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def names(self, kind: str) -> list[str]:
        """Return the names of the data per vertex (``dpv``) or per streamline (``dps``)."""
        return [name.removeprefix(f"{kind}/") for name in self._members if name.startswith(f"{kind}/")]

    def values(self, name: str) -> Array:
        """Return an array that has a row for each streamline, (S, K)."""
        return self._read(name, self.nb_streamlines)

    def rows_of(self, name: str, ids: Array) -> Array:
        """Return the rows of some streamlines, in the file's order, of an array that has one for each point, (N, K)."""
        wanted = np.zeros(self.nb_streamlines, dtype=bool)
        wanted[ids] = True
        flags = np.repeat(wanted, self.lengths)
        width, dtype = self._kind(name)
        parts = [np.zeros((0, width), dtype=dtype)]
        with self._open(self._members[name]) as stream:
            for start in range(0, self._nb_points, _SLAB):
                some = flags[start : start + _SLAB]
                parts.append(_rows(stream, len(some), width, dtype)[some])
        return np.concatenate(parts)

    def _read(self, name: str, nb_rows: int) -> Array:
        width, dtype = self._kind(name)
        with self._open(self._members[name]) as stream:
            return _rows(stream, nb_rows, width, dtype)

    def _kind(self, name: str) -> tuple[int, np.dtype[Any]]:
        if name not in self._members:
            raise ValueError(f"it has no '{name}'")
        _, *width, dtype = self._members[name].rsplit("/")[-1].split(".")
        return int(width[0]) if width else 1, np.dtype(dtype).newbyteorder("<")

    def _open(self, member: str) -> IO[bytes]:
        return open(self._path / member, "rb") if self._archive is None else self._archive.open(member)


def _rows(stream: IO[bytes], nb: int, width: int, dtype: np.dtype[Any]) -> Array:
    content = stream.read(nb * width * dtype.itemsize)
    if len(content) < nb * width * dtype.itemsize:
        raise ValueError("it is cut off")
    return np.frombuffer(content, dtype=dtype).reshape(nb, width)
