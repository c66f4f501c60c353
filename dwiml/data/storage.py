"""One dataset of the HDF5 file as an array: in memory, memory-mapped, or read piece by piece through h5py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


class StoredArray:
    """Rows of a dataset, read where they are.

    With ``lazy=False`` the whole dataset is read once, as float32. With ``lazy=True`` a contiguous, uncompressed
    dataset is memory-mapped: a read costs the pages it touches, in any process, and no handle is open. Any other layout
    is read through h5py, with a handle that each process opens for itself and that is dropped on pickling.

    Parameters
    ----------
    dataset
        Open dataset; only its place and layout are kept.
    lazy
        Leave the values in the file.
    """

    def __init__(self, dataset: h5py.Dataset, *, lazy: bool) -> None:
        self.path = Path(dataset.file.filename).resolve()
        self.name = str(dataset.name)
        self.shape: tuple[int, ...] = tuple(int(n) for n in dataset.shape)
        self.dtype = dataset.dtype
        self.lazy = lazy
        self._offset = _offset_of(dataset)
        self._array: npt.NDArray[Any] | None = None
        self._handle: h5py.File | None = None
        self._handle_pid = -1
        if not lazy:
            self._array = _as_float32(dataset[()])
        elif dataset.size == 0:
            self._array = np.zeros(self.shape, dtype=np.float32)

    @property
    def is_mapped(self) -> bool:
        """Whether reads go through a memory map."""
        return self.lazy and self._offset is not None

    def whole(self) -> npt.NDArray[Any]:
        """Return the array, float32: a view of the map where the file holds float32, else a copy in memory."""
        if self._array is not None:
            return self._array
        if self.is_mapped:
            return _as_float32(self._map())
        return _as_float32(self._dataset()[()])

    def gather(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return runs of rows, joined, as a new float32 array.

        Parameters
        ----------
        starts, lengths
            Shape (S,): the first row and the number of rows of each run, in any order.
        """
        if self._array is not None or self.is_mapped:
            source = self._array if self._array is not None else self._map()
            return _as_float32(source.take(run_rows(starts, lengths), axis=0))
        dataset = self._dataset()
        runs = [dataset[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        return _as_float32(np.concatenate(runs)) if runs else np.zeros((0, *self.shape[1:]), dtype=np.float32)

    def _map(self) -> npt.NDArray[Any]:
        # Copy on write: torch gets an array that it may call writable, and the file is never touched.
        mapped = np.memmap(self.path, dtype=self.dtype, mode="c", offset=self._offset or 0, shape=self.shape)
        array = np.asarray(mapped)
        self._array = array if self.dtype == np.float32 else None
        return array

    def _dataset(self) -> h5py.Dataset:
        if self._handle is None or self._handle_pid != os.getpid():
            # A handle that came through a fork shares its file position with the parent: never use it.
            self._handle = h5py.File(self.path, "r")
            self._handle_pid = os.getpid()
        return self._handle[self.name]

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_handle"] = None
        if self.lazy and 0 not in self.shape:
            state["_array"] = None
        return state


def _offset_of(dataset: h5py.Dataset) -> int | None:
    """Return where in the file a dataset's bytes lie in one piece, None when they do not."""
    # Texts of any length are references into the file, not values.
    if dataset.chunks is not None or dataset.external is not None or dataset.is_virtual or dataset.dtype.hasobject:
        return None
    offset = dataset.id.get_offset()
    return None if offset is None else int(offset)


def _as_float32(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return array.astype(np.float32, copy=False)


def run_rows(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the row numbers of runs: for starts (5, 0) and lengths (2, 3): 5 6 0 1 2."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    shift: npt.NDArray[np.int64] = np.repeat(starts - (ends - lengths), lengths)
    return shift + np.arange(total, dtype=np.int64)
