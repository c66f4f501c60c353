"""The layout common to all HDF5 files of subjects: root attributes, lists of subjects, types of groups."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np

from dwiml.arguments import quoted
from dwiml.hdf5 import schema
from dwiml.hdf5.stored.digests import digest_of_group
from dwiml.hdf5.stored.nodes import StoredFile, StoredGroup


def open_hdf5(path: str | os.PathLike[str]) -> StoredFile:
    """Open an HDF5 file for reading, and check its root attributes.

    Parameters
    ----------
    path
        A file created by ``dwiml create_hdf5`` or by dwi_ml.

    Returns
    -------
    StoredFile
        The open file, to be used as a context manager.

    Raises
    ------
    FileNotFoundError, OSError
        If the file does not exist, or cannot be opened (no permission, a lock, too many open files).
    ValueError
        If it is not an HDF5 file, does not have the expected layout, is damaged, or was written by a later version.
    """
    file = StoredFile(path)
    try:
        _check_root(file)
    except BaseException:
        file.close()
        raise
    return file


def root_digest(attributes: dict[str, Any]) -> str:
    """Return the digest of the root attributes, except those that differ between otherwise equal files.

    These are the date, and the command line.
    """
    left_out = (schema.DATE_AND_TIME, schema.PROVENANCE, schema.DIGEST)
    return digest_of_group({name: value for name, value in attributes.items() if name not in left_out}, [])


def _check_root(file: StoredFile) -> None:
    missing = [name for name in schema.SUBJECT_LISTS.values() if not file.root.has_attribute(name)]
    if missing:
        raise ValueError(
            f"'{file.path}' has no root attributes {quoted(missing)}; give a file created by 'dwiml create_hdf5'."
        )
    version = np.asarray(file.root.attribute(schema.VERSION, schema.SCHEMA_VERSION))
    if version.shape != () or version.dtype.kind not in "iu" or version < 1:
        file.refuse("", f"its attribute '{schema.VERSION}' is not a version number")
    if version > schema.SCHEMA_VERSION:
        raise ValueError(
            f"'{file.path}' has schema version {version}, but this version of dwiml reads up to "
            f"{schema.SCHEMA_VERSION}; install a newer version of dwiml."
        )
    digest = file.root.attribute(schema.DIGEST)
    if digest is not None and schema.read_text(digest) != root_digest(file.root.attributes()):
        raise ValueError(
            f"The root attributes of the HDF5 file '{file.path}' do not match their digest. The file is damaged or was "
            "edited: copy it again or recreate it. If you edited it on purpose, delete the attribute "
            f"'{schema.DIGEST}' of the root."
        )


def groups_config(file: StoredFile) -> dict[str, dict[str, Any]]:
    """Return the groups config that a file was created from, {group: its entry}; empty if it is not recorded.

    If they are recorded, the entry of a volume group also has the key :data:`dwiml.hdf5.schema.FILES_FOUND`: its files
    in their order, and the number of features of each. dwi_ml writes the config as the repr of a dict, dwiml as JSON.
    """
    text = schema.read_text(file.root.attribute(schema.GROUPS_CONFIG, "{}"))
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError):
            # It must be valid JSON, because the parameters of an experiment include it.
            config = json.loads(json.dumps(parse(text), allow_nan=False))
            entries = {name: dict(entry) for name, entry in config.items() if isinstance(entry, dict)}
            found = _groups_files(file)
            for name, entry in entries.items():
                # Keys of dwiml, which a config never has.
                entry.pop(schema.FILES_FOUND, None)
                entry.pop(schema.GRIDS, None)
                if name in found:
                    entry[schema.FILES_FOUND] = found[name]
            return entries
    return {}


def _groups_files(hdf5: StoredFile) -> dict[str, list[dict[str, Any]]]:
    """Return the files that each volume group was created from; empty for older files, which do not record them."""
    with suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError):
        found = json.loads(schema.read_text(hdf5.root.attribute(schema.GROUPS_FILES, "{}")))
        return {
            str(name): [
                {
                    schema.FILE: str(file[schema.FILE]),
                    schema.NB_FEATURES: int(file[schema.NB_FEATURES]),
                    **({schema.DIRECTIONS: dict(file[schema.DIRECTIONS])} if schema.DIRECTIONS in file else {}),
                }
                for file in files
            ]
            for name, files in found.items()
        }
    return {}


def subject_lists(file: StoredFile) -> dict[str, list[str]]:
    """Return the subjects of ``training``, ``validation`` and ``testing``, in the order of the file.

    Raises
    ------
    ValueError
        If a listed subject is not in the file, has an invalid name, or is listed twice. A subject in two subsets would
        be used for both training and validation.
    """
    lists = {subset: _listed(file, subset) for subset in schema.SUBJECT_LISTS}
    seen: dict[str, str] = {}
    objects: dict[Any, str] = {}
    for subset, subjects in lists.items():
        absent = [name for name in subjects if name not in file.root]
        if absent:
            raise ValueError(
                f"'{file.path}' lists {quoted(absent, 5)} as {subset} subjects but does not contain them; recreate it."
            )
        for name in subjects:
            if name in seen:
                sets = f"the {subset} set" if seen[name] == subset else f"the {seen[name]} and the {subset} set"
                raise ValueError(
                    f"'{file.path}' lists '{name}' twice, in {sets}; a subject must be listed once: recreate it."
                )
            seen[name] = subset
            other = objects.setdefault(file.root.group(name).node, name)
            if other != name:
                raise ValueError(f"'{file.path}': subjects '{other}' and '{name}' refer to the same data; recreate it.")
    return lists


def _listed(file: StoredFile, subset: str) -> list[str]:
    attribute = schema.SUBJECT_LISTS[subset]
    value = np.atleast_1d(np.asarray(file.root.attribute(attribute), dtype=object))
    if value.ndim != 1:
        file.refuse("", f"its '{attribute}' is not a list of names")
    where = f"'{file.path}': a {subset} subject"
    return [schema.check_name(schema.read_text(name) if isinstance(name, bytes) else name, where) for name in value]


def groups_of_type(subject: StoredGroup, group_type: str) -> list[str]:
    """Return the names of a subject's groups of one type, sorted."""
    groups = [name for name in subject.names if subject.is_group(name)]
    return [name for name in groups if schema.read_text(subject.group(name).attribute(schema.TYPE, "")) == group_type]


def checked_group(
    subject: StoredGroup, group: str, names: Iterable[str], attributes: Iterable[str], *, verify: bool = True
) -> StoredGroup:
    """Return a group of a subject, after checking that it is complete.

    Parameters
    ----------
    subject
        The subject.
    group
        Name of the group.
    names, attributes
        Datasets and attributes that it must have.
    verify
        Whether to compare the group with its digest.

    Raises
    ------
    ValueError
        If something is missing or the digest differs. The message names the file, the subject and the group.
    """
    node = subject.group(group)
    missing = [name for name in names if name not in node]
    missing += [name for name in attributes if not node.has_attribute(name)]
    if missing:
        raise ValueError(
            f"'{subject.file.path}': group '{group}' of subject '{subject.name}' has no {quoted(missing)}; recreate it."
        )
    if verify:
        node.check_digest()
    return node
