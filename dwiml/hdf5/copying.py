"""Copy a subject from one HDF5 file to another."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import h5py

from dwiml.hdf5 import schema
from dwiml.hdf5.file_writer import check_room
from dwiml.hdf5.stored.digests import digest_of_rows
from dwiml.hdf5.stored.links import refuse_changed


def copy_subject(handle: h5py.File, source: Path, name: str, *, verify: bool = False) -> None:
    """Copy a subject from another file: layout, attributes and digests stay as they are.

    Parameters
    ----------
    handle
        The HDF5 file, open for writing.
    source
        The other HDF5 file.
    name
        Name of the subject, in both files.
    verify
        Read the copy, and compare its values with their digests.

    Raises
    ------
    OSError
        If the disk does not have enough space.
    ValueError
        If values do not match their digest.
    """
    with h5py.File(source, "r") as other:
        check_room(Path(handle.filename), _nb_bytes_stored(other[name]))
        other.copy(other[name], handle, name=name)
    # Data buffered by HDF5 would escape the next check of the disk space.
    handle.flush()
    if verify:
        handle[name].visititems(partial(_check_copied, source))


def _check_copied(source: Path, _: str, node: h5py.HLObject) -> None:
    digest = node.attrs.get(schema.DIGEST) if isinstance(node, h5py.Dataset) else None
    if digest is not None and digest_of_rows(node) != schema.read_text(digest):
        refuse_changed(source, node.name.strip("/"), "its values")


def _nb_bytes_stored(subject: h5py.Group) -> int:
    sizes: list[int] = []

    def note(_: str, node: h5py.HLObject) -> None:
        if isinstance(node, h5py.Dataset):
            sizes.append(int(node.id.get_storage_size()))

    subject.visititems(note)
    return sum(sizes)
