"""Damaged volumes, tractograms, matrices, lists and configs of subjects, each a function of its number."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from fuzzing import Outcome, run_watched

from dwiml.cli.main import main
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.writing.writer import TractogramWriter

_VTK_FILES = Path(__file__).parents[1] / "tractograms/written_by_vtk.zip"
SHAPE = (9, 8, 7)
AFFINE = np.array([[-1.5, 0, 0, 4], [0, 2.0, 0, -9], [0, 0, 2.5, 1], [0, 0, 0, 1]])
GROUPS = {
    "input": {
        "type": "volume",
        "files": ["dwi.nii.gz", "fa.nii"],
        "standardization": "independent",
        "std_mask": ["{subject}_mask.nii.gz"],
    },
    # Values of directions, whose convention is looked for.
    "sh": {"type": "volume", "files": ["sh.nii.gz"]},
    "peaks": {"type": "volume", "files": ["peaks.nii.gz"]},
    "lines": {"type": "streamlines", "files": ["wb.trk"], "dps_keys": ["id"]},
    "other": {
        "type": "streamlines",
        "files": ["wb.tck"],
        "connectivity_matrix": "m.npy",
        "connectivity_labels": "labels.nii.gz",
    },
}
CREATE = ["create_hdf5", "subjects", "out/o.hdf5", "config.json", "training.txt", "validation.txt"]
# What is damaged, and the command that reads it.
TARGETS = (
    ("subjects/sub-1/dwi.nii.gz", CREATE),
    ("subjects/sub-1/fa.nii", CREATE),
    ("subjects/sub-1/sh.nii.gz", CREATE),
    ("subjects/sub-1/peaks.nii.gz", CREATE),
    ("subjects/sub-2/sub-2_mask.nii.gz", CREATE),
    ("subjects/sub-1/wb.trk", CREATE),
    ("subjects/sub-1/wb.tck", CREATE),
    ("subjects/sub-1/m.npy", CREATE),
    ("subjects/sub-1/m_labels.txt", CREATE),
    ("subjects/sub-1/labels.nii.gz", CREATE),
    ("config.json", CREATE),
    ("training.txt", CREATE),
    *(
        (f"subjects/sub-1/wb{suffix}", ["score", f"subjects/sub-1/wb{suffix}", "--ground_truth", "truth"])
        for suffix in (".trk", ".tck", ".trx", ".trx", ".vtk", ".fib", ".vtp", ".dpy", ".h5", ".tck.gz", ".trk.gz")
    ),
    ("truth/ground_truth.json", ["score", "subjects/sub-1/wb.trx", "--ground_truth", "truth"]),
    ("truth/mask.nii.gz", ["score", "subjects/sub-1/wb.trx", "--ground_truth", "truth"]),
    ("subjects/sub-1/wb.trx", ["show_tractogram", "subjects/sub-1/wb.trx", "out/o.png", "--dpi", "20"]),
    (
        "subjects/sub-1/wb.trx",
        ["connectivity_matrix", "subjects/sub-1/wb.trx", "out/m.npy", "--nb_blocs", "2"],
    ),
    (
        "subjects/sub-1/m.npy",
        ["connectivity_score", "subjects/sub-1/wb.trk", "subjects/sub-1/m.npy", "--labels", "truth/labels.nii.gz"],
    ),
)
_JSON_VALUES = (None, True, -1, 1e300, 2**70, "", "*", "../x", "{subject}", [], {}, ["a", 3], {"file": 3}, "none.nii")


@dataclass(frozen=True)
class Case:
    """What was done to a file, and what reads it."""

    file: str
    command: Sequence[str]
    damage: str

    def __str__(self) -> str:
        return f"{self.file} {self.damage}: dwiml {' '.join(self.command)}"


def make_files(folder: Path) -> None:
    """Write two subjects, a ground truth, and what create_hdf5 needs."""
    rng = np.random.default_rng(0)
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[:4], labels[5:] = 3, 8
    for name in ("sub-1", "sub-2"):
        subject = folder / "subjects" / name
        subject.mkdir(parents=True)
        _volume(subject / "dwi.nii.gz", rng.normal(5, 2, (*SHAPE, 3)).astype(np.float32))
        _volume(subject / "sh.nii.gz", rng.normal(0, 1, (*SHAPE, 45)).astype(np.float32))
        _volume(subject / "peaks.nii.gz", rng.normal(0, 1, (*SHAPE, 9)).astype(np.float32))
        _volume(subject / "fa.nii", rng.uniform(0, 1, SHAPE).astype(np.float32))
        _volume(subject / f"{name}_mask.nii.gz", (rng.uniform(0, 1, SHAPE) > 0.3).astype(np.uint8))
        _volume(subject / "labels.nii.gz", labels)
        lines = [rng.uniform(1, 6, (int(n), 3)).astype(np.float32) for n in rng.integers(2, 9, 12)]
        points, lengths = np.concatenate(lines), np.array([len(line) for line in lines])
        data = {"id": np.arange(12, dtype=np.float32)[:, None]}
        for suffix in (".trk", ".tck", ".trx"):
            kept = {} if suffix == ".tck" else data
            names = dict.fromkeys(kept, 1)
            path = subject / f"wb{suffix}"
            with TractogramWriter(path, grid=Grid(AFFINE, SHAPE), data_per_streamline=names) as writer:
                writer.append(points, lengths, kept or None)
        _other_formats(subject, lines)
        np.save(subject / "m.npy", np.ones((2, 2)))
        (subject / "m_labels.txt").write_text("# labels\n3\n8\n")
    truth = folder / "truth"
    truth.mkdir()
    _volume(truth / "mask.nii.gz", (labels > 0).astype(np.uint8))
    _volume(truth / "labels.nii.gz", labels)
    ends = {"head": {"file": "labels.nii.gz", "label": 3}, "tail": {"file": "labels.nii.gz", "label": [8]}}
    (truth / "ground_truth.json").write_text(json.dumps({"one": {"mask": "mask.nii.gz", **ends}}))
    (folder / "config.json").write_text(json.dumps(GROUPS))
    (folder / "training.txt").write_text("sub-1\n")
    (folder / "validation.txt").write_text("sub-2\n")
    (folder / "out").mkdir()


def _other_formats(subject: Path, lines: list[np.ndarray]) -> None:
    """Write the formats that dwiml reads and does not write; lines in voxel space, corner origin."""
    for suffix in (".trk", ".tck"):
        (subject / f"wb{suffix}.gz").write_bytes(gzip.compress((subject / f"wb{suffix}").read_bytes()))
    for name in ("ASCII_51.vtk", "Binary_51.vtk", "Binary_ZLib_True_64.vtp"):
        suffix = ".fib" if name.startswith("ASCII") else Path(name).suffix
        with zipfile.ZipFile(_VTK_FILES) as archive:
            (subject / f"wb{suffix}").write_bytes(archive.read(name))
    points, ends = np.concatenate(lines), np.cumsum([len(line) for line in lines])
    with h5py.File(subject / "wb.dpy", "w") as file:
        file["streamlines/tracks"], file["streamlines/offsets"] = points, np.append(0, ends)
    with h5py.File(subject / "wb.h5", "w") as file:
        file.attrs["affine"], file.attrs["dimensions"] = AFFINE, SHAPE
        file["3_8/data"], file["3_8/lengths"] = points, np.diff(ends, prepend=0)
        file["3_8/offsets"] = ends - np.diff(ends, prepend=0)


def _volume(path: Path, values: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(values, AFFINE), path)


def damage(number: int, folder: Path) -> Case:
    """Damage one file of a fresh copy of what :func:`make_files` made."""
    rng = np.random.default_rng((number, 8127))
    file, command = TARGETS[number % len(TARGETS)]
    path = folder / file
    if path.suffix == ".json" and rng.random() < 0.7:
        return Case(file, command, _change_json(path, rng))
    if path.suffix == ".trx" and rng.random() < 0.7:
        return Case(file, command, _change_trx(path, rng))
    # Inside the .gz, so that nibabel sees it.
    unpack = path.name.endswith(".gz") and rng.random() < 0.7
    content = bytearray(gzip.decompress(path.read_bytes()) if unpack else path.read_bytes())
    done = _change_bytes(content, rng)
    path.write_bytes(gzip.compress(bytes(content)) if unpack else bytes(content))
    return Case(file, command, f"{done}{' inside' if unpack else ''}")


def _change_bytes(content: bytearray, rng: np.random.Generator) -> str:
    kind = rng.choice(["cut", "longer", "flip", "header", "header", "number", "number", "empty", "zeros"])
    # Headers are short.
    at = int(rng.integers(min(len(content), 348 if rng.random() < 0.8 else len(content))))
    if kind == "cut":
        del content[int(rng.integers(len(content))) :]
    elif kind == "longer":
        content += bytes(rng.integers(0, 256, int(rng.integers(1, 100)), dtype=np.uint8))
    elif kind == "flip":
        content[at] ^= 1 << int(rng.integers(8))
    elif kind == "header":
        content[at] = int(rng.integers(256))
    elif kind == "number":
        odd = (0, -1, 2**31 - 1, -(2**31), 2**15 - 1, 0x7FC00000, 0x7F800000, 0x7F7FFFFF, 1)
        at = min(at // 2 * 2, max(len(content) - 4, 0))
        content[at : at + 4] = np.array([odd[int(rng.integers(len(odd)))]], dtype="<i8").astype("<i4").tobytes()
    elif kind == "empty":
        content.clear()
    else:
        content[at : at + 200] = bytes(len(content[at : at + 200]))
    return f"{kind} at {at}"


def _change_json(path: Path, rng: np.random.Generator) -> str:
    content = json.loads(path.read_text())
    places = [(content, key) for key in content]
    for entry in list(content.values()):
        places += [(entry, key) for key in entry]
    holder, key = places[int(rng.integers(len(places)))]
    value = _JSON_VALUES[int(rng.integers(len(_JSON_VALUES)))]
    if rng.random() < 0.2:
        del holder[key]
    elif rng.random() < 0.2:
        holder[str(value)] = holder.pop(key)
    else:
        holder[key] = value
    path.write_text(json.dumps(content))
    return f"{key!r} {value!r}"


def _change_trx(path: Path, rng: np.random.Generator) -> str:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(members["header.json"])
    name = list(header)[int(rng.integers(len(header)))]
    kind = rng.choice(["header", "header", "array", "name", "packed"])
    if kind == "header":
        odd = (0, -1, 7, 1e15, 2**63, "x", None, [], [1, 2, 3], float(header["NB_VERTICES"]) - 1)
        header[name] = odd[int(rng.integers(len(odd)))]
        members["header.json"] = json.dumps(header).encode()
        done = f"{name} {header[name]!r}"
    else:
        arrays = [each for each in members if not each.endswith(".json")]
        done = arrays[int(rng.integers(len(arrays)))]
        array = bytearray(members.pop(done))
        if kind == "array":
            _change_bytes(array, rng)
        elif kind == "name":
            ends = ("float64", "object", "3", "99999999.int8", "", "uint8")
            done = f"{done.split('.')[0]}.{ends[int(rng.integers(len(ends)))]}"
        else:
            array = bytearray(10**7)
        members[done] = bytes(array)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if kind == "packed" else zipfile.ZIP_STORED) as archive:
        for each, value in members.items():
            archive.writestr(each, value)
    return f"{kind} {done}"


def run_case(number: int, made: Path) -> tuple[Case, Outcome]:
    """Damage a fresh copy, and run the command that reads it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "files")
        shutil.copytree(made, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case = damage(number, folder)
        outcome = run_watched(lambda: main(list(case.command)), watched=[folder], outputs=[folder / "out"], cwd=folder)
    return case, outcome
