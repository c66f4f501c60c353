from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nibabel.streamlines import ArraySequence

from dwiml import TensorSequence

LENGTHS = st.lists(st.integers(0, 6), max_size=8)


def make(lengths: list[int]) -> tuple[TensorSequence, list[torch.Tensor]]:
    data = torch.arange(3.0 * sum(lengths)).reshape(-1, 3) ** 2
    return TensorSequence(data, torch.tensor(lengths, dtype=torch.int64)), list(torch.split(data, lengths))


@given(LENGTHS)
def test_is_a_list_of_tensors(lengths: list[int]) -> None:
    sequence, expected = make(lengths)
    assert len(sequence) == len(expected)
    for got, wanted in zip(sequence, expected, strict=True):
        assert torch.equal(got, wanted)
    for i in range(-len(lengths), len(lengths)):
        assert torch.equal(sequence[i], expected[i])
    assert torch.equal(
        sequence.sequence_ids(), torch.tensor([i for i, n in enumerate(lengths) for _ in range(n)]).long()
    )


@given(LENGTHS, st.slices(8))
def test_slices_as_a_list_does(lengths: list[int], index: slice) -> None:
    sequence, expected = make(lengths)
    got = sequence[index]
    assert isinstance(got, TensorSequence)
    assert [t.tolist() for t in got] == [t.tolist() for t in expected[index]]


@given(LENGTHS)
def test_offsets_are_nibabels(lengths: list[int]) -> None:
    sequence, expected = make(lengths)
    reference = ArraySequence([t.numpy() for t in expected if len(t)])
    kept = sequence.offsets[sequence.lengths > 0]
    assert kept.tolist() == list(reference._offsets)


@given(LENGTHS)
def test_diff_and_trimmed_last(lengths: list[int]) -> None:
    sequence, expected = make(lengths)
    for got, wanted in zip(sequence.diff(), expected, strict=True):
        assert torch.equal(got, torch.from_numpy(np.diff(wanted.numpy(), axis=0)) if len(wanted) else wanted)
    for got, wanted in zip(sequence.trimmed_last(), expected, strict=True):
        assert torch.equal(got, wanted[:-1])


def test_views_share_memory() -> None:
    sequence, _ = make([2, 3])
    sequence[1][0, 0] = -7.0
    assert sequence.data[2, 0] == -7.0


@given(LENGTHS)
def test_padded(lengths: list[int]) -> None:
    sequence, expected = make(lengths)
    padded = sequence.padded(fill=-1.0)
    assert padded.shape[:2] == (len(lengths), max(lengths, default=0))
    for row, wanted in zip(padded, expected, strict=True):
        assert torch.equal(row[: len(wanted)], wanted)
        assert (row[len(wanted) :] == -1).all()


def test_packed_is_torchs() -> None:
    sequence, expected = make([2, 5, 3])
    packed = sequence.packed()
    assert torch.equal(packed.data, torch.nn.utils.rnn.pack_sequence(expected, enforce_sorted=False).data)


def test_pickles_and_moves() -> None:
    sequence, _ = make([1, 4])
    again = pickle.loads(pickle.dumps(sequence))
    assert torch.equal(again.data, sequence.data)
    assert torch.equal(again.lengths, sequence.lengths)
    assert sequence.to("cpu") is sequence
    assert sequence.to("meta").data.device.type == "meta"


@pytest.mark.parametrize(("rows", "lengths"), [(3, [1, 1]), (3, [4, -1]), (2, [3])])
def test_refuses_lengths_that_do_not_fit(rows: int, lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=f"add up to the {rows} rows"):
        TensorSequence(torch.zeros(rows, 3), torch.tensor(lengths))


def test_index_out_of_range() -> None:
    sequence, _ = make([1, 1])
    with pytest.raises(IndexError, match="there are 2"):
        sequence[2]


@pytest.mark.parametrize("lengths", [[3, 0, 2, 1], [1], [0], []])
def test_select_and_reversed(lengths: list[int]) -> None:
    sequence, parts = make(lengths)
    ids = [i for i in (2, 0, 2, 1, 3) if i < len(lengths)]
    chosen = sequence.select(torch.tensor(ids, dtype=torch.int64))
    assert len(chosen) == len(ids)
    for got, number in zip(chosen, ids, strict=True):
        assert torch.equal(got, parts[number])
    for got, part in zip(sequence.reversed(), parts, strict=True):
        assert torch.equal(got, part.flip(0))


@given(LENGTHS)
def test_positions_are_those_of_loops(lengths: list[int]) -> None:
    sequence, _ = make(lengths)
    assert sequence.positions().tolist() == [i for n in lengths for i in range(n)]
    assert sequence.positions_from_end().tolist() == [n - 1 - i for n in lengths for i in range(n)]
    assert sequence.is_first().tolist() == [i == 0 for n in lengths for i in range(n)]
    assert sequence.is_last().tolist() == [i == n - 1 for n in lengths for i in range(n)]
    rows = iter(range(sum(lengths)))
    numbered = [[next(rows) for _ in range(n)] for n in lengths]
    assert sequence.rows_but_last().tolist() == [row for own in numbered for row in own[:-1]]
    for values in (sequence.positions(), sequence.positions_from_end(), sequence.sequence_ids()):
        assert values.dtype == torch.int64
        assert values.shape == (sequence.total_points,)


@given(LENGTHS)
def test_first_and_last_points(lengths: list[int]) -> None:
    sequence, parts = make(lengths)
    if 0 in lengths:
        for which, points in (("first", sequence.first_points), ("last", sequence.last_points)):
            with pytest.raises(ValueError, match=f"Sequence {lengths.index(0)} of .* has no row, so it has no {which}"):
                points()
        return
    assert sequence.first_points().tolist() == [part[0].tolist() for part in parts]
    assert sequence.last_points().tolist() == [part[-1].tolist() for part in parts]
    assert sequence.first_points().shape == (len(lengths), 3)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), max_size=8), st.integers(0, 7))
def test_head_and_tail_are_a_lists(both: list[tuple[int, int]], nb: int) -> None:
    lengths, counts = [n for n, _ in both], [count for _, count in both]
    sequence, parts = make(lengths)
    own = torch.tensor(counts, dtype=torch.int64)
    for number, part in enumerate(parts):
        rows = part.tolist()
        assert sequence.head(nb)[number].tolist() == rows[:nb]
        assert sequence.tail(nb)[number].tolist() == (rows[-nb:] if nb else [])
        assert sequence.head(own)[number].tolist() == rows[: counts[number]]
        assert sequence.tail(own)[number].tolist() == (rows[-counts[number] :] if counts[number] else [])


def test_points_keep_their_gradient() -> None:
    lengths = torch.tensor([2, 3])
    data = torch.zeros(5, 3, requires_grad=True)
    TensorSequence(data, lengths).last_points().sum().backward()
    assert data.grad is not None
    assert data.grad[:, 0].tolist() == [0, 1, 0, 0, 1]


def test_positions_are_where_the_rows_are() -> None:
    sequence = make([2, 3])[0].to("meta")
    for values in (sequence.sequence_ids(), sequence.positions(), sequence.is_last(), sequence.first_points()):
        assert values.device.type == "meta"
    assert sequence.lengths.device.type == "cpu"


def test_joined_adds_rows_to_each_sequence() -> None:
    first = TensorSequence(torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([2, 0, 1]))
    second = TensorSequence(torch.tensor([[3.0], [4.0], [6.0]]), torch.tensor([1, 1, 1]))
    joined = first.joined(second)
    assert joined.lengths.tolist() == [3, 1, 2]
    assert joined.data[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="^Only as many sequences can be joined: got 3 and 2"):
        first.joined(second[:2])
