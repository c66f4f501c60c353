"""Epochs in which each value of a data per streamline has the same share."""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests_support import write_hdf5

from dwiml import DWIMLBatchIDSampler, MultiSubjectDataset
from dwiml.batching.balancing import draw_balanced
from dwiml.cli.main import main
from dwiml.ops.randomness import keyed_generator

# Number of streamlines of each bundle of each subject; the names of the bundles are arbitrary numbers.
BUNDLES = {
    "sub-a": {-2.5: 3, 0.0: 20, 7.0: 7},
    "sub-b": {0.0: 19, 3.0: 1},
    "sub-c": {1.0: 10},
    "sub-d": {0.0: 9, 1.0: 3},
}


@pytest.fixture(scope="module")
def bundles_hdf5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny file, and an empty training subject, with bundle_id in a shuffled order, and the pair (id, id) too."""
    path = tmp_path_factory.mktemp("bundles") / "bundles.hdf5"
    write_hdf5(path, {"sub-a": 30, "sub-b": 20, "sub-c": 10, "sub-empty": 0}, {"sub-d": 12}, {"sub-e": 5})
    rng = np.random.default_rng(3)
    with h5py.File(path, "r+") as handle:
        for subject, bundles in BUNDLES.items():
            values = rng.permutation(np.repeat(list(bundles), list(bundles.values()))).astype(np.float32)
            data = handle[f"{subject}/streamlines/data_per_streamline"]
            data.create_dataset("bundle_id", data=values[:, None])
            data.create_dataset("pair", data=np.stack([values, values], axis=1))
            data.create_dataset("gaps", data=np.where(np.arange(len(values)) == 2, np.nan, values)[:, None])
    return path


def load(path: Path, *, lazy: bool = False) -> MultiSubjectDataset:
    dataset = MultiSubjectDataset(path, lazy=lazy)
    dataset.load_data()
    return dataset


def sampler(path: Path, *, lazy: bool = False, **kwargs: object) -> DWIMLBatchIDSampler:
    options = {"batch_size_training": 7, "balance_by": "bundle_id", "seed": 1, **kwargs}
    return DWIMLBatchIDSampler(load(path, lazy=lazy), "streamlines", **options)  # type: ignore[arg-type]


def values_of(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as handle:
        return {name: handle[f"{name}/streamlines/data_per_streamline/bundle_id"][:, 0] for name in BUNDLES}


def drawn(sample: DWIMLBatchIDSampler, phase: str = "training", epoch: int = 0) -> dict[str, np.ndarray]:
    sample.set_position(phase, epoch)
    found: dict[str, list[int]] = {}
    for batch in sample:
        for subject, ids in batch:
            found.setdefault(sample.dataset.subset(phase).subjects[subject], []).extend(ids)
    return {name: np.array(ids) for name, ids in found.items()}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("options", [{}, {"batch_size_training": 300.0, "batch_size_units": "length_mm"}])
def test_each_bundle_has_the_same_share(bundles_hdf5: Path, lazy: bool, options: dict[str, object]) -> None:
    values, sample = values_of(bundles_hdf5), sampler(bundles_hdf5, lazy=lazy, **options)
    more = set()
    for epoch in range(8):
        found = drawn(sample, epoch=epoch)
        assert {name: len(ids) for name, ids in found.items()} == {"sub-a": 30, "sub-b": 20, "sub-c": 10}
        assert Counter(values["sub-a"][found["sub-a"]]) == {-2.5: 10, 0.0: 10, 7.0: 10}
        assert Counter(values["sub-b"][found["sub-b"]]) == {0.0: 10, 3.0: 10}
        assert Counter(found["sub-c"].tolist()) == dict.fromkeys(range(10), 1)
        times = Counter(found["sub-a"].tolist())
        # 10 of 3: each three times and one of them once more. 10 of 20: at most once. 10 of 7: three of them twice.
        of_bundle = {v: sorted(times[i] for i in np.flatnonzero(values["sub-a"] == v)) for v in (-2.5, 0.0, 7.0)}
        assert of_bundle == {-2.5: [3, 3, 4], 0.0: [0] * 10 + [1] * 10, 7.0: [1] * 4 + [2] * 3}
        more.add(tuple(sorted(found["sub-a"].tolist())))
    assert len(more) > 1


def test_batches_in_mm_keep_their_size(bundles_hdf5: Path) -> None:
    sample = sampler(bundles_hdf5, batch_size_training=60.0, batch_size_units="length_mm")
    lengths = sample.dataset.training_set.streamline_lengths_mm["streamlines"]
    for batch in sample:
        total = sum(float(lengths[subject][ids].sum()) for subject, ids in batch)
        assert total <= 60 * (1 + 1e-5) or sum(len(ids) for _, ids in batch) == 1


@pytest.mark.parametrize("phase", ["validation", "testing"])
def test_other_phases_use_each_streamline_once(bundles_hdf5: Path, phase: str) -> None:
    # The testing subject has no bundle_id at all.
    found = drawn(sampler(bundles_hdf5), phase)
    without = drawn(sampler(bundles_hdf5, balance_by=None), phase)
    assert {name: ids.tolist() for name, ids in found.items()} == {name: ids.tolist() for name, ids in without.items()}
    assert all(sorted(ids) == list(range(len(ids))) for ids in found.values())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 5))
def test_draws(sizes: list[int], seed: int) -> None:
    classes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    ids = draw_balanced(classes, keyed_generator(seed, "test"))
    assert len(ids) == sum(sizes)
    counts = np.bincount(classes[ids], minlength=len(sizes))
    assert np.ptp(counts) <= 1
    times = np.bincount(ids, minlength=len(classes))
    assert all(np.ptp(times[classes == k]) <= 1 for k in range(len(sizes)))


def test_the_rest_and_the_streamlines_are_chosen_by_chance() -> None:
    classes = np.repeat([0, 1], [1, 4])
    draws = [draw_balanced(classes, keyed_generator(0, epoch)) for epoch in range(2000)]
    # Three of five are of the class 0 in half of the draws; two or three of four of the class 1, with equal chances.
    threes = sum(int((ids == 0).sum() == 3) for ids in draws)
    assert abs(threes - 1000) < 5 * np.sqrt(2000 / 4)
    counts = np.bincount(np.concatenate(draws), minlength=5)[1:]
    assert (np.abs(counts - counts.sum() / 4) < 5 * np.sqrt(2000 / 4)).all()
    firsts = np.bincount([ids[0] for ids in draws], minlength=5) / 2000
    assert abs(firsts[0] - 0.5) < 5 * np.sqrt(0.25 / 2000)
    assert len(draw_balanced(np.zeros(0, dtype=np.int32), keyed_generator(0))) == 0


def test_a_function_of_seed_and_epoch(bundles_hdf5: Path) -> None:
    first, second = sampler(bundles_hdf5), sampler(bundles_hdf5, lazy=True)
    drawn(first, epoch=5)
    again = [(drawn(each, epoch=2)["sub-a"]).tolist() for each in (first, second)]
    assert again[0] == again[1] != drawn(first, epoch=3)["sub-a"].tolist()
    assert drawn(sampler(bundles_hdf5, seed=2), epoch=2)["sub-a"].tolist() != again[0]
    sample = sampler(bundles_hdf5)
    everything = [[(s, ids.tolist()) for s, ids in batch] for batch in sample]
    sample.set_position("training", 0, first_batch=3)
    assert [[(s, ids.tolist()) for s, ids in batch] for batch in sample] == everything[3:]
    shares = []
    for rank in range(2):
        sample.set_rank(rank, 2)
        shares.append([[(s, i) for s, ids in batch for i in ids.tolist()] for batch in sample])
    whole = [[(s, i) for s, ids in batch for i in ids] for batch in everything[3:]]
    assert [one + other for one, other in zip(*shares, strict=True)] == whole


def test_parameters_are_recorded(bundles_hdf5: Path) -> None:
    sample = sampler(bundles_hdf5)
    assert sample.params["balance_by"] == "bundle_id"
    assert DWIMLBatchIDSampler(sample.dataset, **sample.params).params == sample.params
    assert sampler(bundles_hdf5, balance_by=None).params["balance_by"] is None
    restored = pickle.loads(pickle.dumps(sample))
    assert drawn(restored)["sub-a"].tolist() == drawn(sample)["sub-a"].tolist()


def test_reloading_reads_the_data_again(bundles_hdf5: Path) -> None:
    sample = sampler(bundles_hdf5)
    drawn(sample)
    sample.dataset.load_data(subj_id="sub-b")
    assert Counter(values_of(bundles_hdf5)["sub-b"][drawn(sample)["sub-b"]]) == {0.0: 10, 3.0: 10}


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("bundle", "balance_by is 'bundle', but the streamlines group 'streamlines' of subject 'sub-a'"),
        ("bundle", "has no such data_per_streamline; it has: 'bundle_id', 'gaps', 'id', 'pair'."),
        ("pair", "balance_by must be a data_per_streamline with one value per streamline, but 'pair' of the "),
        ("pair", "has 2."),
        ("", "balance_by must be the name of a data_per_streamline, or None, got ''."),
        (3, "balance_by must be the name of a data_per_streamline, or None, got 3."),
    ],
)
def test_errors_at_construction(bundles_hdf5: Path, key: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sampler(bundles_hdf5, balance_by=key)


def test_errors_of_data_that_are_loaded_later(bundles_hdf5: Path) -> None:
    sample = DWIMLBatchIDSampler(MultiSubjectDataset(bundles_hdf5), "streamlines", balance_by="bundle")
    sample.dataset.load_data()
    with pytest.raises(ValueError, match="balance_by is 'bundle', but the "):
        len(sample)
    with pytest.raises(ValueError, match=r"balance_by is 'gaps', .* 'sub-a' is NaN for streamline 2;"):
        len(sampler(bundles_hdf5, balance_by="gaps"))


def test_a_training_balances_and_resumes_exactly(bundles_hdf5: Path, tmp_path: Path) -> None:
    options = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--balance_by", "bundle_id"]
    options += ["--rnn_layer_sizes", "8", "--batch_size_training", "16", "--seed", "1", "--use_gpu", "false"]
    common = ["train", "learn2track", str(bundles_hdf5), str(tmp_path)]
    assert main([*common, "whole", "--max_epochs", "2", *options]) == 0
    assert main([*common, "parts", "--max_epochs", "1", *options]) == 0
    assert main(["resume", str(tmp_path / "parts"), "--new_max_epochs", "2"]) == 0
    assert main([*common, "plain", "--max_epochs", "2", *options[:4], *options[6:]]) == 0
    assert _losses(tmp_path / "whole") == _losses(tmp_path / "parts") != _losses(tmp_path / "plain")


def _losses(experiment: Path) -> list[float]:
    lines = map(json.loads, (experiment / "logs" / "metrics.jsonl").read_text().splitlines())
    return [line["train_loss"] for line in lines]
