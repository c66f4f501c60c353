"""Read the lines of an XML VTK file (.vtp), without the VTK library.

The format is described in "VTK File Formats" (The VTK User's Guide, Kitware), "XML File Formats". An array is text,
base64, or raw bytes at the end of the file; binary arrays begin with their size, or, if they are compressed, with the
sizes of their blocks. Each size is checked before memory is allocated.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import zlib
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from dwiml.files import check_memory
from dwiml.tractograms.vtk.lines import PolyLines, check_rows, lengths_from_offsets, stated_space

_TYPES = {
    "Float32": "f4",
    "Float64": "f8",
    **{f"{sign}Int{bits}": f"{sign.lower() or 'i'}{bits // 8}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
_ZLIB = "vtkZLibDataCompressor"
# Largest compression ratio of deflate (RFC 1951), reached on zeros.
_LARGEST_RATIO = 1032
_MAX_TEXT_BYTES = 2**16


def read_xml(content: bytes) -> PolyLines:
    """Read the lines of a .vtp file.

    Parameters
    ----------
    content
        The whole file.

    Raises
    ------
    ValueError, xml.etree.ElementTree.ParseError
        If the file is damaged, or does not hold lines.
    """
    file = _Xml.of(content)
    points, rows, lengths, nb_points = [np.zeros((0, 3), np.float32)], [np.zeros(0, np.int64)], [], 0
    for piece in file.pieces:
        own = file.array(piece.find("Points/DataArray"), 3 * _count(piece, "NumberOfPoints")).reshape(-1, 3)
        arrays = {each.get("Name"): each for each in piece.iterfind("Lines/DataArray")}
        ends = file.array(arrays.get("offsets"), _count(piece, "NumberOfLines"), whole=True)
        nb_rows = int(ends[-1]) if len(ends) else 0
        own_rows = file.array(arrays.get("connectivity"), nb_rows, whole=True)
        lengths.append(lengths_from_offsets(np.append(np.zeros(1, np.int64), ends), nb_rows))
        rows.append(check_rows(own_rows, len(own)) + nb_points)
        points.append(own)
        nb_points += len(own)
    all_lengths = np.concatenate([np.zeros(0, np.int64), *lengths])
    return PolyLines(np.concatenate(points), np.concatenate(rows), all_lengths, stated_space(file.spaces()))


def has_lines(content: bytes) -> bool:
    """Return whether a .vtp file announces lines; see :func:`read_xml`."""
    return any(_count(piece, "NumberOfLines") for piece in _Xml.of(content).pieces)


@dataclass
class _Xml:
    """The elements of a .vtp file, and the bytes of its appended arrays."""

    root: ElementTree.Element
    appended: bytes
    is_raw: bool

    @classmethod
    def of(cls, content: bytes) -> _Xml:
        # Raw bytes are not XML: only what precedes them is parsed.
        start = content.find(b"<AppendedData")
        head = content if start < 0 else content[:start] + b"</VTKFile>"
        # Also in UTF-16, whose characters have zero bytes.
        if b"\0" in head or re.search(rb"<!(?!--)", head):
            raise ValueError("it defines entities of XML, which are not read")
        root = ElementTree.fromstring(head)
        if root.tag != "VTKFile" or root.get("type") != "PolyData":
            raise ValueError(f"it holds {root.get('type') or root.tag}, not lines (PolyData)")
        if root.get("compressor") not in (None, _ZLIB):
            raise ValueError(f"its arrays are compressed by {root.get('compressor')}; save it with {_ZLIB}")
        if start < 0:
            return cls(root, b"", is_raw=False)
        tag_end, mark = content.find(b">", start), content.find(b"_", content.find(b">", start))
        if tag_end < 0 or mark < 0:
            raise ValueError("it is truncated in its appended data")
        return cls(root, content[mark + 1 :], is_raw=b'"raw"' in content[start:tag_end])

    @property
    def pieces(self) -> list[ElementTree.Element]:
        return self.root.findall("PolyData/Piece")

    def spaces(self) -> list[str]:
        """Return the texts of the field array SPACE."""
        found = []
        for array in self.root.iterfind("PolyData/FieldData/Array"):
            if array.get("Name") == "SPACE":
                codes = self._values(array, np.dtype("u1"), None)
                found += codes.astype("u1").tobytes().decode("latin1").strip("\0").split("\0")
        return found

    def array(self, element: ElementTree.Element | None, count: int, *, whole: bool = False) -> NDArray[Any]:
        """Return the numbers of an array, whose count is known."""
        if element is None:
            if count:
                raise ValueError("the points of its lines are missing")
            return np.zeros(0, dtype=np.int64 if whole else np.float32)
        name = element.get("type", "")
        if name not in _TYPES or (whole and _TYPES[name][0] == "f"):
            raise ValueError(f"it has an array of the type '{name[:40]}'")
        dtype = np.dtype(_TYPES[name]).newbyteorder(self._order)
        check_memory(count * dtype.itemsize, "its points")
        return self._values(element, dtype, count)

    @property
    def _order(self) -> Literal["<", ">"]:
        return ">" if self.root.get("byte_order") == "BigEndian" else "<"

    def _values(self, element: ElementTree.Element, dtype: np.dtype[Any], count: int | None) -> NDArray[Any]:
        form, text = element.get("format", "ascii"), element.text or ""
        if form == "ascii":
            values = np.array(text.split(), dtype=dtype.newbyteorder("="))
        else:
            content = self._decode(element, text, None if count is None else count * dtype.itemsize)
            values = np.frombuffer(content, dtype=dtype).astype(dtype.newbyteorder("="))
        if count is not None and len(values) != count:
            raise ValueError(f"an array of {count} numbers has {len(values)}")
        return values

    def _decode(self, element: ElementTree.Element, text: str, size: int | None) -> bytes:
        """Return the bytes of an array that is not text."""
        if element.get("format") == "binary":
            source, is_raw = memoryview(b"".join(text.encode("ascii").split())), False
        elif element.get("format") == "appended":
            offset = element.get("offset", "")
            if not re.fullmatch("[0-9]{1,15}", offset) or int(offset) > len(self.appended):
                raise ValueError("an array begins after the end of the file")
            # Not copied: there may be many arrays.
            source, is_raw = memoryview(self.appended)[int(offset) :], self.is_raw
        else:
            raise ValueError(f"it has an array of the format '{element.get('format', '')[:40]}'")
        if self.root.get("compressor") is None:
            return self._uncompressed(source, is_raw=is_raw)
        return self._inflated(source, size, is_raw=is_raw)

    @property
    def _size_type(self) -> np.dtype[Any]:
        """The type of the sizes before an array."""
        return np.dtype("u8" if self.root.get("header_type") == "UInt64" else "u4").newbyteorder(self._order)

    def _sizes(self, source: memoryview, nb: int, *, is_raw: bool) -> list[int]:
        width = self._size_type.itemsize
        return [int(each) for each in np.frombuffer(_bytes(source, nb * width, is_raw=is_raw), self._size_type)]

    def _uncompressed(self, source: memoryview, *, is_raw: bool) -> bytes:
        (size,) = self._sizes(source, 1, is_raw=is_raw)
        width = self._size_type.itemsize
        return _bytes(source, width + size, is_raw=is_raw)[width:]

    def _inflated(self, source: memoryview, size: int | None, *, is_raw: bool) -> bytes:
        width = self._size_type.itemsize
        nb_blocks, block_size, last_size = self._sizes(source, 3, is_raw=is_raw)
        if not nb_blocks:
            return b""
        if nb_blocks > len(source):
            raise ValueError("it is truncated in an array")
        packed_sizes = self._sizes(source, 3 + nb_blocks, is_raw=is_raw)[3:]
        sizes = [block_size] * (nb_blocks - 1) + [last_size or block_size]
        if sum(sizes) > (_MAX_TEXT_BYTES if size is None else size):
            raise ValueError(f"an array of {size} bytes would unpack to {sum(sizes)}")
        start = (3 + nb_blocks) * width if is_raw else 4 * math.ceil((3 + nb_blocks) * width / 3)
        packed = _bytes(source[start:], sum(packed_sizes), is_raw=is_raw)
        blocks, place = [], 0
        for block, packed_size in zip(sizes, packed_sizes, strict=True):
            if block > _LARGEST_RATIO * packed_size:
                raise ValueError(f"{packed_size} bytes cannot unpack to {block}")
            blocks.append(zlib.decompressobj().decompress(packed[place : place + packed_size], block + 1))
            if len(blocks[-1]) != block:
                raise ValueError(f"a block of {block} bytes unpacks to another size")
            place += packed_size
        return b"".join(blocks)


def _bytes(source: memoryview, nb: int, *, is_raw: bool) -> bytes:
    """Return the first bytes of raw or base64 bytes."""
    if is_raw:
        found = bytes(source[:nb])
    else:
        try:
            found = base64.b64decode(source[: 4 * math.ceil(nb / 3)], validate=True)[:nb]
        except binascii.Error as error:
            raise ValueError("an array is not base64") from error
    if len(found) < nb:
        raise ValueError("it is truncated in an array")
    return found


def _count(piece: ElementTree.Element, name: str) -> int:
    value = piece.get(name, "0")
    if not re.fullmatch("[0-9]{1,15}", value):
        raise ValueError(f"its {name} is '{value[:40]}'")
    return int(value)
