"""Batches of streamlines: the loader, beside reads, resampling and augmentation one streamline at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import torch
from dipy.tracking.streamline import set_number_of_points
from measuring import Figure, compare
from streamlines_file import write_file

from dwiml import DWIMLBatchIDSampler, DWIMLStreamlinesBatchLoader, MultiSubjectDataset
from dwiml.batching.sampler import BatchIds

Read = Callable[[str, int], Any]


def measure_loader(
    name: str,
    *,
    quick: bool,
    lazy: bool,
    step_size: float | None = 1.0,
    reverse_ratio: float = 0.0,
    split_ratio: float = 0.0,
) -> Figure:
    """Time batches of 1000 streamlines (of 100 000 of 5 subjects), in one process and thread."""
    torch.set_num_threads(1)
    nb_each, nb_batches, batch_size = (200, 2, 100) if quick else (20_000, 20, 1000)
    model = SimpleNamespace(step_size=step_size, nb_points=None, compress_lines=None)
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder) / "streamlines.hdf5", 5, nb_each)
        dataset = MultiSubjectDataset(path, lazy=lazy)
        dataset.load_data()
        sampler = DWIMLBatchIDSampler(dataset, "streamlines", batch_size_training=batch_size, seed=0)
        loader = DWIMLStreamlinesBatchLoader(
            dataset, model, "streamlines", reverse_ratio=reverse_ratio, split_ratio=split_ratio, seed=0
        )
        data_loader = loader.data_loader("training", sampler)
        epochs = iter(range(1000))

        def load() -> None:
            sampler.set_position("training", next(epochs), max_batches=nb_batches)
            for streamlines, _ in data_loader:
                if len(streamlines) < batch_size:
                    raise RuntimeError("A batch has lost streamlines.")

        sampler.set_position("training", 0, max_batches=2)
        some_ids = list(sampler)
        with h5py.File(path, "r") as handle:
            read = _reader(handle, dataset, lazy=lazy)

            def load_one_by_one() -> None:
                rng = np.random.default_rng(0)
                for ids in some_ids:
                    _load_one_by_one(ids, dataset, read, step_size, reverse_ratio, split_ratio, rng)

            seconds, slow_seconds, peak = compare(load, load_one_by_one, repeats=5, baseline_repeats=2)
    speed = nb_batches * batch_size / seconds
    how = "h5py reads" if lazy else "slices in memory"
    slow = len(some_ids) * batch_size / slow_seconds
    return Figure(name, speed, "streamlines/s", slow, f"one by one: {how}, dipy's resampling", peak)


def _reader(handle: h5py.File, dataset: MultiSubjectDataset, *, lazy: bool) -> Read:
    if lazy:

        def read(subject: str, i: int) -> Any:
            group = handle[subject]["streamlines"]
            start, length = int(group["offsets"][i]), int(group["lengths"][i])
            return group["data"][start : start + length]

        return read
    arrays = {
        subject.subject_id: np.split(
            subject.streamlines["streamlines"].gather()[0], subject.streamlines["streamlines"].offsets[1:]
        )
        for subject in dataset.training_set
    }
    return lambda subject, i: arrays[subject][i]


def _load_one_by_one(
    batch: BatchIds,
    dataset: MultiSubjectDataset,
    read: Read,
    step_size: float | None,
    reverse_ratio: float,
    split_ratio: float,
    rng: np.random.Generator,
) -> list[torch.Tensor]:
    lines = []
    for subject, ids in batch:
        for i in ids:
            line = read(dataset.training_set.subjects[subject], int(i))
            if step_size is not None:
                mm = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
                line = set_number_of_points(line, max(round(mm / step_size), 1) + 1)
            if rng.random() < reverse_ratio:
                line = line[::-1].copy()
            if rng.random() < split_ratio and len(line) >= 4:
                cut = int(rng.integers(2, len(line) - 1))
                lines += [torch.from_numpy(line[:cut]), torch.from_numpy(line[cut:])]
            else:
                lines.append(torch.from_numpy(line))
    return lines
