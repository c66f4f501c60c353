"""Coordinates, lengths, affines and step sizes that make no sense are told before they are used."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from small_training import small_trainer
from tests_support import AFFINE, SHAPE, write_hdf5

from dwiml import DWIMLStreamlinesBatchLoader, MultiSubjectDataset
from dwiml.data import runs
from dwiml.ops.resampling import MAX_POINTS, Resampling, resample_step_size


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_hdf5(tmp_path / "data.hdf5", {"sub-a": 6, "sub-b": 40})


def load(path: Path, *, lazy: bool) -> MultiSubjectDataset:
    dataset = MultiSubjectDataset(path, lazy=lazy)
    dataset.load_data()
    return dataset


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("value", [1e6, -1e6, 1e12, 1013.0, -1001.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_absurd_coordinates_are_refused(path: Path, lazy: bool, value: float, dtype: type) -> None:
    with h5py.File(path, "r+") as handle:
        group = handle["sub-b/streamlines"]
        points = group["data"][()].astype(dtype)
        points[int(group["offsets"][17]) + 2, 0] = value
        del group["data"]
        group["data"] = points
    with pytest.raises(ValueError, match="more than 1000 voxels outside its volume of 12 x 10 x 9 voxels") as caught:
        load(path, lazy=lazy).training_set[1].streamlines["streamlines"].get([3, 17, 2])
    assert str(caught.value).startswith("Streamline 17 of the streamlines group 'streamlines' of subject 'sub-b' has")


def test_values_beyond_float32_are_infinite(path: Path) -> None:
    with h5py.File(path, "r+") as handle:
        points = handle["sub-b/streamlines/data"][()].astype(np.float64)
        points[0, 0] = 1e300
        del handle["sub-b/streamlines/data"]
        handle["sub-b/streamlines/data"] = points
    with pytest.raises(ValueError, match="Streamline 0 of .* of subject 'sub-b' holds NaN or infinite"):
        load(path, lazy=False)


@pytest.mark.parametrize("lazy", [False, True])
def test_streamlines_beside_the_volume_are_warned_of(path: Path, lazy: bool, caplog: pytest.LogCaptureFixture) -> None:
    with h5py.File(path, "r+") as handle:
        group = handle["sub-b/streamlines"]
        points, start = group["data"][()], int(group["offsets"][30])
        # The first point of streamline 29 alone does not put it outside.
        points[start:, 0] += 40
        points[int(group["offsets"][29]), 0] -= 20
        group["data"][...] = points
        del group["euclidean_lengths"]
    load(path, lazy=lazy)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "10 of the 40 streamlines of the streamlines group 'streamlines' of subject 'sub-b' lie entirely outside"
    )
    assert "sub-a" not in caplog.text


def test_a_lazy_sample_warns_too(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with h5py.File(path, "r+") as handle:
        handle["sub-b/streamlines/data"][:, 0] += 40
    load(path, lazy=True)
    assert "16 of the 16 sampled streamlines of the streamlines group" in caplog.text


@pytest.mark.parametrize("lazy", [False, True])
def test_lengths_that_are_not_those_of_the_points(path: Path, lazy: bool) -> None:
    with h5py.File(path, "r+") as handle:
        handle["sub-b/streamlines/euclidean_lengths"][39] *= 1.5
    with pytest.raises(
        ValueError, match="euclidean_lengths is .* mm for streamline 39, but its points give .* mm; recreate"
    ):
        load(path, lazy=lazy)
    with h5py.File(path, "r+") as handle:
        del handle["sub-b/streamlines/euclidean_lengths"]
    load(path, lazy=lazy)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("offsets", 2**63 - 1, "offsets holds 9223372036854775807, which is not an integer from 0 to"),
        ("offsets", 2**63 - 20, "offsets holds 9223372036854775788, which"),
        ("offsets", -5, "offsets holds -5, which"),
        ("offsets", 3, "according to its offsets, streamlines 0 and 8 share points"),
        ("lengths", 2**63 - 1, "lengths holds 9223372036854775807, which"),
    ],
)
def test_runs_that_overflow_or_overlap(path: Path, lazy: bool, name: str, value: int, sentence: str) -> None:
    with h5py.File(path, "r+") as handle:
        handle[f"sub-b/streamlines/{name}"][8] = value
    with pytest.raises(ValueError, match=f"of subject 'sub-b' is damaged: {sentence}"):
        load(path, lazy=lazy)


def test_unsigned_and_real_numbers_are_compared_before_they_are_converted() -> None:
    assert runs.whole_numbers(np.array([1, 2**64 - 1], dtype=np.uint64), 10) is None
    assert runs.whole_numbers(np.array([1.0, 2.5]), 10) is None
    assert runs.whole_numbers(np.array([1.0, np.nan]), 10) is None
    assert runs.whole_numbers(np.array(["1"]), 10) is None
    found = runs.whole_numbers(np.array([[1.0], [3.0]]), 10)
    assert found is not None
    assert found.tolist() == [1, 3]
    assert found.dtype == np.int64


def test_points_between_streamlines_do_not_matter(path: Path) -> None:
    """dwi_ml writes the points of a part of a tractogram with those between."""
    with h5py.File(path, "r+") as handle:
        group = handle["sub-b/streamlines"]
        kept = [2, 5, 1]
        group["data"][int(group["offsets"][3])] = np.nan
        for name in ("lengths", "offsets", "euclidean_lengths"):
            values = group[name][()][kept]
            del group[name]
            group[name] = values
        del group["data_per_streamline"]
    for lazy in (False, True):
        assert len(load(path, lazy=lazy).training_set[1].streamlines["streamlines"].get()) == 3


@pytest.mark.parametrize("group", ["input", "streamlines"])
def test_sheared_affines_are_refused(path: Path, group: str) -> None:
    sheared = AFFINE.copy()
    sheared[:3, 0] += 0.1 * AFFINE[:3, 1]
    rounded = np.round(AFFINE, 3)
    with h5py.File(path, "r+") as handle:
        for name in ("input", "streamlines"):
            handle[f"sub-b/{name}"].attrs["affine"] = rounded
    load(path, lazy=True)
    with h5py.File(path, "r+") as handle:
        handle[f"sub-b/{group}"].attrs["affine"] = sheared
    with pytest.raises(ValueError, match=f"'{group}' of subject 'sub-b' is invalid: The axes .* not orthogonal"):
        load(path, lazy=True)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_voxels_of_no_plausible_size_are_refused(path: Path, scale: float) -> None:
    with h5py.File(path, "r+") as handle:
        handle["sub-b/input"].attrs["affine"] = AFFINE @ np.diag([scale] * 3 + [1])
    with pytest.raises(ValueError, match="'input' of subject 'sub-b' gives voxel sizes of"):
        load(path, lazy=True)


@pytest.mark.parametrize("step_size", [1e-6, 1e-300, 5e-324])
def test_absurd_step_sizes_are_refused_before_training(path: Path, step_size: float) -> None:
    dataset = load(path, lazy=False)
    longest = max(float(subject.streamlines["streamlines"].lengths_mm.max()) for subject in dataset.training_set)
    model = SimpleNamespace(step_size=step_size, nb_points=None, compress_lines=None)
    with pytest.raises(ValueError, match=f"would make .* points of the longest streamline .* of {longest:.1f} mm"):
        DWIMLStreamlinesBatchLoader(dataset, model, "streamlines")
    with pytest.raises(ValueError, match="at most 100 000 points are allowed"):
        resample_step_size(np.array([[0, 0, 0], [1, 0, 0]]), [2], step_size, [1, 1, 1])
    allowed = SimpleNamespace(step_size=longest / MAX_POINTS * 1.001, nb_points=None, compress_lines=None)
    DWIMLStreamlinesBatchLoader(dataset, allowed, "streamlines")
    for too_long in (longest * 1.01, 1e300):
        model = SimpleNamespace(step_size=too_long, nb_points=None, compress_lines=None)
        with pytest.raises(ValueError, match="only the two endpoints of each streamline would remain"):
            DWIMLStreamlinesBatchLoader(dataset, model, "streamlines")


@pytest.mark.parametrize("nb_points", [MAX_POINTS + 1, 10**12])
def test_absurd_numbers_of_points_are_refused_before_training(path: Path, nb_points: int) -> None:
    with pytest.raises(ValueError, match="nb_points must be an integer from 2 to 100 000"):
        Resampling(nb_points=nb_points)
    model = SimpleNamespace(step_size=None, nb_points=nb_points, compress_lines=None)
    with pytest.raises(ValueError, match="nb_points must be an integer from 2 to 100 000"):
        DWIMLStreamlinesBatchLoader(load(path, lazy=True), model, "streamlines")


def test_features_that_the_attribute_does_not_know(path: Path) -> None:
    with h5py.File(path, "r+") as handle:
        handle["sub-a/input"].attrs["nb_features"] = 7
    with pytest.raises(
        ValueError, match="'input' of subject 'sub-a' is damaged: it has 4 features, but its attribute .* is 7"
    ):
        load(path, lazy=True)


def test_older_files_do_not_tell_the_volume(path: Path) -> None:
    with h5py.File(path, "r+") as handle:
        del handle["sub-b/streamlines"].attrs["dimensions"]
        handle["sub-b/streamlines/data"][0, 0] = 1e5
        del handle["sub-b/streamlines/euclidean_lengths"]
    with pytest.raises(ValueError, match="voxels outside its volume of unknown size"):
        load(path, lazy=True)
    assert SHAPE == (12, 10, 9)


def test_voxel_sizes_that_are_not_those_of_the_affine_are_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(path, lazy=False)
    assert not caplog.records
    with h5py.File(path, "r+") as handle:
        handle["sub-a/streamlines"].attrs["voxel_sizes"] = np.array([1.0, 2.0, 2.5], dtype=np.float32)
    load(path, lazy=False)
    (record,) = caplog.records
    assert "voxel_sizes of the streamlines group 'streamlines' of subject 'sub-a'" in record.getMessage()
    assert "those of the affine (1.5 x 2 x 2.5 mm) are used" in record.getMessage()


def test_streamlines_without_a_length_are_nothing_to_train_on(path: Path, tmp_path: Path) -> None:
    with h5py.File(path, "r+") as handle:
        for subject in handle.attrs["training_subjs"]:
            group = handle[subject]["streamlines"]
            group["data"][...] = 4.5
            group["euclidean_lengths"][...] = 0
    with pytest.raises(ValueError, match="no training streamline of two points or more, and longer than 0 mm"):
        small_trainer(path, tmp_path)
