"""What every file of subjects has: its root, its lists of subjects, the type of each group."""

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
    """Open a file for reading, after the check that it is one of ours.

    Raises
    ------
    FileNotFoundError, OSError
        When there is no such file, or the system refuses it (no permission, a lock, too many open files).
    ValueError
        When it is no HDF5 file, lacks the layout, is damaged, or was written by a later version.
    """
    file = StoredFile(path)
    try:
        _check_root(file)
    except BaseException:
        file.close()
        raise
    return file


def root_digest(attributes: dict[str, Any]) -> str:
    """Return the digest of the root's attributes, but for the date, in which two equal files differ."""
    kept = {name: value for name, value in attributes.items() if name not in (schema.DATE_AND_TIME, schema.DIGEST)}
    return digest_of_group(kept, [])


def _check_root(file: StoredFile) -> None:
    missing = [name for name in schema.SUBJECT_LISTS.values() if not file.root.has_attribute(name)]
    if missing:
        raise ValueError(
            f"'{file.path}' was not made by 'dwiml create_hdf5': it lacks the root attributes {quoted(missing)}."
        )
    version = np.asarray(file.root.attribute(schema.VERSION, schema.SCHEMA_VERSION))
    if version.shape != () or version.dtype.kind not in "iu" or version < 1:
        file.refuse("", f"its '{schema.VERSION}' is not a version number")
    if version > schema.SCHEMA_VERSION:
        raise ValueError(
            f"'{file.path}' has schema version {version}; this dwiml reads up to {schema.SCHEMA_VERSION}: install a "
            "newer dwiml."
        )
    digest = file.root.attribute(schema.DIGEST)
    if digest is not None and schema.read_text(digest) != root_digest(file.root.attributes()):
        raise ValueError(
            f"The root attributes of the HDF5 file '{file.path}' are not as they were written (their digest differs). "
            "The file is damaged or was edited: copy it again or recreate it. If you edited it on purpose, delete the "
            f"attribute '{schema.DIGEST}' of the root."
        )


def groups_config(file: StoredFile) -> dict[str, dict[str, Any]]:
    """Return what a file was made from: {group: its entry in the groups config}; empty where it does not say.

    Volume groups also have :data:`dwiml.hdf5.schema.FILES_FOUND`, where it is known: the files in their order, and the
    features of each. dwi_ml writes the config as Python shows a dict, dwiml as JSON.
    """
    text = schema.read_text(file.root.attribute(schema.GROUPS_CONFIG, "{}"))
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError):
            # It is written as JSON again, in an experiment's parameters.
            config = json.loads(json.dumps(parse(text), allow_nan=False))
            entries = {name: dict(entry) for name, entry in config.items() if isinstance(entry, dict)}
            for name, files in _groups_files(file).items():
                if name in entries:
                    entries[name][schema.FILES_FOUND] = files
            return entries
    return {}


def _groups_files(file: StoredFile) -> dict[str, list[dict[str, Any]]]:
    """Return what files each volume group was made of; empty where the file, an older one, does not say."""
    with suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError):
        found = json.loads(schema.read_text(file.root.attribute(schema.GROUPS_FILES, "{}")))
        return {
            str(name): [
                {schema.FILE: str(each[schema.FILE]), schema.NB_FEATURES: int(each[schema.NB_FEATURES])}
                for each in files
            ]
            for name, files in found.items()
        }
    return {}


def subject_lists(file: StoredFile) -> dict[str, list[str]]:
    """Return the subjects of ``training``, ``validation`` and ``testing``, in the file's order.

    Raises
    ------
    ValueError
        When a listed subject is not in the file, cannot be a name, or is listed twice: in two sets, what is validated
        would have been trained on.
    """
    lists = {subset: _listed(file, subset) for subset in schema.SUBJECT_LISTS}
    seen: dict[str, str] = {}
    objects: dict[Any, str] = {}
    for subset, subjects in lists.items():
        absent = [name for name in subjects if name not in file.root]
        if absent:
            raise ValueError(
                f"'{file.path}' lists {quoted(absent, 5)} as {subset} subjects but does not hold them; recreate it."
            )
        for name in subjects:
            if name in seen:
                sets = f"the {subset} set" if seen[name] == subset else f"the {seen[name]} and the {subset} set"
                raise ValueError(
                    f"'{file.path}' lists '{name}' twice, in {sets}; a subject is in one set, once: recreate it."
                )
            seen[name] = subset
            other = objects.setdefault(file.root.group(name).node, name)
            if other != name:
                raise ValueError(
                    f"'{file.path}': subjects '{other}' and '{name}' are two names of the same data; recreate it."
                )
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
    """Return a group that has the datasets and attributes that are read without a default, and (verify) its digest.

    Raises
    ------
    ValueError
        Naming the file, the subject, the group and what it lacks.
    """
    node = subject.group(group)
    lacking = [name for name in names if name not in node]
    lacking += [name for name in attributes if not node.has_attribute(name)]
    if lacking:
        raise ValueError(f"'{subject.file.path}': group '{group}' of subject '{subject.name}' lacks {quoted(lacking)}.")
    if verify:
        node.check_digest()
    return node
