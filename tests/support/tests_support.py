"""A tiny HDF5 file, written straight with h5py so that reading is tested apart from creating."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from dwiml.hdf5 import file_writer, schema
from dwiml.hdf5.stored.digests import digest_of_array
from dwiml.hdf5.stored.layout import root_digest

# Oblique and anisotropic: a rotation about z of 20 degrees, voxels of 1.5 x 2 x 2.5 mm.
_ANGLE = np.deg2rad(20.0)
_ROTATION = np.array([[np.cos(_ANGLE), -np.sin(_ANGLE), 0], [np.sin(_ANGLE), np.cos(_ANGLE), 0], [0, 0, 1]])
VOXEL_SIZES = np.array([1.5, 2.0, 2.5])
AFFINE = np.eye(4)
AFFINE[:3, :3] = _ROTATION * VOXEL_SIZES
AFFINE[:3, 3] = [-12.0, 7.0, 3.0]
SHAPE = (12, 10, 9)
NB_FEATURES = 4


@contextmanager
def edited(path: Path) -> Iterator[h5py.File]:
    """Open a file to change it on purpose: its digests are deleted, as the sentence about them says."""
    with h5py.File(path, "r+") as handle:
        yield handle
        nodes: list[h5py.HLObject] = [handle]
        handle.visititems(lambda _, node: nodes.append(node))
        for node in nodes:
            node.attrs.pop(schema.DIGEST, None)


def add_digests(path: Path) -> Path:
    """Write the digests that ``dwiml create_hdf5`` writes."""
    with h5py.File(path, "r+") as handle:
        handle.visititems(lambda _, node: _add_digest(node) if isinstance(node, h5py.Dataset) else None)
        for subject in handle.values():
            file_writer.write_group_digests(subject)
        handle.attrs[schema.DIGEST] = np.bytes_(root_digest(dict(handle.attrs)))
    return path


def _add_digest(dataset: h5py.Dataset) -> None:
    dataset.attrs[schema.DIGEST] = np.bytes_(digest_of_array(dataset[()]))


def curved_streamlines(rng: np.random.Generator, nb: int, shape: tuple[int, int, int] = SHAPE) -> list[np.ndarray]:
    """Return smooth arcs of 8 to 40 points inside the volume (vox, corner)."""
    lines = []
    for _ in range(nb):
        n = int(rng.integers(8, 41))
        t = np.linspace(0, 1, n)[:, None]
        start, end = rng.uniform(0.15, 0.85, (2, 3)) * shape
        bend = rng.uniform(-0.1, 0.1, 3) * shape
        lines.append((start + (end - start) * t + bend * 4 * t * (1 - t)).astype(np.float32))
    return lines


def write_subject(
    handle: h5py.File, name: str, rng: np.random.Generator, nb_streamlines: int, affine: np.ndarray = AFFINE
) -> None:
    """Write one subject: a volume 'input', a mask 'wm_mask', streamlines 'streamlines'."""
    subject = handle.create_group(name)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    for group, features in (("input", NB_FEATURES), ("wm_mask", 1)):
        volume = subject.create_group(group)
        volume.attrs.update({"type": "volume", "affine": affine, "voxres": sizes, "nb_features": features})
        values = np.ones((*SHAPE, 1)) if group == "wm_mask" else rng.normal(size=(*SHAPE, features))
        volume.create_dataset("data", data=values.astype(np.float32))
    lines = curved_streamlines(rng, nb_streamlines)
    lengths = np.array([len(line) for line in lines], dtype=np.int64)
    group = subject.create_group("streamlines")
    group.attrs.update(
        {
            "type": "streamlines",
            "space": "vox",
            "origin": "corner",
            "affine": affine,
            "dimensions": np.array(SHAPE, dtype=np.int16),
            "voxel_sizes": sizes.astype(np.float32),
            "voxel_order": "RAS",
        }
    )
    points = np.concatenate(lines) if lines else np.zeros((0, 3), dtype=np.float32)
    group.create_dataset("data", data=points)
    group.create_dataset("lengths", data=lengths)
    group.create_dataset("offsets", data=np.cumsum(lengths) - lengths)
    mm = [np.linalg.norm(np.diff(line * sizes, axis=0), axis=1).sum() for line in lines]
    group.create_dataset("euclidean_lengths", data=np.array(mm, dtype=np.float32))
    dps = group.create_group("data_per_streamline")
    dps.create_dataset("id", data=np.arange(len(lines), dtype=np.float32)[:, None])


def write_hdf5(
    path: Path,
    training: dict[str, int],
    validation: dict[str, int] | None = None,
    testing: dict[str, int] | None = None,
    seed: int = 0,
) -> Path:
    """Write a file from {subject: number of streamlines} for each subset."""
    rng = np.random.default_rng(seed)
    subsets = {"training": training, "validation": validation or {}, "testing": testing or {}}
    with h5py.File(path, "w") as handle:
        handle.attrs[schema.VERSION] = schema.SCHEMA_VERSION
        for subset, subjects in subsets.items():
            handle.attrs.create(schema.SUBJECT_LISTS[subset], list(subjects), dtype=h5py.string_dtype())
            for name, nb_streamlines in subjects.items():
                write_subject(handle, name, rng, nb_streamlines)
    return path
