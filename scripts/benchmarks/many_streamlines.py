"""Measures lazy data of two million streamlines, in one HDF5 file and in fifty: time and memory of loading, batches.

    python scripts/benchmarks/many_streamlines.py [--nb_subjects 50] [--nb_streamlines 40000] [--folder FOLDER]

Each line is measured in a process of its own. The batches of both forms of the data are compared bit for bit. Linux
only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
from streamlines_file import write_file

from dwiml import DWIMLBatchIDSampler, DWIMLStreamlinesBatchLoader, MultiSubjectDataset
from dwiml.hdf5 import file_writer, schema
from dwiml.hdf5.joining import join_hdf5
from dwiml.hdf5.stored.digests import digest_of_array
from dwiml.hdf5.stored.layout import root_digest

NB_POINTS = 10
REPEATS = 5
Sources = list[str]


def write_files(folder: Path, nb_subjects: int, nb_streamlines: int) -> list[str]:
    """Write one file per subject, with digests as ``dwiml create_hdf5`` writes them."""
    paths = []
    for number in range(nb_subjects):
        path = write_file(folder / f"part-{number:03d}.hdf5", 1, nb_streamlines, nb_points=NB_POINTS, seed=number)
        name = f"sub-{number:03d}"
        with h5py.File(path, "r+") as handle:
            if number:
                handle.move("sub-000", name)
                handle.attrs.create(schema.TRAINING_SUBJS, [name], dtype=h5py.string_dtype())
            for dataset in handle[name]["streamlines"].values():
                dataset.attrs[schema.DIGEST] = np.bytes_(digest_of_array(dataset[()]))
            file_writer.write_group_digests(handle[name])
            handle.attrs[schema.DIGEST] = np.bytes_(root_digest(dict(handle.attrs)))
        paths.append(str(path))
    return paths


def memory_of(process: int | str = "self") -> dict[str, int]:
    """Return the kinds of memory of a process in bytes: ``Pss`` (shared pages are divided), ``Anonymous``, ..."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def loaded(sources: Sources) -> MultiSubjectDataset:
    """Return the data, loaded lazily."""
    dataset = MultiSubjectDataset(sources, lazy=True)
    dataset.load_data()
    return dataset


def measure_loading(sources: Sources) -> dict[str, float]:
    """Return the time of opening and of loading, and the memory per streamline."""
    # One subject only: memory that is freed would be used again, and not be counted.
    MultiSubjectDataset(sources[:1], lazy=True).load_data(subj_id="sub-000")
    gc.collect()
    before = memory_of()["Anonymous"]
    dataset = loaded(sources)
    gc.collect()
    after = memory_of()["Anonymous"]
    nb = dataset.training_set.total_nb_streamlines["streamlines"]
    groups = [subject.streamlines["streamlines"] for subject in dataset.training_set]
    nb_bytes = sum(each.lengths.nbytes + each.offsets.nbytes + each.lengths_mm.nbytes for each in groups)
    open_seconds, seconds, cpu_seconds = [], [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        dataset = MultiSubjectDataset(sources, lazy=True)
        open_seconds.append(time.perf_counter() - start)
        start, cpu_start = time.perf_counter(), time.process_time()
        dataset.load_data()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return {
        "open_s": min(open_seconds),
        "load_s": min(seconds),
        "load_cpu_s": min(cpu_seconds),
        "bytes_each": (after - before) / nb,
        "array_bytes_each": nb_bytes / nb,
    }


def measure_workers(sources: Sources, start_method: str) -> list[tuple[float, float]]:
    """Return Pss and anonymous memory (MB) of this process and of two workers that have loaded batches."""
    data = _batches(loaded(sources), nb_cpu_processes=2, start_method=start_method)
    for count, _ in enumerate(data):
        if count == 50:
            break
    processes: list[int | str] = ["self", *(child.pid for child in multiprocessing.active_children() if child.pid)]
    found = [memory_of(process) for process in processes]
    return [(each["Pss"] / 1e6, each["Anonymous"] / 1e6) for each in found]


def digest_of_batches(sources: Sources, nb_batches: int) -> tuple[int, str]:
    """Return the number of batches, and a digest of all their bytes."""
    digest, count = hashlib.blake2b(digest_size=16), 0
    for streamlines, ids in _batches(loaded(sources), max_batches=nb_batches):
        digest.update(streamlines.data.numpy().tobytes())
        digest.update(streamlines.lengths.numpy().tobytes())
        digest.update(repr(dict(ids)).encode())
        count += 1
    return count, digest.hexdigest()


def _batches(dataset: MultiSubjectDataset, *, max_batches: int | None = None, **options: Any) -> Any:
    model = SimpleNamespace(step_size=None, nb_points=None, compress_lines=None)
    sampler = DWIMLBatchIDSampler(dataset, "streamlines", batch_size_training=1000, seed=0)
    loader = DWIMLStreamlinesBatchLoader(dataset, model, "streamlines", reverse_ratio=0.5, split_ratio=0.2, seed=0)
    data = loader.data_loader("training", sampler, **options)
    sampler.set_position("training", 0, max_batches=max_batches)
    return data


def alone(function: Any, *arguments: Any) -> Any:
    """Call a function in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    """Write the data, measure, and print one line per figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nb_subjects", type=int, default=50)
    parser.add_argument("--nb_streamlines", type=int, default=40_000, help="of each subject")
    parser.add_argument("--nb_batches", type=int, default=300, help="batches that are compared")
    parser.add_argument("--folder", help="where the data are written for a while [the system's temporary folder]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        parts = alone(write_files, Path(folder), arguments.nb_subjects, arguments.nb_streamlines)
        start = time.perf_counter()
        whole = join_hdf5(parts, Path(folder) / "whole.hdf5")
        seconds = time.perf_counter() - start
        nb = arguments.nb_subjects * arguments.nb_streamlines
        size = whole.nb_bytes / 1e6
        print(f"{arguments.nb_subjects} subjects, {nb} streamlines of {NB_POINTS} points, {size:.0f} MB")
        print(f"joined in {seconds:.2f} s ({size / seconds:.0f} MB/s)")
        forms = {"one file": [str(whole.path)], f"{len(parts)} files": parts}
        digests = {name: alone(digest_of_batches, sources, arguments.nb_batches) for name, sources in forms.items()}
        for name, sources in forms.items():
            found = alone(measure_loading, sources)
            print(
                f"{name}: opened in {found['open_s']:.3f} s, load_data() in {found['load_s']:.3f} s "
                f"({found['load_cpu_s']:.3f} s of CPU), "
                f"{found['bytes_each']:.1f} bytes of memory a streamline ({found['array_bytes_each']:.1f} in arrays)"
            )
            for method in ("fork", "spawn"):
                shown = [f"{pss:.0f} ({own:.0f})" for pss, own in alone(measure_workers, sources, method)]
                print(f"{name}, {method}: Pss (anonymous) of the process and 2 workers, MB: {', '.join(shown)}")
    counts = {count for count, _ in digests.values()}
    same = len(set(digests.values())) == 1
    print(f"{counts.pop()} batches of 1000 streamlines: {'the same bit for bit' if same else 'DIFFERENT'}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
