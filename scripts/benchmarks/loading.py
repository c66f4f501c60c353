"""Batches of streamlines: the loader, beside reads, resampling and augmentation one streamline at a time."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import torch
from dipy.tracking.streamline import set_number_of_points
from measuring import Figure, compare
from streamlines_file import written_elsewhere

from dwiml import DWIMLBatchIDSampler, DWIMLStreamlinesBatchLoader, MultiSubjectDataset
from dwiml.batching.sampler import BatchIds
from dwiml.models.allocator import keep_freed_memory

Read = Callable[[int, int], Any]

NB_SUBJECTS = 5


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
    # As the trainer does.
    keep_freed_memory()
    nb_each, nb_batches, batch_size = (200, 2, 100) if quick else (20_000, 20, 1000)
    model = SimpleNamespace(step_size=step_size, nb_points=None, compress_lines=None)
    with written_elsewhere(NB_SUBJECTS, nb_each) as path, h5py.File(path, "r") as handle:
        dataset = MultiSubjectDataset(path, lazy=lazy)
        dataset.load_data()
        sampler = DWIMLBatchIDSampler(dataset, "streamlines", batch_size_training=batch_size, seed=0)
        loader = DWIMLStreamlinesBatchLoader(
            dataset, model, "streamlines", reverse_ratio=reverse_ratio, split_ratio=split_ratio, seed=0
        )
        data_loader = loader.data_loader("training", sampler)
        epochs = iter(range(1, 1000))

        def load() -> None:
            sampler.set_position("training", next(epochs), max_batches=nb_batches)
            for streamlines, _ in data_loader:
                if len(streamlines) < batch_size:
                    raise RuntimeError("A batch has lost streamlines.")

        sampler.set_position("training", 0, max_batches=2)
        some_ids = list(sampler)
        read = _reads_of_file(handle) if lazy else _slices_in_memory(dataset)

        def load_one_by_one() -> list[list[torch.Tensor]]:
            rng = np.random.default_rng(0)
            return [_load_one_by_one(ids, read, step_size, reverse_ratio, split_ratio, rng) for ids in some_ids]

        seconds, slow_seconds, peak = compare(load, load_one_by_one, repeats=5, baseline_repeats=5)
        if reverse_ratio == split_ratio == 0:
            sampler.set_position("training", 0, max_batches=2)
            _check_same([streamlines for streamlines, _ in data_loader], load_one_by_one())
    speeds = nb_batches * batch_size / seconds, len(some_ids) * batch_size / slow_seconds
    how = f"one by one: {'three h5py reads' if lazy else 'slices in memory'}"
    how += "" if step_size is None else ", dipy's resampling"
    return Figure(name, speeds[0], "streamlines/s", speeds[1], how, peak)


def _reads_of_file(handle: h5py.File) -> Read:
    # Datasets that stay open: opening them again for each streamline would be ten times slower.
    groups = [handle[subject]["streamlines"] for subject in sorted(handle)]
    datasets = [(group["offsets"], group["lengths"], group["data"]) for group in groups]

    def read(subject: int, i: int) -> Any:
        offsets, lengths, data = datasets[subject]
        start = int(offsets[i])
        return data[start : start + int(lengths[i])]

    return read


def _slices_in_memory(dataset: MultiSubjectDataset) -> Read:
    groups = [subject.streamlines["streamlines"] for subject in dataset.training_set]
    arrays = [np.split(group.gather()[0], group.offsets[1:]) for group in groups]
    return lambda subject, i: arrays[subject][i]


def _load_one_by_one(
    batch: BatchIds,
    read: Read,
    step_size: float | None,
    reverse_ratio: float,
    split_ratio: float,
    rng: np.random.Generator,
) -> list[torch.Tensor]:
    lines = []
    for subject, ids in batch:
        for i in ids:
            line = read(subject, int(i))
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


def _check_same(batches: list[Any], slow_batches: list[list[torch.Tensor]]) -> None:
    """Raise an error unless both ways give the same points to the same streamlines."""
    for batch, slow_batch in zip(batches, slow_batches, strict=True):
        for line, slow_line in zip(batch, slow_batch, strict=True):
            # A length that is half a step may be rounded up by one and down by the other.
            if len(line) == len(slow_line):
                torch.testing.assert_close(line, slow_line, rtol=0, atol=1e-2)
            elif abs(len(line) - len(slow_line)) > 1:
                raise RuntimeError(f"One way gives {len(line)} points to a streamline, the other {len(slow_line)}.")
