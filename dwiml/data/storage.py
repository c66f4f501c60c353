"""A dataset of the HDF5 file as an array: in memory, memory-mapped, or read with h5py."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from dwiml.files import open_regular
from dwiml.hdf5.stored import FileIdentity, StoredDataset, StoredFile
from dwiml.hdf5.stored.digests import digest_of_array
from dwiml.hdf5.stored.links import refuse_changed
from dwiml.ops.ragged import run_rows

if TYPE_CHECKING:
    import numpy.typing as npt

# Below this size, reading takes milliseconds, so that lazy datasets are also compared with their digest.
_SMALL_BYTES = 2**20
# Missing in Python's mmap before 3.13. Without it, Linux refuses to map a file that is larger than the memory.
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0
_maps: WeakValueDictionary[tuple[Path, FileIdentity], npt.NDArray[np.uint8]] = WeakValueDictionary()


class StoredArray:
    """A dataset whose rows are read from memory or from the file.

    With ``lazy=False``, the whole dataset is read once, compared with its digest, and kept as float32. With
    ``lazy=True``, a contiguous, uncompressed dataset is memory-mapped: a read loads only the pages that it needs, and
    each process has one map and one open file for all datasets of a file. Any other layout is read with h5py; each
    process opens its own handle, which is dropped when the object is pickled. Each read checks that the file is still
    the one that was loaded.

    Parameters
    ----------
    dataset
        Open dataset; only its position and layout are kept.
    lazy
        Leave the values in the file.

    Attributes
    ----------
    path, identity, name
        The file, its identity when it was opened, and the name of the dataset.
    shape, dtype
        Shape and dtype of the dataset in the file.

    Raises
    ------
    ValueError
        If it does not hold numbers, or does not match its digest.
    """

    def __init__(self, dataset: StoredDataset, *, lazy: bool) -> None:
        dataset.check_readable()
        self.path = dataset.file.path.resolve()
        self.identity = dataset.file.identity
        self.name = dataset.name
        self.shape = dataset.shape
        self.dtype = dataset.dtype
        self.lazy = lazy
        self._digest = dataset.digest
        self._offset = dataset.offset
        self._array: npt.NDArray[Any] | None = None
        self._handle: StoredFile | None = None
        self._handle_pid = -1
        if not lazy or dataset.nb_bytes <= _SMALL_BYTES:
            values = dataset.read()
            dataset.check_digest(values)
            if not lazy or values.size == 0:
                self._array = as_float32(values)

    @property
    def is_mapped(self) -> bool:
        """Whether the dataset is read through a memory map."""
        return self.lazy and self._offset is not None

    def whole(self, *, verify: bool = False) -> npt.NDArray[Any]:
        """Return the whole array as float32: a view of the memory map if the file holds float32, otherwise a copy.

        Parameters
        ----------
        verify
            Compare it with its digest, unless this was done when it was loaded.

        Raises
        ------
        ValueError
            If the file is no longer the one that was loaded, or the values do not match their digest.
        """
        if not self.lazy or 0 in self.shape:
            assert self._array is not None
            return self._array
        values = self._map() if self.is_mapped else self._dataset()[:]
        if verify and self._digest is not None and self._digest != digest_of_array(values):
            refuse_changed(self.path, self.name, "its values")
        return as_float32(values)

    def gather(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the concatenation of S ranges of rows, as a new float32 array.

        Parameters
        ----------
        starts, lengths
            Shape (S,), int64: the first row and the number of rows of each range, in any order.

        Raises
        ------
        ValueError
            If the file is no longer the one that was loaded, or cannot be read.
        """
        if self._array is not None and not self.lazy:
            return as_float32(self._array.take(run_rows(starts, lengths), axis=0))
        if 0 in self.shape:
            return np.zeros((int(lengths.sum()) if self.shape[0] else 0, *self.shape[1:]), dtype=np.float32)
        if self.is_mapped:
            return as_float32(self._map().take(run_rows(starts, lengths), axis=0))
        dataset = self._dataset()
        runs = [dataset[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        return as_float32(np.concatenate(runs)) if runs else np.zeros((0, *self.shape[1:]), dtype=np.float32)

    def check_file(self) -> None:
        """Check that the file is still the one that was loaded, unless the data are in memory.

        Raises
        ------
        ValueError
            If it was removed, replaced, truncated or modified.
        """
        if self.lazy:
            self.identity.check(self.path)

    def _map(self) -> npt.NDArray[Any]:
        self.check_file()
        if self._array is None:
            start, nb_bytes = self._offset or 0, int(np.prod(self.shape)) * self.dtype.itemsize
            content = _mapped(self.path, self.identity)
            self._array = content[start : start + nb_bytes].view(self.dtype).reshape(self.shape)
        return self._array

    def _dataset(self) -> StoredDataset:
        self.check_file()
        if self._handle is None or self._handle_pid != os.getpid():
            # A handle inherited by a fork shares its file position with the parent, so it is never used.
            self._handle = StoredFile(self.path)
            self._handle_pid = os.getpid()
        return self._handle.dataset(self.name)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_handle"] = None
        if self.lazy and 0 not in self.shape:
            state["_array"] = None
        return state


def _mapped(path: Path, identity: FileIdentity) -> npt.NDArray[np.uint8]:
    """Return the bytes of a file as a memory map, which is shared as long as any array uses it.

    It is copy-on-write, so that torch gets a writable array while the file is never modified.
    """
    known = _maps.get((path, identity))
    if known is not None:
        return known
    with open_regular(path, "HDF5 file") as stream:
        if FileIdentity.of(stream.fileno()) != identity:
            identity.check(path)
        kind: dict[str, int] = {"access": mmap.ACCESS_COPY}
        if sys.platform == "linux":
            kind = {"flags": mmap.MAP_PRIVATE | _MAP_NORESERVE, "prot": mmap.PROT_READ | mmap.PROT_WRITE}
        content = np.frombuffer(mmap.mmap(stream.fileno(), identity.nb_bytes, **kind), dtype=np.uint8)
    _maps[path, identity] = content
    return content


def as_float32(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Convert values to float32; values that are too large become infinite, which later checks refuse."""
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32, copy=False)


def first_outside(
    points: npt.NDArray[np.float32], low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]
) -> int | None:
    """Return the index of the first point that is NaN or outside a box.

    Parameters
    ----------
    points
        Shape (N, 3), float32.
    low, high
        Shape (3,), float64: two opposite corners of the box, in the same space as the points.

    Returns
    -------
    int or None
        None if all points are inside.
    """
    if not len(points):
        return None
    # min and max return NaN if there is one, which compares as False. All coordinates are compared together first, then
    # each axis, because a reduction over rows of three values is about ten times slower.
    if points.min() >= low.max() and points.max() <= high.min():
        return None
    axes = range(points.shape[1])
    if all(points[:, axis].min() >= low[axis] and points[:, axis].max() <= high[axis] for axis in axes):
        return None
    return int(np.flatnonzero(~((points >= low) & (points <= high)).all(axis=1))[0])
