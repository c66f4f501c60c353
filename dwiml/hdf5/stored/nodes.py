"""Read the groups and datasets of an HDF5 file; the only module that reads with h5py.

The file may be untrusted or damaged. Therefore, links are followed inside the file only, data stored in other files are
refused, the announced size of a dataset is checked against the size of the file before memory is allocated, and each
error of h5py becomes one sentence that names the file and the object.
"""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import h5py

from dwiml.files import check_file, explained, open_regular
from dwiml.hdf5 import schema
from dwiml.hdf5.stored.datasets import ALWAYS_ALLOWED_BYTES, MAX_EXPANSION, StoredDataset
from dwiml.hdf5.stored.digests import digest_of_group
from dwiml.hdf5.stored.heaps import endless_heap
from dwiml.hdf5.stored.identity import FileIdentity
from dwiml.hdf5.stored.links import attribute_of, attributes_of, checked_value, follow, refuse_changed, written_digest

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


class StoredFile:
    """An HDF5 file, open for reading; a context manager.

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

    @property
    def root(self) -> StoredGroup:
        """The root group."""
        return StoredGroup(self, self._handle, "")

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def __enter__(self) -> StoredFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def dataset(self, name: str) -> StoredDataset:
        """Return a dataset by its full name."""
        group = self.root
        *groups, last = name.strip("/").split("/")
        for parent in groups:
            group = group.group(parent)
        return group.dataset(last)

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


class StoredGroup:
    """A group of an HDF5 file.

    Attributes
    ----------
    file
        The file that contains it.
    name
        Its full name without the leading ``/``, for instance ``sub-01/streamlines``.
    """

    def __init__(self, file: StoredFile, node: h5py.Group, name: str) -> None:
        self.file, self.name, self.node = file, name, node
        self._attributes: dict[str, Any] | None = None

    @property
    def names(self) -> list[str]:
        """Names of the groups and datasets in this group, sorted."""
        with self.file.explained(self.name):
            found = sorted(self.node)
        for name in found:
            schema.check_name(name, f"'{self.file.path}': a name in '{self.name or '/'}'")
        return found

    def __contains__(self, name: str) -> bool:
        with self.file.explained(self.name):
            return self.node.get(name, getlink=True) is not None

    def group(self, name: str) -> StoredGroup:
        """Return a group of this group.

        Raises
        ------
        ValueError
            If it does not exist, is a dataset, or lies in another file.
        """
        node = self._child(name)
        if not isinstance(node, h5py.Group):
            self.file.refuse(self._full(name), "it is not a group")
        return StoredGroup(self.file, node, self._full(name))

    def dataset(self, name: str) -> StoredDataset:
        """Return a dataset of this group.

        Raises
        ------
        ValueError
            If it does not exist, is a group, lies in another file, or announces more data than the file can hold.
        """
        node = self._child(name)
        if not isinstance(node, h5py.Dataset):
            self.file.refuse(self._full(name), "it is not a dataset")
        return StoredDataset(self.file, node, self._full(name))

    def is_group(self, name: str) -> bool:
        """Return whether an object of this group is a group."""
        return isinstance(self._child(name), h5py.Group)

    def attributes(self) -> dict[str, Any]:
        """Return all attributes except the digest."""
        if self._attributes is None:
            self._attributes = attributes_of(self.file, self.node, self.name)
        return dict(self._attributes)

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or ``default`` if it does not exist."""
        if self._attributes is not None and name != schema.DIGEST:
            return checked_value(self.file, self.name, name, self._attributes.get(name, default))
        return attribute_of(self.file, self.node, self.name, name, default)

    def has_attribute(self, name: str) -> bool:
        """Return whether the group has an attribute."""
        with self.file.explained(self.name):
            return name in self.node.attrs

    def datasets(self) -> Iterator[StoredDataset]:
        """Yield the datasets of this group and of its subgroups."""
        for name in self.names:
            if self.is_group(name):
                yield from self.group(name).datasets()
            else:
                yield self.dataset(name)

    def computed_digest(self) -> str:
        """Return the digest computed from the attributes, and the names, shapes, dtypes and digests of the datasets."""
        start = len(self.name) + 1
        datasets = [(data.name[start:], data.shape, data.dtype.str, data.digest or "") for data in self.datasets()]
        return digest_of_group(self.attributes(), datasets)

    def check_digest(self) -> None:
        """Compare the group with its stored digest, which must exist if the root has a digest.

        Raises
        ------
        ValueError
            If the digest differs or is missing.
        """
        written = written_digest(self.file, self.node, self.name)
        if written is None and self.file.root.has_attribute(schema.DIGEST):
            # Damage can hide attributes, including the digest.
            refuse_changed(self.file.path, self.name, f"its attribute '{schema.DIGEST}' is missing, or something else")
        if written is not None and written != self.computed_digest():
            refuse_changed(self.file.path, self.name, "an attribute or the shape, dtype or digest of a dataset")

    def _full(self, name: str) -> str:
        return f"{self.name}/{name}" if self.name else name

    def _child(self, name: str) -> Any:
        return follow(self.file, self.node, name, self._full(name), [0])


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
