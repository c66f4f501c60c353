"""The data of the benchmarks: streamlines of 30 to 200 mm with 0.5 to 2 mm between points, on 1 mm voxels."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from dwiml.hdf5 import schema

GRID = (96, 114, 96)


def random_streamlines(rng: np.random.Generator, nb: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return points (N, 3), voxel space, corner origin, of curves that wander, and the number of points of each."""
    lengths_mm, steps = rng.uniform(30, 200, nb), rng.uniform(0.5, 2, nb)
    lengths = np.maximum(np.rint(lengths_mm / steps).astype(np.int64), 1) + 1
    first = np.cumsum(lengths) - lengths
    towards = np.repeat(rng.normal(size=(nb, 3)), lengths, axis=0) + 0.3 * rng.normal(size=(lengths.sum(), 3))
    moves = towards / np.linalg.norm(towards, axis=1, keepdims=True) * np.repeat(steps, lengths)[:, None]
    moves[first] = 0
    walked = np.cumsum(moves, axis=0)
    starts = rng.uniform(0.3, 0.7, (nb, 3)) * GRID
    return (walked + np.repeat(starts - walked[first], lengths, axis=0)).astype(np.float32), lengths


@contextlib.contextmanager
def written_elsewhere(nb_subjects: int, nb_streamlines: int, *, nb_points: int | None = None) -> Iterator[Path]:
    """Give the path of a file of `write_file` for a while; another process writes it, so that this one stays small."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "streamlines.hdf5"
        numbers = [nb_subjects, nb_streamlines, *([] if nb_points is None else [nb_points])]
        subprocess.run([sys.executable, __file__, str(path), *map(str, numbers)], check=True)
        yield path


def write_file(
    path: Path, nb_subjects: int, nb_streamlines: int, *, nb_points: int | None = None, seed: int = 0
) -> Path:
    """Write an HDF5 file of training subjects without volumes.

    Parameters
    ----------
    path
        Where to.
    nb_subjects, nb_streamlines
        How many, and how many each of them has.
    nb_points
        Of each streamline, all straight along x (what the sampler needs); None for curves.
    seed
        Seed of the random lengths and curves.
    """
    rng = np.random.default_rng(seed)
    names = [f"sub-{i:03d}" for i in range(nb_subjects)]
    with h5py.File(path, "w") as handle:
        handle.attrs[schema.VERSION] = schema.SCHEMA_VERSION
        for subset, attribute in schema.SUBJECT_LISTS.items():
            subjects = names if subset == "training" else []
            handle.attrs.create(attribute, subjects, dtype=h5py.string_dtype())
        for name in names:
            if nb_points is None:
                points, lengths = random_streamlines(rng, nb_streamlines)
                mm = _lengths_mm(points, lengths)
            else:
                lengths = np.full(nb_streamlines, nb_points, dtype=np.int64)
                points = np.zeros((nb_streamlines * nb_points, 3), dtype=np.float32)
                mm = rng.uniform(30, 200, nb_streamlines)
                points[:, 0] = np.outer(mm, np.linspace(0, 1, nb_points)).ravel()
            _write_subject(handle.create_group(f"{name}/streamlines"), points, lengths, mm)
    return path


def _lengths_mm(points: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    moves = np.linalg.norm(np.diff(points, axis=0, prepend=points[:1]), axis=1)
    first = np.cumsum(lengths) - lengths
    moves[first] = 0
    return np.add.reduceat(moves, first)


def _write_subject(
    group: h5py.Group, points: npt.NDArray[Any], lengths: npt.NDArray[np.int64], mm: npt.NDArray[Any]
) -> None:
    group.attrs.update({"type": "streamlines", "space": "vox", "origin": "corner", "affine": np.eye(4)})
    group.attrs.update({"dimensions": np.array(GRID, dtype=np.int16), "voxel_sizes": np.ones(3, dtype=np.float32)})
    group.attrs["voxel_order"] = "RAS"
    group.create_dataset("data", data=points)
    group.create_dataset("lengths", data=lengths)
    group.create_dataset("offsets", data=np.cumsum(lengths) - lengths)
    group.create_dataset("euclidean_lengths", data=mm.astype(np.float32))


def _main(path: str, nb_subjects: str, nb_streamlines: str, nb_points: str | None = None) -> None:
    write_file(
        Path(path), int(nb_subjects), int(nb_streamlines), nb_points=None if nb_points is None else int(nb_points)
    )


if __name__ == "__main__":
    _main(*sys.argv[1:])
