"""A data set in several HDF5 files: the same as in one."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from several_files import PARTS, change_root, split, write_whole
from tests_support import NB_FEATURES, write_hdf5

from dwiml import DWIMLBatchIDSampler, DWIMLBatchLoaderOneInput, Learn2TrackModel, MultiSubjectDataset
from dwiml.hdf5 import schema


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whole(tmp_path_factory.mktemp("whole") / "whole.hdf5")


@pytest.fixture(scope="module")
def files(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return split(whole, tmp_path_factory.mktemp("parts"))


def batches(hdf5_file: Any, *, lazy: bool, workers: int = 0, start_method: str | None = None) -> list[Any]:
    """Return all batches of two training epochs and one validation epoch, with the inputs of the model."""
    dataset = MultiSubjectDataset(hdf5_file, lazy=lazy)
    dataset.load_data()
    model = Learn2TrackModel(nb_features=NB_FEATURES, rnn_layer_sizes=(4,), step_size=1.0)
    sampler = DWIMLBatchIDSampler(dataset, "streamlines", batch_size_training=7, seed=3)
    loader = DWIMLBatchLoaderOneInput(
        dataset, model, "input", "streamlines", seed=3, reverse_ratio=0.5, split_ratio=0.5
    )
    found = []
    for phase, nb_epochs in (("training", 2), ("validation", 1)):
        data = loader.data_loader(phase, sampler, nb_cpu_processes=workers, start_method=start_method)
        for epoch in range(nb_epochs):
            sampler.set_position(phase, epoch)
            found += [(lines, ids, loader.load_batch_inputs(lines, ids)) for lines, ids in data]
    return found


def assert_same(some: list[Any], others: list[Any]) -> None:
    assert len(some) == len(others) > 10
    for (lines, ids, inputs), (other_lines, other_ids, other_inputs) in zip(some, others, strict=True):
        assert torch.equal(lines.data, other_lines.data)
        assert torch.equal(lines.lengths, other_lines.lengths)
        assert (ids, ids.key) == (other_ids, other_ids.key)
        assert torch.equal(ids.data_per_streamline["id"], other_ids.data_per_streamline["id"])
        assert torch.equal(inputs.data, other_inputs.data)


@pytest.fixture(scope="module")
def reference(whole: Path) -> list[Any]:
    return batches(whole, lazy=False)


@pytest.mark.first(4)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    ("lazy", "workers", "start_method"),
    [
        (False, 0, None),
        (True, 0, None),
        (False, 2, "fork"),
        (True, 2, "fork"),
        (True, 2, "spawn"),
        pytest.param(False, 2, "spawn", marks=pytest.mark.slow),
    ],
)
def test_batches_are_those_of_one_file(
    files: list[Path], reference: list[Any], lazy: bool, workers: int, start_method: str | None
) -> None:
    assert_same(batches(files, lazy=lazy, workers=workers, start_method=start_method), reference)


def test_a_folder_means_its_files_in_the_order_of_their_names(files: list[Path], tmp_path: Path) -> None:
    for path in reversed(files):
        shutil.copy(path, tmp_path / path.name)
    for name in (".part-0.hdf5", ".part-0.hdf5.12ab.tmp", "part-9.hdf5.bak", "notes.txt"):
        (tmp_path / name).write_text("not HDF5")
    dataset = MultiSubjectDataset(tmp_path)
    assert dataset.hdf5_files == [tmp_path / f"part-{number}.hdf5" for number in range(3)] == dataset.hdf5_file
    dataset.load_data()
    assert dataset.training_set.subjects == ["sub-a", "sub-b", "sub-c"]
    assert dataset.validation_set.subjects == ["sub-d"]
    assert dataset.testing_set.subjects == ["sub-e"]
    assert dataset.training_set.total_nb_streamlines == {"streamlines": 60}


def test_the_order_of_a_list_is_kept(files: list[Path]) -> None:
    dataset = MultiSubjectDataset([str(path) for path in reversed(files)], lazy=True)
    dataset.load_data(load_testing=False)
    assert dataset.training_set.subjects == ["sub-c", "sub-b", "sub-a"]
    assert not dataset.testing_set.loaded
    dataset.load_data(subj_id="sub-d")
    assert dataset.training_set.subjects == []
    assert dataset.validation_set.subjects == ["sub-d"]
    with pytest.raises(ValueError, match=r"'x' not found in .*part-2.hdf5 and 2 more; it has: 'sub-c', 'sub-b', 'sub"):
        dataset.load_data(subj_id="x")
    with pytest.raises(ValueError, match=r"group 'dwi' not found in .*part-2.hdf5 and 2 more; it has: 'input'"):
        dataset.load_data(volume_groups=["dwi"])


def test_one_file_in_a_list_or_a_folder_is_that_file(whole: Path) -> None:
    known = MultiSubjectDataset(whole)
    for given in ([whole], [whole.parent], whole.parent, (str(whole),)):
        dataset = MultiSubjectDataset(given)
        assert dataset.hdf5_file == whole
        assert dataset.fingerprint() == known.fingerprint()


def test_the_fingerprint_is_that_of_one_file_and_depends_on_the_order(
    whole: Path, files: list[Path], tmp_path: Path
) -> None:
    of_files = MultiSubjectDataset(files).fingerprint()
    assert of_files == MultiSubjectDataset(whole).fingerprint()
    assert of_files != MultiSubjectDataset(files[::-1]).fingerprint()
    assert of_files != MultiSubjectDataset(files[:2]).fingerprint()
    copies = [Path(shutil.copy(path, tmp_path)) for path in files]
    with h5py.File(copies[1], "r+") as handle:
        handle["sub-d/streamlines/data"][3] += 0.25
    assert of_files != MultiSubjectDataset(copies).fingerprint()


def changed(files: list[Path], folder: Path, name: str, value: object) -> list[Path]:
    """Return copies of files, in the last of which an attribute is another."""
    copies = [Path(shutil.copy(path, folder)) for path in files]
    change_root(copies[-1], name, value)
    return copies


def config_text(standardization: str, std_mask: list[str], files: str = "sh.nii.gz") -> str:
    entry = {"type": "volume", "files": [files], "standardization": standardization, "std_mask": std_mask}
    return json.dumps({"input": entry})


@pytest.mark.parametrize(
    ("name", "first", "second", "sentence"),
    [
        ("step_size", "Not defined by user", 0.5, "'step_size' is Not defined by user in the first and 0.5 in the sec"),
        ("nb_points", 32, 64, "'nb_points' is 32 in the first and 64 in the second"),
        (
            "groups_config",
            config_text("none", []),
            config_text("all", []),
            "'input' was created in different ways, its standardization: 'none' in the first and 'all' in the second",
        ),
        (
            "groups_config",
            config_text("all", []),
            config_text("all", ["wm.nii.gz"]),
            "its std_mask: 'not given' in the first and 'given' in the second",
        ),
    ],
)
def test_files_that_were_created_in_another_way(
    files: list[Path], tmp_path: Path, name: str, first: object, second: object, sentence: str
) -> None:
    copies = changed(files, tmp_path, name, second)
    for path in copies[:-1]:
        change_root(path, name, first)
    named = rf"^'{tmp_path}/part-0.hdf5' and '{tmp_path}/part-2.hdf5' cannot be one data set: .*"
    with pytest.raises(ValueError, match=named + sentence):
        MultiSubjectDataset(copies)


def test_files_of_other_names_or_without_a_record_are_accepted(files: list[Path], tmp_path: Path) -> None:
    copies = changed(files, tmp_path, "groups_config", config_text("all", [], "other_name.nii.gz"))
    change_root(copies[1], "groups_config", config_text("all", []))
    dataset = MultiSubjectDataset(copies)
    # Of the first file that records one.
    assert dataset.groups_config["input"]["files"] == ["sh.nii.gz"]


def test_numbers_of_features_of_the_files_of_a_group(files: list[Path], tmp_path: Path) -> None:
    copies = [Path(shutil.copy(path, tmp_path)) for path in files]
    for number, path in enumerate(copies):
        found = [{"file": "a.nii.gz", "nb_features": 1 + number // 2}, {"file": "b.nii.gz", "nb_features": 3}]
        change_root(path, "groups_config", config_text("all", []))
        change_root(path, "groups_files", json.dumps({"input": found}))
    with pytest.raises(ValueError, match=r"numbers of features of its files: \[1, 3\] in the first and \[2, 3\] in th"):
        MultiSubjectDataset(copies)


def rename(handle: h5py.File) -> None:
    handle.move("sub-c/wm_mask", "sub-c/mask")
    handle.move("sub-e/wm_mask", "sub-e/mask")


def widen(handle: h5py.File) -> None:
    for name in ("sub-c", "sub-e"):
        values = np.repeat(handle[f"{name}/input/data"][()], 2, axis=-1)
        del handle[f"{name}/input/data"]
        handle[f"{name}/input/data"] = values
        handle[f"{name}/input"].attrs["nb_features"] = 8


def retype(handle: h5py.File) -> None:
    for name in ("sub-c", "sub-e"):
        del handle[f"{name}/streamlines"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (rename, "the volume groups are 'input', 'wm_mask' in the first and 'input', 'mask' in the second; all sub"),
        (widen, "volume group 'input' has 4 features in the first and 8 in the second; all subjects"),
        (retype, "the streamlines groups are 'streamlines' in the first and none in the second"),
    ],
)
def test_subjects_of_other_groups(
    whole: Path, tmp_path: Path, change: Callable[[h5py.File], None], sentence: str
) -> None:
    copies = split(whole, tmp_path, digests=False)
    with h5py.File(copies[-1], "r+") as handle:
        for place in ("sub-c", "sub-e"):
            handle[place].visititems(lambda _, node: node.attrs.pop("dwiml_digest", None))
        change(handle)
    for path in copies:
        with h5py.File(path, "r+") as handle:
            handle.attrs.pop("dwiml_digest", None)
    named = rf"^'{tmp_path}/part-0.hdf5' and '{tmp_path}/part-2.hdf5' cannot be one data set: "
    with pytest.raises(ValueError, match=named + sentence):
        MultiSubjectDataset(copies)


def test_a_subject_in_two_files(whole: Path, files: list[Path], tmp_path: Path) -> None:
    (again,) = split(whole, tmp_path, [{"testing": ["sub-b"]}])
    with pytest.raises(ValueError, match=f"^Subject 'sub-b' is in '{files[1]}' and in '{again}'; a subject must be in"):
        MultiSubjectDataset([*files, again])


def test_a_file_given_twice(files: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "link.hdf5"
    link.symlink_to(files[0])
    with pytest.raises(ValueError, match=f"^The HDF5 file '{files[0]}' is given twice .also as '{link}'.; give it"):
        MultiSubjectDataset([*files, link])
    with pytest.raises(ValueError, match=f"^The HDF5 file '{files[0]}' is given twice; give it once"):
        MultiSubjectDataset([files[0], files[0].parent])


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ([], ValueError, "hdf5_file is an empty list; give at least one HDF5 file."),
        (3, TypeError, "hdf5_file must be a file, a folder or a list of files, got 3."),
        ([3], TypeError, r"hdf5_file must be a file, a folder or a list of files, got \[3\]."),
        (None, TypeError, "hdf5_file must be a file, a folder or a list of files, got None."),
    ],
)
def test_what_is_neither_a_file_nor_a_list(given: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=f"^{sentence}$"):
        MultiSubjectDataset(given)


def test_an_empty_folder_and_a_missing_file(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"^The folder '{tmp_path}' has no file \*.hdf5; create one with"):
        MultiSubjectDataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="HDF5 file '.*none.hdf5' was not found"):
        MultiSubjectDataset([files[0], tmp_path / "none.hdf5"])


def test_a_file_that_is_replaced_is_named(files: list[Path], tmp_path: Path) -> None:
    copies = [Path(shutil.copy(path, tmp_path)) for path in files]
    dataset = MultiSubjectDataset(copies, lazy=True)
    dataset.load_data()
    os.replace(shutil.copy(copies[1], tmp_path / "new"), copies[1])
    assert len(dataset.training_set[0].streamlines["streamlines"].get([1])) == 1
    with pytest.raises(ValueError, match=rf"HDF5 file '{re.escape(str(copies[1]))}' was replaced by another file"):
        dataset.training_set[1].streamlines["streamlines"].get([1])
    with pytest.raises(ValueError, match=rf"HDF5 file '{re.escape(str(copies[1]))}' was replaced"):
        dataset.fingerprint()
    dataset.load_data()
    assert len(dataset.training_set[1].streamlines["streamlines"].get([1])) == 1
    assert PARTS[1]["validation"] == dataset.validation_set.subjects


def test_subjects_of_older_files_without_the_root_attributes(tmp_path: Path) -> None:
    first = write_hdf5(tmp_path / "a.hdf5", {"sub-1": 3}, seed=1)
    second = write_hdf5(tmp_path / "b.hdf5", {}, {"sub-2": 3}, seed=2)
    dataset = MultiSubjectDataset([first, second])
    dataset.load_data()
    assert (dataset.training_set.subjects, dataset.validation_set.subjects) == (["sub-1"], ["sub-2"])
    with h5py.File(second) as handle:
        assert schema.STEP_SIZE not in handle.attrs
