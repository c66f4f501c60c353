from __future__ import annotations

import numpy as np
import pytest
from dipy.tracking.streamline import length, set_number_of_points
from dipy.tracking.streamlinespeed import compress_streamlines
from hypothesis import given, settings
from hypothesis import strategies as st

from dwiml.ops.resampling import Resampling, compress, lengths_mm, resample_nb_points, resample_step_size

SIZES = np.array([1.0, 2.0, 3.5])


def walks(seed, counts, step=0.4):
    """Random curves in voxels, float32, one of each count of points."""
    rng = np.random.default_rng(seed)
    return [
        (rng.uniform(5, 90, 3) + np.cumsum(rng.normal(0, step, (n, 3)) + step, axis=0)).astype(np.float32)
        for n in counts
    ]


def flat(lines):
    lengths = np.array([len(line) for line in lines], dtype=np.int64)
    return np.concatenate([np.zeros((0, 3), np.float32), *lines]), lengths


def unflat(points, lengths):
    assert points.dtype == np.float32
    assert lengths.dtype == np.int64
    assert lengths.sum() == len(points)
    return np.split(points, np.cumsum(lengths)[:-1])


counts_of_points = st.lists(st.integers(2, 30), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(counts=counts_of_points, nb_points=st.integers(2, 50), seed=st.integers(0, 2**31))
def test_nb_points_equals_dipy(counts, nb_points, seed):
    lines = walks(seed, counts)
    ours = unflat(*resample_nb_points(*flat(lines), nb_points, SIZES))
    for our_line, line in zip(ours, lines, strict=True):
        expected = set_number_of_points(line.astype(np.float64) * SIZES, nb_points=nb_points) / SIZES
        np.testing.assert_allclose(our_line, expected, atol=1e-3)
        np.testing.assert_array_equal(our_line[[0, -1]], line[[0, -1]])


@settings(max_examples=40, deadline=None)
@given(counts=counts_of_points, step_size=st.floats(0.1, 20), seed=st.integers(0, 2**31))
def test_step_size_equals_dipy_with_the_rounded_count(counts, step_size, seed):
    lines = walks(seed, counts)
    ours = unflat(*resample_step_size(*flat(lines), step_size, SIZES))
    for our_line, line in zip(ours, lines, strict=True):
        line_mm = line.astype(np.float64) * SIZES
        nb_points = max(round(length(line_mm) / step_size), 1) + 1
        assert len(our_line) == nb_points
        np.testing.assert_allclose(our_line, set_number_of_points(line_mm, nb_points=nb_points) / SIZES, atol=1e-3)


def test_one_voxel_size_for_each_streamline():
    lines = walks(2, [12, 20, 5])
    sizes = np.array([[1, 1, 1], [2, 1, 3], [0.5, 0.7, 4]], dtype=np.float32)
    together = unflat(*resample_step_size(*flat(lines), 0.8, sizes))
    together_nb = unflat(*resample_nb_points(*flat(lines), 9, sizes))
    together_compressed = unflat(*compress(*flat(lines), 0.3, sizes))
    for i, line in enumerate(lines):
        np.testing.assert_allclose(together[i], resample_step_size(*flat([line]), 0.8, sizes[i])[0], atol=1e-5)
        np.testing.assert_allclose(together_nb[i], resample_nb_points(*flat([line]), 9, sizes[i])[0], atol=1e-5)
        np.testing.assert_array_equal(together_compressed[i], compress(*flat([line]), 0.3, sizes[i])[0])
        assert lengths_mm(*flat(lines), sizes)[i] == pytest.approx(length(line.astype(float) * sizes[i]), rel=1e-5)


def test_step_is_in_mm_on_anisotropic_voxels():
    """Pitfall 2: 10 voxels along z are 35 mm, along x 10 mm."""
    along_x = np.array([[0, 0, 0], [10, 0, 0]], dtype=np.float32)
    along_z = np.array([[0, 0, 0], [0, 0, 10]], dtype=np.float32)
    points, lengths = resample_step_size(*flat([along_x, along_z]), 2.5, SIZES)
    assert lengths.tolist() == [5, 15]
    np.testing.assert_allclose(points[:5, 0], np.linspace(0, 10, 5), atol=1e-6)
    np.testing.assert_allclose(points[5:, 2], np.linspace(0, 10, 15), atol=1e-6)
    np.testing.assert_allclose(lengths_mm(*flat([along_x, along_z]), SIZES), [10, 35])


def test_repeated_points_change_nothing():
    line = walks(4, [15])[0]
    repeated = np.repeat(line, [1, 3, 1, 2, 1, 1, 1, 5, 1, 1, 1, 1, 1, 2, 4], axis=0)
    repeated_at_both_ends = np.concatenate([line[[0, 0]], line, line[[-1, -1, -1]]])
    others = walks(5, [6, 7])
    for streamline in (repeated, repeated_at_both_ends):
        surrounded = [others[0], streamline, others[1]]
        for resample, option in ((resample_nb_points, 11), (resample_step_size, 0.7)):
            got = unflat(*resample(*flat(surrounded), option, SIZES))[1]
            np.testing.assert_allclose(got, resample(*flat([line]), option, SIZES)[0], atol=1e-4)


def test_rounding_at_a_repeated_end_adds_no_point_past_it():
    line = walks(3, [15])[0]
    ending_twice = np.concatenate([line, line[[-1]]])
    for nb_points in range(2, 150):
        points, lengths = resample_nb_points(*flat([ending_twice, line]), nb_points, SIZES)
        assert lengths.tolist() == [nb_points, nb_points]
        np.testing.assert_allclose(points[:nb_points], points[nb_points:], atol=1e-4)


def test_streamlines_without_length_or_with_one_point_or_none():
    other = walks(6, [9])[0]
    still = np.full((4, 3), 7.25, dtype=np.float32)
    one = np.array([[1, 2, 3]], dtype=np.float32)
    none = np.zeros((0, 3), dtype=np.float32)
    lines = [none, one, still, other, none, one, still, none]
    assert lengths_mm(*flat(lines), SIZES)[[0, 1, 2, 4, 5, 6, 7]].tolist() == [0] * 7
    by_step = unflat(*resample_step_size(*flat(lines), 0.5, SIZES))
    by_count = unflat(*resample_nb_points(*flat(lines), 6, SIZES))
    compressed = unflat(*compress(*flat(lines), 0.1, SIZES))
    for result, count_still in ((by_step, 2), (by_count, 6), (compressed, 2)):
        assert [len(result[i]) for i in (0, 1, 2, 4, 5, 6, 7)] == [0, 1, count_still, 0, 1, count_still, 0]
        for i in (1, 5):
            np.testing.assert_array_equal(result[i], one)
        for i in (2, 6):
            np.testing.assert_array_equal(result[i], still[:count_still] if count_still < 4 else still[[0] * 6])
    np.testing.assert_allclose(by_count[3], resample_nb_points(*flat([other]), 6, SIZES)[0], atol=1e-5)
    np.testing.assert_allclose(by_step[3], resample_step_size(*flat([other]), 0.5, SIZES)[0], atol=1e-5)


@pytest.mark.parametrize("slab", [1, 25, 60, 10**9])
def test_slabs_change_nothing(monkeypatch, slab):
    lines = walks(7, [12, 30, 2, 1, 25, 8, 70, 3])
    lines.insert(2, np.zeros((0, 3), np.float32))
    lines.append(np.zeros((0, 3), np.float32))
    sizes = np.random.default_rng(0).uniform(0.5, 3, (len(lines), 3))
    monkeypatch.setattr("dwiml.ops.resampling._SLAB", slab)
    by_step = unflat(*resample_step_size(*flat(lines), 0.6, sizes))
    by_count = unflat(*resample_nb_points(*flat(lines), 13, sizes))
    for i, line in enumerate(lines):
        assert lengths_mm(*flat(lines), sizes)[i] == pytest.approx(length(line.astype(float) * sizes[i]), rel=1e-5)
        np.testing.assert_allclose(by_step[i], resample_step_size(*flat([line]), 0.6, sizes[i])[0], atol=1e-5)
        np.testing.assert_allclose(by_count[i], resample_nb_points(*flat([line]), 13, sizes[i])[0], atol=1e-5)


def test_no_streamlines():
    nothing = flat([])
    for points, lengths in (
        resample_step_size(*nothing, 1.0, SIZES),
        resample_nb_points(*nothing, 5, np.zeros((0, 3))),
        compress(*nothing, 0.1, SIZES),
    ):
        assert points.shape == (0, 3)
        assert lengths.shape == (0,)
    assert lengths_mm(*nothing, SIZES).shape == (0,)


def test_arguments_are_not_changed_and_may_be_read_only():
    points, lengths = flat(walks(8, [10, 3, 12]))
    before = points.copy()
    points.flags.writeable = False
    lengths.flags.writeable = False
    resample_step_size(points, lengths, 0.5, SIZES)
    resample_nb_points(points, lengths, 5, SIZES)
    compress(points, lengths, 0.1, SIZES)
    np.testing.assert_array_equal(points, before)


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    tolerance=st.floats(0.01, 2),
    seed=st.integers(0, 2**31),
)
def test_compress_keeps_the_points_that_dipy_keeps(counts, tolerance, seed):
    lines = walks(seed, counts)
    for got, line in zip(unflat(*compress(*flat(lines), tolerance, SIZES)), lines, strict=True):
        np.testing.assert_array_equal(got[[0, -1]], line[[0, -1]])
        assert {tuple(point) for point in got.tolist()} <= {tuple(point) for point in line.tolist()}
        if len(line) > 2:
            expected = compress_streamlines(line.astype(np.float64) * SIZES, tol_error=tolerance) / SIZES
            np.testing.assert_allclose(got, expected, atol=1e-5)


def test_compress_removes_points_of_a_straight_line():
    straight = np.linspace([0, 0, 0], [8, 1, 1], 60).astype(np.float32)
    points, lengths = compress(*flat([straight, straight]), 0.1, np.ones(3))
    assert lengths.tolist() == [2, 2]
    np.testing.assert_array_equal(points, straight[[0, -1, 0, -1]])


def test_a_long_file_loses_no_precision():
    """The lengths are sums over all streamlines: in float32 a step would vanish after some millions of mm."""
    lines = [np.array([[0, 0, 0], [9e5, 0, 0]])] * 40 + walks(9, [20])
    got = unflat(*resample_nb_points(*flat(lines), 15, SIZES))[-1]
    np.testing.assert_allclose(got, resample_nb_points(*flat(lines[-1:]), 15, SIZES)[0], atol=1e-4)


@pytest.mark.parametrize("option", [0, -1, float("nan"), float("inf")])
def test_options_out_of_range_are_refused(option):
    line = flat(walks(1, [5]))
    with pytest.raises(ValueError, match="step_size must be a positive number of mm"):
        resample_step_size(*line, option, SIZES)
    with pytest.raises(ValueError, match="tolerance of the compression must be a positive number of mm"):
        compress(*line, option, SIZES)
    with pytest.raises(ValueError, match="nb_points must be an integer from 2 to 100 000"):
        resample_nb_points(*line, option, SIZES)


@pytest.mark.parametrize("nb_points", [1, 2.5])
def test_nb_points_must_be_two_or_more(nb_points):
    with pytest.raises(ValueError, match="nb_points must be an integer from 2 to 100 000"):
        resample_nb_points(*flat(walks(1, [5])), nb_points, SIZES)


@pytest.mark.parametrize(
    ("points", "lengths", "sizes", "sentence"),
    [
        (np.zeros((4, 2)), [4], SIZES, r"Points must have shape \(N, 3\), got \(4, 2\)"),
        (np.zeros((4, 3)), [3], SIZES, "add up to 4 points"),
        (np.zeros((4, 3)), [5, -1], SIZES, "add up to 4 points"),
        (np.zeros((4, 3)), [4], np.ones(2), r"Voxel sizes must have shape \(3,\) or \(1, 3\), got \(2,\)"),
        (np.zeros((4, 3)), [4], np.ones((2, 3)), r"Voxel sizes must have shape \(3,\) or \(1, 3\), got \(2, 3\)"),
        (np.zeros((4, 3)), [4], [1, 0, 1], "Voxel sizes must be positive"),
        (
            [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, np.nan, 0]],
            [2, 0, 2],
            SIZES,
            r"Streamline 2 \(counted from 0\) of 3 holds a NaN",
        ),
        ([[0, np.inf, 0], [0, 0, 0]], [0, 2], SIZES, r"Streamline 1 \(counted from 0\) of 2 holds a NaN"),
    ],
)
def test_what_does_not_fit_is_refused(points, lengths, sizes, sentence):
    for call in (
        lambda: lengths_mm(points, lengths, sizes),
        lambda: resample_step_size(points, lengths, 1.0, sizes),
        lambda: resample_nb_points(points, lengths, 5, sizes),
        lambda: compress(points, lengths, 0.1, sizes),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


@pytest.mark.parametrize("chosen", [{"step_size": 0.7}, {"nb_points": 5}, {}])
def test_the_number_of_points_is_known_without_resampling(chosen: dict[str, float]) -> None:
    rng = np.random.default_rng(3)
    lengths = np.array([1, 2, 40, 0, 7])
    points = rng.uniform(0, 9, (lengths.sum(), 3)).astype(np.float32)
    resampling = Resampling(**chosen)  # type: ignore[arg-type]
    _, new_lengths = resampling.apply(points, lengths, (1.0, 2.0, 0.5))
    counted = resampling.nb_points_after(lengths, lengths_mm(points, lengths, (1.0, 2.0, 0.5)))
    assert counted.tolist() == new_lengths.tolist()
