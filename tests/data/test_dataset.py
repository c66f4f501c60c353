from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from dipy.io.stateful_tractogram import Origin, Space, StatefulTractogram
from tests_support import AFFINE, SHAPE, VOXEL_SIZES, write_hdf5

from dwiml import MultiSubjectDataset


def test_what_is_known_before_loading(tiny_hdf5: Path) -> None:
    dataset = MultiSubjectDataset(tiny_hdf5)
    assert dataset.volume_groups == ["input", "wm_mask"]
    assert dataset.nb_features == {"input": 4, "wm_mask": 1}
    # torch's layers refuse numpy's integers.
    assert type(dataset.nb_features["input"]) is int
    assert dataset.streamline_groups == ["streamlines"]
    assert dataset.training_set.nb_subjects == 0


@pytest.mark.parametrize(
    ("text", "config"),
    [
        (None, {}),
        ('{"a": {"type": "volume", "files": ["x"]}, "b": 3}', {"a": {"type": "volume", "files": ["x"]}}),
        # As dwi_ml writes it.
        ("{'a': {'std_mask': ('x', None), 'on': True}}", {"a": {"std_mask": ["x", None], "on": True}}),
        ("Not defined by user", {}),
        ('["a"]', {}),
        ("{'a': {1, 2}}", {}),
        ('{"a": {"b": NaN}}', {}),
        ("__import__('os').getcwd()", {}),
        ("(" * 10_000, {}),
    ],
)
def test_what_the_file_was_made_from(tiny_hdf5: Path, tmp_path: Path, text: str | None, config: dict) -> None:
    path = tmp_path / "copy.hdf5"
    shutil.copy(tiny_hdf5, path)
    if text is not None:
        with h5py.File(path, "r+") as handle:
            handle.attrs["groups_config"] = text
    assert MultiSubjectDataset(path).groups_config == config


@pytest.mark.parametrize("lazy", [False, True])
def test_subsets(tiny_hdf5: Path, lazy: bool) -> None:
    dataset = MultiSubjectDataset(tiny_hdf5, lazy=lazy)
    dataset.load_data()
    assert dataset.training_set.subjects == ["sub-a", "sub-b", "sub-c"]
    assert dataset.training_set.nb_subjects == 3
    assert dataset.training_set.total_nb_streamlines == {"streamlines": 60}
    assert [len(mm) for mm in dataset.training_set.streamline_lengths_mm["streamlines"]] == [30, 20, 10]
    assert dataset.validation_set.subjects == ["sub-d"]
    assert dataset.testing_set.subjects == ["sub-e"]


def test_loads_only_what_is_asked_for(tiny_hdf5: Path) -> None:
    dataset = MultiSubjectDataset(tiny_hdf5)
    dataset.load_data(load_testing=False, volume_groups=["wm_mask"])
    assert list(dataset.training_set[0].volumes) == ["wm_mask"]
    assert not dataset.testing_set.loaded
    dataset.load_data(subj_id="sub-d")
    assert dataset.training_set.subjects == []
    assert dataset.validation_set.subjects == ["sub-d"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"volume_groups": ["dwi"]}, "Volume group 'dwi' not found in .*; it has: 'input', 'wm_mask'."),
        ({"streamline_groups": ["wb"]}, "Streamlines group 'wb' not found in .*; it has: 'streamlines'."),
        ({"subj_id": "sub-x"}, "Subject 'sub-x' not found in .*; it has: 'sub-a', 'sub-b'"),
    ],
)
def test_names_what_exists(tiny_hdf5: Path, arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        MultiSubjectDataset(tiny_hdf5).load_data(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("lazy", [False, True])
def test_reprs_are_a_summary_without_values(tiny_hdf5: Path, lazy: bool) -> None:
    dataset = MultiSubjectDataset(tiny_hdf5, lazy=lazy)
    groups = "volumes: input (4 features), wm_mask (1 feature); streamlines: streamlines"
    head = [f"MultiSubjectDataset('{tiny_hdf5}', lazy={lazy})", f"  {groups}"]
    assert repr(dataset).splitlines() == [*head, "  not loaded: call load_data()"]
    dataset.load_data(load_testing=False)
    subset = "training: 3 subjects ('sub-a', 'sub-b', 'sub-c'); streamlines: 60 streamlines"
    others = ["  validation: 1 subject ('sub-d'); streamlines: 12 streamlines", "  testing: not loaded"]
    assert repr(dataset).splitlines() == [*head, f"  {subset}", *others]
    assert repr(dataset.training_set) == f"MultisubjectSubset({subset})"
    subject = dataset.training_set[1]
    shapes = "input (12, 10, 9, 4), wm_mask (12, 10, 9, 1)"
    assert repr(subject) == f"SubjectData('sub-b', volumes: {shapes}; streamlines: streamlines (20))"
    where, streamlines = "lazy" if lazy else "in memory", subject.streamlines["streamlines"]
    assert repr(subject.volumes["input"]) == (
        "SubjectVolume(volume group 'input' of subject 'sub-b': shape (12, 10, 9, 4), voxels of 1.5 x 2 x 2.5 mm, "
        f"{where})"
    )
    assert repr(streamlines) == (
        "SubjectStreamlines(streamlines group 'streamlines' of subject 'sub-b': 20 streamlines, "
        f"{len(streamlines.get().data)} points, {where})"
    )


def test_the_repr_of_several_files_names_them(tmp_path: Path) -> None:
    files = [write_hdf5(tmp_path / f"{name}.hdf5", {name: 2}) for name in ("a", "b", "c")]
    for given, shown in ((files[:2], f"'{files[0]}', '{files[1]}'"), (files, f"'{files[0]}', '{files[1]}' and 1 more")):
        assert repr(MultiSubjectDataset(given)).splitlines()[0] == f"MultiSubjectDataset({shown}, lazy=False)"


def test_the_repr_of_a_large_subset_is_short(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "large.hdf5", {f"sub-{number:02d}": 1 for number in range(12)})
    dataset = MultiSubjectDataset(path, lazy=True)
    dataset.load_data()
    names = "'sub-00', 'sub-01', 'sub-02', 'sub-03', 'sub-04' and 7 more"
    shown = f"training: 12 subjects ({names}); streamlines: 12 streamlines"
    assert repr(dataset.training_set) == f"MultisubjectSubset({shown})"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.hdf5' was not found; create one with 'dwiml create_hdf5'"):
        MultiSubjectDataset(tmp_path / "none.hdf5")


def test_file_that_is_no_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "text.hdf5"
    path.write_text("hello")
    with pytest.raises(ValueError, match="^'.*text.hdf5' is not an HDF5 file .or its first bytes are overwritten"):
        MultiSubjectDataset(path)


def test_a_file_that_is_cut_off(tiny_hdf5: Path, tmp_path: Path) -> None:
    whole = tiny_hdf5.read_bytes()
    path = tmp_path / "cut.hdf5"
    path.write_bytes(whole[:-100])
    with pytest.raises(
        ValueError, match=f"cut.hdf5' is truncated: it has {len(whole) - 100} of {len(whole)} bytes; copy"
    ):
        MultiSubjectDataset(path)


def test_hdf5_that_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "other.hdf5"
    with h5py.File(path, "w") as handle:
        handle["x"] = [1, 2]
    with pytest.raises(
        ValueError, match="has no root attributes .*'training_subjs'.*; give a file created by 'dwiml create_hdf5'"
    ):
        MultiSubjectDataset(path)


def test_file_of_a_later_version(tiny_hdf5: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_hdf5, tmp_path))
    with h5py.File(path, "a") as handle:
        handle.attrs["dwiml_schema_version"] = 99
    with pytest.raises(ValueError, match="schema version 99, but this version of dwiml reads up to 1"):
        MultiSubjectDataset(path)


def test_listed_subject_that_is_absent(tiny_hdf5: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_hdf5, tmp_path))
    with h5py.File(path, "a") as handle:
        del handle["sub-d"]
    with pytest.raises(ValueError, match="lists 'sub-d' as validation subjects but does not contain them"):
        MultiSubjectDataset(path)


@pytest.mark.parametrize("lazy", [False, True])
def test_nan_in_a_volume_is_named(tiny_hdf5: Path, tmp_path: Path, lazy: bool) -> None:
    path = Path(shutil.copy(tiny_hdf5, tmp_path))
    with h5py.File(path, "a") as handle:
        handle["sub-b/input/data"][2, 3, 4, 1] = np.nan
    dataset = MultiSubjectDataset(path, lazy=lazy)

    def read() -> torch.Tensor:
        dataset.load_data()
        tensor: torch.Tensor = dataset.training_set[1].volumes["input"].as_tensor()
        return tensor

    with pytest.raises(ValueError, match="volume group 'input' of subject 'sub-b' holds 1 NaN"):
        read()


def test_groups_that_differ_between_subjects(tiny_hdf5: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_hdf5, tmp_path))
    with h5py.File(path, "a") as handle:
        del handle["sub-b/wm_mask"]
    with pytest.raises(ValueError, match=r"subject 'sub-b' has the volume groups 'input', but subject 'sub-a' has"):
        MultiSubjectDataset(path)


def test_features_that_differ_between_subjects(tiny_hdf5: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_hdf5, tmp_path))
    with h5py.File(path, "a") as handle:
        del handle["sub-b/input/data"]
        handle["sub-b/input/data"] = np.zeros((*SHAPE, 7), dtype=np.float32)
    with pytest.raises(ValueError, match="'input' has 7 features for subject 'sub-b' and 4 for"):
        MultiSubjectDataset(path)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("space", [Space.VOX, Space.VOXMM, Space.RASMM])
@pytest.mark.parametrize("origin", list(Origin))
def test_any_space_and_origin_is_converted(tmp_path: Path, lazy: bool, space: Space, origin: Origin) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 4})
    expected = MultiSubjectDataset(path)
    expected.load_data()
    truth = expected.training_set[0].streamlines["streamlines"].get()
    # dipy writes the same streamlines in the other space; the attributes are the field's tool's own.
    tractogram = StatefulTractogram(
        [line.numpy() for line in truth], (AFFINE, SHAPE, VOXEL_SIZES, "RAS"), Space.VOX, origin=Origin.TRACKVIS
    )
    tractogram.to_space(space)
    tractogram.to_origin(origin)
    with h5py.File(path, "a") as handle:
        group = handle["sub-a/streamlines"]
        del group["data"]
        group["data"] = tractogram.streamlines.get_data().astype(np.float64)
        group.attrs["space"], group.attrs["origin"] = str(space), str(origin)
    dataset = MultiSubjectDataset(path, lazy=lazy)
    dataset.load_data()
    got = dataset.training_set[0].streamlines["streamlines"].get()
    assert np.abs(got.data.numpy() - truth.data.numpy()).max() < 1e-4


def test_older_files_without_optional_items(tiny_hdf5: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_hdf5, tmp_path))
    expected = MultiSubjectDataset(path)
    expected.load_data()
    with h5py.File(path, "a") as handle:
        del handle.attrs["dwiml_schema_version"]
        for name in ("offsets", "euclidean_lengths", "data_per_streamline"):
            del handle[f"sub-a/streamlines/{name}"]
    dataset = MultiSubjectDataset(path, lazy=True)
    dataset.load_data()
    old, new = (d.training_set[0].streamlines["streamlines"] for d in (dataset, expected))
    assert torch.equal(old.get([3, 1]).data, new.get([3, 1]).data)
    assert old.lengths_mm == pytest.approx(new.lengths_mm, rel=1e-5)


def test_damaged_offsets_are_refused(tiny_hdf5: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_hdf5, tmp_path))
    with h5py.File(path, "a") as handle:
        handle["sub-a/streamlines/offsets"][-1] = 10**6
    with pytest.raises(ValueError, match="subject 'sub-a' is damaged"):
        MultiSubjectDataset(path).load_data()


def test_fingerprint_is_the_content(tiny_hdf5: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_hdf5, tmp_path / "other_name.hdf5"))
    assert MultiSubjectDataset(path).fingerprint() == MultiSubjectDataset(tiny_hdf5).fingerprint()
    with h5py.File(path, "a") as handle:
        handle["sub-a/input/data"][0, 0, 0, 0] += 1
    assert MultiSubjectDataset(path).fingerprint() != MultiSubjectDataset(tiny_hdf5).fingerprint()


def test_cache_size_is_checked(tiny_hdf5: Path) -> None:
    with pytest.raises(ValueError, match="cache_size must be a whole number of at least 1, got 0"):
        MultiSubjectDataset(tiny_hdf5, cache_size=0)


@pytest.mark.parametrize("value", [2.0, "2", None, True])
def test_cache_size_of_another_type(tiny_hdf5: Path, value: object) -> None:
    with pytest.raises(ValueError, match="cache_size must be a whole number of at least 1, got"):
        MultiSubjectDataset(tiny_hdf5, cache_size=value)  # type: ignore[arg-type]


def damaged(tiny_hdf5: Path, folder: Path, name: str, values: np.ndarray) -> Path:
    """Return a copy of the file where one dataset of a group of sub-a is another."""
    path = Path(shutil.copy(tiny_hdf5, folder))
    with h5py.File(path, "a") as handle:
        del handle[f"sub-a/{name}"]
        handle[f"sub-a/{name}"] = values
    return path


def some_lengths(*, first: float) -> np.ndarray:
    return np.array([first] + [50.0] * 29, dtype=np.float32)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("euclidean_lengths", np.ones(29), "euclidean_lengths has 29 values for 30 streamlines"),
        ("euclidean_lengths", some_lengths(first=np.nan), "euclidean_lengths holds NaN, infinite or negative"),
        ("euclidean_lengths", some_lengths(first=-1), "euclidean_lengths holds NaN, infinite or negative"),
        ("lengths", np.array([-3] + [2] * 29), "lengths holds -3"),
        ("data_per_streamline/id", np.ones((31, 1)), r"data_per_streamline 'id' has shape \(31, 1\)"),
    ],
)
def test_streamlines_that_do_not_fit_are_damaged(
    tiny_hdf5: Path, tmp_path: Path, lazy: bool, name: str, values: np.ndarray, sentence: str
) -> None:
    path = damaged(tiny_hdf5, tmp_path, f"streamlines/{name}", values)
    with pytest.raises(ValueError, match=f"'streamlines' of subject 'sub-a' is damaged: {sentence}"):
        MultiSubjectDataset(path, lazy=lazy).load_data()


@pytest.mark.parametrize("group", ["input", "streamlines"])
@pytest.mark.parametrize(
    ("affine", "sentence"),
    [
        (np.eye(3), r"has shape \(3, 3\)"),
        (np.diag([1.0, 0.0, 1.0, 1.0]), "cannot be inverted"),
        (np.diag([np.nan, 1.0, 1.0, 1.0]), "holds NaN"),
    ],
)
def test_affine_that_cannot_be_used(
    tiny_hdf5: Path, tmp_path: Path, group: str, affine: np.ndarray, sentence: str
) -> None:
    path = Path(shutil.copy(tiny_hdf5, tmp_path))
    with h5py.File(path, "a") as handle:
        handle[f"sub-b/{group}"].attrs["affine"] = affine
    with pytest.raises(ValueError, match=f"affine of .* group '{group}' of subject 'sub-b' {sentence}"):
        MultiSubjectDataset(path, lazy=True).load_data()


def test_booleans_choose_their_places(tiny_hdf5: Path) -> None:
    dataset = MultiSubjectDataset(tiny_hdf5)
    dataset.load_data()
    lines = dataset.training_set[0].streamlines["streamlines"]
    chosen = np.zeros(30, dtype=bool)
    chosen[[4, 9]] = True
    assert torch.equal(lines.get(chosen).data, torch.cat([lines.get(4).data, lines.get(9).data]))
    assert len(lines.get([])) == len(lines.get(np.zeros(0))) == len(lines.get(~np.ones(30, dtype=bool))) == 0
    for ids in ([1.5], np.array([1.0]), [True, False], ["1"], [[1, 2]], True):
        with pytest.raises(IndexError, match=r"'sub-a' must be integers, or a boolean array of shape \(30,\); got"):
            lines.get(ids)  # type: ignore[arg-type]


def test_one_name_is_a_list_of_one(tiny_hdf5: Path) -> None:
    dataset = MultiSubjectDataset(tiny_hdf5)
    dataset.load_data(volume_groups="wm_mask", streamline_groups="streamlines")
    assert list(dataset.training_set[0].volumes) == ["wm_mask"]
    assert list(dataset.training_set[0].streamlines) == ["streamlines"]


def test_lazy_nan_coordinates_without_stored_lengths_are_named(tiny_hdf5: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_hdf5, tmp_path))
    with h5py.File(path, "a") as handle:
        handle["sub-b/streamlines/data"][3, 1] = np.nan
        del handle["sub-b/streamlines/euclidean_lengths"]
    with pytest.raises(ValueError, match="Streamline 0 of the .* of subject 'sub-b' holds NaN"):
        MultiSubjectDataset(path, lazy=True).load_data()
