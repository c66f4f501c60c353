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
