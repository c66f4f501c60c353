"""How an epoch is cut into batches: how many streamlines of which subjects, before any id is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

PlannedBatch: TypeAlias = "list[tuple[int, int, int]]"
"""(subject, start, stop): the streamlines from ``start`` to ``stop`` in the order of the subject's permutation."""


def plan_epoch(
    sizes: list[npt.NDArray[np.float64]],
    batch_size: float,
    *,
    nb_subjects_per_batch: int | None,
    cycles: int,
    rng: np.random.Generator,
) -> list[PlannedBatch]:
    """Cut an epoch into batches that together hold every streamline once.

    Parameters
    ----------
    sizes
        For each subject, the size of each of its streamlines (1, or a length in mm), in the order in which they come.
    batch_size
        The most that a batch holds, in the same unit; a single larger streamline makes a batch of its own.
    nb_subjects_per_batch
        None for all.
    cycles
        How many batches in a row use the same subjects.
    rng
        Draws the subjects, in proportion to what they have left.
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
    """Cut a row of items into neighbouring shares of about the same size.

    Parameters
    ----------
    sizes
        Shape (N,): the size of each item.
    nb_shares
        How many shares.

    Returns
    -------
    list of int
        ``nb_shares + 1`` borders: share r has the items from number ``borders[r]`` to ``borders[r + 1]``, that one not
        included.
    """
    middles = np.cumsum(sizes) - sizes / 2
    total = float(sizes.sum())
    # An item belongs to the share in which its middle lies.
    inner = [int(np.searchsorted(middles, total * share / nb_shares)) for share in range(1, nb_shares)]
    return [0, *inner, len(sizes)]


def _choose_subjects(
    available: npt.NDArray[np.int64], left: npt.NDArray[np.float64], wanted: int | None, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    if wanted is None or wanted >= len(available):
        return available
    # Streamlines of no length at all still need a turn.
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
    """Return where each chosen subject stops: shares in proportion to what is left, then filled up in turn."""
    available = [int(subject) for subject in chosen if cursors[subject] < counts[subject]]
    budget = batch_size
    taken: dict[int, int] = {}
    remaining = sum(float(left[subject]) for subject in available)
    # Those with the least left go first, so that what rounding leaves over falls to those who have enough.
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
    """Move a subject's stop as far as the budget allows; return what that used."""
    start = taken.get(subject, int(cursors[subject]))
    base = cumulated[subject][start]
    # The tolerance keeps sums of floats that equal the budget inside it.
    stop = int(np.searchsorted(cumulated[subject], base + budget * (1 + 1e-12) + 1e-9, side="right")) - 1
    stop = min(stop, int(counts[subject]))
    if stop <= start:
        return 0.0
    taken[subject] = stop
    return float(cumulated[subject][stop] - base)
