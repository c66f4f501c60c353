"""Read the links and attributes of an HDF5 file, following links inside the file only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import h5py

from dwiml.hdf5 import schema
from dwiml.hdf5.stored.open_file import OpenFile

_MAX_LINKS = 32


def follow(file: OpenFile, node: Any, target: str, full: str, hops: list[int]) -> Any:
    """Return the object that a name or the path of a soft link refers to.

    Each component of the path is resolved separately, so that no link can lead out of the file.

    Parameters
    ----------
    file
        The open file.
    node
        The group where the path begins; an absolute path begins at the root.
    target
        The name or path.
    full
        Full name of the object, used in error messages.
    hops
        One number: the soft links followed so far. It is updated.

    Raises
    ------
    ValueError
        If the object does not exist, a link refers to another file, or links are circular.
    """
    with file.explained(full):
        current = node.file["/"] if target.startswith("/") else node
    for part in target.split("/"):
        if part in ("", "."):
            continue
        if not isinstance(current, h5py.Group):
            file.refuse(full, "a link leads nowhere")
        with file.explained(full):
            link = current.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(
                f"'{full}' of the HDF5 file '{file.path}' is a link to another file ('{link.filename}'), which is not "
                "followed; copy the data into the file."
            )
        if link is None:
            file.refuse(full, "a link leads nowhere" if hops[0] else "it is not in the file")
        if isinstance(link, h5py.SoftLink):
            hops[0] += 1
            if hops[0] > _MAX_LINKS:
                file.refuse(full, "its links are circular")
            current = follow(file, current, link.path, full, hops)
        else:
            with file.explained(full):
                current = current[part]
    return current


def attributes_of(file: OpenFile, node: Any, name: str) -> dict[str, Any]:
    """Return all attributes of an object except its digest."""
    file.check_texts(node, name)
    with file.explained(name):
        return {key: node.attrs[key] for key in node.attrs if key != schema.DIGEST}


def attribute_of(file: OpenFile, node: Any, name: str, attribute: str, default: Any) -> Any:
    """Return an attribute, or ``default`` if it does not exist.

    Raises
    ------
    ValueError
        If the attribute is damaged or empty (an HDF5 null dataspace).
    """
    file.check_texts(node, name)
    with file.explained(f"{name or '/'} (attribute '{attribute}')"):
        value = node.attrs.get(attribute, default)
    return checked_value(file, name, attribute, value)


def checked_value(file: OpenFile, name: str, attribute: str, value: Any) -> Any:
    """Return the value of an attribute; refuse an empty one (an HDF5 null dataspace)."""
    if isinstance(value, h5py.Empty):
        file.refuse(name, f"its attribute '{attribute}' is empty")
    return value


def written_digest(file: OpenFile, node: Any, name: str) -> str | None:
    """Return the digest stored with an object; None if there is none."""
    value = attribute_of(file, node, name, schema.DIGEST, None)
    return None if value is None else schema.read_text(value)


def refuse_changed(path: Path, name: str, what: str) -> NoReturn:
    """Raise a ValueError that reports an object that does not match its digest."""
    raise ValueError(
        f"'{name or '/'}' of the HDF5 file '{path}' does not match its digest: {what} changed. "
        "The file is damaged or was edited: copy it again or recreate it. If you edited it on purpose, delete the "
        f"attribute '{schema.DIGEST}' of the dataset, of its group and of the root."
    )
