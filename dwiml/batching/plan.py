"""Division of an epoch into batches: how many streamlines of which subjects, before ids are assigned."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

PlannedBatch: TypeAlias = "list[tuple[int, int, int]]"
"""For each subject of a batch, (subject, start, stop): a range of positions in the subject's permutation."""


def plan_epoch(
    sizes: list[npt.NDArray[np.float64]],
    batch_size: float,
    *,
    nb_subjects_per_batch: int | None,
    cycles: int,
    rng: np.random.Generator,
) -> list[PlannedBatch]:
    """Divide an epoch into batches, so that each streamline is in exactly one batch.

    Parameters
    ----------
    sizes
        For each subject, an array (S,) with the size of each of its S streamlines (1, or a length in mm), in the order
        of the epoch.
    batch_size
        Maximum size of a batch, in the same unit; a longer streamline forms a batch alone.
    nb_subjects_per_batch
        Number of subjects that share a batch; None for all.
    cycles
        Number of consecutive batches that use the same subjects.
    rng
        Draws the subjects, with probabilities proportional to their remaining streamlines.

    Returns
    -------
    list of PlannedBatch
        For each batch, the ranges of streamlines of its subjects.
    """
    cumulated = [np.concatenate([[0.0], np.cumsum(subject)]) for subject in sizes]
    totals = np.array([subject[-1] for subject in cumulated])
    counts = np.array([len(subject) for subject in sizes], dtype=np.int64)
    cursors = np.zeros(len(sizes), dtype=np.int64)
    left = totals.copy()
    chosen: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    batches: list[PlannedBatch] = []
    while (cursors < counts).any():
        if len(batches) % cycles == 0 or not (cursors[chosen] < counts[chosen]).any():
            chosen = _choose_subjects(np.flatnonzero(cursors < counts), left, nb_subjects_per_batch, rng)
        taken = _fill_batch(chosen, cumulated, counts, cursors, left, batch_size)
        batch = []
        for subject, stop in taken.items():
            batch.append((subject, int(cursors[subject]), stop))
            cursors[subject] = stop
            left[subject] = totals[subject] - cumulated[subject][stop]
        batches.append(batch)
    return batches


def even_shares(sizes: npt.NDArray[np.float64], nb_shares: int) -> list[int]:
    """Divide a sequence of items into contiguous shares of about the same size.

    Parameters
    ----------
    sizes
        Shape (N,): size of each item, in any unit.
    nb_shares
        Number of shares.

    Returns
    -------
    list of int
        ``nb_shares + 1`` bounds: share r contains the items ``bounds[r]`` to ``bounds[r + 1] - 1``.
    """
    middles = np.cumsum(sizes) - sizes / 2
    total = float(sizes.sum())
    # An item belongs to the share that contains its middle.
    inner = [int(np.searchsorted(middles, total * share / nb_shares)) for share in range(1, nb_shares)]
    return [0, *inner, len(sizes)]


def _choose_subjects(
    available: npt.NDArray[np.int64], left: npt.NDArray[np.float64], wanted: int | None, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    if wanted is None or wanted >= len(available):
        return available
    # Streamlines of zero length must be drawn too.
    weights = np.maximum(left[available], 1e-9)
    return np.sort(rng.choice(available, size=wanted, replace=False, p=weights / weights.sum()))


def _fill_batch(
    chosen: npt.NDArray[np.int64],
    cumulated: list[npt.NDArray[np.float64]],
    counts: npt.NDArray[np.int64],
    cursors: npt.NDArray[np.int64],
    left: npt.NDArray[np.float64],
    batch_size: float,
) -> dict[int, int]:
    """Return the stop of each chosen subject: shares proportional to what remains, then the rest of the budget."""
    available = [int(subject) for subject in chosen if cursors[subject] < counts[subject]]
    budget = batch_size
    taken: dict[int, int] = {}
    remaining = sum(float(left[subject]) for subject in available)
    # Smallest remainders first: those with more streamlines fill the space that rounding leaves.
    order = sorted(available, key=lambda subject: (float(left[subject]), subject))
    for subject in order:
        share = budget * float(left[subject]) / remaining if remaining > 0 else budget
        remaining -= float(left[subject])
        budget -= _take(subject, min(share, budget), cumulated, counts, cursors, taken)
    for subject in reversed(order):
        if budget <= 0:
            break
        budget -= _take(subject, budget, cumulated, counts, cursors, taken)
    if not taken:
        first = order[-1]
        taken[first] = int(cursors[first]) + 1
    return dict(sorted(taken.items()))


def _take(
    subject: int,
    budget: float,
    cumulated: list[npt.NDArray[np.float64]],
    counts: npt.NDArray[np.int64],
    cursors: npt.NDArray[np.int64],
    taken: dict[int, int],
) -> float:
    """Move the stop of a subject as far as the budget allows, and return the size used."""
    start = taken.get(subject, int(cursors[subject]))
    base = cumulated[subject][start]
    # Tolerance for accumulated rounding: a sum equal to the budget must fit.
    stop = int(np.searchsorted(cumulated[subject], base + budget * (1 + 1e-12) + 1e-9, side="right")) - 1
    stop = min(stop, int(counts[subject]))
    if stop <= start:
        return 0.0
    taken[subject] = stop
    return float(cumulated[subject][stop] - base)
