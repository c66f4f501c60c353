"""Digests of the content of an HDF5 file, stored when it is written and compared when it is read.

The digest is BLAKE2b (Saarinen and Aumasson, 2015, RFC 7693) with 16 bytes, computed at about 1 GB/s on one core. It
detects damage and changes, but is not a signature: anyone who changes the values can also change the digest.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 16
# Size of the rows that are read at once.
_BLOCK_BYTES = 2**26


class ArrayDigest:
    """Compute the digest of an array a few rows at a time.

    Parameters
    ----------
    shape, dtype
        Shape and dtype of the whole array, which are part of the digest.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._hash.update(repr((tuple(int(size) for size in shape), dtype.str)).encode())

    def update(self, rows: NDArray[Any]) -> None:
        """Add the next rows."""
        if rows.size:
            self._hash.update(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)

    def text(self) -> str:
        """Return the digest of the rows added so far, in hexadecimal."""
        return self._hash.hexdigest()


class Rows(Protocol):
    """An array that is read a few rows at a time, such as a dataset of h5py."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype."""

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        """Return some rows."""


def digest_of_rows(rows: Rows) -> str:
    """Return the digest of an array that is read a few rows at a time; see :func:`digest_of_array`."""
    digest = ArrayDigest(rows.shape, rows.dtype)
    if not rows.shape:
        digest.update(np.asarray(rows[()]))
        return digest.text()
    nb_bytes = math.prod(rows.shape) * rows.dtype.itemsize
    step = max(1, _BLOCK_BYTES * rows.shape[0] // max(1, nb_bytes))
    for start in range(0, rows.shape[0], step):
        digest.update(rows[start : start + step])
    return digest.text()


def digest_of_array(values: NDArray[Any]) -> str:
    """Return the digest of an array, in hexadecimal: of its shape, its dtype and its bytes in C order."""
    digest = ArrayDigest(values.shape, values.dtype)
    digest.update(values)
    return digest.text()


def digest_of_group(attributes: Mapping[str, Any], datasets: Iterable[tuple[str, tuple[int, ...], str, str]]) -> str:
    """Return the digest of a group, in hexadecimal.

    It covers the attributes, and the name, shape, dtype and digest of each dataset.

    Parameters
    ----------
    attributes
        {name: value}, as read by h5py.
    datasets
        (name, shape, dtype, digest) of each dataset.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name in sorted(attributes):
        digest.update(repr((name, _plain(attributes[name]))).encode(errors="surrogatepass"))
    for dataset in sorted(datasets):
        digest.update(repr(dataset).encode(errors="surrogatepass"))
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Convert an attribute to strings, or to (dtype, shape, bytes), so that equal values have the same repr."""
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        return [_plain(item) if isinstance(item, (str, bytes)) else repr(item) for item in array.ravel().tolist()]
    return array.dtype.str, array.shape, array.tobytes().hex()
