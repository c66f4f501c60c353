"""Row numbers of ragged sequences: the sequence that each row belongs to, and its position in that sequence.

Sequences of different lengths are stored flat: the N rows of all sequences are concatenated, and ``lengths`` (S,) has
the number of rows of each. A length of 0 is always allowed. Example, for lengths (2, 0, 3)::

    row                  0  1  2  3  4
    sequence_ids         0  0  2  2  2
    positions            0  1  0  1  2
    positions_from_end   1  0  2  1  0
    borders              0, 2, 2, 5

:class:`dwiml.ops.sequences.TensorSequence` has the corresponding methods for torch, on the device of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rows = NDArray[np.int64]


def borders(lengths: ArrayLike) -> Rows:
    """Return the row at which each sequence starts, followed by the total number of rows.

    Parameters
    ----------
    lengths : array of shape (S,), integers
        Number of rows of each sequence.

    Returns
    -------
    array of shape (S + 1,), int64
        Sequence i has the rows ``borders[i]`` to ``borders[i + 1]``, excluding the latter.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    result = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=result[1:])
    return result


def offsets(lengths: ArrayLike) -> Rows:
    """Return the row at which each sequence starts (or would start, if it is empty), shape (S,), int64.

    Parameters
    ----------
    lengths : array of shape (S,), integers
        Number of rows of each sequence.
    """
    return borders(lengths)[:-1]


def sequence_ids(lengths: ArrayLike) -> Rows:
    """Return the index of the sequence that each row belongs to, shape (N,), int64.

    Parameters
    ----------
    lengths : array of shape (S,), integers
        Number of rows of each sequence.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    return np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)


def sequence_of_row(lengths: ArrayLike, row: int) -> int:
    """Return the index of the sequence that one row belongs to.

    Parameters
    ----------
    lengths : array of shape (S,), integers
        Number of rows of each sequence.
    row
        Number of the row, from 0 to N - 1.
    """
    return int(np.searchsorted(borders(lengths)[1:], row, side="right"))


def first_not_finite(values: NDArray[np.floating], lengths: ArrayLike) -> int | None:
    """Return the index of the first sequence that holds a NaN or infinite value; None if there is none.

    Parameters
    ----------
    values : array of shape (N, C)
        The rows of all sequences.
    lengths : array of shape (S,), integers
        Number of rows of each sequence.
    """
    finite = np.isfinite(values)
    return None if finite.all() else sequence_of_row(lengths, int(finite.all(axis=1).argmin()))


def check_finite_points(points: NDArray[np.floating], lengths: ArrayLike) -> None:
    """Raise ValueError if a point, of (N, 3), is NaN or infinite; it names the streamline (`lengths`: shape (S,))."""
    wrong = first_not_finite(points, lengths)
    if wrong is not None:
        raise ValueError(
            f"Streamline {wrong} (counted from 0) of {np.size(lengths)} holds a NaN or infinite coordinate; remove it."
        )


def positions(lengths: ArrayLike) -> Rows:
    """Return the position of each row in its sequence, 0 for the first one, shape (N,), int64.

    Parameters
    ----------
    lengths : array of shape (S,), integers
        Number of rows of each sequence.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    return run_rows(np.zeros(len(lengths), dtype=np.int64), lengths)


def positions_from_end(lengths: ArrayLike) -> Rows:
    """Return the position of each row counted from the end of its sequence, 0 for the last one, shape (N,), int64.

    Parameters
    ----------
    lengths : array of shape (S,), integers
        Number of rows of each sequence.
    """
    rows = borders(lengths)
    return np.repeat(rows[1:], np.diff(rows)) - 1 - np.arange(rows[-1])


def first_rows(lengths: ArrayLike) -> Rows:
    """Return the first row of each non-empty sequence, shape (S',), int64, increasing.

    Parameters
    ----------
    lengths : array of shape (S,), integers
        Number of rows of each sequence.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    return offsets(lengths)[lengths > 0]


def last_rows(lengths: ArrayLike) -> Rows:
    """Return the last row of each non-empty sequence, shape (S',), int64, increasing.

    Parameters
    ----------
    lengths : array of shape (S,), integers
        Number of rows of each sequence.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    return borders(lengths)[1:][lengths > 0] - 1


def reversed_rows(lengths: ArrayLike) -> Rows:
    """Return the row numbers in the order that reverses each sequence in place, shape (N,), int64.

    Parameters
    ----------
    lengths : array of shape (S,), integers
        Number of rows of each sequence.
    """
    return np.repeat(offsets(lengths), np.asarray(lengths, dtype=np.int64)) + positions_from_end(lengths)


def run_rows(starts: ArrayLike, lengths: ArrayLike) -> Rows:
    """Return the row numbers of runs of consecutive rows, concatenated.

    Parameters
    ----------
    starts : array of shape (S,), integers
        The first row of each run. Runs may overlap, and be in any order.
    lengths : array of shape (S,), integers
        Number of rows of each run.

    Returns
    -------
    array of shape (sum of lengths,), int64
        For starts (5, 0) and lengths (2, 3): 5 6 0 1 2.
    """
    rows = borders(lengths)
    return np.repeat(np.asarray(starts, dtype=np.int64) - rows[:-1], np.diff(rows)) + np.arange(rows[-1])


def slabs(lengths: ArrayLike, max_rows: int, max_sequences: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Iterate over groups of consecutive sequences of a bounded number of rows, so that working memory is bounded.

    Parameters
    ----------
    lengths : array of shape (S,), integers
        Number of rows of each sequence.
    max_rows
        A group has at most this many rows, or is one longer sequence.
    max_sequences
        A group has at most this many sequences; None: any number.

    Yields
    ------
    tuple of two slices
        The sequences of the group, and their rows. Together the groups cover all sequences; no group is empty.
    """
    rows = borders(lengths)
    start, nb = 0, len(rows) - 1
    while start < nb:
        stop = max(int(np.searchsorted(rows, rows[start] + max_rows, side="right")) - 1, start + 1)
        if max_sequences is not None:
            stop = min(stop, start + max_sequences)
        yield slice(start, stop), slice(int(rows[start]), int(rows[stop]))
        start = stop
