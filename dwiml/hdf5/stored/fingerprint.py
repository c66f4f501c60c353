"""A fingerprint of an HDF5 file: whether two files hold the same data, without reading all of it."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np

from dwiml.files import open_regular
from dwiml.hdf5.stored.datasets import StoredDataset
from dwiml.hdf5.stored.digests import digest_of_array, digest_of_group
from dwiml.hdf5.stored.layout import open_hdf5, root_digest, subject_lists
from dwiml.hdf5.stored.nodes import StoredGroup

VERSION = "v2"
_BLOCK = 4096
# Blocks read from a large dataset: with a digest, and without one.
_BLOCKS_BESIDE_DIGEST = 8
_BLOCKS = 256


def fingerprint_of(path: str | os.PathLike[str]) -> str:
    """Return the fingerprint of an HDF5 file: the same for a copy, and for a file recreated from the same input.

    It covers, for every subject that is listed: all attributes, the name, shape, type and digest of every dataset, and
    values of every dataset. Values are read whole where a dataset is small (32 kB with a digest, 1 MB without one, as
    in files of dwi_ml), and in evenly spaced blocks of 4 kB where it is larger (8 with a digest, 256 without). So any
    difference between files created with digests changes it. An edit that leaves the digests as they were changes it
    only where it touches a block; ``dwiml check_hdf5 --digests`` finds all such edits.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        As :func:`~dwiml.hdf5.stored.layout.open_hdf5`.
    """
    found = hashlib.blake2b(digest_size=16)
    with open_hdf5(path) as file, open_regular(path, "HDF5 file") as stream:
        found.update(root_digest(file.root.attributes()).encode())
        for subset, subjects in subject_lists(file).items():
            for name in subjects:
                subject = file.root.group(name)
                found.update(repr((subset, name, digest_of_group(subject.attributes(), []))).encode())
                for group in subject.names:
                    if subject.is_group(group):
                        _add_group(found, subject.group(group), stream.fileno())
    return f"{VERSION}-{found.hexdigest()}"


def _add_group(found: Any, group: StoredGroup, descriptor: int) -> None:
    found.update(repr((group.name, digest_of_group(group.attributes(), []))).encode())
    for dataset in group.datasets():
        found.update(repr((dataset.name, dataset.shape, dataset.dtype.str, dataset.digest)).encode())
        _add_values(found, dataset, descriptor)


def _add_values(found: Any, dataset: StoredDataset, descriptor: int) -> None:
    extents = dataset.extents()
    if not extents:
        # In the metadata themselves, at most 64 kB; or no values at all.
        if dataset.nb_bytes and dataset.is_numeric:
            found.update(digest_of_array(dataset.read()).encode())
        return
    starts = np.array([start for start, _ in extents], dtype=np.int64)
    ends = np.cumsum([nb_bytes for _, nb_bytes in extents])
    total = int(ends[-1])
    nb_blocks = _BLOCKS_BESIDE_DIGEST if dataset.digest else _BLOCKS
    if total <= nb_blocks * _BLOCK:
        places, length = [0], total
    else:
        places, length = sorted({int(place) for place in np.linspace(0, total - _BLOCK, nb_blocks)}), _BLOCK
    for place in places:
        left, position = length, place
        while left > 0:
            piece = int(np.searchsorted(ends, position, side="right"))
            begin = int(ends[piece - 1]) if piece else 0
            take = min(left, int(ends[piece]) - position)
            found.update(_read(descriptor, int(starts[piece]) + position - begin, take, dataset))
            left, position = left - take, position + take


def _read(descriptor: int, start: int, nb_bytes: int, dataset: StoredDataset) -> bytes:
    with dataset.file.explained(dataset.name):
        read = os.pread(descriptor, nb_bytes, start)
    if len(read) != nb_bytes:
        dataset.file.refuse(dataset.name, "the file ends before its values do")
    return read


def is_older(fingerprint: str) -> bool:
    """Tell whether a fingerprint was computed by an earlier dwiml, with another algorithm."""
    return not fingerprint.startswith(f"{VERSION}-")
