"""Read the groups of an HDF5 file; only this package reads with h5py.

The file may be untrusted or damaged. Therefore, links are followed inside the file only, data stored in other files are
refused, the announced size of a dataset is checked against the size of the file before memory is allocated, and each
error of h5py becomes one sentence that names the file and the object.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py

from dwiml.hdf5 import schema
from dwiml.hdf5.stored.datasets import StoredDataset
from dwiml.hdf5.stored.digests import digest_of_group
from dwiml.hdf5.stored.links import attribute_of, attributes_of, checked_value, follow, refuse_changed, written_digest
from dwiml.hdf5.stored.open_file import OpenFile


class StoredFile(OpenFile):
    """An HDF5 file, open for reading, and what it holds; see :class:`OpenFile`."""

    @property
    def root(self) -> StoredGroup:
        """The root group."""
        return StoredGroup(self, self._handle, "")

    def dataset(self, name: str) -> StoredDataset:
        """Return a dataset by its full name."""
        group = self.root
        *groups, last = name.strip("/").split("/")
        for parent in groups:
            group = group.group(parent)
        return group.dataset(last)


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
        """Yield the datasets of this group and of its subgroups, in which no group may be reached twice."""
        yield from self._datasets(set())

    def _datasets(self, seen: set[tuple[int, int]]) -> Iterator[StoredDataset]:
        with self.file.explained(self.name):
            info = h5py.h5o.get_info(self.node.id)
        if (info.fileno, info.addr) in seen:
            # With hard links, a few groups could have any number of paths.
            self.file.refuse(self.name, "it is a second name of another group")
        seen.add((info.fileno, info.addr))
        for name in self.names:
            if self.is_group(name):
                yield from self.group(name)._datasets(seen)
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
