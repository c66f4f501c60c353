"""Seeds: a function of (seed, their number) only, inside their voxels, uniform."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy import stats

from dwiml.tracking.seeds import Seeds

SHAPE = (5, 7, 6)


def a_mask(share: float = 0.3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(2).random(SHAPE) < share)


def all_points(seeds: Seeds) -> torch.Tensor:
    return seeds.points(0, len(seeds))


@pytest.mark.parametrize("placement", ["random", "center"])
@pytest.mark.parametrize("count", [{"per_voxel": 3}, {"total": 200}])
def test_chunks_of_any_size_are_the_whole(count, placement):
    seeds = Seeds(a_mask(), **count, placement=placement, seed=4)
    whole = all_points(seeds)
    assert whole.shape == (len(seeds), 3)
    assert whole.dtype == torch.float32
    for size in (1, 7, len(seeds) + 1):
        pieces = [seeds.points(start, start + size) for start in range(0, len(seeds), size)]
        assert torch.equal(torch.cat(pieces), whole)
    assert seeds.points(5, 5).shape == (0, 3)
    assert seeds.points(9, 2).shape == (0, 3)
    assert seeds.points(len(seeds), len(seeds) + 10).shape == (0, 3)


def test_per_voxel_is_voxel_after_voxel_in_c_order():
    mask = a_mask()
    voxels = np.argwhere(mask.numpy())
    seeds = Seeds(mask, per_voxel=4, seed=1)
    assert len(seeds) == 4 * len(voxels)
    points = all_points(seeds).numpy()
    np.testing.assert_array_equal(np.floor(points), np.repeat(voxels, 4, axis=0))
    assert len(np.unique(points, axis=0)) == len(points)
    centers = all_points(Seeds(mask, per_voxel=2, placement="center")).numpy()
    np.testing.assert_array_equal(centers, np.repeat(voxels, 2, axis=0) + 0.5)


def test_more_seeds_keep_the_first_ones():
    mask = a_mask()
    few, many = (Seeds(mask, total=n, seed=8) for n in (50, 5000))
    assert torch.equal(all_points(few), many.points(0, 50))
    few, many = (Seeds(mask, per_voxel=n, seed=8) for n in (2, 5))
    assert torch.equal(all_points(few).view(-1, 2, 3), all_points(many).view(-1, 5, 3)[:, :2])


def test_a_voxels_seeds_do_not_depend_on_the_rest_of_the_mask():
    mask = a_mask(0.5)
    other = mask & a_mask(0.3)
    assert 0 < other.sum() < mask.sum()
    seeds, of_other = Seeds(mask, per_voxel=3, seed=8), Seeds(other, per_voxel=3, seed=8)
    kept = other[mask].repeat_interleave(3)
    assert torch.equal(all_points(seeds)[kept], all_points(of_other))
    assert torch.equal(seeds.keys(0, len(seeds))[kept], of_other.keys(0, len(of_other)))


@pytest.mark.parametrize("count", [{"per_voxel": 3}, {"total": 200}])
def test_keys_belong_to_one_seed_each(count):
    seeds = Seeds(a_mask(), **count, seed=3)
    keys = seeds.keys(0, len(seeds))
    assert keys.dtype == torch.int64
    assert len(keys.unique()) == len(seeds)
    assert torch.equal(seeds.keys(10, 20), keys[10:20])


@pytest.mark.parametrize("count", [{"per_voxel": 3}, {"total": 200}])
def test_another_seed_gives_other_points(count):
    mask = a_mask()
    first, same, other = (all_points(Seeds(mask, **count, seed=seed)) for seed in (5, 5, 6))
    assert torch.equal(first, same)
    assert not (first == other).any()


def test_a_seed_that_is_not_given_is_drawn_and_told():
    mask = a_mask()
    seeds = Seeds(mask, total=20)
    assert torch.equal(all_points(seeds), all_points(Seeds(mask, total=20, seed=seeds.seed)))
    assert Seeds(mask, total=20).seed != seeds.seed


def test_in_total_is_uniform_over_the_voxels_and_within_them():
    mask = a_mask()
    points = all_points(Seeds(mask, total=40_000, seed=12)).double().numpy()
    voxels = np.floor(points).astype(int)
    flat = np.ravel_multi_index(tuple(voxels.T), SHAPE)
    counts = np.bincount(flat, minlength=mask.numel())[mask.numpy().ravel()]
    assert counts.sum() == len(points)
    assert stats.chisquare(counts).pvalue > 1e-3
    within = points - voxels
    for axis in range(3):
        assert stats.kstest(within[:, axis], "uniform").pvalue > 1e-3
    # Nothing is drawn twice: neither the axes nor the choice of the voxel follow one another.
    ranks = np.searchsorted(np.unique(flat), flat)
    correlations = np.corrcoef(np.column_stack([within, ranks]), rowvar=False)
    assert np.abs(correlations[~np.eye(4, dtype=bool)]).max() < 0.03


@pytest.mark.parametrize("draw", [0.0, 1 - 2.0**-53])
@pytest.mark.parametrize("count", [{"per_voxel": 2}, {"total": 300}])
def test_points_stay_in_their_voxel_whatever_is_drawn(monkeypatch, draw, count):
    mask = torch.zeros(300, 1, 3, dtype=torch.bool)
    mask[[0, 1, 7, 255, 299], 0, 1] = True
    monkeypatch.setattr(
        "dwiml.tracking.seeds.keyed_uniform",
        lambda seed, keys, counter: torch.full(keys.shape, draw, dtype=torch.float64),
    )
    points = all_points(Seeds(mask, **count, seed=0))
    voxels = points.floor().long()
    assert mask[tuple(voxels.T)].all()
    assert torch.equal(points == voxels, torch.full_like(points, draw == 0, dtype=torch.bool))


def test_a_mask_of_numpy_that_cannot_be_written_and_one_of_torch_are_the_same():
    mask = a_mask().numpy().copy()
    mask.flags.writeable = False
    assert torch.equal(all_points(Seeds(mask, total=30, seed=0)), all_points(Seeds(a_mask(), total=30, seed=0)))


def test_a_billion_seeds_cost_nothing():
    seeds = Seeds(a_mask(), total=10**9, seed=0)
    assert seeds.points(10**9 - 5, 10**9).shape == (5, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "either the number of seeds per voxel or the total number, got None per voxel and None in total"),
        ({"per_voxel": 2, "total": 3}, "got 2 per voxel and 3 in total"),
        ({"per_voxel": 0}, "per_voxel must be a whole number of at least 1, got 0"),
        ({"total": -4}, "total must be a whole number of at least 1, got -4"),
        ({"total": 2.0}, "total must be a whole number of at least 1, got 2.0"),
        ({"total": 5, "placement": "edge"}, "placement must be 'random' or 'center', got 'edge'"),
        ({"total": 5, "seed": -1}, "seed must be an integer from 0"),
        ({"per_voxel": 2**32}, "too many to be numbered"),
    ],
)
def test_wrong_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Seeds(a_mask(), **options)


def test_wrong_masks_are_refused():
    with pytest.raises(ValueError, match="The seeding mask, 5 x 7 x 6 voxels, is empty"):
        Seeds(torch.zeros(SHAPE, dtype=torch.bool), total=1)
    with pytest.raises(ValueError, match=r"must be bool of shape \(X, Y, Z\), got float32 of shape \(5, 7, 6\)"):
        Seeds(torch.ones(SHAPE), total=1)
    with pytest.raises(ValueError, match=r"got bool of shape \(5, 7, 6, 1\)"):
        Seeds(np.ones((*SHAPE, 1), dtype=bool), total=1)
    with pytest.raises(ValueError, match=r"got int16 of shape"):
        Seeds(np.ones(SHAPE, dtype=np.int16), total=1)


@pytest.mark.parametrize("share", [0.3, 0.9, 1.0])
def test_seeds_at_the_interface_are_in_voxels_with_a_neighbor_outside(share):
    mask = a_mask(share).numpy()
    # The edge of the volume is outside.
    padded = np.pad(mask, 1)
    middle = (slice(1, -1),) * 3
    has_outside = np.zeros(SHAPE, dtype=bool)
    for axis in range(3):
        for shift in (-1, 1):
            has_outside |= ~np.roll(padded, shift, axis)[middle]
    expected = mask & has_outside
    assert expected.sum() < mask.sum() or share == 0.3
    centers = all_points(Seeds(mask, per_voxel=1, placement="center", seeding="interface")).numpy()
    np.testing.assert_array_equal(centers - 0.5, np.argwhere(expected))
    drawn = all_points(Seeds(torch.from_numpy(mask), total=5000, seed=1, seeding="interface")).numpy()
    np.testing.assert_array_equal(np.unique(np.floor(drawn), axis=0), np.argwhere(expected))


def test_a_voxel_of_the_interface_has_the_seeds_that_it_has_in_the_volume():
    mask = np.ones(SHAPE, dtype=bool)
    everywhere, border = (Seeds(mask, per_voxel=3, seed=4, seeding=kind) for kind in ("volume", "interface"))
    inner = np.zeros(SHAPE, dtype=bool)
    inner[1:-1, 1:-1, 1:-1] = True
    assert len(border) == 3 * (mask.sum() - inner.sum())
    kept = torch.from_numpy(np.repeat(~inner.ravel(), 3))
    assert torch.equal(all_points(border), all_points(everywhere)[kept])
    assert torch.equal(border.keys(0, len(border)), everywhere.keys(0, len(everywhere))[kept])


def test_an_interface_of_a_kind_that_is_none():
    with pytest.raises(ValueError, match="seeding must be one of 'volume', 'interface', got 'border'"):
        Seeds(a_mask(), per_voxel=1, seeding="border")
