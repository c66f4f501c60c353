"""Check variable-length text attributes before the HDF5 library reads them.

HDF5 stores variable-length strings in "global heaps" (HDF5 File Format Specification, version 3.0, III.E). If part of a
heap is overwritten with zeros, the library (up to version 2.0) loops forever. Therefore, the heaps that the attributes
of an object refer to are checked here first.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

_ATTRIBUTE, _CONTINUATION = 0x0C, 0x10
_VARIABLE_LENGTH = 9
_MAX_HEADER_BYTES = 2**20


def endless_heap(descriptor: int, address: int) -> int | None:
    """Return the address of a heap that the HDF5 library would read forever; None if there is none.

    Parameters
    ----------
    descriptor
        Descriptor of the file, open for reading.
    address
        Position of the object header in the file, in bytes. Only headers of version 1 are checked, the default of h5py.
    """
    for heap in {found for message in _attributes(descriptor, address) for found in _heaps(message)}:
        if _is_endless(descriptor, heap):
            return heap
    return None


def _attributes(descriptor: int, address: int) -> Iterator[bytes]:
    """Yield the attribute messages of a version 1 header; nothing for other versions or a damaged header."""
    start = os.pread(descriptor, 16, address)
    if len(start) < 16 or start[0] != 1:
        return
    blocks, seen = [(address + 16, struct.unpack_from("<I", start, 8)[0])], set()
    while blocks:
        begin, size = blocks.pop()
        if begin in seen or size > _MAX_HEADER_BYTES:
            return
        seen.add(begin)
        content, place = os.pread(descriptor, size, begin), 0
        while place + 8 <= len(content):
            kind, length = struct.unpack_from("<HH", content, place)
            message = content[place + 8 : place + 8 + length]
            if kind == _CONTINUATION and len(message) >= 16:
                blocks.append(struct.unpack_from("<QQ", message))
            elif kind == _ATTRIBUTE:
                yield message
            place += 8 + length


def _heaps(message: bytes) -> Iterator[int]:
    """Yield the addresses of the heaps that an attribute refers to; only variable-length attributes have any."""
    if len(message) < 8 or message[0] not in (1, 2, 3):
        return
    sizes = list(struct.unpack_from("<HHH", message, 2))
    if message[0] == 1:
        sizes = [-(-size // 8) * 8 for size in sizes]
    place = 9 if message[0] == 3 else 8
    type_place = place + sizes[0]
    if type_place >= len(message) or message[type_place] & 0x0F != _VARIABLE_LENGTH:
        return
    for element in range(place + sum(sizes), len(message) - 15, 16):
        (heap,) = struct.unpack_from("<Q", message, element + 4)
        if 0 < heap < 2**62:
            yield heap


def _is_endless(descriptor: int, heap: int) -> bool:
    start = os.pread(descriptor, 16, heap)
    if len(start) < 16 or start[:4] != b"GCOL":
        # HDF5 reports this itself.
        return False
    size = struct.unpack_from("<Q", start, 8)[0]
    content, place = os.pread(descriptor, min(size, _MAX_HEADER_BYTES), heap), 16
    while place + 16 <= len(content):
        number, _, _, length = struct.unpack_from("<HHIQ", content, place)
        step = 16 + -(-length // 8) * 8 if number else length
        if step == 0:
            return True
        place += step
    return False
