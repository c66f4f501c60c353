"""Datasets of an HDF5 file. Their size is checked against the size of the file before memory is allocated."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dwiml.hdf5.stored.digests import digest_of_array, digest_of_rows
from dwiml.hdf5.stored.links import attribute_of, refuse_changed, written_digest
from dwiml.hdf5.stored.open_file import ALWAYS_ALLOWED_BYTES, MAX_EXPANSION, OpenFile


class StoredDataset:
    """A dataset of an open HDF5 file.

    Attributes
    ----------
    name
        Its full name without the leading ``/``.
    shape, dtype
        Shape and dtype of the array.
    offset
        Position in the file of the first value, in bytes, if the values are contiguous; None if the dataset is chunked
        or compressed.

    Raises
    ------
    ValueError
        If it is damaged, virtual, or keeps its values in another file.
    """

    def __init__(self, file: OpenFile, node: h5py.Dataset, name: str) -> None:
        self.file, self.name, self.node = file, name, node
        with file.explained(name):
            layout = node.id.get_create_plist().get_layout()
            external, shape, dtype = bool(node.external), node.shape, node.dtype
            offset, self._nb_bytes_stored = node.id.get_offset(), int(node.id.get_storage_size())
        if external or layout == h5py.h5d.VIRTUAL:
            kind = "keeps its values in another file (external storage)" if external else "is a virtual dataset"
            raise ValueError(
                f"'{name}' of the HDF5 file '{file.path}' {kind}, which is not followed: only values inside the file "
                "itself are read; copy the values into the file."
            )
        if shape is None:
            file.refuse(name, "it is empty")
        self.shape: tuple[int, ...] = tuple(int(size) for size in shape)
        self.dtype: np.dtype[Any] = dtype
        self.offset = int(offset) if layout == h5py.h5d.CONTIGUOUS and offset is not None else None
        self._check_size(layout)

    @property
    def nb_bytes(self) -> int:
        """Size of the array in memory, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def nb_bytes_stored(self) -> int:
        """Size of the values in the file, in bytes, after compression."""
        return self._nb_bytes_stored

    @property
    def is_numeric(self) -> bool:
        """Whether it holds real numbers or booleans."""
        return self.dtype.kind in "fiub"

    @cached_property
    def digest(self) -> str | None:
        """The digest stored with the dataset; None if there is none."""
        return written_digest(self.file, self.node, self.name)

    def has_attribute(self, name: str) -> bool:
        """Return whether the dataset has an attribute."""
        with self.file.explained(self.name):
            return name in self.node.attrs

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or ``default`` if it does not exist."""
        return attribute_of(self.file, self.node, self.name, name, default)

    def read(self) -> NDArray[Any]:
        """Return the whole array.

        Raises
        ------
        ValueError
            If it is damaged, does not hold numbers, or is much larger than its size in the file allows.
        """
        self.check_readable()
        self.file.take_memory(self.nb_bytes, self.name)
        with self.file.explained(self.name):
            return np.asarray(self.node[()])

    def __getitem__(self, rows: slice | tuple[int, ...]) -> NDArray[Any]:
        """Return some rows, or what is at an index of the first axes."""
        self._check_numeric()
        with self.file.explained(self.name):
            return np.asarray(self.node[rows])

    def check_digest(self, values: NDArray[Any]) -> None:
        """Compare the values that were read with the stored digest, if there is one.

        Raises
        ------
        ValueError
            If they differ.
        """
        self.check_digest_is(digest_of_array(values) if self.digest else None)

    def check_digest_is(self, computed: str | None) -> None:
        """Compare the stored digest, if there is one, with a digest computed while reading.

        Raises
        ------
        ValueError
            If they differ.
        """
        if self.digest is not None and self.digest != computed:
            refuse_changed(self.file.path, self.name, "its values")

    def check_values(self) -> None:
        """Read all values, a few rows at a time, and compare them with the stored digest, if there is one.

        Raises
        ------
        ValueError
            If they differ.
        """
        if self.digest is None or not self.is_numeric:
            return
        self.check_digest_is(digest_of_rows(self))

    def extents(self) -> list[tuple[int, int]]:
        """Return (first byte, number of bytes) of each block in the file.

        The list is empty for a small dataset that is stored within the metadata.
        """
        if self.offset is not None:
            return [(self.offset, self.nb_bytes)]
        blocks: list[tuple[int, int]] = []
        if self.node.chunks is not None:
            with self.file.explained(self.name):
                self.node.id.chunk_iter(lambda chunk: blocks.append((int(chunk.byte_offset), int(chunk.size))))
        return sorted(blocks)

    def _check_numeric(self) -> None:
        if not self.is_numeric:
            self.file.refuse(self.name, f"it holds {self.dtype}; numbers are expected")

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
            # HDF5 would return zeros for the missing chunks.
            self.file.refuse(self.name, f"only {found} of its {expected} chunks are in the file")
        if self._nb_bytes_stored > self.file.identity.nb_bytes:
            self.file.refuse(self.name, f"it claims {self._nb_bytes_stored} bytes, more than the size of the file")
        self._check_expansion(math.prod(chunks) * self.dtype.itemsize)

    def check_readable(self) -> None:
        """Check that the dataset holds numbers, and is not much larger than its size in the file allows.

        Raises
        ------
        ValueError
            If the check fails.
        """
        self._check_numeric()
        self._check_expansion(self.nb_bytes)

    def _check_expansion(self, nb_bytes: int) -> None:
        if self.nb_bytes and nb_bytes > max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * self._nb_bytes_stored):
            self.file.refuse(
                self.name,
                f"its {self._nb_bytes_stored / 1e6:.3g} MB in the file would become {nb_bytes / 1e9:.3g} GB in memory",
            )
