"""Batches of ids: a whole epoch of the sampler, beside a scan of all flags for each batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from measuring import Figure, compare
from streamlines_file import written_elsewhere

from dwiml import DWIMLBatchIDSampler, MultiSubjectDataset

BATCH = 1000
# 1000 streamlines of 30 to 200 mm.
BATCH_MM = 115_000.0


def measure_sampler(name: str, *, quick: bool, nb_subjects: int = 20, in_mm: bool = False) -> Figure:
    """Time epochs over 2 000 000 streamlines: permutations, plan, and all batches."""
    total = 20_000 if quick else 2_000_000
    with written_elsewhere(nb_subjects, total // nb_subjects, nb_points=2) as path:
        dataset = MultiSubjectDataset(path, lazy=True)
        dataset.load_data()
    sampler = DWIMLBatchIDSampler(
        dataset,
        "streamlines",
        batch_size_training=BATCH_MM if in_mm else BATCH,
        batch_size_units="length_mm" if in_mm else "nb_streamlines",
        seed=0,
    )
    _check_epoch(sampler, nb_subjects, total // nb_subjects)
    epochs = iter(range(1, 1000))

    def epoch() -> None:
        sampler.set_position("training", next(epochs))
        seen = sum(len(ids) for batch in sampler for _, ids in batch)
        if seen != total:
            raise RuntimeError(f"An epoch saw {seen} of {total} streamlines.")

    lengths_mm = dataset.training_set.streamline_lengths_mm["streamlines"]
    nb_scanned = 5 if quick else 20

    def scan() -> None:
        _scan([np.asarray(theirs) for theirs in lengths_mm], nb_scanned, in_mm=in_mm)

    seconds, scanning, peak = compare(epoch, scan, repeats=5, baseline_repeats=2)
    how = f"all flags scanned for each batch ({nb_scanned} batches)"
    return Figure(name, len(sampler) / seconds, "batches/s", nb_scanned / scanning, how, peak)


def _check_epoch(sampler: DWIMLBatchIDSampler, nb_subjects: int, nb_each: int) -> None:
    seen = np.zeros((nb_subjects, nb_each), dtype=np.int64)
    sampler.set_position("training", 0)
    for batch in sampler:
        for subject, ids in batch:
            seen[subject, ids] += 1
    if not (seen == 1).all():
        raise RuntimeError("An epoch does not see each streamline once.")


def _scan(lengths_mm: list[npt.NDArray[np.float32]], nb_batches: int, *, in_mm: bool) -> None:
    """Take the first batches of an epoch: of each subject an equal part, of the streamlines that are left."""
    rng = np.random.default_rng(0)
    used = [np.zeros(len(theirs), dtype=bool) for theirs in lengths_mm]
    for _ in range(nb_batches):
        for flags, theirs in zip(used, lengths_mm, strict=True):
            left = np.flatnonzero(~flags)
            # Twice what is wanted, to be cut where the length is reached.
            wanted = BATCH // len(used) * (2 if in_mm else 1)
            chosen = rng.choice(left, min(wanted, len(left)), replace=False)
            if in_mm:
                chosen = chosen[np.cumsum(theirs[chosen]) <= BATCH_MM / len(used)]
            flags[chosen] = True
