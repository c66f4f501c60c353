"""Read the lines of a legacy VTK file (.vtk, .fib), text or binary, without the VTK library.

The format is described in "VTK File Formats" (The VTK User's Guide, Kitware), "Simple Legacy Formats". Until version
4.2 of the format, each line is stored as its number of points followed by their indices; since version 5.1, all lines
are stored as offsets and indices. Binary numbers are big-endian. Each count is checked against the size of the file
before memory is allocated.
"""

from __future__ import annotations

import re
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dwiml.tractograms.vtk.lines import PolyLines, check_rows, lengths_from_offsets, space_of_title, stated_space

START = b"# vtk DataFile Version "
_OFFSETS_SINCE = (5, 1)
_MAX_LINE_BYTES = 4096
# Bytes of text read at once.
_SLAB = 2**20
# vtkIdType is written as int.
_TYPES = {
    "float": "f4",
    "double": "f8",
    "char": "i1",
    "signed_char": "i1",
    "unsigned_char": "u1",
    "short": "i2",
    "unsigned_short": "u2",
    "int": "i4",
    "unsigned_int": "u4",
    "long": "i8",
    "unsigned_long": "u8",
    "vtkidtype": "i4",
    **{f"vtktype{sign}int{bits}": f"{sign[:1] or 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_OTHER_CELLS = ("VERTICES", "POLYGONS", "TRIANGLE_STRIPS")
_ATTRIBUTES = ("POINT_DATA", "CELL_DATA")


def read_legacy(stream: IO[bytes], size: int) -> PolyLines:
    """Read the lines of a legacy VTK file.

    Parameters
    ----------
    stream
        The file, at its start.
    size
        Size of the file, in bytes.

    Raises
    ------
    ValueError
        If the file is damaged, or does not hold lines (``DATASET POLYDATA``).
    """
    file = _Legacy(stream, size)
    points, rows, lengths = np.zeros((0, 3), dtype=np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64)
    while (words := file.next_section()) is not None:
        if words[0] == "POINTS":
            points = file.numbers(3 * _whole(words, 1), _word(words, 2)).reshape(-1, 3)
        else:
            rows, lengths = file.cells(words)
    return PolyLines(points, check_rows(rows, len(points)), lengths, stated_space(file.spaces))


def has_lines(stream: IO[bytes], size: int) -> bool:
    """Return whether a legacy VTK file has lines, without reading them; see :func:`read_legacy`."""
    file = _Legacy(stream, size)
    while (words := file.next_section()) is not None:
        if words[0] == "LINES":
            return _whole(words, 1) > int(file.version >= _OFFSETS_SINCE)
        file.numbers(3 * _whole(words, 1), _word(words, 2), keep=False)
    return False


class _Legacy:
    """A legacy VTK file whose header was read."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._size = stream, size
        found = re.match(rf"{START.decode()}(\d+)\.(\d+)", self._line())
        if found is None:
            raise ValueError(f"it does not begin with '{START.decode().strip()}'")
        self.version = (int(found[1]), int(found[2]))
        self.spaces = space_of_title(self._line())
        kind = self._line().strip().upper()
        if kind not in ("ASCII", "BINARY"):
            raise ValueError("its third line is neither ASCII nor BINARY")
        self._is_text = kind == "ASCII"
        dataset = self._words() or []
        if dataset[:1] != ["DATASET"] or _word(dataset, 1).upper() != "POLYDATA":
            raise ValueError(f"it holds '{' '.join(dataset)[:40]}' instead of lines (DATASET POLYDATA)")

    def next_section(self) -> list[str] | None:
        """Return the words of the next POINTS or LINES; None if only attributes, or nothing, are left."""
        while (words := self._words()) is not None and words[0] not in _ATTRIBUTES:
            if words[0] in ("POINTS", "LINES"):
                return words
            if words[0] in _OTHER_CELLS:
                self.cells(words, keep=False)
            elif words[0] == "FIELD":
                for _ in range(_whole(words, 2)):
                    self._field()
            elif words[0] == "METADATA":
                self._skip_metadata()
            else:
                raise ValueError(f"it has the unknown section '{words[0][:40]}'")
        return None

    def cells(self, words: list[str], *, keep: bool = True) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the points of the cells of a section, concatenated, and the number of points of each cell."""
        first, second = _whole(words, 1), _whole(words, 2)
        if self.version >= _OFFSETS_SINCE:
            arrays = []
            for keyword, count in (("OFFSETS", first), ("CONNECTIVITY", second)):
                named = self._words() or []
                if named[:1] != [keyword]:
                    raise ValueError(f"'{keyword}' is missing after '{words[0]}'")
                arrays.append(self.numbers(count, _word(named, 1), whole=True, keep=keep))
            return arrays[1], lengths_from_offsets(arrays[0], second) if keep else np.zeros(0, np.int64)
        cells = self.numbers(second, "int", whole=True, keep=keep)
        return _split_cells(cells, first) if keep else (cells, np.zeros(0, np.int64))

    def numbers(self, count: int, name: str, *, whole: bool = False, keep: bool = True) -> NDArray[Any]:
        """Read numbers; those that are not kept are skipped, and none is returned."""
        if name.lower() not in _TYPES:
            raise ValueError(f"it has numbers of the unknown type '{name[:40]}'")
        dtype = np.dtype(_TYPES[name.lower()]).newbyteorder(">")
        if whole and dtype.kind not in "iu":
            raise ValueError(f"the points of its lines are numbered with '{name}' numbers")
        left = self._size - self._stream.tell()
        if count * (1 if self._is_text else dtype.itemsize) > left:
            raise ValueError(f"it is truncated: {count} numbers are announced in the last {left} bytes")
        if self._is_text:
            return self._text_numbers(count, dtype.newbyteorder("="), keep=keep)
        if not keep:
            self._stream.seek(count * dtype.itemsize, 1)
            return np.zeros(0, dtype=dtype)
        return np.frombuffer(self._stream.read(count * dtype.itemsize), dtype=dtype).astype(dtype.newbyteorder("="))

    def _text_numbers(self, count: int, dtype: np.dtype[Any], *, keep: bool) -> NDArray[Any]:
        found = np.empty(count if keep else 0, dtype=dtype)
        done = 0
        while done < count:
            chunk = self._stream.read(_SLAB)
            at_end = len(chunk) < _SLAB
            if not at_end:
                # The last number may continue in the next chunk.
                cut = max(chunk.rfind(space) for space in (b" ", b"\n", b"\r", b"\t")) + 1
                self._stream.seek(cut - len(chunk), 1)
                chunk = chunk[:cut]
            parts = chunk.split(None, count - done)
            if len(parts) > count - done:
                self._stream.seek(-len(parts.pop()), 1)
            if not parts and (at_end or not chunk):
                raise ValueError(f"it is truncated: {done} of {count} numbers were found")
            if keep:
                found[done : done + len(parts)] = np.array(parts, dtype=dtype)
            done += len(parts)
        return found

    def _field(self) -> None:
        """Skip an array of a field; its text, if it is named SPACE, is the space of the file."""
        words = self._words() or []
        while words[:1] == ["METADATA"]:
            self._skip_metadata()
            words = self._words() or []
        count, name = _whole(words, 1) * _whole(words, 2), _word(words, 3)
        if name.lower() != "string":
            self.numbers(count, name, keep=False)
            return
        for _ in range(count):
            text = self._line() if self._is_text else self._binary_text()
            if self._is_text and not text:
                raise ValueError("it is truncated in a text")
            if words[0] == "SPACE":
                self.spaces.append(text)

    def _binary_text(self) -> str:
        """Read a text after its length, whose first two bits give the number of bytes of the length."""
        first = self._stream.read(1)
        if not first:
            raise ValueError("it is truncated in a text")
        more = {3: 0, 2: 1, 1: 3, 0: 7}[first[0] >> 6]
        length = int.from_bytes(bytes([first[0] & 0x3F]) + self._stream.read(more), "big")
        if length > self._size - self._stream.tell():
            raise ValueError("it is truncated in a text")
        return self._stream.read(length).decode("latin1")

    def _skip_metadata(self) -> None:
        while self._line().strip():
            pass

    def _words(self) -> list[str] | None:
        """Return the words of the next line that is not blank; None at the end of the file."""
        while line := self._line():
            if words := line.split():
                return [words[0].upper(), *words[1:]]
        return None

    def _line(self) -> str:
        line = self._stream.readline(_MAX_LINE_BYTES)
        if len(line) == _MAX_LINE_BYTES:
            raise ValueError(f"it has a line of more than {_MAX_LINE_BYTES} bytes where a keyword is expected")
        return line.decode("latin1")


def _split_cells(cells: NDArray[Any], nb: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Separate the number of points of each cell from the points that follow it."""
    lengths, start = [], 0
    is_point = np.ones(len(cells), dtype=bool)
    for _ in range(nb):
        if start >= len(cells) or cells[start] < 0:
            raise ValueError("its lines do not have the number of points that it announces")
        is_point[start] = False
        lengths.append(int(cells[start]))
        start += 1 + lengths[-1]
    if start != len(cells):
        raise ValueError("its lines do not have the number of points that it announces")
    return cells[is_point], np.array(lengths, dtype=np.int64)


def _word(words: list[str], place: int) -> str:
    if place >= len(words):
        raise ValueError(f"'{' '.join(words)[:40]}' is incomplete")
    return words[place]


def _whole(words: list[str], place: int) -> int:
    word = _word(words, place)
    if not re.fullmatch("[0-9]{1,15}", word):
        raise ValueError(f"'{' '.join(words)[:40]}' does not give a number")
    return int(word)
