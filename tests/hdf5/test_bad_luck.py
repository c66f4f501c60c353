"""Files that change, lie, or are not what they seem, while a file is created, added to, joined or checked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from tests_support import write_hdf5

from dwiml.cli.main import main
from dwiml.data.checking import check_hdf5_file
from dwiml.hdf5 import file_writer
from dwiml.hdf5.directions.alignment import measure_subject
from dwiml.hdf5.inputs.subjects import read_subject_lists
from dwiml.hdf5.joining import join_hdf5
from dwiml.hdf5.part_folder import PartFolder
from dwiml.hdf5.stored import open_hdf5
from dwiml.hdf5.stored.layout import groups_config
from dwiml.hdf5.stored.provenance import read_provenance, recorded_config
from dwiml.ops.axes.alignment import measure
from dwiml.ops.axes.conventions import Directions
from dwiml.ops.axes.conversion import sh_matrix, sphere_directions
from dwiml.tracking.inputs.order import trained_directions

SHAPE = (8, 7, 6)
MASKED = {
    "input": {"type": "volume", "files": ["dwi.nii.gz"], "standardization": "all", "std_mask": ["mask*.nii.gz"]},
    "streamlines": {"type": "streamlines", "files": ["wb.trk"]},
}


@pytest.fixture
def three(subjects):
    for seed, name in enumerate("abc"):
        subjects.plain(name, seed=seed)
    return subjects


@pytest.mark.parametrize("kind", ["features", "shape", "affine", "mask"])
def test_a_volume_that_changes_after_the_check_of_its_header_is_never_stored(three, kind):
    """Only the last subject is changed, when the first one is done."""
    affine = nib.load(three.folder / "c/dwi.nii.gz").affine

    def change(done, total, name):
        if name != "a":
            return
        if kind == "features":
            three.volume("c", "dwi.nii.gz", np.ones((*SHAPE, 2), np.float32))
        elif kind == "shape":
            three.volume("c", "dwi.nii.gz", np.ones((8, 7, 5, 3), np.float32))
        elif kind == "affine":
            three.volume("c", "dwi.nii.gz", np.ones((*SHAPE, 3), np.float32), affine @ np.diag([-1.0, 1, 1, 1]))
        else:
            three.volume("c", "mask.nii.gz", np.ones((8, 7, 5), np.uint8))

    file = "mask" if kind == "mask" else "dwi"
    with pytest.raises(ValueError, match=f"c/{file}.nii.gz' has changed since its header was checked; run the same"):
        three.create(MASKED, on_progress=change)
    assert not three.out.exists()


def test_without_any_good_header_there_is_one_sentence(three):
    groups = {**MASKED, "input": {"type": "volume", "files": ["dmi.nii.gz"]}}
    with pytest.raises(ValueError, match="There is no training subject left; 'a' was left out because: .*dmi.nii.gz'"):
        three.create(groups, skip_bad_subjects=True)


def test_the_subject_with_another_number_of_masks_is_the_odd_one(three):
    three.volume("a", "mask2.nii.gz", np.ones(SHAPE, np.uint8))
    assert list(three.create(MASKED, skip_bad_subjects=True).skipped) == ["a"]


def test_the_subject_of_another_convention_is_the_odd_one(three):
    for seed, name in enumerate("abc"):
        values = np.random.default_rng(seed).normal(size=(*SHAPE, 6)).astype(np.float32)
        three.volume(name, "dwi.nii.gz", values)
        if name != "a":
            encoding = {"Type": "sh", "SphericalHarmonicBasis": "mrtrix3", "Reference": "xyz"}
            (three.folder / name / "dwi.json").write_text(json.dumps({"OrientationEncoding": encoding}))
    assert list(three.create(skip_bad_subjects=True).skipped) == ["a"]


def test_subjects_to_add_are_left_out_too(three):
    three.volume("c", "dwi.nii.gz", np.ones((*SHAPE, 2), np.float32))
    three.create(training=["a"])
    done = three.create(training=["b", "c"], add=True, skip_bad_subjects=True)
    assert (done.added, list(done.skipped)) == (["b"], ["c"])
    three.volume("d", "dwi.nii.gz", np.ones((*SHAPE, 2), np.float32))
    three.tractogram("d", "wb.trk", [np.full((3, 3), 3.0) + np.arange(3)[:, None]])
    with pytest.raises(ValueError, match="There is no subject to add left; 'd' was left out"):
        three.create(training=["d"], add=True, skip_bad_subjects=True)


@pytest.mark.parametrize("name", ["remove_invalid", "allow_missing"])
def test_subjects_are_added_with_the_same_options_only(three, name):
    three.create(training=["a"], **{name: True})
    with pytest.raises(ValueError, match=f"was created with {name}, not without it"):
        three.create(training=["b"], add=True)
    three.create(training=["b"], add=True, **{name: True})


def test_all_commands_that_made_a_file_are_recorded(three):
    three.create(training=["a"], command="first")
    three.create(training=["b"], add=True, command="second")
    three.create(training=["c"], add=True, command="third")
    found = read_provenance(three.out)
    assert found["command"] == "third"
    assert [each["command"] for each in found["earlier"]] == ["first", "second"]


def test_damage_of_the_file_that_is_added_to_is_not_copied(three):
    three.create(training=["a"])
    with h5py.File(three.out, "r+") as handle:
        handle["a/input/data"][0, 0, 0, 0] += 1
    before = three.out.read_bytes()
    with pytest.raises(ValueError, match="'a/input/data' of the HDF5 file .* does not match its digest"):
        three.create(training=["b"], add=True)
    assert three.out.read_bytes() == before


def test_a_file_that_is_deleted_while_it_is_written_is_no_empty_file(three):
    def delete(done, total, name):
        if name == "a":
            for path in (three.root / ".out.hdf5.parts").glob(".*.tmp"):
                path.unlink()

    with pytest.raises(OSError, match="out.hdf5"):
        three.create(on_progress=delete)
    assert not three.out.exists()


def test_only_an_undeleted_file_gets_its_name(tmp_path):
    with pytest.raises(OSError, match="was deleted or replaced while it was written; run the same again"):
        _write_and_replace(tmp_path)
    assert not (tmp_path / "out.hdf5").exists()


def _write_and_replace(folder: Path) -> None:
    with file_writer.atomic_hdf5(folder / "out.hdf5", 10, overwrite=False) as handle:
        os.unlink(handle.filename)
        Path(handle.filename).write_bytes(b"")


def test_one_process_at_a_time_has_the_folder_of_the_parts(tmp_path):
    with PartFolder(tmp_path / "out.hdf5", resume=False, discard=False) as place:
        assert (place.path / "lock").is_file()
        with pytest.raises(OSError, match="is being created by another process"):
            PartFolder(tmp_path / "out.hdf5", resume=False, discard=False).__enter__()
    assert not place.path.exists()
    place.path.mkdir()
    (place.path / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="cannot be used"):
        PartFolder(tmp_path / "out.hdf5", resume=False, discard=False).__enter__()
    assert not (tmp_path / "mine").exists()


def test_too_many_subjects_are_refused_before_the_work(three, monkeypatch):
    monkeypatch.setattr(file_writer, "MOST_SUBJECTS", 2)
    with pytest.raises(ValueError, match="One HDF5 file can list 2 subjects, not 3: create several files"):
        three.create()
    three.create(training=["a", "b"])
    with pytest.raises(ValueError, match="can list 2 subjects, not 3"):
        three.create(training=["c"], add=True)


def test_the_largest_number_of_subjects_can_be_written(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as handle:
        names = [f"subject-with-a-long-name-{number:04}" for number in range(file_writer.MOST_SUBJECTS)]
        handle.attrs.create("training_subjs", names, dtype=h5py.string_dtype())
    with h5py.File(tmp_path / "a.hdf5") as handle:
        assert len(handle.attrs["training_subjs"]) == file_writer.MOST_SUBJECTS


def test_join_never_replaces_one_of_its_files_by_the_others(tmp_path, capsys):
    files = [write_hdf5(tmp_path / f"{name}.hdf5", {f"sub-{name}": 3}) for name in "abc"]
    before = files[2].read_bytes()
    assert main(["join_hdf5", *map(str, files), "-f"]) == 2
    assert "c.hdf5' holds other subjects ('sub-c'), which would be lost" in capsys.readouterr().err
    assert files[2].read_bytes() == before
    out = tmp_path / "out.hdf5"
    join_hdf5(files[:2], out)
    assert join_hdf5(files, out, overwrite=True).subjects["training"] == ["sub-a", "sub-b", "sub-c"]


def directional(path: Path, names: tuple[str, ...] = ("sub-a", "sub-b")) -> Path:
    """Write a file without digests: 45 features for each subject."""
    path.parent.mkdir(exist_ok=True)
    write_hdf5(path, dict.fromkeys(names, 30))
    with h5py.File(path, "r+") as handle:
        handle.attrs.pop("dwiml_digest", None)
        for seed, name in enumerate(names):
            group = handle[f"{name}/input"]
            shape = group["data"].shape[:3]
            del group["data"]
            group["data"] = np.random.default_rng(seed).normal(size=(*shape, 45)).astype(np.float32)
            group.attrs["nb_features"] = 45
            for each in (group, handle[f"{name}/streamlines"]):
                each.attrs.pop("dwiml_digest", None)
    return path


def test_check_hdf5_finds_nan_and_constant_volumes_unless_it_is_quick(tmp_path, capsys):
    path = directional(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as handle:
        handle["sub-a/input/data"][0, 0, 0, 0] = np.nan
        handle["sub-b/input/data"][..., 3] = 7
        for name in ("sub-a", "sub-b"):
            handle[f"{name}/input/data"].attrs.pop("dwiml_digest", None)
    assert main(["check_hdf5", str(path)]) == 2
    captured = capsys.readouterr()
    assert "NaN" in captured.err
    assert "1 of 45 features are constant (number 3, from 0)" in captured.out
    assert main(["check_hdf5", str(path), "--quick"]) == 0
    assert "Structure, lengths and coordinates were checked" in capsys.readouterr().out
    assert main(["check_hdf5", str(path), "--quick", "--digests"]) == 2


def test_check_hdf5_compares_conventions(tmp_path):
    path = directional(tmp_path / "a.hdf5")
    known = Directions(kind="sh", basis="descoteaux07")
    with h5py.File(path, "r+") as handle:
        handle["sub-a/input"].attrs["directions"] = file_writer.directions_text([(45, known)])
    (fault,) = check_hdf5_file(path).all_faults
    assert "the convention of the directional features of volume group 'input'" in fault
    with h5py.File(path, "r+") as handle:
        handle["sub-b/input"].attrs["directions"] = '{"stored": [{"nb_features": 1e999}], "read": [{}]}'
    (fault,) = check_hdf5_file(path).all_faults
    assert "The attribute 'directions' of the volume group 'input' of subject 'sub-b' is damaged" in fault


@pytest.mark.parametrize("kind", ["long", "few offsets", "wide"])
def test_streamlines_that_lie_are_not_measured(tmp_path, kind):
    path = directional(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as handle:
        group = handle["sub-a/streamlines"]
        nb = len(group["lengths"])
        if kind == "long":
            group["lengths"][...] = 2**40
            group["offsets"][...] = 0
        elif kind == "few offsets":
            del group["offsets"]
            group["offsets"] = np.zeros(nb - 1, np.int64)
        else:
            points = group["data"][()]
            del group["data"]
            group["data"] = np.repeat(points, 20, axis=1)
    faults = check_hdf5_file(path, quick=True).all_faults
    assert any("'streamlines' of subject 'sub-a'" in fault for fault in faults)


def test_several_files_and_folders_are_checked_and_described(tmp_path, capsys):
    for name in "ab":
        directional(tmp_path / "lab" / f"{name}.hdf5", (f"sub-{name}",))
    assert main(["check_hdf5", str(tmp_path / "lab"), "--quick"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.endswith(".hdf5")] == [
        str(tmp_path / "lab/a.hdf5"),
        str(tmp_path / "lab/b.hdf5"),
    ]
    assert main(["info", str(tmp_path / "lab"), "--json"]) == 0
    assert [Path(each["path"]).name for each in json.loads(capsys.readouterr().out)] == ["a.hdf5", "b.hdf5"]
    with h5py.File(tmp_path / "lab/b.hdf5", "r+") as handle:
        handle["sub-b/input/data"][...] = np.nan
        handle["sub-b/input/data"].attrs.pop("dwiml_digest", None)
    assert main(["check_hdf5", str(tmp_path / "lab")]) == 2


def test_groups_that_have_each_other_as_members_are_refused(tmp_path, capsys):
    path = directional(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as handle:
        group = handle["sub-a/input"]
        for _ in range(40):
            child = group.create_group("one")
            group["two"] = child
            group = child
    assert main(["info", str(path)]) == 2
    assert "it is a second name of another group" in capsys.readouterr().err


def test_terminal_codes_in_attributes_are_not_printed(tmp_path, capsys):
    path = directional(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as handle:
        handle.attrs["dwiml_provenance"] = json.dumps({"command": "dwiml \x1b[31mred"})
        handle.attrs["note"] = "\x1b[2Jgone"
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "dwiml ?[31mred" in out


def test_a_number_sign_inside_a_name_is_no_comment(tmp_path):
    (tmp_path / "list.txt").write_text("sub#2\n# a comment\nsub-3 # another\n")
    assert read_subject_lists({"training": tmp_path / "list.txt"})["training"] == ["sub#2", "sub-3"]


@pytest.mark.parametrize("content", ['{"A": NaN}', "not JSON", '{"A": 1, "A": 2}', b"\xe9{}"])
def test_a_json_file_about_something_else_stops_nothing(three, caplog, content):
    text = content if isinstance(content, bytes) else content.encode()
    (three.folder / "a/dwi.json").write_bytes(text)
    three.create()
    assert ("is ignored" in caplog.text) == (content != '{"A": NaN}')
    (three.folder / "a/dwi.json").write_bytes(text + b"OrientationEncoding")
    with pytest.raises(ValueError, match="a/dwi.json' is not valid JSON"):
        three.create(overwrite=True)


@pytest.mark.parametrize(("code", "unit"), [("meter", "meters"), ("micron", "micrometers")])
def test_other_units_than_mm_are_refused(three, code, unit):
    image = nib.load(three.folder / "a/dwi.nii.gz")
    changed = nib.Nifti1Image(image.get_fdata(), image.affine)
    changed.header.set_xyzt_units(code)
    nib.save(changed, three.folder / "a/dwi.nii.gz")
    with pytest.raises(ValueError, match=f"a/dwi.nii.gz' gives its sizes in {unit}, and dwiml needs mm"):
        three.create()


def test_nan_of_missing_peaks_are_told_as_such(three):
    peaks = np.ones((*SHAPE, 9), np.float32)
    peaks[1, 2, 3, 3:6] = np.nan
    three.volume("a", "dwi.nii.gz", peaks)
    with pytest.raises(ValueError, match="holds 3 NaN .*if these are the missing peaks of MRtrix, state 'directions'"):
        three.create(training=["a"])


def test_an_axis_too_long_for_a_tractogram_is_refused(subjects):
    (subjects.folder / "a").mkdir()
    nib.save(nib.Nifti2Image(np.ones((33_000, 1, 1), np.float32), np.eye(4)), subjects.folder / "a/dwi.nii.gz")
    with pytest.raises(ValueError, match="an axis can have at most 32767 voxels"):
        subjects.create({"input": {"type": "volume", "files": ["dwi.nii.gz"]}})


def test_a_fourth_axis_of_one_is_told_how_to_remove(subjects):
    subjects.volume("a", "dwi.nii.gz", np.ones((*SHAPE, 1, 6), np.float32))
    with pytest.raises(ValueError, match="remove the fourth axis"):
        subjects.create({"input": {"type": "volume", "files": ["dwi.nii.gz"]}})


def test_images_of_several_conventions_are_told_before_tracking(three, caplog):
    conventions = [{"kind": "sh", "axes": axes, "basis": "descoteaux07", "legacy": True} for axes in ("rasmm", "voxel")]
    paths = []
    for name, convention in zip("ab", conventions, strict=True):
        values = np.random.default_rng(3).normal(size=(*SHAPE, 6)).astype(np.float32)
        three.volume(name, "dwi.nii.gz", values)
        entry = {"type": "volume", "files": ["dwi.nii.gz"], "directions": convention}
        three.create({"input": entry, "streamlines": MASKED["streamlines"]}, training=[name], overwrite=True)
        paths.append(three.out.rename(three.root / f"{name}.hdf5"))
    joined = three.root / "joined.hdf5"
    join_hdf5(paths, joined)
    with open_hdf5(joined) as file:
        entry = recorded_config(file)["input"]
    assert entry["files_found"][0]["directions"]["axes"] == "rasmm"
    assert [each["axes"] for each in entry["files_found"][0]["other_directions"]] == ["voxel"]
    (found,) = trained_directions(entry, 1, "input")
    assert found.axes == "rasmm"
    assert "created from images in several conventions" in caplog.text


def test_features_of_several_files_are_measured_one_file_at_a_time(three):
    """Without any statement: spherical harmonics and one more feature."""
    for name in "abc":
        values = np.random.default_rng(0).normal(size=(*SHAPE, 15)).astype(np.float32)
        three.volume(name, "sh.nii.gz", values)
    groups = {
        "input": {"type": "volume", "files": ["sh.nii.gz", "mask.nii.gz"]},
        "streamlines": MASKED["streamlines"],
    }
    three.tractogram("a", "wb.trk", [np.linspace([1, 1, 1], [6, 6, 5], 40) + 0.01 * k for k in range(20)])
    three.create(groups, training=["a"])
    with open_hdf5(three.out) as file:
        (found,) = measure_subject(file.root.group("a"), groups_config(file))
    assert found.features == (0, 15)


def test_a_sharp_orientation_distribution_of_one_bundle_is_no_signal():
    """Crossing fibers, and streamlines of one of the two bundles: any direction away from both is as low as can be."""
    sphere = sphere_directions(724)
    lobes = (np.abs(sphere[:, 0]) ** 16 + np.abs(sphere[:, 2]) ** 16) / 2
    known = Directions(kind="sh", basis="descoteaux07")
    functions = sh_matrix(sphere, order=8, basis="descoteaux07", legacy=False, full_basis=False)
    values = np.tile(np.linalg.lstsq(functions, lobes, rcond=None)[0], (200, 1))
    found = measure(values, np.tile([1.0, 0, 0], (200, 1)), np.eye(4), known)
    assert found.best.directions == known
    assert found.alignment > 0.4
    assert not found.is_suspicious


def test_a_constant_has_no_axes():
    values, tangents = np.ones((200, 1)), np.random.default_rng(0).normal(size=(200, 3))
    assert measure(values, tangents, np.eye(4), Directions(kind="sh", basis="descoteaux07")) is None
