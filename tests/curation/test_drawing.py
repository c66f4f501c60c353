"""The draw of the streamlines of a bundle."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scoring_support import ANISOTROPIC, SHAPE, along_x, joined, random_lines, sampled_voxels

from dwiml.curation.drawing import VoxelsCrossed, coverage_weights, draw
from dwiml.ops.randomness import keyed_generator
from dwiml.tractograms.grid import Grid

GRID = Grid(ANISOTROPIC, SHAPE)


def crossed(lines: list[np.ndarray]) -> VoxelsCrossed:
    return VoxelsCrossed.of(*joined(lines), GRID)


def test_weights_by_hand() -> None:
    # Two in the same 12 voxels, one alone, one in the first half of the others' voxels, one outside.
    lines = [along_x(2.5), along_x(2.5), along_x(7.5), along_x(2.5, last=5.5), along_x(-3.5)]
    shared = (6 / 3 + 6 / 2) / 12
    np.testing.assert_allclose(coverage_weights(crossed(lines)), [shared, shared, 1, 1 / 3, 0])


def test_weights_of_random_lines() -> None:
    lines = random_lines(np.random.default_rng(2), 40)
    size = np.array(SHAPE)
    voxels = [
        {v for v in sampled_voxels(line, GRID.voxel_sizes) if all(0 <= v[axis] < size[axis] for axis in range(3))}
        for line in lines
    ]
    expected = [np.mean([1 / sum(v in other for other in voxels) for v in own]) if own else 0.0 for own in voxels]
    found = crossed(lines)
    assert found.nb.tolist() == [len(own) for own in voxels]
    np.testing.assert_allclose(coverage_weights(found), expected)
    some = np.array([7, 3, 3, 30])
    chosen = found.select(some)
    assert chosen.nb.tolist() == found.nb[some].tolist()
    every = set().union(*(voxels[i] for i in some))
    assert chosen.distinct().tolist() == sorted(int(np.ravel_multi_index(v, SHAPE)) for v in every)


def test_each_next_one_is_drawn_in_proportion_to_its_weight() -> None:
    weights = np.array([1.0, 2.0, 5.0])
    counts = dict.fromkeys(itertools.combinations(range(3), 2), 0)
    nb = 20_000
    for seed in range(nb):
        ids = draw(weights, np.ones(3), rng=keyed_generator(seed, "draw"), max_streamlines=2)
        counts[tuple(ids.tolist())] += 1
    for a, b in counts:
        total = weights.sum()
        share = weights[a] / total * weights[b] / (total - weights[a])
        share += weights[b] / total * weights[a] / (total - weights[b])
        assert abs(counts[a, b] / nb - share) < 5 * np.sqrt(share * (1 - share) / nb)


def test_weight_zero_comes_last() -> None:
    for seed in range(20):
        rng = keyed_generator(seed, "draw")
        assert draw(np.array([0.0, 1.0, 0.0, 3.0]), np.ones(4), rng=rng, max_streamlines=2).tolist() == [1, 3]


def test_a_limit_in_mm_ends_the_draw() -> None:
    mm = np.array([10.0, 20.0, 30.0, 40.0])
    for seed in range(30):
        options = {"rng": keyed_generator(seed, "draw"), "max_mm": 60.0}
        order = np.argsort(keyed_generator(seed, "draw").standard_exponential(4))
        expected = order[: int((np.cumsum(mm[order]) <= 60).sum())]
        assert draw(np.ones(4), mm, **options).tolist() == sorted(expected.tolist())
    # At least one, even if it is longer; a sum equal to the limit fits.
    assert len(draw(np.ones(4), mm, rng=keyed_generator(0, "draw"), max_mm=1.0)) == 1
    assert len(draw(np.ones(10), np.full(10, 0.1), rng=keyed_generator(0, "draw"), max_mm=0.7)) == 7


def test_few_are_repeated() -> None:
    ids = draw(np.ones(3), np.ones(3), rng=keyed_generator(0, "draw"), min_streamlines=8)
    assert sorted(np.bincount(ids).tolist()) == [2, 3, 3]
    limited = draw(np.ones(3), np.full(3, 10.0), rng=keyed_generator(0, "draw"), min_streamlines=8, max_mm=55)
    assert sorted(np.bincount(limited).tolist()) == [1, 2, 2]


@given(st.integers(0, 30), st.none() | st.integers(1, 30), st.none() | st.integers(1, 30), st.integers(0, 3))
def test_numbers(nb: int, most: int | None, least: int | None, seed: int) -> None:
    if most is not None and least is not None:
        least = min(least, most)
    rng = keyed_generator(seed, "draw")
    ids = draw(np.ones(nb), np.ones(nb), rng=rng, max_streamlines=most, min_streamlines=least)
    assert len(ids) == (max(min(nb, most or nb), least or 0) if nb else 0)
    assert (np.diff(ids) >= 0).all()
    times = np.bincount(ids, minlength=nb)
    # None is repeated before all are there.
    assert len(ids) <= nb or np.ptp(times) <= 1
    assert len(ids) > nb or times.max(initial=0) <= 1


@pytest.mark.parametrize("nb", [0, 1])
def test_few_lines(nb: int) -> None:
    assert (
        draw(coverage_weights(crossed([along_x(2.5)] * nb)), np.ones(nb), rng=keyed_generator(0)).tolist() == [0][:nb]
    )
