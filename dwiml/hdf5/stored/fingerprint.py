"""Fingerprints of HDF5 files, to compare the data of two files without reading all of it."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np

from dwiml.files import open_regular
from dwiml.hdf5 import schema
from dwiml.hdf5.stored.collection import united_attributes
from dwiml.hdf5.stored.datasets import StoredDataset
from dwiml.hdf5.stored.digests import digest_of_array, digest_of_group
from dwiml.hdf5.stored.layout import open_hdf5, root_digest, subject_lists
from dwiml.hdf5.stored.nodes import StoredGroup

VERSION = "v2"
_BLOCK = 4096
# Number of blocks that are read from a large dataset, with and without a digest.
_BLOCKS_BESIDE_DIGEST = 8
_BLOCKS = 256


def fingerprint_of(path: str | os.PathLike[str], *others: str | os.PathLike[str]) -> str:
    """Return the fingerprint of a data set: the same for a copy, or for files recreated from the same input.

    For every listed subject, it covers all attributes except the provenance; the name, shape, dtype and digest of every
    dataset; and values of every dataset. A small dataset is read entirely (up to 32 kB with a digest, up to 1 MB
    without one, as in files of dwi_ml). A larger one is read in evenly spaced blocks of 4 kB (8 blocks with a digest,
    256 without). Therefore, any difference between files created with digests changes the fingerprint. An edit that
    does not update the digests changes it only if it touches one of the blocks; ``dwiml check_hdf5 --digests`` detects
    all such edits.

    Parameters
    ----------
    path
        The HDF5 file.
    *others
        Other files of the same data set, in order. The fingerprint is that of one file with all subjects, in which the
        subjects of each subset are in the order of the files; see :func:`dwiml.join_hdf5`.

    Returns
    -------
    str
        The version of the algorithm, and a BLAKE2b digest of 16 bytes in hexadecimal.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        See :func:`~dwiml.hdf5.stored.layout.open_hdf5`.
    """
    digest = hashlib.blake2b(digest_size=16)
    files = [path, *others]
    digest.update(root_digest(united_attributes(files)).encode())
    for subset in schema.SUBJECT_LISTS:
        for each in files:
            _add_subjects(digest, each, subset)
    return f"{VERSION}-{digest.hexdigest()}"


def _add_subjects(digest: Any, path: str | os.PathLike[str], subset: str) -> None:
    with open_hdf5(path) as file, open_regular(path, "HDF5 file") as stream:
        for name in subject_lists(file)[subset]:
            subject = file.root.group(name)
            digest.update(repr((subset, name, digest_of_group(subject.attributes(), []))).encode())
            for group in subject.names:
                if subject.is_group(group):
                    _add_group(digest, subject.group(group), stream.fileno())


def _add_group(digest: Any, group: StoredGroup, descriptor: int) -> None:
    attributes = {name: value for name, value in group.attributes().items() if name != schema.PROVENANCE}
    digest.update(repr((group.name, digest_of_group(attributes, []))).encode())
    for dataset in group.datasets():
        digest.update(repr((dataset.name, dataset.shape, dataset.dtype.str, dataset.digest)).encode())
        _add_values(digest, dataset, descriptor)


def _add_values(digest: Any, dataset: StoredDataset, descriptor: int) -> None:
    extents = dataset.extents()
    if not extents:
        # Stored within the metadata (at most 64 kB), or without any values.
        if dataset.nb_bytes and dataset.is_numeric:
            digest.update(digest_of_array(dataset.read()).encode())
        return
    starts = np.array([start for start, _ in extents], dtype=np.int64)
    ends = np.cumsum([nb_bytes for _, nb_bytes in extents])
    total = int(ends[-1])
    nb_blocks = _BLOCKS_BESIDE_DIGEST if dataset.digest else _BLOCKS
    if total <= nb_blocks * _BLOCK:
        positions, length = [0], total
    else:
        positions, length = sorted({int(start) for start in np.linspace(0, total - _BLOCK, nb_blocks)}), _BLOCK
    for position in positions:
        remaining = length
        while remaining > 0:
            extent = int(np.searchsorted(ends, position, side="right"))
            begin = int(ends[extent - 1]) if extent else 0
            nb_bytes = min(remaining, int(ends[extent]) - position)
            digest.update(_read(descriptor, int(starts[extent]) + position - begin, nb_bytes, dataset))
            remaining, position = remaining - nb_bytes, position + nb_bytes


def _read(descriptor: int, start: int, nb_bytes: int, dataset: StoredDataset) -> bytes:
    with dataset.file.explained(dataset.name):
        read = os.pread(descriptor, nb_bytes, start)
    if len(read) != nb_bytes:
        dataset.file.refuse(dataset.name, "the file ends before its values do")
    return read


def is_older(fingerprint: str) -> bool:
    """Return whether a fingerprint was computed by an earlier version of dwiml, with another algorithm."""
    return not fingerprint.startswith(f"{VERSION}-")
