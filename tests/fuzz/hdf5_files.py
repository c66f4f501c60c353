"""HDF5 files with one thing wrong: each a function of its number, made from a good one."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from tests_support import AFFINE, SHAPE, curved_streamlines, write_hdf5

from dwiml import MultiSubjectDataset
from dwiml.batching.compatibility import check_grids
from dwiml.cli import run_command
from dwiml.hdf5 import file_writer
from dwiml.hdf5.config import load_config
from dwiml.hdf5.stored.digests import digest_of_array
from dwiml.ops.resampling import Resampling
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.tractogram import Streamlines

SUBJECTS = {"training": ["sub-a", "sub-b"], "validation": ["sub-c"], "testing": []}
_CONFIG = {
    "input": {"type": "volume", "files": ["x.nii.gz"]},
    "streamlines": {"type": "streamlines", "files": ["x.trk"], "dps_keys": ["id"]},
}

# What may come of a file: a sentence, or
EQUAL = "the reading of the good file"
ANY = "any reading: the change is a valid one, or cannot be seen without digests"
REFUSED = "nothing else"
FOUND = "any reading, and 'check_hdf5 --digests' names the damage"


@dataclass(frozen=True)
class Mutation:
    """A file with one thing wrong.

    Attributes
    ----------
    number, base, kind
        What it was made from and how.
    path
        Where it is.
    expected
        One of the four above.
    """

    number: int
    base: str
    kind: str
    path: Path
    expected: str


def write_bases(folder: Path) -> dict[str, Path]:
    """Write a file with digests, as dwiml makes it, and one without, as dwi_ml does."""
    path = folder / "digests.hdf5"
    rng = np.random.default_rng(0)
    grid = Grid.from_header(AFFINE, SHAPE, path)
    with h5py.File(path, "w") as handle:
        file_writer.write_root(handle, SUBJECTS, load_config(_CONFIG), Resampling(), {}, {})
        for name in [name for names in SUBJECTS.values() for name in names]:
            subject = handle.create_group(name)
            file_writer.write_volume(subject, "input", rng.normal(size=(*SHAPE, 3)).astype(np.float32), grid)
            lines = curved_streamlines(rng, 9)
            lengths = np.array([len(line) for line in lines], dtype=np.int64)
            dps = {"id": np.arange(len(lines), dtype=np.float32)[:, None]}
            data = Streamlines(np.concatenate(lines), lengths, dps, 0)
            file_writer.write_streamlines(subject, "streamlines", data, grid)
            file_writer.write_group_digests(subject)
    plain = write_hdf5(folder / "plain.hdf5", {"sub-a": 9, "sub-b": 8}, {"sub-c": 7})
    return {"digests": path, "plain": plain}


def reading(path: Path, *, lazy: bool) -> str:
    """Return a digest of all that is read of a file."""
    dataset = MultiSubjectDataset(path, lazy=lazy)
    dataset.load_data()
    # As every batch loader does.
    check_grids(dataset, "input", "streamlines")
    found = hashlib.blake2b(repr((dataset.volume_groups, dataset.streamline_groups, dataset.nb_features)).encode())
    for subset in (dataset.training_set, dataset.validation_set, dataset.testing_set):
        found.update(repr((subset.name, subset.subjects)).encode())
        for subject in subset:
            for volume in subject.volumes.values():
                for array in (volume.as_tensor().numpy(), volume.affine, volume.voxel_sizes):
                    found.update(digest_of_array(array).encode())
            for lines in subject.streamlines.values():
                points, lengths = lines.gather()
                arrays = [points, lengths, lines.lengths_mm, lines.affine, lines.dimensions]
                for key in sorted(lines.data_per_streamline):
                    found.update(key.encode())
                    arrays.append(lines.gather_data_per_streamline(key))
                for array in arrays:
                    found.update(digest_of_array(array).encode())
    return found.hexdigest()


def read_command(path: Path, *, lazy: bool) -> int:
    """Read a file as a command does; print the digest of what was read."""

    def act() -> None:
        sys.stdout.write(f"{reading(path, lazy=lazy)}\n")

    return run_command(act, parser=argparse.ArgumentParser())


class HDF5Files:
    """Makes the files of numbers, in a folder."""

    def __init__(self, folder: Path, bases: dict[str, Path]) -> None:
        self.folder, self.bases = folder, bases
        self._payload = {name: list(_extents(path)) for name, path in bases.items()}

    def make(self, number: int) -> Mutation:
        """Write one file; the same for the same number."""
        rng = np.random.default_rng([number, 20261125])
        base = ("digests", "plain")[number % 2]
        kind = list(KINDS)[(number // 2) % len(KINDS)]
        path = self.folder / f"{number}.hdf5"
        shutil.copy(self.bases[base], path)
        change, with_digests, without = KINDS[kind]
        change(path, rng, self._payload[base])
        return Mutation(number, base, kind, path, with_digests if base == "digests" else without)


def _extents(path: Path) -> Iterator[tuple[int, int]]:
    """Yield first byte and end of each dataset's values."""
    found: list[tuple[int, int]] = []

    def note(_: str, node: h5py.HLObject) -> None:
        if isinstance(node, h5py.Dataset) and node.id.get_offset() is not None:
            found.append((node.id.get_offset(), node.id.get_offset() + node.nbytes))

    with h5py.File(path) as handle:
        handle.visititems(note)
    yield from sorted(found)


Extents = list[tuple[int, int]]


def _place(path: Path, rng: np.random.Generator, payload: Extents, *, in_payload: bool) -> int:
    """Draw a byte, among the values or among all else."""
    size = path.stat().st_size
    while True:
        place = int(rng.integers(size))
        if any(start <= place < end for start, end in payload) == in_payload:
            return place


def _flip(path: Path, rng: np.random.Generator, payload: Extents, *, in_payload: bool) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 9))):
        content[_place(path, rng, payload, in_payload=in_payload)] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def flipped_metadata(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    _flip(path, rng, payload, in_payload=False)


def flipped_values(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    _flip(path, rng, payload, in_payload=True)


def zeroed_block(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    content = bytearray(path.read_bytes())
    place = _place(path, rng, payload, in_payload=False)
    for position in range(place, min(place + int(rng.integers(8, 400)), len(content))):
        if not any(start <= position < end for start, end in payload):
            content[position] = 0
    path.write_bytes(content)


def cut_off(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    os.truncate(path, int(rng.integers(path.stat().st_size)))


def made_longer(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    with path.open("ab") as stream:
        stream.write(rng.bytes(int(rng.integers(1, 5000))))


def _group(handle: h5py.File, rng: np.random.Generator) -> h5py.Group:
    subject = handle[str(rng.choice(["sub-a", "sub-b", "sub-c"]))]
    return subject[str(rng.choice(["input", "streamlines"]))]


def _dataset_name(group: h5py.Group, rng: np.random.Generator) -> str:
    names = ["data"] if group.attrs["type"] == "volume" else ["data", "lengths", "offsets", "euclidean_lengths"]
    return str(rng.choice(names))


ODD_VALUES = [
    h5py.Empty("f4"),
    "",
    b"\x01\xff",
    "../..",
    "é" * 300,
    np.nan,
    -1,
    2**63 - 1,
    np.zeros((4, 4)),
    np.full((4, 4), np.inf),
    np.eye(3),
    np.arange(16.0).reshape(4, 4),
    np.array([b"x", b"y"]),
    [1e300] * 3,
    np.array([0, 0, 0], dtype=np.int16),
    np.array([-3, 10, 10]),
    np.bool_(True),
    np.void(b"abc"),
]


def odd_attribute(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    with h5py.File(path, "r+") as handle:
        node = handle if rng.random() < 0.25 else _group(handle, rng)
        name = str(rng.choice([name for name in sorted(node.attrs) if name != "dwiml_digest"]))
        value = ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
        del node.attrs[name]
        if rng.random() < 0.8:
            node.attrs[name] = value


def odd_affine(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    with h5py.File(path, "r+") as handle:
        group = _group(handle, rng)
        affine = np.array(group.attrs["affine"])
        change = int(rng.integers(4))
        if change == 0:
            affine[:3, 0] += affine[:3, 1] * rng.uniform(0.1, 0.9)
        elif change == 1:
            affine[:3, :3] *= float(rng.choice([1e-30, 1e30]))
        elif change == 2:
            affine[:3, 0] = affine[:3, 1]
        else:
            affine[int(rng.integers(3)), int(rng.integers(4))] = rng.choice([np.nan, np.inf])
        group.attrs["affine"] = affine


def other_shape(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    with h5py.File(path, "r+") as handle:
        group = _group(handle, rng)
        name = _dataset_name(group, rng)
        values = group[name][()]
        shapes = [
            lambda: values[..., None],
            lambda: values.reshape(-1)[:-1],
            lambda: values.reshape(1, -1),
            lambda: values[:-2],
            lambda: np.float32(3),
            lambda: values[:0],
            lambda: np.concatenate([values, values[:3]]),
        ]
        attributes = dict(group[name].attrs)
        del group[name]
        group[name] = shapes[int(rng.integers(len(shapes)))]()
        group[name].attrs.update(attributes)


def other_type(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    with h5py.File(path, "r+") as handle:
        group = _group(handle, rng)
        name = _dataset_name(group, rng)
        values = group[name][()]
        attributes = dict(group[name].attrs)
        del group[name]
        kind = int(rng.integers(5))
        if kind == 0:
            group.create_dataset(name, data=values.astype(complex))
        elif kind == 1:
            group.create_dataset(name, data=np.full(values.shape, "1", dtype=h5py.string_dtype()))
        elif kind == 2:
            group.create_dataset(name, data=np.zeros(values.shape, dtype=[("x", "f4"), ("y", "i4")]))
        elif kind == 3:
            group.create_dataset(name, data=values.astype("S8"))
        else:
            group.create_group(name)
        group[name].attrs.update(attributes)


def external_storage(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    with h5py.File(path, "r+") as handle:
        group = _group(handle, rng)
        name = _dataset_name(group, rng)
        shape, dtype = group[name].shape, group[name].dtype
        attributes = dict(group[name].attrs)
        del group[name]
        target = str(rng.choice(["/proc/self/environ", "/dev/zero", str(path.with_suffix(".raw"))]))
        group.create_dataset(name, shape, dtype, external=[(target, 0, h5py.h5f.UNLIMITED)])
        group[name].attrs.update(attributes)


def virtual_dataset(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    with h5py.File(path, "r+") as handle:
        group = _group(handle, rng)
        name = _dataset_name(group, rng)
        shape, dtype = group[name].shape, group[name].dtype
        source = "." if rng.random() < 0.3 else str(rng.choice(["missing.hdf5", str(path)]))
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource(source, f"{group.name}/moved", shape=shape)
        group.move(name, "moved")
        group.create_virtual_dataset(name, layout)
        group[name].attrs.update(group["moved"].attrs)


def odd_link(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    with h5py.File(path, "r+") as handle:
        name = str(
            rng.choice(["sub-a", "sub-b/input", "sub-a/streamlines", "sub-b/input/data", "sub-a/streamlines/data"])
        )
        del handle[name]
        kind = int(rng.integers(6))
        if kind == 0:
            handle[name] = h5py.ExternalLink(str(path), "/sub-c/streamlines")
        elif kind == 1:
            handle[name] = h5py.ExternalLink("/proc/self/environ", "/")
        elif kind == 2:
            handle[name] = h5py.SoftLink(f"/{name}")
        elif kind == 3:
            handle["one"], handle["two"] = h5py.SoftLink("/two"), h5py.SoftLink("/one")
            handle[name] = h5py.SoftLink("/one")
        elif kind == 4:
            handle["away"] = h5py.ExternalLink(str(path), "/")
            handle[name] = h5py.SoftLink("/away/sub-c")
        else:
            handle[name] = h5py.SoftLink("/nowhere/at/all")


def harmless_link(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    with h5py.File(path, "r+") as handle:
        name = str(rng.choice(["sub-a", "sub-b/input", "sub-a/streamlines", "sub-b/input/data"]))
        handle.move(name, "moved")
        handle[name] = h5py.SoftLink("/moved")


def same_data_twice(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    with h5py.File(path, "r+") as handle:
        del handle["sub-c"]
        handle["sub-c"] = handle["sub-a"] if rng.random() < 0.5 else h5py.SoftLink("/sub-b")


def odd_runs(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    with h5py.File(path, "r+") as handle:
        group = handle["sub-b/streamlines"]
        name = str(rng.choice(["offsets", "lengths"]))
        values = group[name][()]
        low, high = (2, len(values)) if name == "offsets" else (0, len(values))
        odd = [2**63 - 1, 2**63 - 5, -1, -(2**63), 2**31, 10**6]
        if name == "offsets":
            odd.append(int(values[0]))
        values[int(rng.integers(low, high))] = odd[int(rng.integers(len(odd)))]
        group[name][...] = values


def odd_coordinate(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    with h5py.File(path, "r+") as handle:
        data = handle["sub-b/streamlines/data"]
        data[int(rng.integers(len(data))), int(rng.integers(3))] = rng.choice([np.nan, np.inf, 1e6, -1e12, 3e38])


def odd_length_mm(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    with h5py.File(path, "r+") as handle:
        data = handle["sub-b/streamlines/euclidean_lengths"]
        place = int(rng.integers(len(data)))
        data[place] = rng.choice([np.nan, -1, np.inf, data[place] * 1.1 + 1, 0.0])


def bomb(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    with h5py.File(path, "r+") as handle:
        group = handle["sub-b"][str(rng.choice(["input", "streamlines"]))]
        is_volume = group.attrs["type"] == "volume"
        attributes = dict(group["data"].attrs)
        features = group["data"].shape[-1]
        del group["data"]
        kind = int(rng.integers(4))
        if kind == 0:
            # Contiguous, and never written.
            shape = (20000, 20000, 200, features) if is_volume else (10**11, 3)
            group.create_dataset("data", shape, np.float32)
        elif kind == 1:
            shape = (20000, 20000, 200, features) if is_volume else (10**11, 3)
            group.create_dataset("data", shape, np.float32, chunks=(64,) * 3 + (features,) if is_volume else (2**18, 3))
        else:
            # One packed piece of 64 MB of zeros, many times: 6 GB.
            chunk = (2**8, 2**8, 2**8 // features, features) if is_volume else (2**24 // 3, 3)
            shape = (chunk[0] * 96, *chunk[1:])
            options = {"chunks": chunk, "compression": "gzip"}
            data = group.create_dataset("data", shape, np.float32, **options)
            packed = zlib.compress(bytes(int(np.prod(chunk)) * 4), 9)
            for piece in range(96 if kind == 2 else 1):
                data.id.write_direct_chunk((piece * chunk[0],) + (0,) * (len(chunk) - 1), packed)
        group["data"].attrs.update(attributes)


def missing(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    names = ["sub-a", "sub-b/streamlines", "sub-c/input", "sub-b/streamlines/lengths", "sub-a/input/data"]
    with h5py.File(path, "r+") as handle:
        name = str(rng.choice(names))
        if rng.random() < 0.5:
            handle.move(name, f"{name}_")
        else:
            del handle[name]


def odd_subjects(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    names: list[list[str] | str | float] = [
        ["sub-a", "sub-a"],
        ["sub-a", "sub-b", "sub-c"],
        ["../../outside"],
        ["/etc"],
        ["."],
        [""],
        ["sub-a/input"],
        ["sub-a\x1b[2J"],
        ["sub-x"],
        [["sub-a"], ["sub-b"]],
        7.0,
    ]
    with h5py.File(path, "r+") as handle:
        handle.attrs["training_subjs"] = names[int(rng.integers(len(names)))]


def no_regular_file(path: Path, rng: np.random.Generator, payload: Extents) -> None:
    path.unlink()
    if rng.random() < 0.5:
        os.mkfifo(path)
    else:
        path.write_bytes(b"" if rng.random() < 0.5 else rng.bytes(3000))


Change = Callable[[Path, np.random.Generator, Extents], None]
# What is expected of the file with digests, and of the one without.
KINDS: dict[str, tuple[Change, str, str]] = {
    "flipped metadata": (flipped_metadata, EQUAL, ANY),
    "zeroed block": (zeroed_block, EQUAL, ANY),
    "flipped values": (flipped_values, FOUND, ANY),
    "cut off": (cut_off, REFUSED, REFUSED),
    "made longer": (made_longer, EQUAL, EQUAL),
    "odd attribute": (odd_attribute, EQUAL, ANY),
    "odd affine": (odd_affine, REFUSED, REFUSED),
    "other shape": (other_shape, REFUSED, EQUAL),
    "other type": (other_type, REFUSED, REFUSED),
    "external storage": (external_storage, REFUSED, REFUSED),
    "virtual dataset": (virtual_dataset, REFUSED, REFUSED),
    "odd link": (odd_link, REFUSED, REFUSED),
    "harmless link": (harmless_link, EQUAL, EQUAL),
    "same data twice": (same_data_twice, REFUSED, REFUSED),
    "odd runs": (odd_runs, REFUSED, REFUSED),
    "odd coordinate": (odd_coordinate, REFUSED, REFUSED),
    "odd length in mm": (odd_length_mm, REFUSED, REFUSED),
    "bomb": (bomb, REFUSED, REFUSED),
    "missing": (missing, REFUSED, REFUSED),
    "odd subjects": (odd_subjects, REFUSED, REFUSED),
    "no regular file": (no_regular_file, REFUSED, REFUSED),
}
