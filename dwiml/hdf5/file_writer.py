"""Write the HDF5 file atomically, in a layout that can be memory-mapped."""

from __future__ import annotations

import errno
import glob
import json
import logging
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dwiml.arguments import grouped, quoted
from dwiml.files import check_outputs, identity_of, open_regular, sync_folder
from dwiml.hdf5 import schema
from dwiml.hdf5.config import GroupsConfig
from dwiml.hdf5.stored.digests import digest_of_array, digest_of_group
from dwiml.hdf5.stored.layout import root_digest
from dwiml.ops.axes.conventions import Directions
from dwiml.ops.ragged import offsets
from dwiml.ops.resampling import Resampling, lengths_mm
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.tractogram import Streamlines

logger = logging.getLogger(__name__)

_ROOM_FOR_METADATA = 2**22
MOST_SUBJECTS = 4000


def checked_output(path: Path, inputs: Iterable[object], *, overwrite: bool, warn: bool = True) -> Path:
    """Check that the file can be written, and return its path with links resolved.

    Parameters
    ----------
    path
        The path given by the user.
    inputs
        Input files, which are never overwritten; other objects are ignored.
    overwrite
        Whether an existing file may be replaced.
    warn
        Warn about temporary files of killed runs in the same folder.

    Raises
    ------
    FileExistsError, FileNotFoundError, IsADirectoryError, PermissionError, ValueError
        See :func:`dwiml.files.check_outputs`.
    """
    input_files = [name for name in inputs if isinstance(name, (str, os.PathLike))]
    check_outputs({"The HDF5 file to write": path}, inputs=input_files, overwrite=overwrite)
    target = Path(os.path.realpath(path))
    if not warn:
        return target
    abandoned = sorted(target.parent.glob(f".{glob.escape(target.name)}.*.tmp"))
    if abandoned:
        logger.warning(
            "%s in '%s': unfinished files of runs that were killed or are still running; delete those of killed runs.",
            quoted([file.name for file in abandoned], 3),
            target.parent,
        )
    return target


def refuse_other_kind(path: Path) -> None:
    """Refuse to replace a non-empty file that is not HDF5: its name was probably given by mistake.

    Raises
    ------
    FileExistsError
        If `path` is such a file.
    """
    if not path.exists():
        return
    with open_regular(path, "The HDF5 file to write:") as stream:
        beginning = stream.read(len(schema.SIGNATURE))
    if beginning not in (b"", schema.SIGNATURE):
        raise FileExistsError(f"The HDF5 file to write: '{path}' exists and is not an HDF5 file; give another name.")


@contextmanager
def atomic_hdf5(
    target: Path, nb_bytes: int, *, overwrite: bool, folder: Path | None = None, durable: bool = True
) -> Iterator[h5py.File]:
    """Open a temporary HDF5 file next to ``target``, and rename it to ``target`` at the end of the block.

    Until then, an existing file at ``target`` is unchanged. If an error is raised, the temporary file is removed; if
    the process is killed, it remains, under a hidden name that ends in ``.tmp``.

    Parameters
    ----------
    target
        The final path.
    nb_bytes
        Lower bound of the size of the file, in bytes.
    overwrite
        Whether ``target`` may exist.
    folder
        Folder of the temporary file, on the same disk; None for that of ``target``.
    durable
        Wait until the file is on the disk: it is complete even after the machine fails.

    Raises
    ------
    OSError
        If the disk does not have enough space.
    FileExistsError
        If ``target`` was created in the meantime and `overwrite` is False.
    """
    temporary = (folder or target.parent) / f".{target.name}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.open("xb").close()
        check_room(temporary, nb_bytes)
        with h5py.File(temporary, "w") as handle:
            created = identity_of(temporary)
            yield handle
        if identity_of(temporary) != created:
            raise OSError(
                f"The unfinished file '{temporary}' was deleted or replaced while it was written; run the same again."
            )
        if durable:
            sync(temporary)
        if target.exists() and not overwrite:
            raise FileExistsError(
                f"'{target}' was created in the meantime; choose another name, or replace it with overwrite=True."
            )
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        sync_folder(target.parent)


def check_room(path: Path, nb_bytes: int) -> None:
    """Check that a file can grow by a number of bytes plus the metadata of HDF5.

    HDF5 may crash when it cannot write while closing a file, so the space is checked beforehand.

    Raises
    ------
    OSError
        If the disk does not have enough space.
    """
    if sys.platform == "darwin":
        return
    # Never created here: an empty file would take the place of one that was deleted while it is written. In append
    # mode, a file system without fallocate refuses it, instead of writing zeros.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    with os.fdopen(descriptor, "ab") as stream:
        size = os.fstat(stream.fileno()).st_size
        try:
            os.posix_fallocate(stream.fileno(), size, nb_bytes + _ROOM_FOR_METADATA)
        except OSError as error:
            # Any other error means that this file system does not support the check.
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                megabytes = (nb_bytes + _ROOM_FOR_METADATA) / 1e6
                raise OSError(
                    f"'{path.parent}' has no space for another {megabytes:.1f} MB of the HDF5 file "
                    f"({os.strerror(error.errno)}); free some space, or write to another disk."
                ) from error
        finally:
            os.ftruncate(stream.fileno(), size)


def write_root(
    handle: h5py.File,
    subjects: Mapping[str, Sequence[str]],
    config: GroupsConfig,
    resample: Resampling,
    files: Mapping[str, Sequence[tuple[str, int]]],
    directions: Mapping[str, Sequence[Directions | None]],
    *,
    text: str | None = None,
) -> None:
    """Write the root attributes.

    Parameters
    ----------
    handle
        The HDF5 file, open for writing.
    subjects
        {subset: its subjects}.
    config
        The groups config.
    resample
        The resampling that was applied to all streamlines.
    files
        {volume group: [(file, number of features), ...]}.
    directions
        {volume group: convention of each of these files}; None where it is unknown.
    text
        The files and their conventions as text, if another file already records them.
    """
    chosen = [name for names in subjects.values() for name in names]
    check_nb_subjects(len(chosen))
    handle.attrs[schema.VERSION] = schema.SCHEMA_VERSION
    for subset, names in subjects.items():
        handle.attrs.create(schema.SUBJECT_LISTS[subset], list(names), dtype=h5py.string_dtype())
    handle.attrs.create(schema.CHOSEN_SUBJS, chosen, dtype=h5py.string_dtype())
    options = {
        schema.STEP_SIZE: resample.step_size,
        schema.NB_POINTS: resample.nb_points,
        schema.COMPRESS: resample.compress,
    }
    for name, value in options.items():
        handle.attrs[name] = schema.NOT_DEFINED if value is None else value
    handle.attrs[schema.GROUPS_CONFIG] = config.text
    named = {
        group: [
            {schema.FILE: file, schema.NB_FEATURES: nb, **({} if read is None else {schema.DIRECTIONS: read.as_dict()})}
            for (file, nb), read in zip(listed, directions[group], strict=True)
        ]
        for group, listed in files.items()
    }
    handle.attrs[schema.GROUPS_FILES] = json.dumps(named) if text is None else text
    handle.attrs[schema.DIGEST] = np.bytes_(root_digest(dict(handle.attrs)))
    handle.attrs[schema.DATE_AND_TIME] = now().strftime("%d %B %Y %H:%M:%S")


def check_nb_subjects(nb: int) -> None:
    """Check that the names of all subjects can be attributes of one file, which HDF5 limits to 64 KiB.

    Raises
    ------
    ValueError
        If there are too many.
    """
    if nb > MOST_SUBJECTS:
        raise ValueError(
            f"One HDF5 file can list {grouped(MOST_SUBJECTS)} subjects, not {grouped(nb)}: create several files, and "
            "give the list or the folder of these files instead of one file."
        )


def sync(path: Path) -> None:
    """Wait until what a file holds so far is on the disk."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def now() -> datetime:
    """Return the local time, the only content of the file that differs between two runs."""
    return datetime.now()


def write_volume(
    subject: h5py.Group,
    name: str,
    data: NDArray[np.float32],
    grid: Grid,
    directions: Sequence[tuple[int, Directions | None]] = (),
) -> None:
    """Write a volume group.

    Parameters
    ----------
    subject
        The group of the subject, open for writing.
    name
        Name of the volume group.
    data
        Shape (X, Y, Z, F), float32: F features per voxel, voxel axes.
    grid
        The voxel grid.
    directions
        For each file, its number of features and the convention from which they were converted, or None if it is
        unknown.
    """
    group = subject.create_group(name)
    group.attrs[schema.TYPE] = schema.TYPE_VOLUME
    group.attrs[schema.AFFINE] = grid.affine
    group.attrs[schema.VOXRES] = grid.voxel_sizes.astype(np.float32)
    group.attrs[schema.NB_FEATURES] = data.shape[-1]
    if any(read is not None for _, read in directions):
        group.attrs[schema.DIRECTIONS] = directions_text(directions)
    _write_array(group, schema.DATA, data)


def directions_text(directions: Sequence[tuple[int, Directions | None]]) -> str:
    """Return the conventions of a volume group, as stored and as read, as JSON; see :func:`write_volume`."""

    def entries(conventions: Iterable[Directions | None]) -> list[dict[str, Any]]:
        counts = [nb for nb, _ in directions]
        return [
            {schema.NB_FEATURES: nb, **({} if known is None else known.as_dict())}
            for nb, known in zip(counts, conventions, strict=True)
        ]

    read = [each for _, each in directions]
    stored = [None if each is None else each.stored for each in read]
    return json.dumps({schema.DIRECTIONS_STORED: entries(stored), schema.DIRECTIONS_READ: entries(read)})


def write_streamlines(subject: h5py.Group, name: str, data: Streamlines, grid: Grid) -> None:
    """Write a streamlines group.

    Parameters
    ----------
    subject
        The group of the subject, open for writing.
    name
        Name of the streamlines group.
    data
        The streamlines; points of shape (N, 3), float32, in voxel space, corner origin.
    grid
        The voxel grid of the subject's volumes.
    """
    group = subject.create_group(name)
    group.attrs[schema.TYPE] = schema.TYPE_STREAMLINES
    group.attrs[schema.SPACE] = "vox"
    group.attrs[schema.ORIGIN] = "corner"
    group.attrs[schema.AFFINE] = grid.affine
    group.attrs[schema.DIMENSIONS] = np.array(grid.shape, dtype=np.int16)
    group.attrs[schema.VOXEL_SIZES] = grid.voxel_sizes.astype(np.float32)
    group.attrs[schema.VOXEL_ORDER] = grid.voxel_order
    _write_array(group, schema.DATA, data.points)
    _write_array(group, schema.OFFSETS, offsets(data.lengths))
    _write_array(group, schema.LENGTHS, data.lengths)
    _write_array(group, schema.EUCLIDEAN_LENGTHS, lengths_mm(data.points, data.lengths, grid.voxel_sizes))
    if data.dps:
        per_streamline = group.create_group(schema.DATA_PER_STREAMLINE)
        for key, values in data.dps.items():
            _write_array(per_streamline, key, values)


def write_provenance(node: h5py.Group, recorded: Mapping[str, Any]) -> None:
    """Write how the file was created (root), or what a group of a subject was created from.

    Parameters
    ----------
    node
        The root or the group, open for writing.
    recorded
        Content that JSON can hold; see :data:`dwiml.hdf5.schema.PROVENANCE`.
    """
    node.attrs[schema.PROVENANCE] = json.dumps(recorded, allow_nan=False)


def write_group_digests(subject: h5py.Group) -> None:
    """Write the digest of each group of a subject, once its content is written.

    See :func:`dwiml.hdf5.stored.digests.digest_of_group`.
    """
    for group in subject.values():
        datasets: list[tuple[str, tuple[int, ...], str, str]] = []
        group.visititems(partial(_note_dataset, datasets))
        write_digest(group, digest_of_group(dict(group.attrs), datasets))


def _note_dataset(found: list[tuple[str, tuple[int, ...], str, str]], name: str, node: h5py.HLObject) -> None:
    if isinstance(node, h5py.Dataset):
        found.append((name, node.shape, node.dtype.str, schema.read_text(node.attrs[schema.DIGEST])))


def _write_array(group: h5py.Group, name: str, values: NDArray[np.generic]) -> None:
    check_room(Path(group.file.filename), values.nbytes)
    # Contiguous and uncompressed, so that it can be memory-mapped; without time stamp, so that the same input gives the
    # same bytes.
    dataset = group.create_dataset(name, data=values, track_times=False)
    write_digest(dataset, digest_of_array(values))


def write_digest(node: h5py.HLObject, digest: str) -> None:
    """Write the digest of a dataset or a group."""
    node.attrs[schema.DIGEST] = np.bytes_(digest)
