"""The groups and datasets of an HDF5 file: the only place that calls h5py for reading.

A file may come from a stranger, or be damaged. So links are followed inside the file only, data that lie in other files
are refused, what a dataset says it holds is compared with the size of the file before memory is taken for it, and
whatever h5py raises becomes one sentence with the file and the object.
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
from dwiml.hdf5.stored.datasets import ALWAYS_ALLOWED, MOST_EXPANSION, StoredDataset
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
# What HDF5 says of a file that is shorter than its beginning announces.
_CUT_OFF = re.compile(r"truncated file: eof = (\d+), .*stored_eof = (\d+)")


class StoredFile:
    """An HDF5 file, open for reading; a context manager.

    Attributes
    ----------
    path
        Where it is.
    identity
        What it was when it was opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_file(path, "HDF5 file", hint="make one with 'dwiml create_hdf5'")
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
        """The group that holds all others."""
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
        *above, last = name.strip("/").split("/")
        for each in above:
            group = group.group(each)
        return group.dataset(last)

    def claim(self, start: int, nb_bytes: int, name: str, node: Any) -> None:
        """Note where the bytes of a dataset lie; those of two datasets may not overlap.

        Raises
        ------
        ValueError
            When they do, or lie outside the file.
        """
        end = start + nb_bytes
        if start < 0 or end > self.identity.nb_bytes:
            self.refuse(name, f"its values end at byte {end}, the file at byte {self.identity.nb_bytes}")
        place = bisect.bisect(self._extents, start, key=lambda extent: extent[0])
        for low, high, other, its_node in self._extents[max(place - 1, 0) : place + 1]:
            if low < end and start < high:
                if (low, high) == (start, end) and its_node == node:
                    return
                self.refuse(name, f"its values lie where those of '{other}' are")
        self._extents.insert(place, (start, end, name, node))

    def take_memory(self, nb_bytes: int, name: str) -> None:
        """Count what is read into memory; in total it is bounded by the size of the file.

        Raises
        ------
        ValueError
            When it is far more than the file can hold.
        """
        self._nb_bytes_read += nb_bytes
        most = max(2 * ALWAYS_ALLOWED, MOST_EXPANSION * self.identity.nb_bytes)
        if self._nb_bytes_read > most:
            total, size = self._nb_bytes_read / 1e9, self.identity.nb_bytes / 1e6
            self.refuse(name, f"with it {total:.1f} GB are read of a file of {size:.1f} MB")

    def check_texts(self, node: h5py.HLObject, name: str) -> None:
        """Check the texts among the attributes of an object before HDF5 reads them, once.

        Raises
        ------
        ValueError
            When HDF5 would never come to their end.
        """
        with self.explained(name):
            address = int(h5py.h5o.get_info(node.id).addr) + self._first_byte
        if address not in self._checked_texts:
            with open_regular(self.path, "HDF5 file") as stream:
                heap = endless_heap(stream.fileno(), address)
            if heap is not None:
                self.refuse(name, f"the texts of its attributes (from byte {heap}) are overwritten with zeros")
            self._checked_texts.add(address)

    def explained(self, name: str) -> AbstractContextManager[None]:
        """Turn what h5py raises in the block into one sentence with the file and the object."""
        return explained(self.path, f"'{name or '/'}' of the HDF5 file", errors=_FAULTS, advice=_ADVICE)

    def refuse(self, name: str, reason: str, advice: str = _ADVICE) -> NoReturn:
        """Raise the sentence that an object is damaged."""
        raise ValueError(f"'{name or '/'}' of the HDF5 file '{self.path}' is damaged: {reason}; {advice}.")


class StoredGroup:
    """A group of an HDF5 file.

    Attributes
    ----------
    file
        Its file.
    name
        Its full name without the first ``/``: ``sub-01/streamlines``.
    """

    def __init__(self, file: StoredFile, node: h5py.Group, name: str) -> None:
        self.file, self.name, self.node = file, name, node
        self._attributes: dict[str, Any] | None = None

    @property
    def names(self) -> list[str]:
        """The names of what it holds, sorted."""
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
            When it is not there, is a dataset, or lies in another file.
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
            When it is not there, is a group, lies in another file, or says it holds more than the file can.
        """
        node = self._child(name)
        if not isinstance(node, h5py.Dataset):
            self.file.refuse(self._full(name), "it is not a dataset")
        return StoredDataset(self.file, node, self._full(name))

    def is_group(self, name: str) -> bool:
        """Tell whether a name is that of a group."""
        return isinstance(self._child(name), h5py.Group)

    def attributes(self) -> dict[str, Any]:
        """Return all attributes but the digest."""
        if self._attributes is None:
            self._attributes = attributes_of(self.file, self.node, self.name)
        return dict(self._attributes)

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, ``default`` when there is none."""
        if self._attributes is not None and name != schema.DIGEST:
            return checked_value(self.file, self.name, name, self._attributes.get(name, default))
        return attribute_of(self.file, self.node, self.name, name, default)

    def has_attribute(self, name: str) -> bool:
        """Tell whether there is an attribute."""
        with self.file.explained(self.name):
            return name in self.node.attrs

    def datasets(self) -> Iterator[StoredDataset]:
        """Yield the datasets of this group and of the groups inside."""
        for name in self.names:
            if self.is_group(name):
                yield from self.group(name).datasets()
            else:
                yield self.dataset(name)

    def computed_digest(self) -> str:
        """Return the digest of the attributes, and of the datasets' names, shapes, types and digests."""
        start = len(self.name) + 1
        datasets = [(each.name[start:], each.shape, each.dtype.str, each.digest or "") for each in self.datasets()]
        return digest_of_group(self.attributes(), datasets)

    def check_digest(self) -> None:
        """Compare with the digest that was written with it: where the root has one, all groups do.

        Raises
        ------
        ValueError
            When it is another, or is missing.
        """
        written = written_digest(self.file, self.node, self.name)
        if written is None and self.file.root.has_attribute(schema.DIGEST):
            # Damage can hide attributes, and with them this one.
            refuse_changed(self.file.path, self.name, f"its attribute '{schema.DIGEST}' is missing, or something else")
        if written is not None and written != self.computed_digest():
            refuse_changed(self.file.path, self.name, "an attribute or the shape, type or digest of a dataset")

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
        raise ValueError(f"HDF5 file '{path}' is cut off: it has {cut[1]} of {cut[2]} bytes; {_ADVICE}.") from error
    raise ValueError(
        f"'{path}' is not an HDF5 file (or its first bytes are overwritten); give one made with 'dwiml create_hdf5'."
    ) from error
