"""Read how an HDF5 file was created, and from which files each group was read."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

from dwiml.hdf5 import schema
from dwiml.hdf5.stored.layout import open_hdf5, subject_lists
from dwiml.hdf5.stored.nodes import StoredGroup


def provenance_of(node: StoredGroup) -> dict[str, Any]:
    """Return what the root or a group of a subject records about its origin.

    Parameters
    ----------
    node
        The root, or a group.

    Returns
    -------
    dict
        The content of its attribute :data:`~dwiml.hdf5.schema.PROVENANCE`; empty if it has none (files of dwi_ml or of
        earlier versions) or it is not a JSON object.
    """
    with suppress(ValueError, RecursionError):
        found = json.loads(schema.read_text(node.attribute(schema.PROVENANCE, "{}")))
        if isinstance(found, dict):
            return found
    return {}


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return how an HDF5 file was created, and from which files.

    Parameters
    ----------
    path
        The HDF5 file.

    Returns
    -------
    dict
        The keys of the root (version of dwiml, command line, options), and ``"subjects"``: {subject: {group: its
        source files, and for a volume the means and standard deviations of its standardization}}. What a file does not
        record is absent. The page "Creating the HDF5 file" describes all keys.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        See :func:`~dwiml.hdf5.stored.layout.open_hdf5`.
    """
    with open_hdf5(path) as file:
        subjects: dict[str, dict[str, Any]] = {}
        for name in [name for names in subject_lists(file).values() for name in names]:
            subject = file.root.group(name)
            groups = {group: subject.group(group) for group in subject.names if subject.is_group(group)}
            subjects[name] = {group: found for group, node in groups.items() if (found := provenance_of(node))}
        return {**provenance_of(file.root), "subjects": subjects}
