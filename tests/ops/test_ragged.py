from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwiml.ops import ragged

LENGTHS = st.lists(st.integers(0, 6), max_size=8)


def rows_of(lengths: list[int]) -> list[list[int]]:
    rows = iter(range(sum(lengths)))
    return [[next(rows) for _ in range(n)] for n in lengths]


@given(LENGTHS)
def test_are_those_of_loops(lengths: list[int]) -> None:
    own = rows_of(lengths)
    expected = {
        "borders": [sum(lengths[:i]) for i in range(len(lengths) + 1)],
        "offsets": [sum(lengths[:i]) for i in range(len(lengths))],
        "sequence_ids": [i for i, n in enumerate(lengths) for _ in range(n)],
        "positions": [i for n in lengths for i in range(n)],
        "positions_from_end": [n - 1 - i for n in lengths for i in range(n)],
        "first_rows": [rows[0] for rows in own if rows],
        "last_rows": [rows[-1] for rows in own if rows],
        "reversed_rows": [row for rows in own for row in rows[::-1]],
    }
    for name, wanted in expected.items():
        for dtype in (np.int64, np.int32, np.uint64):
            got = getattr(ragged, name)(np.array(lengths, dtype=dtype))
            assert got.dtype == np.int64, name
            assert got.tolist() == wanted, name


@given(LENGTHS)
def test_sequence_of_each_row(lengths: list[int]) -> None:
    for number, rows in enumerate(rows_of(lengths)):
        assert all(ragged.sequence_of_row(lengths, row) == number for row in rows)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8))
def test_rows_of_runs(runs: list[tuple[int, int]]) -> None:
    starts, lengths = [start for start, _ in runs], [n for _, n in runs]
    got = ragged.run_rows(np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64))
    assert got.tolist() == [start + i for start, n in runs for i in range(n)]


@given(LENGTHS, st.integers(1, 12), st.none() | st.integers(1, 4))
def test_slabs_cover_all_and_are_bounded(lengths: list[int], max_rows: int, max_sequences: int | None) -> None:
    parts = list(ragged.slabs(np.array(lengths, dtype=np.int64), max_rows, max_sequences))
    own = rows_of(lengths)
    assert [i for sequences, _ in parts for i in range(len(lengths))[sequences]] == list(range(len(lengths)))
    for number, (sequences, rows) in enumerate(parts):
        assert [row for some in own[sequences] for row in some] == list(range(rows.start, rows.stop))
        nb = sequences.stop - sequences.start
        assert nb >= 1
        assert rows.stop - rows.start <= max_rows or nb == 1
        assert max_sequences is None or nb <= max_sequences
        if number + 1 < len(parts) and nb != max_sequences:
            # The next sequence would not have fitted.
            assert sum(lengths[sequences.start : sequences.stop + 1]) > max_rows


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_no_row_at_all(lengths: list[int]) -> None:
    for name in ("sequence_ids", "positions", "positions_from_end", "first_rows", "last_rows", "reversed_rows"):
        assert getattr(ragged, name)(np.array(lengths, dtype=np.int64)).tolist() == []


def test_the_first_sequence_that_is_not_finite() -> None:
    lengths = [2, 0, 3, 1]
    values = np.ones((6, 3), dtype=np.float32)
    assert ragged.first_not_finite(values, lengths) is None
    for row, number in ((0, 0), (1, 0), (2, 2), (4, 2), (5, 3)):
        for wrong in (np.nan, np.inf, -np.inf):
            changed = values.copy()
            changed[row:, 1] = wrong
            assert ragged.first_not_finite(changed, lengths) == number
    assert ragged.first_not_finite(values[:0], []) is None
