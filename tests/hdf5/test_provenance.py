"""What a file records of its origin: source files, standardization, command; and what that must not change."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest

import dwiml
from dwiml import MultiSubjectDataset
from dwiml.cli.main import main
from dwiml.data.checking import check_hdf5_file
from dwiml.hdf5 import file_writer
from dwiml.hdf5.inputs.provenance import sources_of
from dwiml.hdf5.stored.fingerprint import fingerprint_of
from dwiml.hdf5.stored.provenance import read_provenance

MODIFIED = 1_600_000_000.25
GROUPS = {
    "input": {
        "type": "volume",
        "files": ["dwi.nii.gz", "maps/fa.nii.gz"],
        "standardization": "per_file",
        "std_mask": ["mask.nii.gz"],
    },
    "wm_mask": {"type": "volume", "files": ["mask.nii.gz"]},
    "streamlines": {"type": "streamlines", "files": ["wb.trk"]},
}


@pytest.fixture
def two(subjects: Any) -> Any:
    """Two subjects whose files have a known time of modification."""
    for seed, name in enumerate(("a", "b")):
        subjects.plain(name, seed=seed)
        shape = nib.load(subjects.folder / name / "mask.nii.gz").shape
        subjects.volume(name, "maps/fa.nii.gz", np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32))
        for path in (subjects.folder / name).rglob("*.*"):
            os.utime(path, (MODIFIED, MODIFIED))
    return subjects


def source(path: Path, folder: Path) -> dict[str, Any]:
    time = "2020-09-13T12:26:40.250000+00:00"
    return {"file": str(path.relative_to(folder)), "nb_bytes": path.stat().st_size, "modified": time}


def test_files_and_statistics_of_each_group(two: Any) -> None:
    two.create(GROUPS)
    recorded = MultiSubjectDataset(two.out).provenance
    assert list(recorded["subjects"]) == ["a", "b"]
    for name, groups in recorded["subjects"].items():
        folder = two.folder / name
        assert groups["streamlines"] == {"files": [source(folder / "wb.trk", folder)]}
        found = groups["input"]
        assert found["standardization"] == "per_file"
        assert found["std_mask"] == [source(folder / "mask.nii.gz", folder)]
        inside = nib.load(folder / "mask.nii.gz").get_fdata() > 0
        for k, file in enumerate(("dwi.nii.gz", "maps/fa.nii.gz")):
            values = nib.load(folder / file).get_fdata()[inside]
            measured = found["files"][k]
            assert measured.items() >= source(folder / file, folder).items()
            assert measured["nb_features"] == (3 if k == 0 else 1)
            assert (measured["mean"], measured["std"]) == pytest.approx((values.mean(), values.std()))
            assert (found["mean"][k], found["std"][k]) == (measured["mean"], measured["std"])
        assert groups["wm_mask"]["standardization"] == "none"
        assert (groups["wm_mask"]["files"][0]["mean"], groups["wm_mask"]["files"][0]["std"]) == (1, 0)
        assert not {"mean", "std", "std_mask"} & groups["wm_mask"].keys()


def test_the_standardization_can_be_undone(two: Any) -> None:
    two.create(GROUPS)
    found = read_provenance(two.out)["subjects"]["a"]["input"]
    with h5py.File(two.out) as handle:
        stored = handle["a/input/data"][...].astype(np.float64)
    dwi = nib.load(two.folder / "a/dwi.nii.gz").get_fdata()
    np.testing.assert_allclose(stored[..., :3] * found["std"][0] + found["mean"][0], dwi, atol=1e-5)


@pytest.mark.parametrize("kind", ["all", "independent", "per_file", "none"])
def test_each_feature_is_recorded_as_it_is_stored(two: Any, kind: str) -> None:
    group = {**GROUPS["input"], "standardization": kind}
    if kind == "none":
        del group["std_mask"]
    two.create({**GROUPS, "input": group})
    found = read_provenance(two.out)["subjects"]["a"]["input"]["files"]
    with h5py.File(two.out) as handle:
        stored = handle["a/input/data"][...].astype(np.float64)
    mask = nib.load(two.folder / "a/mask.nii.gz").get_fdata() > 0
    for each, values in zip(found, (stored[..., :3], stored[..., 3:]), strict=True):
        # Without a standardization: the non-zero voxels of the file.
        inside = values[mask if kind != "none" else (values != 0).any(axis=-1)]
        np.testing.assert_allclose(each["features"]["mean"], inside.mean(axis=0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(each["features"]["std"], inside.std(axis=0), rtol=1e-5)


def test_features_and_grids_of_the_training_subjects_of_all_files(two: Any, tmp_path: Path) -> None:
    two.create(GROUPS, training=["a", "b"])
    both = MultiSubjectDataset(two.out).groups_config["input"]
    subjects = read_provenance(two.out)["subjects"]
    for k, found in enumerate(both["files_found"]):
        for key in ("mean", "std"):
            values = np.array([subjects[name]["input"]["files"][k]["features"][key] for name in ("a", "b")])
            limits = np.stack([values.min(axis=0), values.max(axis=0)], axis=1)
            np.testing.assert_allclose(found["features"][key], limits)
    affine = nib.load(two.folder / "a/dwi.nii.gz").affine
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    assert both["grids"]["voxel_orders"] == ["".join(nib.aff2axcodes(affine))]
    np.testing.assert_allclose(both["grids"]["voxel_sizes"], np.stack([sizes, sizes], axis=1), atol=1e-4)
    oblique = np.degrees(nib.affines.obliquity(affine).max())
    np.testing.assert_allclose(both["grids"]["obliquity"], [oblique] * 2, atol=1e-4)
    assert "grids" not in MultiSubjectDataset(two.out).groups_config["streamlines"]
    parts = []
    for name in ("a", "b"):
        two.create(GROUPS, training=[name], overwrite=True)
        parts.append(two.out.rename(tmp_path / f"{name}.hdf5"))
    joined = MultiSubjectDataset(parts).groups_config["input"]
    assert joined["grids"] == both["grids"]
    assert [each["features"] for each in joined["files_found"]] == [each["features"] for each in both["files_found"]]


def test_features_before_their_own_standardization(two: Any, tmp_path: Path) -> None:
    independent = {**GROUPS, "input": {**GROUPS["input"], "standardization": "independent"}}
    two.create(independent, training=["a", "b"])
    both = MultiSubjectDataset(two.out).groups_config["input"]["files_found"]
    for found, file in zip(both, ("dwi.nii.gz", "maps/fa.nii.gz"), strict=True):
        inside = []
        for name in ("a", "b"):
            mask = nib.load(two.folder / name / "mask.nii.gz").get_fdata() > 0
            values = nib.load(two.folder / name / file).get_fdata()[mask]
            inside.append(values.reshape(len(values), -1))
        for key, of in (("mean", np.mean), ("std", np.std)):
            values = np.stack([of(each, axis=0) for each in inside])
            limits = np.stack([values.min(axis=0), values.max(axis=0)], axis=1)
            np.testing.assert_allclose(found["features_before"][key], limits, rtol=1e-4)
    parts = []
    for name in ("a", "b"):
        two.create(independent, training=[name], overwrite=True)
        parts.append(two.out.rename(tmp_path / f"{name}.hdf5"))
    joined = MultiSubjectDataset(parts).groups_config["input"]["files_found"]
    assert [each["features_before"] for each in joined] == [each["features_before"] for each in both]
    # After another standardization, they still differ between subjects.
    two.create(GROUPS, training=["a"], overwrite=True)
    (first, _) = MultiSubjectDataset(two.out).groups_config["input"]["files_found"]
    assert "features_before" not in first


def test_files_of_the_connectivity_are_recorded(two: Any) -> None:
    np.save(two.folder / "a" / "m.npy", np.eye(8))
    os.utime(two.folder / "a" / "m.npy", (MODIFIED, MODIFIED))
    config = {**GROUPS["streamlines"], "connectivity_matrix": "m.npy", "connectivity_nb_blocs": 2}
    two.create({"input": GROUPS["input"], "streamlines": config}, training=["a"])
    folder = two.folder / "a"
    found = read_provenance(two.out)["subjects"]["a"]["streamlines"]
    assert found["connectivity"] == [source(folder / "m.npy", folder)]


def test_the_range_of_the_training_subjects_is_in_the_config(two: Any) -> None:
    two.plain("c", seed=9)
    two.volume("c", "maps/fa.nii.gz", np.full(nib.load(two.folder / "c/mask.nii.gz").shape, 50, dtype=np.float32))
    two.create(GROUPS, training=["a", "b"], validation=["c"])
    subjects = read_provenance(two.out)["subjects"]
    config = MultiSubjectDataset(two.out).groups_config
    for k, found in enumerate(config["input"]["files_found"]):
        for key in ("mean", "std"):
            values = [subjects[name]["input"]["files"][k][key] for name in ("a", "b")]
            assert found[key] == [min(values), max(values)]
    assert "files_found" not in config["streamlines"]


def test_python_or_the_command_line(two: Any, tmp_path: Path) -> None:
    two.create(GROUPS, remove_invalid=True)
    recorded = read_provenance(two.out)
    assert recorded["dwiml_version"] == dwiml.__version__
    assert recorded["command"] == "Python"
    assert recorded["options"] == {"remove_invalid": True, "allow_missing": False}
    (tmp_path / "training list.txt").write_text("a\n")
    arguments = [two.folder, tmp_path / "c.hdf5", two.root / "config.json", tmp_path / "training list.txt"]
    assert main(["create_hdf5", *map(str, arguments), "--allow_missing"]) == 0
    recorded = read_provenance(tmp_path / "c.hdf5")
    assert recorded["command"] == (
        f"dwiml create_hdf5 {two.folder} {tmp_path}/c.hdf5 {two.root}/config.json '{tmp_path}/training list.txt' "
        "--allow_missing"
    )
    assert recorded["options"] == {"remove_invalid": False, "allow_missing": True}


def test_files_touched_later_are_the_same_data_but_not_the_same_bytes(
    two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_writer, "now", lambda: datetime.datetime(2020, 1, 2))
    two.create(GROUPS)
    content, fingerprint = two.out.read_bytes(), fingerprint_of(two.out)
    two.create(GROUPS, overwrite=True)
    assert two.out.read_bytes() == content
    two.create(GROUPS, overwrite=True, command="dwiml create_hdf5")
    assert two.out.read_bytes() != content
    assert fingerprint_of(two.out) == fingerprint
    os.utime(two.folder / "a" / "dwi.nii.gz")
    two.create(GROUPS, overwrite=True)
    assert two.out.read_bytes() != content
    assert fingerprint_of(two.out) == fingerprint
    two.create({**GROUPS, "input": {**GROUPS["input"], "standardization": "all"}}, overwrite=True)
    assert fingerprint_of(two.out) != fingerprint


def test_the_digest_of_a_group_covers_its_provenance(two: Any) -> None:
    two.create(GROUPS)
    assert check_hdf5_file(two.out, digests=True).all_faults == []
    with h5py.File(two.out, "r+") as handle:
        recorded = json.loads(handle["b/input"].attrs["dwiml_provenance"])
        recorded["mean"][0] = 0.0
        handle["b/input"].attrs["dwiml_provenance"] = json.dumps(recorded)
    (fault,) = check_hdf5_file(two.out).all_faults
    assert f"'b/input' of the HDF5 file '{two.out}' does not match its digest" in fault


@pytest.mark.parametrize("text", [None, "", "[1]", "{", "[" * 100_000])
def test_a_file_without_provenance_is_read(two: Any, text: str | None) -> None:
    two.create(GROUPS)
    with h5py.File(two.out, "r+") as handle:
        for name in ("/", "a/input", "a/wm_mask", "a/streamlines", "b/input", "b/wm_mask", "b/streamlines"):
            del handle[name].attrs["dwiml_provenance"]
            if text is not None:
                handle[name].attrs["dwiml_provenance"] = text
            handle[name].attrs.pop("dwiml_digest", None)
        del handle["/"].attrs["training_subjs"]
        handle.attrs["training_subjs"] = ["a", "b"]
    dataset = MultiSubjectDataset(two.out)
    dataset.load_data()
    assert dataset.provenance == {"subjects": {"a": {}, "b": {}}}


def test_sources_of_several_files_count_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.trx" / "dps").mkdir(parents=True)
    for name, nb, time in (("a.trx/header.json", 3, 100), ("a.trx/dps/x.float32", 4, 300), ("b.hdr", 5, 50)):
        (tmp_path / name).write_bytes(b"0" * nb)
        os.utime(tmp_path / name, (time, time))
    (tmp_path / "b.img").write_bytes(b"0" * 7)
    os.utime(tmp_path / "b.img", (60, 60))
    os.utime(tmp_path / "a.trx", (200, 200))
    trx, pair = sources_of([tmp_path / "a.trx", tmp_path / "b.img"], tmp_path / "sub")
    assert trx == {"file": "../a.trx", "nb_bytes": 7, "modified": "1970-01-01T00:05:00.000000+00:00"}
    assert pair == {"file": "../b.img", "nb_bytes": 12, "modified": "1970-01-01T00:01:00.000000+00:00"}
