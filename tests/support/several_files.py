"""The same subjects in one HDF5 file and in several, written with h5py alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from tests_support import add_digests, write_hdf5

from dwiml.hdf5 import schema
from dwiml.hdf5.stored.layout import root_digest

PARTS: list[dict[str, list[str]]] = [
    {"training": ["sub-a"]},
    {"training": ["sub-b"], "validation": ["sub-d"]},
    {"training": ["sub-c"], "testing": ["sub-e"]},
]


def write_whole(path: Path) -> Path:
    """Write three training subjects, one validation subject and one testing subject, with digests."""
    whole = write_hdf5(path, {"sub-a": 30, "sub-b": 20, "sub-c": 10}, {"sub-d": 12}, {"sub-e": 5})
    with h5py.File(whole, "r+") as handle:
        names = [name for attribute in schema.SUBJECT_LISTS.values() for name in handle.attrs[attribute]]
        handle.attrs.create(schema.CHOSEN_SUBJS, names, dtype=h5py.string_dtype())
        for name in (schema.STEP_SIZE, schema.NB_POINTS, schema.COMPRESS):
            handle.attrs[name] = schema.NOT_DEFINED
    return add_digests(whole)


def split(
    whole: Path, folder: Path, parts: Sequence[Mapping[str, Sequence[str]]] = PARTS, *, digests: bool = True
) -> list[Path]:
    """Copy the subjects of a file into files of a folder: part-0.hdf5, part-1.hdf5, ..."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, part in enumerate(parts):
        path = folder / f"part-{number}.hdf5"
        with h5py.File(whole) as source, h5py.File(path, "w") as target:
            for name, value in source.attrs.items():
                if name not in (*schema.SUBJECT_LISTS.values(), schema.CHOSEN_SUBJS, schema.DIGEST):
                    target.attrs[name] = value
            chosen: list[str] = []
            for subset, attribute in schema.SUBJECT_LISTS.items():
                names = list(part.get(subset, ()))
                target.attrs.create(attribute, names, dtype=h5py.string_dtype())
                chosen += names
                for name in names:
                    source.copy(name, target)
            target.attrs.create(schema.CHOSEN_SUBJS, chosen, dtype=h5py.string_dtype())
            if digests:
                target.attrs[schema.DIGEST] = np.bytes_(root_digest(dict(target.attrs)))
        paths.append(path)
    return paths


def change_root(path: Path, name: str, value: object) -> None:
    """Change a root attribute of a file, and update its digest."""
    with h5py.File(path, "r+") as handle:
        handle.attrs[name] = value
        handle.attrs[schema.DIGEST] = np.bytes_(root_digest(dict(handle.attrs)))
