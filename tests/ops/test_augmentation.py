from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kstest, truncnorm

from dwiml.ops.augmentation import (
    DrawnAugmentation,
    cuts_at,
    draw_correlated_noise,
    draw_noise,
    draw_reverse,
    draw_split,
    reverse,
    split,
)

some_lengths = st.lists(st.integers(0, 12), max_size=15).map(lambda counts: np.array(counts, dtype=np.int64))
seeds = st.integers(0, 2**32 - 1)


def rng_of(seed):
    return np.random.default_rng(seed)


def points_of(lengths):
    return np.arange(3 * lengths.sum(), dtype=np.float32).reshape(-1, 3)


@given(lengths=some_lengths, data=st.data())
def test_reverse_turns_the_chosen_and_no_other(lengths, data):
    chosen = data.draw(arrays(bool, len(lengths)))
    points = points_of(lengths)
    before = points.copy()
    result = reverse(points, lengths, chosen)
    lines = np.split(points, np.cumsum(lengths)[:-1]) if len(lengths) else []
    expected = [line[::-1] if turned else line for line, turned in zip(lines, chosen, strict=True)]
    np.testing.assert_array_equal(result, np.concatenate([points[:0], *expected]))
    assert result.dtype == points.dtype
    np.testing.assert_array_equal(reverse(result, lengths, chosen), points)
    np.testing.assert_array_equal(points, before)


@given(lengths=some_lengths, ratio=st.floats(0, 1), min_points=st.integers(1, 4), seed=seeds)
def test_split_loses_nothing(lengths, ratio, min_points, seed):
    """Pitfall 3: what is too short to split stays, whole."""
    cuts = cuts_at(lengths, draw_split(len(lengths), ratio, rng_of(seed)), min_points=min_points)
    assert cuts.dtype == np.int64
    new_lengths, counts = split(lengths, cuts)
    assert new_lengths.sum() == lengths.sum()
    assert counts.tolist() == [2 if cut else 1 for cut in cuts]
    expected = []
    for length, cut in zip(lengths.tolist(), cuts.tolist(), strict=True):
        expected += [cut, length - cut] if cut else [length]
        if cut:
            assert min_points <= cut <= length - min_points
        if length < 2 * min_points:
            assert cut == 0
    assert new_lengths.tolist() == expected


@given(lengths=some_lengths, seed=seeds)
def test_halves_joined_again_are_the_streamlines(lengths, seed):
    new_lengths, counts = split(lengths, cuts_at(lengths, draw_split(len(lengths), 1.0, rng_of(seed))))
    joined = [part.sum() for part in np.split(new_lengths, np.cumsum(counts)[:-1])] if len(lengths) else []
    assert joined == lengths.tolist()


@given(lengths=some_lengths, seed=seeds)
def test_a_drawn_augmentation_is_replayed_and_shared_out(lengths, seed):
    nb, points = len(lengths), points_of(lengths)
    drawn = DrawnAugmentation(draw_reverse(nb, 0.5, rng_of(seed)), draw_split(nb, 0.5, rng_of(seed + 1)))
    new_points, new_lengths, counts = drawn.apply(points, lengths)
    for again, expected in zip(drawn.apply(points, lengths), (new_points, new_lengths, counts), strict=True):
        np.testing.assert_array_equal(again, expected)
    # Two processes that each do a part of it, together do it all.
    middle = nb // 2
    cut = int(lengths[:middle].sum())
    first = drawn[:middle].apply(points[:cut], lengths[:middle])
    second = drawn[middle:].apply(points[cut:], lengths[middle:])
    for parts, expected in zip(zip(first, second, strict=True), (new_points, new_lengths, counts), strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), expected)
    # Nothing is lost: the halves joined, the turned ones turned back.
    np.testing.assert_array_equal(reverse(new_points, lengths, drawn.reversed), points)
    joined = [part.sum() for part in np.split(new_lengths, np.cumsum(counts)[:-1])] if nb else []
    assert joined == lengths.tolist()


@given(lengths=some_lengths, seed=seeds)
def test_ratios_of_zero_and_one(lengths, seed):
    nb = len(lengths)
    assert not draw_reverse(nb, 0.0, rng_of(seed)).any()
    assert draw_reverse(nb, 1.0, rng_of(seed)).all()
    assert (draw_split(nb, 0.0, rng_of(seed)) == -1).all()
    places = draw_split(nb, 1.0, rng_of(seed))
    assert ((places >= 0) & (places < 1)).all()
    np.testing.assert_array_equal(cuts_at(lengths, places) > 0, lengths >= 4)


def test_ratio_is_the_share_of_streamlines():
    nb = 20_000
    assert draw_reverse(nb, 0.3, rng_of(0)).mean() == pytest.approx(0.3, abs=0.015)
    assert (draw_split(nb, 0.3, rng_of(0)) >= 0).mean() == pytest.approx(0.3, abs=0.015)


def test_cuts_are_uniform_over_all_that_are_allowed():
    cuts = cuts_at(np.full(14_000, 10), draw_split(14_000, 1.0, rng_of(1)))
    values, counts = np.unique(cuts, return_counts=True)
    assert values.tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert counts == pytest.approx(2000, abs=200)


@given(seed=seeds)
def test_same_generator_same_draw(seed):
    np.testing.assert_array_equal(draw_reverse(40, 0.5, rng_of(seed)), draw_reverse(40, 0.5, rng_of(seed)))
    np.testing.assert_array_equal(draw_split(40, 0.5, rng_of(seed)), draw_split(40, 0.5, rng_of(seed)))
    np.testing.assert_array_equal(draw_noise(10, rng_of(seed)), draw_noise(10, rng_of(seed)))
    assert not np.array_equal(draw_noise(10, rng_of(seed)), draw_noise(10, rng_of(seed + 1)))


def test_noise_is_a_normal_truncated_at_two():
    noise = draw_noise(100_000, rng_of(7))
    assert noise.shape == (100_000, 3)
    assert noise.dtype == np.float32
    assert np.abs(noise).max() <= 2
    assert np.abs(noise).max() > 1.99
    density_at_2, mass = np.exp(-2) / np.sqrt(2 * np.pi), 0.9544997361036416
    variance = 1 - 2 * 2 * density_at_2 / mass
    assert variance == pytest.approx(0.7737, abs=1e-4)
    assert noise.mean(axis=0) == pytest.approx(np.zeros(3), abs=0.012)
    assert noise.var(axis=0) == pytest.approx(np.full(3, variance), abs=0.01)
    assert abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.015
    assert kstest(noise[:20_000, 0], truncnorm(-2, 2).cdf).pvalue > 0.001
    assert draw_noise(0, rng_of(7)).shape == (0, 3)


@pytest.mark.parametrize("ratio", [-0.1, 1.0001, float("nan")])
def test_ratios_out_of_range_are_refused(ratio):
    with pytest.raises(ValueError, match="reverse ratio must be between 0 and 1"):
        draw_reverse(3, ratio, rng_of(0))
    with pytest.raises(ValueError, match="split ratio must be between 0 and 1"):
        draw_split(3, ratio, rng_of(0))


def test_what_does_not_fit_is_refused():
    points = np.zeros((4, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="lengths add up to 5 points, but there are 4"):
        reverse(points, [2, 3], np.array([True, False]))
    with pytest.raises(ValueError, match=r"chosen must have shape \(2,\)"):
        reverse(points, [2, 2], np.array([True]))
    with pytest.raises(ValueError, match="one number of points per streamline"):
        reverse(points, [5, -1], np.array([True, False]))
    with pytest.raises(ValueError, match="min_points must be at least 1, got 0"):
        cuts_at([4], [0.5], min_points=0)
    with pytest.raises(ValueError, match=r"places must have shape \(1,\)"):
        cuts_at([4], [0.5, 0.5])
    drawn = DrawnAugmentation(np.array([True]), np.array([0.5]))
    with pytest.raises(ValueError, match="drawn for 1 streamlines, the batch has 2"):
        drawn.apply(points, np.array([2, 2]))
    with pytest.raises(ValueError, match=r"cuts must have shape \(1,\)"):
        split([4], [1, 1])
    for cut in (-1, 4):
        with pytest.raises(ValueError, match="leave at least one point on both sides"):
            split([4], [cut])


def test_wandering_has_the_moments_of_the_process():
    nb_lines, length, nb_points = 4000, 12, 5.0
    wander = draw_correlated_noise([length] * nb_lines, nb_points, rng_of(1)).reshape(nb_lines, length, 3)
    # A factor of the streamline's own, uniform from 0 to 2, has a mean square of 4 / 3.
    for i in (0, 5, 11):
        assert wander[:, i].var() == pytest.approx(4 / 3, rel=0.05)
    for apart in (1, 3, 7):
        product = (wander[:, 2] * wander[:, 2 + apart]).mean()
        assert product / (4 / 3) == pytest.approx(np.exp(-apart / nb_points), abs=0.04)
    assert abs(np.corrcoef(wander[:, 3, 0], wander[:, 3, 1])[0, 1]) < 0.05
    assert abs(wander.mean()) < 0.03


def test_wandering_of_unlike_lengths():
    assert draw_correlated_noise([3, 0, 1, 7], 6.0, rng_of(0)).shape == (11, 3)
    assert draw_correlated_noise([3, 0, 1, 7], 6.0, rng_of(0)).dtype == np.float32
    assert draw_correlated_noise([], 6.0, rng_of(0)).shape == draw_correlated_noise([0], 6.0, rng_of(0)).shape == (0, 3)
    with pytest.raises(ValueError, match="one number of points per streamline"):
        draw_correlated_noise([-1], 6.0, rng_of(0))
