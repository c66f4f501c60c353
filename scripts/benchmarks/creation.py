"""Times the creation of an HDF5 file, with one and two processes, beside the plainest script with the same libraries.

    python scripts/benchmarks/creation.py [--json FILE] [--repeats N] [--nb_subjects N] [--quick]

Four subjects, or another number: a volume of 96 x 114 x 96 voxels with 45 features (float32, ``.nii.gz``) and 20 000
streamlines (``.trk`` files). Every figure is the least of the repeats, which take turns; each run is a process of its
own. The memory is the most that one of its processes has had at any time, as the system counts it: nothing is read
while a run is measured, since this takes time from it. Before each run, memory is filled and freed again: a virtual
machine may get its memory from its host when it is first used, which is slow. Run it on a machine that does nothing
else; it needs 3 GB of disk and 6 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

AFFINE = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
SHAPE, NB_FEATURES, NB_STREAMLINES = (96, 114, 96), 45, 20_000
# What a run uses, files in memory included.
NB_BYTES_FILLED = 5 * 2**30
QUICK_SHAPE, QUICK_NB_FEATURES, QUICK_NB_STREAMLINES = (20, 24, 20), 3, 50
CONFIG = {
    "input": {"type": "volume", "files": ["sh.nii.gz"]},
    "streamlines": {"type": "streamlines", "files": ["wb.trk"]},
}


def write_subjects(folder: Path, nb_subjects: int, *, quick: bool) -> None:
    """Write the files of the subjects: noise in a box that fills a fifth of the image, as a brain does, and lines."""
    shape, nb_features, nb_streamlines = (
        (QUICK_SHAPE, QUICK_NB_FEATURES, QUICK_NB_STREAMLINES) if quick else (SHAPE, NB_FEATURES, NB_STREAMLINES)
    )
    rng = np.random.default_rng(0)
    box = tuple(slice(size // 5, size - size // 5) for size in shape)
    names = [f"sub-{k:02d}" for k in range(nb_subjects)]
    for name in names:
        (folder / name).mkdir()
        values = np.zeros((*shape, nb_features), np.float32)
        values[box] = rng.normal(size=values[box].shape)
        nib.save(nib.Nifti1Image(values, AFFINE), folder / name / "sh.nii.gz")
        starts, ends = (rng.uniform(0.3, 0.7, (nb_streamlines, 3)) * shape for _ in range(2))
        lines = [
            apply_affine(AFFINE, start + (end - start) * np.linspace(0, 1, nb)[:, None]).astype(np.float32)
            for start, end, nb in zip(starts, ends, rng.integers(30, 150, nb_streamlines), strict=True)
        ]
        header = {"voxel_to_rasmm": AFFINE, "dimensions": shape, "voxel_sizes": (2, 2, 2), "voxel_order": "RAS"}
        tractogram = nib.streamlines.Tractogram(lines, affine_to_rasmm=np.eye(4))
        nib.streamlines.save(tractogram, str(folder / name / "wb.trk"), header=header)
    (folder.parent / "config.json").write_text(json.dumps(CONFIG))
    (folder.parent / "training.txt").write_text("\n".join(names))


def create_plainly(folder: Path, out: Path) -> None:
    """Write the same arrays with nibabel and h5py, in one loop, without checks, digests or attributes."""
    with h5py.File(out, "w") as handle:
        for name in sorted(path.name for path in folder.iterdir()):
            image = nib.load(folder / name / "sh.nii.gz")
            handle[f"{name}/input/data"] = image.get_fdata(dtype=np.float32)
            lines = nib.streamlines.load(folder / name / "wb.trk").streamlines
            points = apply_affine(np.linalg.inv(image.affine), lines.get_data()) + 0.5
            lengths = np.array([len(line) for line in lines])
            steps = np.linalg.norm(np.diff(points, axis=0) * image.header.get_zooms()[:3], axis=1)
            ends = np.cumsum(lengths)
            group = handle.create_group(f"{name}/streamlines")
            group["data"] = points.astype(np.float32)
            group["lengths"], group["offsets"] = lengths, ends - lengths
            group["euclidean_lengths"] = np.array(
                [steps[end - nb : end - 1].sum() for nb, end in zip(lengths, ends, strict=True)], np.float32
            )


def measure(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; return its seconds, and the most memory (MB) of one of its processes."""
    with tempfile.TemporaryFile("w+") as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, text=True)
        # The usage of the process and of those that it has waited for, which subprocess does not give.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"'{' '.join(command)}' failed: {errors.read()}")
    return seconds, usage.ru_maxrss * 1024 / 1e6


def check_same(one: Path, other: Path) -> None:
    """Raise an error unless both files hold the same arrays."""
    with h5py.File(one) as ours, h5py.File(other) as plain:
        for name in plain:
            for array in ("input/data", *(f"streamlines/{part}" for part in ("data", "lengths", "offsets"))):
                np.testing.assert_allclose(ours[f"{name}/{array}"][()], plain[f"{name}/{array}"][()], atol=1e-3)
            length = "streamlines/euclidean_lengths"
            np.testing.assert_allclose(ours[f"{name}/{length}"][()], plain[f"{name}/{length}"][()], rtol=1e-3)


def benchmark(folder: Path, *, repeats: int, nb_bytes_filled: int) -> dict[str, dict[str, float]]:
    """Return {way: its seconds, and the most memory of a process (MB)}; the ways take turns."""
    fill = [sys.executable, "-c", f"import numpy; numpy.ones({nb_bytes_filled}, dtype=numpy.uint8)"]
    out, plain = folder / "out.hdf5", folder / "plain.hdf5"
    subjects, lists = folder / "subjects", [str(folder / "config.json"), str(folder / "training.txt")]
    ours = [sys.executable, "-m", "dwiml.cli.main", "create_hdf5", str(subjects), str(out), *lists, "-f"]
    commands = {
        "plain script": [sys.executable, __file__, "--plain", str(subjects), str(plain)],
        "dwiml, 1 process": ours,
        "dwiml, 2 processes": [*ours, "--nbr_processes", "2"],
    }
    figures: dict[str, dict[str, float]] = {}
    for _ in range(repeats):
        for way, command in commands.items():
            # Replacing a file takes time too.
            (plain if way == "plain script" else out).unlink(missing_ok=True)
            # So does writing to the disk what the run before has left in memory.
            os.sync()
            # In a process of its own, which gives all of it back.
            subprocess.run(fill, check=True)
            time.sleep(1)
            seconds, peak = measure(command)
            known = figures.setdefault(way, {"seconds": seconds, "peak_mb": peak})
            figures[way] = {
                "seconds": min(seconds, known["seconds"]),
                "peak_mb": max(peak, known["peak_mb"]),
            }
        # In a process of its own, as is the writing of the inputs.
        subprocess.run([sys.executable, __file__, "--check", str(out), str(plain)], check=True)
    return figures


def build_parser() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="[%(default)s]")
    parser.add_argument("--nb_subjects", type=int, default=4, metavar="N", help="[%(default)s]")
    parser.add_argument("--quick", action="store_true", help="tiny files, to see that all runs")
    parser.add_argument("--plain", nargs=2, type=Path, metavar=("SUBJECTS", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--check", nargs=2, type=Path, metavar=("OURS", "PLAIN"), help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, metavar="SUBJECTS", help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None, show: Callable[[str], Any] = print) -> int:
    """Measure, print, write."""
    args = build_parser().parse_args(argv)
    if args.plain:
        create_plainly(*args.plain)
        return 0
    if args.check:
        check_same(*args.check)
        return 0
    if args.write:
        write_subjects(args.write, args.nb_subjects, quick=args.quick)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "subjects").mkdir()
        # In a process of its own: the memory of this one counts for those that it starts.
        quick = ["--quick"] if args.quick else []
        words = ["--write", str(folder / "subjects"), "--nb_subjects", str(args.nb_subjects), *quick]
        subprocess.run([sys.executable, __file__, *words], check=True)
        figures = benchmark(folder, repeats=args.repeats, nb_bytes_filled=2**20 if args.quick else NB_BYTES_FILLED)
    plain = figures["plain script"]["seconds"]
    for way, figure in figures.items():
        seconds = figure["seconds"]
        show(f"{way:<20} {seconds:7.2f} s  {seconds / plain:5.2f} of the plain script  {figure['peak_mb']:6.0f} MB")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
