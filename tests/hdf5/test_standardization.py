from __future__ import annotations

import numpy as np
import pytest

from dwiml.hdf5.inputs.standardization import standardize

MASK = np.zeros((3, 3, 3), dtype=bool)
MASK[0] = True


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    values = rng.normal([2, 50, -3, 1e-3], [1, 10, 0.5, 1e-4], (3, 3, 3, 4)).astype(np.float32)
    values[2, 2] = 0
    values[2, 1, 1, :2] = 0
    return values


def scaled(values, inside):
    """The formula, with numpy in float64."""
    inside = inside.astype(np.float64)
    return (values - inside.mean()) / inside.std()


def test_none_changes_nothing(data):
    before = data.copy()
    report = standardize(data, "none", [4], MASK)
    assert (report.constant, report.fewest_voxels, report.applied) == ([], None, [])
    np.testing.assert_array_equal(data, before)


def test_without_standardization_each_file_is_measured_in_its_non_zero_voxels(data):
    files = standardize(data, "none", [2, 1, 1], MASK).files
    for found, values in zip(files, (data[..., :2], data[..., 2:3], data[..., 3:]), strict=True):
        inside = values[(values != 0).any(axis=-1)].astype(np.float64)
        assert (found.mean, found.std) == pytest.approx((inside.mean(), inside.std()))
    assert standardize(np.zeros((2, 2, 2, 1), dtype=np.float32), "none", [1], None).files == [None]


def test_without_standardization_a_large_file_is_measured_in_some_voxels():
    values = np.zeros((80, 80, 80, 2), dtype=np.float32)
    values[20:70] = np.random.default_rng(3).normal(40, 5, (50, 80, 80, 2))
    (found,) = standardize(values, "none", [2], None).files
    inside = values[20:70].astype(np.float64)
    assert (found.mean, found.std) == pytest.approx((inside.mean(), inside.std()), rel=0.02)
    assert (found.mean, found.std) != pytest.approx((inside.mean(), inside.std()), rel=1e-9)


@pytest.mark.parametrize("kind", ["all", "independent", "per_file"])
@pytest.mark.parametrize("masked", [True, False])
def test_means_and_stds_are_reported_in_the_unit_of_the_files(data, kind, masked):
    before = data.astype(np.float64)
    report = standardize(data, kind, [3, 1], MASK if masked else None)
    widths = {"all": [4], "independent": [1, 1, 1, 1], "per_file": [3, 1]}[kind]
    repeated = [np.repeat([getattr(each, name) for each in report.applied], widths) for name in ("mean", "std")]
    np.testing.assert_allclose(data * repeated[1] + repeated[0], before, rtol=1e-5, atol=1e-5)
    for found, values in zip(report.files, (before[..., :3], before[..., 3:]), strict=True):
        inside = MASK if masked else ((values if kind == "per_file" else before) != 0).any(axis=-1)
        assert (found.mean, found.std) == pytest.approx((values[inside].mean(), values[inside].std()))


@pytest.mark.parametrize("masked", [True, False])
def test_all_shares_one_mean_and_std(data, masked):
    inside = MASK if masked else (data != 0).any(axis=-1)
    expected = scaled(data, data[inside])
    report = standardize(data, "all", [3, 1], MASK if masked else None)
    assert (report.constant, report.fewest_voxels) == ([], np.count_nonzero(inside))
    np.testing.assert_allclose(data, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("masked", [True, False])
def test_independent_has_one_mean_and_std_a_feature(data, masked):
    inside = MASK if masked else (data != 0).any(axis=-1)
    expected = np.stack([scaled(data[..., k], data[inside][:, k]) for k in range(4)], axis=-1)
    standardize(data, "independent", [3, 1], MASK if masked else None)
    np.testing.assert_allclose(data, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("masked", [True, False])
def test_per_file_has_one_mean_and_std_a_file_and_its_own_non_zero_voxels(data, masked):
    files = [data[..., :2], data[..., 2:3], data[..., 3:]]
    parts = [scaled(file, file[MASK if masked else (file != 0).any(axis=-1)]) for file in files]
    standardize(data, "per_file", [2, 1, 1], MASK if masked else None)
    np.testing.assert_allclose(data, np.concatenate(parts, axis=-1), rtol=1e-5, atol=1e-6)


def test_large_mean_and_small_spread_keep_their_digits():
    # Sums of squares in float32 would lose this spread.
    data = (1e5 + np.arange(27).reshape(3, 3, 3, 1) % 5 / 4).astype(np.float32)
    expected = scaled(data.astype(np.float64), data)
    standardize(data, "all", [1], None)
    np.testing.assert_allclose(data, expected, atol=1e-5)


def test_a_constant_feature_is_divided_by_one(data):
    data[..., 1] = 0.1
    report = standardize(data, "independent", [4], MASK)
    assert report.constant == [slice(1, 2)]
    np.testing.assert_allclose(data[..., 1], 0, atol=1e-7)
    assert np.isfinite(data).all()


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1000.0])
@pytest.mark.parametrize("rounding", [1e-7, 6e-7])
@pytest.mark.parametrize("kind", ["independent", "per_file", "all"])
def test_a_feature_that_is_constant_up_to_rounding_is_divided_by_one(data, scale, kind, rounding):
    """0.3 with a rounding of 3e-8 became values up to 1e7."""
    rng = np.random.default_rng(0)
    rounded = (scale * (1 + rng.choice([-rounding, 0, rounding], data.shape[:3]))).astype(np.float32)
    assert 0 < rounded.std() < 2 * rounding * scale
    data[..., 1] = rounded
    alone = data[..., 1:2].copy()
    assert standardize(alone, kind, [1], MASK).constant == [slice(0, 1)]
    assert np.abs(alone).max() <= 3 * rounding * scale
    # Sixteen units in the last place are a spread.
    spread = (scale * (1 + 2e-6 * rng.standard_normal(data.shape[:3]))).astype(np.float32)[..., None]
    assert standardize(spread, kind, [1], MASK).constant == []
    assert spread[MASK].std() == pytest.approx(1, rel=1e-3)


def test_one_voxel_is_refused_and_few_are_counted(data):
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[1, 1, 1] = True
    with pytest.raises(ValueError, match="only one voxel to compute the mean and the std from"):
        standardize(data.copy(), "all", [4], mask)
    mask[1, 1, :2] = True
    assert standardize(data.copy(), "all", [4], mask).fewest_voxels == 2


def test_no_voxel_is_refused(data):
    with pytest.raises(ValueError, match="no voxel to compute the mean"):
        standardize(data, "all", [4], np.zeros((3, 3, 3), dtype=bool))
    data[..., 3] = 0
    with pytest.raises(ValueError, match="no voxel to compute the mean"):
        standardize(data, "per_file", [3, 1], None)
