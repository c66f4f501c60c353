"""The groups and datasets of an HDF5 file: the only place that calls h5py for reading.

A file may come from a stranger, or be damaged. So links are followed inside the file only, data that lie in other files
are refused, what a dataset says it holds is compared with the size of the file before memory is taken for it, and
whatever h5py raises becomes one sentence with the file and the object.
"""

from __future__ import annotations

import bisect
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from dwiml.files import check_file, explained
from dwiml.hdf5 import schema
from dwiml.hdf5.stored.digests import digest_of_array, digest_of_group
from dwiml.hdf5.stored.identity import FileIdentity

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
_MOST_LINKS = 32
# gzip packs zeros a thousand times; what was measured or traced, a few times.
_MOST_EXPANSION = 100
_ALWAYS_ALLOWED = 2**29
_ADVICE = "copy or make the HDF5 file again"


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
        self._extents: list[tuple[int, int, str, Any]] = []
        self._nb_bytes_read = 0

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
        most = max(2 * _ALWAYS_ALLOWED, _MOST_EXPANSION * self.identity.nb_bytes)
        if self._nb_bytes_read > most:
            total, size = self._nb_bytes_read / 1e9, self.identity.nb_bytes / 1e6
            self.refuse(name, f"with it {total:.1f} GB are read of a file of {size:.1f} MB")

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
        return _attributes(self.file, self.node, self.name)

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, ``default`` when there is none."""
        return _attribute(self.file, self.node, self.name, name, default)

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
        """Compare with the digest that was written with it, where there is one.

        Raises
        ------
        ValueError
            When it is another.
        """
        written = _digest(self.file, self.node, self.name)
        if written is not None and written != self.computed_digest():
            refuse_changed(self.file.path, self.name, "an attribute or the shape, type or digest of a dataset")

    def _full(self, name: str) -> str:
        return f"{self.name}/{name}" if self.name else name

    def _child(self, name: str) -> Any:
        return _follow(self.file, self.node, name, self._full(name), [0])


class StoredDataset:
    """A dataset of numbers.

    Attributes
    ----------
    name
        Its full name without the first ``/``.
    shape, dtype
        Of the array.
    offset
        The byte of the file where its values begin, in one piece; None where they are in pieces or compressed.
    """

    def __init__(self, file: StoredFile, node: h5py.Dataset, name: str) -> None:
        self.file, self.name, self.node = file, name, node
        with file.explained(name):
            layout = node.id.get_create_plist().get_layout()
            external, shape, dtype = bool(node.external), node.shape, node.dtype
            offset, self._nb_bytes_stored = node.id.get_offset(), int(node.id.get_storage_size())
        if external or layout == h5py.h5d.VIRTUAL:
            kind = "keeps its values in another file (external storage)" if external else "is a virtual dataset"
            raise ValueError(
                f"'{name}' of the HDF5 file '{file.path}' {kind}, which is not followed: only values inside the file "
                "itself are read; copy them into it (h5repack does)."
            )
        if shape is None:
            file.refuse(name, "it holds nothing")
        self.shape: tuple[int, ...] = tuple(int(size) for size in shape)
        self.dtype: np.dtype[Any] = dtype
        self.offset = int(offset) if layout == h5py.h5d.CONTIGUOUS and offset is not None else None
        self._check_size(layout)

    @property
    def nb_bytes(self) -> int:
        """The bytes of the array in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_numeric(self) -> bool:
        """Whether it holds real numbers or booleans."""
        return self.dtype.kind in "fiub"

    @property
    def digest(self) -> str | None:
        """The digest that was written with it; None where there is none."""
        return _digest(self.file, self.node, self.name)

    def has_attribute(self, name: str) -> bool:
        """Tell whether there is an attribute."""
        with self.file.explained(self.name):
            return name in self.node.attrs

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, ``default`` when there is none."""
        return _attribute(self.file, self.node, self.name, name, default)

    def read(self) -> NDArray[Any]:
        """Return the whole array.

        Raises
        ------
        ValueError
            When it is damaged, holds something else than numbers, or more than its size in the file allows.
        """
        self._check_numeric()
        self._check_expansion(self.nb_bytes)
        self.file.take_memory(self.nb_bytes, self.name)
        with self.file.explained(self.name):
            return np.asarray(self.node[()])

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return some rows."""
        self._check_numeric()
        with self.file.explained(self.name):
            return np.asarray(self.node[rows])

    def check_digest(self, values: NDArray[Any]) -> None:
        """Compare the array that was read with the digest that was written with it, where there is one.

        Raises
        ------
        ValueError
            When it is another.
        """
        self.check_digest_is(digest_of_array(values) if self.digest else None)

    def check_digest_is(self, computed: str | None) -> None:
        """Compare with a digest that was computed while reading."""
        if self.digest is not None and self.digest != computed:
            refuse_changed(self.file.path, self.name, "its values")

    def extents(self) -> list[tuple[int, int]]:
        """Return (first byte, number of bytes) of each piece in the file; none for a tiny one in the metadata."""
        if self.offset is not None:
            return [(self.offset, self.nb_bytes)]
        pieces: list[tuple[int, int]] = []
        if self.node.chunks is not None:
            with self.file.explained(self.name):
                self.node.id.chunk_iter(lambda chunk: pieces.append((int(chunk.byte_offset), int(chunk.size))))
        return sorted(pieces)

    def _check_numeric(self) -> None:
        if not self.is_numeric:
            self.file.refuse(self.name, f"it holds {self.dtype}, numbers are expected")

    def _check_size(self, layout: int) -> None:
        if layout == h5py.h5d.CONTIGUOUS and self.nb_bytes:
            if self.offset is None:
                self.file.refuse(self.name, "its values were never written")
            self.file.claim(self.offset, self.nb_bytes, self.name, self.node)
        elif layout == h5py.h5d.CHUNKED:
            self._check_chunks()
        elif self.nb_bytes > 2**16:
            self.file.refuse(self.name, f"it cannot hold the {self.nb_bytes} bytes that its shape {self.shape} takes")

    def _check_chunks(self) -> None:
        with self.file.explained(self.name):
            chunks = self.node.chunks
            found = int(self.node.id.get_num_chunks()) if self.nb_bytes else 0
        expected = math.prod(-(-size // chunk) for size, chunk in zip(self.shape, chunks, strict=True))
        if found != expected:
            # HDF5 would give zeros for the others.
            self.file.refuse(self.name, f"{found} of its {expected} pieces (chunks) are in the file")
        if self._nb_bytes_stored > self.file.identity.nb_bytes:
            self.file.refuse(self.name, f"it cannot take {self._nb_bytes_stored} bytes of the file")
        self._check_expansion(math.prod(chunks) * self.dtype.itemsize)

    def _check_expansion(self, nb_bytes: int) -> None:
        if self.nb_bytes and nb_bytes > max(_ALWAYS_ALLOWED, _MOST_EXPANSION * self._nb_bytes_stored):
            self.file.refuse(
                self.name,
                f"its {self._nb_bytes_stored / 1e6:.3g} MB in the file would become {nb_bytes / 1e9:.3g} GB in memory",
            )


def _follow(file: StoredFile, node: Any, target: str, full: str, hops: list[int]) -> Any:
    """Return what a name or the path of a soft link leads to, one step at a time, so that none leaves the file."""
    with file.explained(full):
        current = node.file["/"] if target.startswith("/") else node
    for part in target.split("/"):
        if part in ("", "."):
            continue
        if not isinstance(current, h5py.Group):
            file.refuse(full, "a link leads nowhere")
        with file.explained(full):
            link = current.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(
                f"'{full}' of the HDF5 file '{file.path}' is a link to another file ('{link.filename}'), which is not "
                "followed; copy the data into the file."
            )
        if link is None:
            file.refuse(full, "a link leads nowhere" if hops[0] else "it is not in the file")
        if isinstance(link, h5py.SoftLink):
            hops[0] += 1
            if hops[0] > _MOST_LINKS:
                file.refuse(full, "its links lead in a circle")
            current = _follow(file, current, link.path, full, hops)
        else:
            with file.explained(full):
                current = current[part]
    return current


def _attributes(file: StoredFile, node: Any, name: str) -> dict[str, Any]:
    with file.explained(name):
        return {key: node.attrs[key] for key in node.attrs if key != schema.DIGEST}


def _attribute(file: StoredFile, node: Any, name: str, attribute: str, default: Any) -> Any:
    with file.explained(f"{name or '/'} (attribute '{attribute}')"):
        value = node.attrs.get(attribute, default)
    if isinstance(value, h5py.Empty):
        file.refuse(name, f"its attribute '{attribute}' holds nothing")
    return value


def _digest(file: StoredFile, node: Any, name: str) -> str | None:
    value = _attribute(file, node, name, schema.DIGEST, None)
    return None if value is None else schema.read_text(value)


def refuse_changed(path: Path, name: str, what: str) -> NoReturn:
    """Raise the sentence that an object is not what was written."""
    raise ValueError(
        f"'{name or '/'}' of the HDF5 file '{path}' does not hold what was written: {what} changed (its digest "
        "differs). The file is damaged or was edited; copy or make it again (after an edit on purpose, delete the "
        f"attribute '{schema.DIGEST}' of what was edited and of the group around it)."
    )


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "signature" in str(error):
            raise ValueError("it is not an HDF5 file, or its beginning is overwritten") from error
        raise
