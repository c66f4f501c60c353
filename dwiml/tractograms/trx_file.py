"""Read .trx files that may be larger than the memory, still being written (a folder), or untrusted.

The header gives the number of streamlines and points; the size of each array is checked against it.
"""

from __future__ import annotations

import logging
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from dwiml.files import check_memory, open_regular, parse_json

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)

LINK = "a symbolic link, which could lead to any file; replace it with a copy of what it leads to"

# Rows read at once.
_SLAB_BYTES = 2**22
_MAX_HEADER_BYTES = 2**20
# Largest compression ratio of deflate (RFC 1951), reached on zeros.
_LARGEST_RATIO = 1032
_DTYPES = ("float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


class LinkInArchiveError(Exception):
    """The archive has a symbolic link, whose name is the message: it is not damaged."""


class TrxFile:
    """A .trx tractogram [1]_, as a zip file or a folder.

    The arrays of a zip file must be exactly as long as the header says. Those of a folder may be longer, with a
    warning: while a folder is being written, its header says how much of it is complete.

    trx-python is not used here: it maps files for writing and unpacks compressed files to the disk. This class also
    reads files that are read-only, and writes nothing.

    Parameters
    ----------
    path
        The file or the folder.

    Attributes
    ----------
    nb_streamlines, nb_points
        Numbers of streamlines and points in the header.
    affine : (4, 4) float64
        From voxel indices (center origin) to rasmm.
    dimensions : (3,) float64
        Number of voxels along x, y and z.
    lengths : (S,) int64
        Number of points of each streamline.

    Raises
    ------
    OSError, ValueError
        If the file is damaged.

    References
    ----------
    .. [1] Rheault et al. (2022). TRX: a community-oriented tractography file format. OHBM.
    """

    nb_streamlines: int
    nb_points: int

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive: zipfile.ZipFile | None = None
        try:
            sizes = self._open_members()
            # positions.3.float32, dpv/loss.float32: a name, how many numbers in a row, their type.
            arrays = [name for name in sizes if not name.endswith((".json", "/"))]
            self._members = {name.split(".")[0]: name for name in arrays}
            repeated = [name for name in arrays if self._members[name.split(".")[0]] != name]
            if repeated:
                raise ValueError(f"it holds '{repeated[0].split('.')[0]}' twice")
            self._read_header(sizes)
            self._check_sizes(sizes)
            self._sizes = sizes
            self.lengths = self._read_lengths(sizes)
        except BaseException as error:
            self.close()
            if isinstance(error, (zipfile.BadZipFile, zlib.error, NotImplementedError, KeyError, RecursionError)):
                raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
            raise

    def _open_members(self) -> dict[str, int]:
        """Return the size of each member, in bytes."""
        if self._path.is_dir():
            # A link would lead to another file.
            statuses = {each.relative_to(self._path).as_posix(): each.lstat() for each in self._path.rglob("*")}
            return {name: status.st_size for name, status in statuses.items() if stat.S_ISREG(status.st_mode)}
        with open_regular(self._path):
            self._archive = zipfile.ZipFile(self._path)
        for member in self._archive.infolist():
            if stat.S_ISLNK(member.external_attr >> 16):
                raise LinkInArchiveError(member.filename)
            if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"'{member.filename}' is encrypted, or compressed by another method than deflate")
            if member.file_size > _LARGEST_RATIO * member.compress_size:
                raise ValueError(
                    f"'{member.filename}' claims to unpack to {member.file_size} bytes, which is impossible"
                )
        return {
            member.filename: member.file_size
            for member in self._archive.infolist()
            # What macOS adds to an archive.
            if not member.filename.startswith("__MACOSX/") and not member.filename.endswith(".DS_Store")
        }

    def _read_header(self, sizes: Mapping[str, int]) -> None:
        if "header.json" not in sizes:
            raise ValueError("it has no header.json")
        if sizes["header.json"] > _MAX_HEADER_BYTES:
            raise ValueError(f"its header has {sizes['header.json']} bytes")
        with self._open("header.json") as stream:
            header = parse_json(stream.read(_MAX_HEADER_BYTES))
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
        counts = []
        for name in ("NB_STREAMLINES", "NB_VERTICES"):
            value = header.get(name)
            # trx-python may write 6.0.
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0 or value != int(value):
                raise ValueError(f"{name} in its header must be a non-negative integer, got {value!r}")
            counts.append(int(value))
        self.nb_streamlines, self.nb_points = counts
        self.affine = np.array(header.get("VOXEL_TO_RASMM"), dtype=np.float64)
        self.dimensions = np.array(header.get("DIMENSIONS"), dtype=np.float64)
        if self.affine.shape != (4, 4) or self.dimensions.shape != (3,) or not (self.dimensions >= 1).all():
            raise ValueError("its header does not give a voxel grid (VOXEL_TO_RASMM, DIMENSIONS)")

    def _check_sizes(self, sizes: Mapping[str, int]) -> None:
        """Check the size of the arrays against the header."""
        longer = []
        for name, member in self._members.items():
            rows = self._announced_rows(name)
            if rows is None:
                continue
            width, dtype = self._kind(name)
            row_bytes = width * dtype.itemsize
            there = sizes[member] // row_bytes if sizes[member] % row_bytes == 0 else sizes[member] / row_bytes
            if there < rows:
                raise ValueError(
                    f"it is truncated: its header announces {rows} rows in '{member}', but there are {there:g}"
                )
            # Some files have one more offset, the end of the last streamline.
            if there > rows + (name == "offsets"):
                longer.append(f"{rows} rows in '{member}', but there are {there:g}")
        if longer and self._archive is not None:
            raise ValueError(f"its header announces {longer[0]}")
        if longer:
            logger.warning(
                "'%s': the header announces %s; only what it announces is read. Is it still being written, or was that "
                "stopped?",
                *(self._path, longer[0]),
            )

    def _announced_rows(self, name: str) -> int | None:
        """Return the number of rows of an array; None if the header does not give it."""
        if name == "offsets" or name.startswith("dps/"):
            return self.nb_streamlines
        return self.nb_points if name == "positions" or name.startswith("dpv/") else None

    def _read_lengths(self, sizes: Mapping[str, int]) -> npt.NDArray[np.int64]:
        if self.nb_streamlines == 0:
            return np.zeros(0, dtype=np.int64)
        if self._kind("positions")[0] != 3:
            raise ValueError("its positions do not have three coordinates")
        width, dtype = self._kind("offsets")
        if width != 1 or dtype.kind not in "iu":
            raise ValueError("its offsets are not whole numbers")
        check_memory(16 * self.nb_streamlines, "its offsets")
        nb_offsets = min(sizes[self._members["offsets"]] // dtype.itemsize, self.nb_streamlines + 1)
        offsets = self._read("offsets", nb_offsets)[:, 0]
        if offsets.max() > self.nb_points:
            raise ValueError(f"an offset of {offsets.max()} is beyond its {self.nb_points} points")
        ends = np.append(offsets[1:].astype(np.int64), self.nb_points)[: self.nb_streamlines]
        lengths: npt.NDArray[np.int64] = ends - offsets[: self.nb_streamlines].astype(np.int64)
        if offsets[0] != 0 or (lengths < 0).any():
            raise ValueError("its offsets do not begin at 0, or do not increase")
        if int(lengths.sum()) != self.nb_points:
            raise ValueError(f"its offsets end at {int(lengths.sum())}, its header announces {self.nb_points} points")
        return lengths

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
        """Return the names of the data per vertex (``dpv``) or per streamline (``dps``), or of the ``groups``."""
        return [name.removeprefix(f"{kind}/") for name in self._members if name.startswith(f"{kind}/")]

    def width(self, name: str) -> int:
        """Return the number of values in a row of an array."""
        return self._kind(name)[0]

    def group_sizes(self) -> dict[str, int]:
        """Return the number of streamlines of each group."""
        members = {name.removeprefix("groups/"): name for name in self._members if name.startswith("groups/")}
        return {name: self._nb_bytes(key) // self._kind(key)[1].itemsize for name, key in members.items()}

    def _nb_bytes(self, name: str) -> int:
        member = self._members[name]
        if self._archive is None:
            return (self._path / member).lstat().st_size
        return self._archive.getinfo(member).file_size

    def values(self, name: str) -> Array:
        """Return an array with a row for each streamline, (S, K), dtype of the file."""
        return self._read(name, self.nb_streamlines)

    def group(self, name: str) -> npt.NDArray[np.bool_]:
        """Return which streamlines belong to a group, shape (S,)."""
        member = self._members[f"groups/{name}"]
        width, dtype = self._kind(f"groups/{name}")
        if width != 1 or dtype.kind not in "iu":
            raise ValueError(f"'{member}' does not hold the numbers of streamlines")
        if self._sizes[member] % dtype.itemsize:
            raise ValueError(f"'{member}' is truncated")
        check_memory(self._sizes[member], "a group")
        ids = self._read(f"groups/{name}", self._sizes[member] // dtype.itemsize)[:, 0]
        if len(ids) and (ids.min() < 0 or ids.max() >= self.nb_streamlines):
            raise ValueError(
                f"'{member}' has a number that is not that of one of its {self.nb_streamlines} streamlines"
            )
        flags = np.zeros(self.nb_streamlines, dtype=bool)
        flags[ids.astype(np.int64)] = True
        return flags

    def points(self) -> Array:
        """Return all points, shape (N, 3), rasmm, center origin, dtype of the file."""
        if self.nb_points == 0:
            return np.zeros((0, 3), dtype=np.float32)
        return self._read("positions", self.nb_points)

    def rows_of(self, name: str, ids: Array) -> Array:
        """Return the rows of some streamlines, in file order, of an array with a row for each point, (N, K)."""
        wanted = np.zeros(self.nb_streamlines, dtype=bool)
        wanted[ids] = True
        flags = np.repeat(wanted, self.lengths)
        width, dtype = self._kind(name)
        parts = [np.zeros((0, width), dtype=dtype)]
        with self._open(self._members[name]) as stream:
            at_once = max(1, _SLAB_BYTES // (width * dtype.itemsize))
            for start in range(0, self.nb_points, at_once):
                some = flags[start : start + at_once]
                parts.append(_rows(stream, len(some), width, dtype)[some])
        return np.concatenate(parts)

    def _read(self, name: str, nb_rows: int) -> Array:
        width, dtype = self._kind(name)
        check_memory(nb_rows * width * dtype.itemsize, f"'{name}'")
        with self._open(self._members[name]) as stream:
            return _rows(stream, nb_rows, width, dtype)

    def _kind(self, name: str) -> tuple[int, np.dtype[Any]]:
        if name not in self._members:
            raise ValueError(f"it has no '{name}'")
        _, *width, dtype = self._members[name].rsplit("/")[-1].split(".")
        if dtype not in _DTYPES or len(width) > 1 or any(not re.fullmatch("[1-9][0-9]{0,3}", each) for each in width):
            raise ValueError(f"'{self._members[name]}' has no data type of the .trx format in its name")
        return int(width[0]) if width else 1, np.dtype(dtype).newbyteorder("<")

    def _open(self, member: str) -> AbstractContextManager[IO[bytes]]:
        if self._archive is None:
            return open_regular(self._path / member, follow_links=False)
        return self._archive.open(member)


def _rows(stream: IO[bytes], nb: int, width: int, dtype: np.dtype[Any]) -> Array:
    content = stream.read(nb * width * dtype.itemsize)
    if len(content) < nb * width * dtype.itemsize:
        raise ValueError("it is truncated")
    return np.frombuffer(content, dtype=dtype).reshape(nb, width)


def irregular_member(path: Path) -> tuple[str, str] | None:
    """Return a member of a folder that is neither a file nor a folder, and what it is; None if there is none."""
    for member in path.rglob("*") if path.is_dir() else ():
        mode = member.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            what = LINK if stat.S_ISLNK(mode) else "a device, a pipe or a socket; remove it"
            return member.relative_to(path).as_posix(), what
    return None
