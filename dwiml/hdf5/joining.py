"""Join HDF5 files: copy the subjects of several files into one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dwiml import __version__
from dwiml.arguments import quoted
from dwiml.hdf5 import file_writer, schema
from dwiml.hdf5.directions.recorded import check_same_directions
from dwiml.hdf5.stored import StoredGroup, open_hdf5
from dwiml.hdf5.stored.collection import HDF5Files, Structure, files_of, read_structure, united_attributes
from dwiml.hdf5.stored.digests import digest_of_rows
from dwiml.hdf5.stored.layout import root_digest, subject_lists
from dwiml.hdf5.stored.links import refuse_changed
from dwiml.hdf5.stored.provenance import root_provenances
from dwiml.params import checks_arguments
from dwiml.signals import ended_by_signals


@dataclass(frozen=True)
class JoinSummary:
    """Summary of the joined file.

    Attributes
    ----------
    path
        The joined file.
    nb_bytes
        Its size in bytes.
    files
        The files that were joined, in order.
    subjects
        {"training": [...], "validation": [...], "testing": [...]}.
    """

    path: Path
    nb_bytes: int
    files: list[Path]
    subjects: dict[str, list[str]] = field(default_factory=dict)


@checks_arguments
@ended_by_signals(activity="joining HDF5 files; the unfinished file is removed, and an existing one is kept")
def join_hdf5(
    hdf5_files: HDF5Files,
    out_hdf5: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
    command: str = "Python",
) -> JoinSummary:
    """Copy the subjects of several HDF5 files into one file.

    The files must fit together as for :class:`dwiml.MultiSubjectDataset`. Layout, attributes and digests of the
    subjects are kept, and the copies are compared with their digests. Subjects that a file does not list in one of its
    sets are not copied. The file is written atomically: it gets its name once it is complete, and until then an
    existing file is kept.

    Parameters
    ----------
    hdf5_files
        The files, in the order of their subjects; or a folder, for its files ``*.hdf5`` in the order of their names.
    out_hdf5
        The file to write.
    overwrite
        Replace ``out_hdf5`` if it exists and is an HDF5 file or an empty file.
    on_progress
        Called with (number of subjects done, total number, name of the subject just done), first with (0, total, "").
    command
        The command line, which is recorded in the file.

    Returns
    -------
    JoinSummary
        A summary of the file that was written. It has the fingerprint of the files together.

    Raises
    ------
    FileNotFoundError, FileExistsError, IsADirectoryError
        If a file is missing, or the output cannot be replaced.
        Also if it exists and holds subjects that the files do not have.
    ValueError
        If a file is damaged, or the files do not fit together. The message names the files.
    OSError
        If the disk does not have enough space.
    """
    files = files_of(hdf5_files)
    target = file_writer.checked_output(Path(out_hdf5), files, overwrite=overwrite)
    structure = read_structure(files)
    for group, recorded in structure.directions.items():
        check_same_directions(recorded, group)
    file_writer.refuse_other_kind(target)
    subjects = {
        subset: [name for lists in structure.subjects for name in lists[subset]] for subset in schema.SUBJECT_LISTS
    }
    total = sum(map(len, subjects.values()))
    file_writer.check_nb_subjects(total)
    _refuse_loss(target, subjects)
    report = on_progress or (lambda done, total, name: None)
    report(0, total, "")
    nb_bytes = sum(identity.nb_bytes for identity in structure.identities)
    with file_writer.atomic_hdf5(target, nb_bytes, overwrite=overwrite) as handle:
        for done, subject in enumerate(_subjects(structure), 1):
            _copy(subject, handle)
            report(done, total, subject.name)
        _write_root(handle, files)
        origin = {schema.DWIML_VERSION: __version__, schema.COMMAND: command, schema.JOINED: root_provenances(files)}
        file_writer.write_provenance(handle, origin)
    return JoinSummary(Path(out_hdf5), target.stat().st_size, files, subjects)


def _refuse_loss(target: Path, subjects: Mapping[str, Sequence[str]]) -> None:
    """Refuse to replace a file that holds other subjects: the last of the files was probably meant to be joined.

    Raises
    ------
    FileExistsError
        If `target` is such a file.
    """
    if not target.exists() or not target.stat().st_size:
        return
    with suppress(ValueError), open_hdf5(target) as file:
        known = {name for names in subjects.values() for name in names}
        lost = [name for names in subject_lists(file).values() for name in names if name not in known]
        if lost:
            raise FileExistsError(
                f"'{target}' holds other subjects ({quoted(lost, 5)}), which would be lost: give the name of a new "
                "file after those to join, or delete it first."
            )


def _subjects(structure: Structure) -> Iterator[StoredGroup]:
    """Yield the subjects of each subset in the order of the files; each file is open while its subjects are used."""
    for subset in schema.SUBJECT_LISTS:
        for path, identity, lists in zip(structure.files, structure.identities, structure.subjects, strict=True):
            if not lists[subset]:
                continue
            with open_hdf5(path) as file:
                if file.identity != identity:
                    identity.check(path)
                for name in lists[subset]:
                    yield file.root.group(name)


def _copy(subject: StoredGroup, handle: h5py.File) -> None:
    """Copy a subject, after a check of all its groups, and compare the values that were written with their digests."""
    for name in subject.names:
        if subject.is_group(name):
            subject.group(name).check_digest()
    # All objects are inside the file, also those behind soft links, which become copies.
    datasets = list(subject.datasets())
    with subject.file.explained(subject.name):
        subject.node.file.copy(subject.node, handle, name=subject.name, expand_soft=True)
        # Data buffered by HDF5 would escape the check of the disk space.
        handle.flush()
        for dataset in datasets:
            if (
                dataset.digest is not None
                and dataset.is_numeric
                and digest_of_rows(handle[dataset.name]) != dataset.digest
            ):
                refuse_changed(subject.file.path, dataset.name, "its values")


def _write_root(handle: h5py.File, files: Sequence[Path]) -> None:
    """Write the united root attributes, in the order of the first file, so that equal content gives equal bytes."""
    united = united_attributes(files)
    names: dict[str, None] = {}
    nb_with_digest = 0
    for path in files:
        with open_hdf5(path) as file:
            names |= dict.fromkeys(_in_file_order(file.root))
            nb_with_digest += file.root.has_attribute(schema.DIGEST)
    if nb_with_digest < len(files):
        names.pop(schema.DIGEST, None)
    names.pop(schema.PROVENANCE, None)
    for name in names:
        if name == schema.DIGEST:
            handle.attrs[name] = np.bytes_(root_digest(united))
        elif name == schema.DATE_AND_TIME:
            handle.attrs[name] = file_writer.now().strftime("%d %B %Y %H:%M:%S")
        else:
            _write_attribute(handle, name, united[name])


def _in_file_order(group: StoredGroup) -> list[str]:
    names: list[str] = []
    with group.file.explained(group.name):
        h5py.h5a.iterate(group.node.id, lambda name: names.append(name.decode()), order=h5py.h5.ITER_NATIVE)
    return names


def _write_attribute(handle: h5py.File, name: str, value: Any) -> None:
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        handle.attrs.create(name, value.tolist(), dtype=h5py.string_dtype())
    else:
        handle.attrs[name] = value
