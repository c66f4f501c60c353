"""An HDF5 file that is open for reading: its identity, the parts that were read, and its errors."""

from __future__ import annotations

import bisect
import os
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import h5py

from dwiml.files import check_file, explained, open_regular
from dwiml.hdf5.stored.heaps import endless_heap
from dwiml.hdf5.stored.identity import FileIdentity

File = TypeVar("File", bound="OpenFile")

# gzip compresses zeros by a factor of 1000, but real data only by a small factor.
MAX_EXPANSION = 100
ALWAYS_ALLOWED_BYTES = 2**29
_FAULTS = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    ArithmeticError,
    SystemError,
)
_ADVICE = "copy it again or recreate it"
# Message of HDF5 for a file that is shorter than its superblock announces.
_CUT_OFF = re.compile(r"truncated file: eof = (\d+), .*stored_eof = (\d+)")


class OpenFile:
    """An HDF5 file, open for reading: what is known of it, and its errors; a context manager.

    Attributes
    ----------
    path
        Path of the file.
    identity
        Identity of the file when it was opened.

    Raises
    ------
    FileNotFoundError, OSError
        If the file does not exist or cannot be opened.
    ValueError
        If it is damaged or is not an HDF5 file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_file(path, "HDF5 file", hint="create one with 'dwiml create_hdf5'")
        with explained(path, "HDF5 file", errors=_FAULTS, advice=_ADVICE):
            self.identity = FileIdentity.of(self.path)
        self._handle = _opened(self.path)
        with self.explained(""):
            self._first_byte = int(self._handle.userblock_size)
        self._extents: list[tuple[int, int, str, Any]] = []
        self._nb_bytes_read = 0
        self._checked_texts: set[int] = set()

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def __enter__(self: File) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def claim(self, start: int, nb_bytes: int, name: str, node: Any) -> None:
        """Record the position of a dataset in the file; two datasets must not overlap.

        Parameters
        ----------
        start, nb_bytes
            Position of its values in the file, and their size, in bytes.
        name, node
            The dataset.

        Raises
        ------
        ValueError
            If the values overlap those of another dataset, or lie outside the file.
        """
        end = start + nb_bytes
        if start < 0 or end > self.identity.nb_bytes:
            self.refuse(name, f"its values end at byte {end}, but the file at byte {self.identity.nb_bytes}")
        place = bisect.bisect(self._extents, start, key=lambda extent: extent[0])
        for low, high, other, other_node in self._extents[max(place - 1, 0) : place + 1]:
            if low < end and start < high:
                if (low, high) == (start, end) and other_node == node:
                    return
                self.refuse(name, f"its values overlap those of '{other}'")
        self._extents.insert(place, (start, end, name, node))

    def take_memory(self, nb_bytes: int, name: str) -> None:
        """Count the bytes that are read into memory, whose total is bounded by the size of the file.

        Raises
        ------
        ValueError
            If the total is far more than the file can hold.
        """
        self._nb_bytes_read += nb_bytes
        if self._nb_bytes_read > max(2 * ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * self.identity.nb_bytes):
            total, size = self._nb_bytes_read / 1e9, self.identity.nb_bytes / 1e6
            self.refuse(name, f"a total of {total:.1f} GB would be read from a file of {size:.1f} MB")

    def check_texts(self, node: h5py.HLObject, name: str) -> None:
        """Check the text attributes of an object before HDF5 reads them for the first time.

        Raises
        ------
        ValueError
            If HDF5 would read them forever; see :mod:`dwiml.hdf5.stored.heaps`.
        """
        with self.explained(name):
            address = int(h5py.h5o.get_info(node.id).addr) + self._first_byte
        if address not in self._checked_texts:
            with open_regular(self.path, "HDF5 file") as stream:
                heap = endless_heap(stream.fileno(), address)
            if heap is not None:
                self.refuse(name, f"the text of its attributes (from byte {heap}) is overwritten with zeros")
            self._checked_texts.add(address)

    def explained(self, name: str) -> AbstractContextManager[None]:
        """Convert an error of h5py in the block to one sentence that names the file and the object."""
        return explained(self.path, f"'{name or '/'}' of the HDF5 file", errors=_FAULTS, advice=_ADVICE)

    def refuse(self, name: str, reason: str, advice: str = _ADVICE) -> NoReturn:
        """Raise a ValueError that reports a damaged object."""
        raise ValueError(f"'{name or '/'}' of the HDF5 file '{self.path}' is damaged: {reason}; {advice}.")


def _opened(path: Path) -> h5py.File:
    with explained(path, "HDF5 file", errors=_FAULTS, advice=_ADVICE):
        try:
            return h5py.File(path, "r")
        except OSError as caught:
            error, text = caught, str(caught)
            cut = _CUT_OFF.search(text)
            if cut is None and "signature" not in text:
                raise
    if cut is not None:
        raise ValueError(f"HDF5 file '{path}' is truncated: it has {cut[1]} of {cut[2]} bytes; {_ADVICE}.") from error
    raise ValueError(
        f"'{path}' is not an HDF5 file (or its first bytes are overwritten); give one created by 'dwiml create_hdf5'."
    ) from error
