from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwiml import DWIMLBatchIDSampler, MultiSubjectDataset
from dwiml.batching.sampler import BatchIds
from dwiml.ops.randomness import BatchKey


class FakeDataset:
    """Only what the sampler uses: the lengths, in mm, of the streamlines of each subject."""

    def __init__(self, lengths_mm: list[np.ndarray]) -> None:
        subset = SimpleNamespace(loaded=True, streamline_lengths_mm={"streamlines": lengths_mm})
        self.training_set = self.validation_set = subset
        self.nb_loads = 1

    def subset(self, phase: str) -> SimpleNamespace:
        return self.training_set

    def check_streamline_group(self, group: str) -> None:
        assert group == "streamlines"


def sampler(sizes: list[int], **kwargs: object) -> DWIMLBatchIDSampler:
    rng = np.random.default_rng(0)
    lengths = [rng.uniform(20, 200, size).astype(np.float32) for size in sizes]
    return DWIMLBatchIDSampler(FakeDataset(lengths), "streamlines", seed=1, **kwargs)  # type: ignore[arg-type]


def seen(batches: list[BatchIds]) -> Counter[tuple[int, int]]:
    return Counter((subject, int(i)) for batch in batches for subject, ids in batch for i in ids)


SIZES = st.lists(st.sampled_from([0, 1, 2, 7, 60]), min_size=1, max_size=5)


@given(
    SIZES,
    st.sampled_from([("nb_streamlines", 1), ("nb_streamlines", 13), ("length_mm", 30.0), ("length_mm", 700.0)]),
    st.sampled_from([None, 1, 2, 9]),
    st.sampled_from([None, 1, 3]),
)
def test_each_streamline_is_used_once(
    sizes: list[int], size: tuple[str, float], subjects: int | None, cycles: int | None
) -> None:
    units, batch_size = size
    sample = sampler(
        sizes,
        batch_size_training=batch_size,
        batch_size_units=units,
        nb_subjects_per_batch=subjects,
        cycles=cycles if subjects is not None else None,
    )
    sample.set_position("training", 3)
    batches = list(sample)
    assert seen(batches) == Counter((s, i) for s, n in enumerate(sizes) for i in range(n))
    assert len(sample) == len(batches)
    assert all(len(ids) for batch in batches for _, ids in batch)
    if subjects is not None:
        assert max((len(batch) for batch in batches), default=0) <= subjects


@given(
    SIZES,
    st.sampled_from([("nb_streamlines", 5), ("nb_streamlines", 64), ("length_mm", 30.0), ("length_mm", 700.0)]),
    st.sampled_from([None, 2]),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_ranks_share_the_batches_of_one_process(
    sizes: list[int], size: tuple[str, float], subjects: int | None, nb_ranks: int, first_batch: int
) -> None:
    units, batch_size = size
    alone = sampler(sizes, batch_size_training=batch_size, batch_size_units=units, nb_subjects_per_batch=subjects)
    alone.set_position("training", 2, first_batch=first_batch)
    whole = list(alone)
    shares = []
    for rank in range(nb_ranks):
        alone.set_rank(rank, nb_ranks)
        shares.append(list(alone))
        assert len(shares[-1]) == len(alone) == len(whole)
    for index, batch in enumerate(whole):
        of_ranks = [ranks[index] for ranks in shares]
        in_order = [(s, i) for share in of_ranks for s, ids in share for i in ids]
        assert in_order == [(s, i) for s, ids in batch for i in ids]
        counts = [sum(len(ids) for _, ids in share) for share in of_ranks]
        if units == "nb_streamlines":
            assert max(counts) - min(counts) <= 1
        for share, first in zip(of_ranks, np.cumsum([0, *counts]), strict=False):
            assert all(len(ids) for _, ids in share)
            key = BatchKey("training", 2, first_batch + index, int(first), sum(counts))
            assert share.key == (key if nb_ranks > 1 else batch.key)


def test_shares_in_mm_are_about_equal() -> None:
    alone = sampler([400, 300], batch_size_training=20_000, batch_size_units="length_mm")
    lengths = alone.dataset.training_set.streamline_lengths_mm["streamlines"]
    mm = []
    for rank in range(4):
        alone.set_rank(rank, 4)
        mm.append([sum(float(lengths[s][ids].sum()) for s, ids in share) for share in alone])
    # Each bound of a share is off by at most half of the longest streamline.
    assert np.ptp(np.array(mm), axis=0).max() <= 2 * 200


@pytest.mark.parametrize(("rank", "nb_ranks"), [(2, 2), (-1, 2), (0, 0), (0.5, 2)])
def test_invalid_ranks_are_rejected(rank: int, nb_ranks: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        sampler([3]).set_rank(rank, nb_ranks)


@given(SIZES, st.sampled_from([None, 2]))
def test_length_limit_is_not_exceeded(sizes: list[int], subjects: int | None) -> None:
    sample = sampler(sizes, batch_size_training=300, batch_size_units="length_mm", nb_subjects_per_batch=subjects)
    lengths = sample.dataset.training_set.streamline_lengths_mm["streamlines"]
    for batch in sample:
        total = sum(float(lengths[subject][ids].sum()) for subject, ids in batch)
        assert total <= 300 * (1 + 1e-5) or sum(len(ids) for _, ids in batch) == 1


def test_a_streamline_longer_than_the_batch_is_alone() -> None:
    sample = sampler([5], batch_size_training=1.0, batch_size_units="length_mm")
    assert [len(batch[0][1]) for batch in sample] == [1] * 5


def test_unequal_subjects_are_all_seen_in_full_batches() -> None:
    # 100 000 + 10 000 streamlines: an epoch must not end before all are used.
    counts = [sum(len(ids) for _, ids in batch) for batch in sampler([100_000, 10_000])]
    assert counts == [1000] * 110


def test_three_subjects_give_batches_of_1000_and_the_last_batch_is_kept() -> None:
    counts = [sum(len(ids) for _, ids in batch) for batch in sampler([1000, 1000, 1007])]
    assert counts == [1000, 1000, 1000, 7]


def test_subjects_are_drawn_in_proportion_to_their_streamlines() -> None:
    batches = list(sampler([9000, 1000], batch_size_training=10, nb_subjects_per_batch=1))
    first_half = Counter(batch[0][0] for batch in batches[:500])
    # Binomial(500, 0.1): within five standard deviations of 50.
    assert abs(first_half[1] - 50) < 5 * np.sqrt(500 * 0.1 * 0.9)


def test_cycles_keep_the_subjects() -> None:
    batches = list(sampler([100] * 4, batch_size_training=10, nb_subjects_per_batch=2, cycles=3))
    subjects = [tuple(subject for subject, _ in batch) for batch in batches]
    for start in range(0, 12, 3):
        assert len(set(subjects[start : start + 3])) == 1
    assert len(set(subjects)) > 1


def test_an_epoch_depends_only_on_seed_and_index() -> None:
    first, second = sampler([50, 20], batch_size_training=8), sampler([50, 20], batch_size_training=8)
    first.set_position("training", 5)
    list(first)
    first.set_position("training", 2)
    second.set_position("training", 2)
    as_lists = [[[(s, ids.tolist()) for s, ids in batch] for batch in each] for each in (first, second)]
    assert as_lists[0] == as_lists[1]
    second.set_position("training", 3)
    assert as_lists[0] != [[(s, ids.tolist()) for s, ids in batch] for batch in second]


def test_starts_and_stops_at_any_batch() -> None:
    sample = sampler([50], batch_size_training=8)
    everything = [batch[0][1].tolist() for batch in sample]
    sample.set_position("training", 0, first_batch=2, max_batches=5)
    assert [batch[0][1].tolist() for batch in sample] == everything[2:5]
    assert [batch.key.batch_index for batch in sample] == [2, 3, 4]
    assert len(sample) == 3


def test_pickling_keeps_the_key_of_a_batch() -> None:
    batch = next(iter(sampler([5])))
    again: BatchIds = pickle.loads(pickle.dumps(batch))
    assert again.key == batch.key
    assert seen([again]) == seen([batch])


def test_a_drawn_seed_is_recorded(tiny_hdf5: Path) -> None:
    dataset = MultiSubjectDataset(tiny_hdf5)
    dataset.load_data()
    first = DWIMLBatchIDSampler(dataset, "streamlines", batch_size_training=7)
    again = DWIMLBatchIDSampler(dataset, **first.params)
    assert again.params == first.params
    assert seen([next(iter(first))]) == seen([next(iter(again))])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"batch_size_training": 0}, "batch_size_training must be positive, got 0."),
        ({"batch_size_training": -3}, "batch_size_training must be positive, got -3."),
        ({"batch_size_training": float("nan")}, "batch_size_training must be positive"),
        ({"batch_size_training": 2.5}, "whole number of streamlines, got 2.5"),
        ({"batch_size_validation": 0}, "batch_size_validation must be positive"),
        ({"batch_size_units": "points"}, "batch_size_units must be one of .*nb_streamlines.*got 'points'"),
        (
            {"nb_subjects_per_batch": 0},
            "nb_subjects_per_batch, when given, must be a whole number of at least 1, got 0",
        ),
        ({"cycles": 0, "nb_subjects_per_batch": 1}, "cycles, when given, must be a whole number"),
        ({"cycles": "2", "nb_subjects_per_batch": 1}, "cycles, when given, .* got '2'"),
        ({"nb_subjects_per_batch": True}, "nb_subjects_per_batch, when given, .* got True"),
        ({"nb_subjects_per_batch": "2"}, "nb_subjects_per_batch, when given, .* got '2'"),
        ({"batch_size_training": "10"}, "batch_size_training must be positive, got '10'"),
        ({"batch_size_training": None}, "batch_size_training must be positive, got None"),
        ({"batch_size_validation": True}, "batch_size_validation must be positive, got True"),
        ({"cycles": 2}, "cycles needs nb_subjects_per_batch"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        sampler([5], **arguments)


def test_data_must_be_loaded(tiny_hdf5: Path) -> None:
    sample = DWIMLBatchIDSampler(MultiSubjectDataset(tiny_hdf5), "streamlines")
    with pytest.raises(ValueError, match=r"training set is not loaded: call dataset.load_data\(\)"):
        len(sample)


def test_batches_are_counted_and_read_without_changing_the_position() -> None:
    sample = sampler([20, 30], batch_size_training=7)
    sample.set_rank(1, 2)
    sample.set_position("validation", 3, first_batch=1, max_batches=5)
    before = [(batch.key, [ids.tolist() for _, ids in batch]) for batch in sample]
    assert sample.nb_batches("training", 2) == 8
    assert sample.nb_batches("training", 2, max_batches=3) == 3
    whole = sample.whole_batch("training", 2, 4)
    assert (whole.key, sum(len(ids) for _, ids in whole)) == (BatchKey("training", 2, 4), 7)
    assert [(batch.key, [ids.tolist() for _, ids in batch]) for batch in sample] == before
    with pytest.raises(ValueError, match=r"^phase must be one of .*, got 'test'\.$"):
        sample.nb_batches("test", 0)


def test_unknown_group(tiny_hdf5: Path) -> None:
    with pytest.raises(ValueError, match="Streamlines group 'wb' not found .* it has: 'streamlines'"):
        DWIMLBatchIDSampler(MultiSubjectDataset(tiny_hdf5), "wb")


def test_a_path_is_not_a_dataset(tiny_hdf5: Path) -> None:
    for wrong, named in ((str(tiny_hdf5), "tiny.hdf5'"), (MultiSubjectDataset, "the class MultiSubjectDataset")):
        with pytest.raises(TypeError, match=f"DWIMLBatchIDSampler needs a MultiSubjectDataset .* got .*{named}"):
            DWIMLBatchIDSampler(wrong, "streamlines")  # type: ignore[arg-type]


def test_a_group_that_was_not_loaded(tiny_hdf5: Path) -> None:
    dataset = MultiSubjectDataset(tiny_hdf5)
    dataset.load_data(streamline_groups=[])
    with pytest.raises(ValueError, match=r"'streamlines' was not loaded; give it to dataset.load_data\(\)"):
        len(DWIMLBatchIDSampler(dataset, "streamlines"))


def test_reloading_changes_the_plan(tiny_hdf5: Path) -> None:
    dataset = MultiSubjectDataset(tiny_hdf5)
    dataset.load_data()
    sample = DWIMLBatchIDSampler(dataset, "streamlines", batch_size_training=7)
    assert sum(seen(list(sample)).values()) == 60
    dataset.load_data(subj_id="sub-b")
    assert sum(seen(list(sample)).values()) == 20
    assert len(sample._epochs) == 1
