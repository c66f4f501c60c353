"""Batches of ids: a whole epoch of the sampler, beside a scan of all flags for each batch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from measuring import Figure, compare
from streamlines_file import write_file

from dwiml import DWIMLBatchIDSampler, MultiSubjectDataset

BATCH = 1000


def measure_sampler(name: str, *, quick: bool, nb_subjects: int = 20, in_mm: bool = False) -> Figure:
    """Time epochs over 2 000 000 streamlines: permutations, plan, and all batches."""
    total = 20_000 if quick else 2_000_000
    with tempfile.TemporaryDirectory() as folder:
        dataset = MultiSubjectDataset(
            write_file(Path(folder) / "ids.hdf5", nb_subjects, total // nb_subjects, nb_points=2), lazy=True
        )
        dataset.load_data()
        sizes = {"batch_size_training": BATCH * 115.0, "batch_size_units": "length_mm"} if in_mm else {}
        sampler = DWIMLBatchIDSampler(dataset, "streamlines", seed=0, **sizes)  # type: ignore[arg-type]
        epochs = iter(range(1000))

        def epoch() -> None:
            sampler.set_position("training", next(epochs))
            seen = sum(len(ids) for batch in sampler for _, ids in batch)
            if seen != total:
                raise RuntimeError(f"An epoch saw {seen} of {total} streamlines.")

        nb_scanned = 5 if quick else 20
        seconds, scanning, peak = compare(
            epoch, lambda: _scan(nb_subjects, total // nb_subjects, nb_scanned), repeats=5, baseline_repeats=2
        )
        nb_batches = len(sampler)
    return Figure(
        name, nb_batches / seconds, "batches/s", nb_scanned / scanning, "all flags scanned for each batch", peak
    )


def _scan(nb_subjects: int, nb_each: int, nb_batches: int) -> None:
    rng = np.random.default_rng(0)
    used = [np.zeros(nb_each, dtype=bool) for _ in range(nb_subjects)]
    for _ in range(nb_batches):
        for flags in used:
            left = np.flatnonzero(~flags)
            flags[rng.choice(left, min(BATCH // nb_subjects, len(left)), replace=False)] = True
