"""The file as a whole: root attributes, order, determinism, and never a half."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys

import h5py
import nibabel as nib
import numpy as np
import pytest

from dwiml.hdf5 import creator, file_writer, schema
from dwiml.hdf5.stored import open_hdf5
from dwiml.hdf5.stored.layout import groups_config, groups_of_type, subject_lists

TIMEOUT = 60
OLD = schema.SIGNATURE + b"old"


@pytest.fixture
def three(subjects):
    for seed, name in enumerate(("c", "a", "b")):
        subjects.plain(name, seed=seed, nb_streamlines=4 + seed)
    return subjects


def test_root_attributes(three):
    summary = three.create(training=["c", "a"], validation=["b"], nb_points=7)
    with open_hdf5(three.out) as file:
        assert subject_lists(file) == {"training": ["c", "a"], "validation": ["b"], "testing": []}
        handle = file.root.node
        assert list(handle.attrs["chosen_subjs"]) == ["c", "a", "b"]
        assert handle.attrs["dwiml_schema_version"] == 1
        assert handle.attrs["nb_points"] == 7
        assert handle.attrs["step_size"] == handle.attrs["compress"] == "Not defined by user"
        assert json.loads(handle.attrs["groups_config"]) == json.loads((three.root / "config.json").read_text())
        datetime.datetime.strptime(handle.attrs["data_and_time"], "%d %B %Y %H:%M:%S")
        assert set(handle) == {"a", "b", "c"}
        assert groups_of_type(file.root.group("a"), "volume") == ["input"]
        assert groups_of_type(file.root.group("a"), "streamlines") == ["streamlines"]
    assert summary.path == three.out
    assert summary.nb_bytes == three.out.stat().st_size
    assert summary.nb_features == {"input": 3}
    assert summary.streamlines["streamlines"].nb_streamlines == 4 + 5 + 6
    assert summary.subjects == {"training": ["c", "a"], "validation": ["b"], "testing": []}


def test_lists_and_config_from_files_or_from_memory_give_the_same_bytes(three, monkeypatch):
    monkeypatch.setattr(file_writer, "now", lambda: datetime.datetime(2020, 1, 2))
    (three.root / "list.txt").write_text("a\nb\n")
    three.create(training=three.root / "list.txt", validation=["c"])
    first = three.out.read_bytes()
    content = json.loads((three.root / "config.json").read_text())
    creator.create_hdf5(str(three.folder), str(three.out), content, ["a", "b"], ("c",), overwrite=True)
    assert three.out.read_bytes() == first


def test_no_validation_subject_is_told(three, caplog):
    three.create(training=["a"])
    assert "There is no validation subject" in caplog.text
    caplog.clear()
    three.create(training=["a"], validation=["b"], overwrite=True)
    assert caplog.text == ""


def test_progress(three):
    calls = []
    three.create(training=["b", "a"], testing=["c"], on_progress=lambda *call: calls.append(call))
    assert calls == [(0, 3, ""), (1, 3, "b"), (2, 3, "a"), (3, 3, "c")]


def test_no_training_subject_and_missing_folder(three):
    with pytest.raises(ValueError, match="There is no training subject"):
        three.create(training=[])
    with pytest.raises(FileNotFoundError, match="has no folder for 'd'; it has: 'a', 'b', 'c'"):
        three.create(training=["a", "d"])
    three.assert_nothing_written()


def test_an_existing_file_is_kept_unless_asked(three):
    three.out.write_bytes(OLD)
    with pytest.raises(FileExistsError, match="out.hdf5' exists; replace it with overwrite=True"):
        three.create()
    assert three.out.read_bytes() == OLD
    three.create(overwrite=True)
    open_hdf5(three.out).close()


def test_what_is_no_hdf5_file_is_never_replaced(three):
    for old in (b"old", OLD[:5]):
        three.out.write_bytes(old)
        with pytest.raises(FileExistsError, match="out.hdf5' exists and is not an HDF5 file; give"):
            three.create(overwrite=True)
        assert three.out.read_bytes() == old
    three.out.write_bytes(b"")
    three.create(overwrite=True)
    open_hdf5(three.out).close()


def test_where_the_file_cannot_be(three):
    three.config()
    with pytest.raises(FileNotFoundError, match="the folder '.*nowhere' does not exist"):
        creator.create_hdf5(three.folder, three.root / "nowhere/o.hdf5", three.root / "config.json", ["a"])
    with pytest.raises(IsADirectoryError, match="subjects' is a folder"):
        creator.create_hdf5(three.folder, three.folder, three.root / "config.json", ["a"], overwrite=True)
    (three.root / "list.txt").write_text("a\n")
    for name in ("list.txt", "config.json"):
        with pytest.raises(ValueError, match=f"{name}' is an input"):
            creator.create_hdf5(
                three.folder, three.root / name, three.root / "config.json", three.root / "list.txt", overwrite=True
            )
    assert (three.root / "list.txt").read_text() == "a\n"


INPUTS = {
    "volume": "dwi.nii.gz",
    "tractogram": "wb.trk",
    "mask": "mask.nii.gz",
    "matrix": "m.npy",
    "labels": "labels.nii.gz",
    "labels of the rows": "m_labels.txt",
    "half of a pair": "t1.hdr",
}


@pytest.mark.parametrize("name", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("link", ["", "symbolic", "hard"])
def test_a_file_of_a_subject_is_never_replaced(three, name, link):
    labels = np.zeros(nib.load(three.folder / "a/mask.nii.gz").shape, dtype=np.uint8)
    labels[:2], labels[2:4] = 3, 5
    for subject in "abc":
        three.volume(subject, "labels.nii.gz", labels)
        folder = three.folder / subject
        np.save(folder / "m.npy", np.eye(2))
        (folder / "m_labels.txt").write_text("3\n5\n")
        image = nib.load(folder / "mask.nii.gz")
        nib.save(nib.Nifti1Pair(image.get_fdata(dtype=np.float32), image.affine), folder / "t1.img")
    groups = {
        "input": {"type": "volume", "files": ["dwi.nii.gz", "t1.img"], "standardization": "all", "std_mask": "mask*"},
        "streamlines": {
            "type": "streamlines",
            "files": ["*.trk"],
            "connectivity_matrix": "m.npy",
            "connectivity_labels": "labels.nii.gz",
        },
    }
    three.create(groups)
    three.out.unlink()
    source = three.folder / "b" / name
    before = source.read_bytes()
    if not link:
        three.out = source
    elif link == "symbolic":
        three.out.symlink_to(source)
    else:
        three.out.hardlink_to(source)
    with pytest.raises(ValueError, match=f"The HDF5 file to write: '{three.out}' is an input"):
        three.create(groups, overwrite=True)
    assert source.read_bytes() == before
    assert not [path for path in source.parent.iterdir() if path.name.endswith(".tmp")]


def test_a_file_of_a_subject_that_is_not_in_the_lists_is_not_replaced(three):
    lists = {"training": ["a", "b"], "validation": [], "testing": []}
    three.out = three.folder / "c/older.hdf5"
    three.create(**lists)
    three.create(**lists, overwrite=True)
    three.out = three.folder / "c/dwi.nii.gz"
    before = three.out.read_bytes()
    with pytest.raises(FileExistsError, match="exists and is not an HDF5 file; give another name"):
        three.create(**lists, overwrite=True)
    assert three.out.read_bytes() == before


def test_what_is_no_regular_file_is_never_replaced(three):
    os.mkfifo(three.out)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="out.hdf5' is not a regular file but a device, a pipe or a socket"):
            three.create(overwrite=overwrite)
    assert three.out.is_fifo()


def test_a_link_to_itself_is_not_replaced(three):
    three.out.symlink_to(three.out.name)
    with pytest.raises(OSError, match="out.hdf5' cannot be written: it is a symbolic link, or its links are circular"):
        three.create(overwrite=True)
    assert three.out.is_symlink()


def test_a_link_is_followed(three):
    (three.root / "disk").mkdir()
    three.out.symlink_to(three.root / "disk/real.hdf5")
    three.create()
    assert three.out.is_symlink()
    open_hdf5(three.root / "disk/real.hdf5").close()


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_an_error_and_ctrl_c_leave_the_old_file_and_nothing_else(three, stop):
    three.out.write_bytes(OLD)

    def fail(done, total, name):
        if done == 2:
            raise stop("in the middle")

    with pytest.raises(stop):
        three.create(overwrite=True, on_progress=fail)
    assert three.out.read_bytes() == OLD
    assert sorted(path.name for path in three.root.iterdir()) == ["config.json", "out.hdf5", "subjects"]


def test_a_file_that_appears_during_the_work_is_kept(three):
    def appear(done, total, name):
        three.out.write_text("of someone else")

    with pytest.raises(FileExistsError, match="created in the meantime"):
        three.create(on_progress=appear)
    assert three.out.read_text() == "of someone else"


PROGRAM = """
import sys, time
from dwiml.hdf5.creator import create_hdf5

def pause(done, total, name):
    if done == 2:
        print("two are written", flush=True)
        time.sleep(60)

create_hdf5(*sys.argv[1:4], ["a", "b", "c"], overwrite=True, on_progress=pause)
"""


@pytest.mark.parametrize("old", [True, False])
def test_a_kill_leaves_the_old_file_whole_or_none(three, caplog, old):
    three.config()
    if old:
        three.create(training=["a"])
    before = three.out.read_bytes() if old else None
    arguments = [str(three.folder), str(three.out), str(three.root / "config.json")]
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "two are written\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(TIMEOUT) == -signal.SIGKILL
    assert (three.out.read_bytes() if three.out.exists() else None) == before
    left = [path.name for path in three.root.iterdir() if path.suffix == ".tmp"]
    assert len(left) == 1
    assert left[0].startswith(".out.hdf5.")
    three.create(overwrite=old)
    assert f"'{left[0]}' in '{three.root}': unfinished files" in caplog.text
    with h5py.File(three.out) as handle:
        assert set(handle) == {"a", "b", "c"}


FULL_DISK = """
import resource, sys
from dwiml.hdf5 import creator, file_writer

# A limit on the size of files plays the full disk.
room = int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
file_writer._ROOM_FOR_METADATA = 6000
tell = lambda done, total, name: print(done)
try:
    creator.create_hdf5(*sys.argv[1:4], ["a", "b", "c"], overwrite=True, on_progress=tell)
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize(("room", "nb_done"), [(500, 0), (20_000, 0), (30_000, 1)])
def test_a_full_disk_gets_one_sentence(three, room, nb_done):
    three.config()
    three.out.write_bytes(OLD)
    arguments = [str(three.folder), str(three.out), str(three.root / "config.json"), str(room)]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    *progress, sentence = done.stdout.splitlines()
    assert progress == [str(n) for n in range(nb_done + 1)]
    assert sentence.startswith(f"'{three.root}' has no space for another 0.0 MB of the HDF5 file (File too large); ")
    assert three.out.read_bytes() == OLD
    assert sorted(path.name for path in three.root.iterdir()) == ["config.json", "out.hdf5", "subjects"]


@pytest.mark.parametrize("lazy", [True, False])
def test_the_dataset_reads_it(three, lazy):
    from dwiml import MultiSubjectDataset

    (three.folder / "b/wb.trk").unlink()
    three.create(training=["c"], validation=["a"], testing=["b"], allow_missing=True)
    dataset = MultiSubjectDataset(three.out, lazy=lazy)
    dataset.load_data()
    assert dataset.nb_features == {"input": 3}
    assert dataset.streamline_groups == ["streamlines"]
    assert dataset.training_set.total_nb_streamlines["streamlines"] == 4
    assert dataset.testing_set.total_nb_streamlines["streamlines"] == 0
    with h5py.File(three.out) as handle:
        expected = handle["c/streamlines/euclidean_lengths"][()]
    np.testing.assert_array_equal(np.ravel(dataset.training_set.streamline_lengths_mm["streamlines"]), expected)


def test_the_subjects_name_stands_in_the_names_of_files(subjects):
    for name in ("sub-1", "sub-2"):
        subjects.plain(name)
        folder = subjects.folder / name
        for file in ("dwi.nii.gz", "mask.nii.gz", "wb.trk"):
            (folder / file).rename(folder / f"{name}__{file}")
        np.save(folder / f"{name}__m.npy", np.ones((8, 8)))
    groups = {
        "input": {
            "type": "volume",
            "files": ["{subject}__dwi.nii.gz"],
            "standardization": "all",
            "std_mask": "{subject}__mask.nii.gz",
        },
        "streamlines": {
            "type": "streamlines",
            "files": ["{subject}__*.trk"],
            "connectivity_matrix": "{subject}__m.npy",
            "connectivity_nb_blocs": 2,
        },
    }
    summary = subjects.create(groups)
    assert summary.files == {"input": [("sub-1__dwi.nii.gz", 3)]}
    assert summary.streamlines["streamlines"].nb_files == 2
    with h5py.File(subjects.out) as handle:
        assert handle["sub-2/streamlines/connectivity_matrix"].shape == (8, 8)
    with open_hdf5(subjects.out) as file:
        recorded = groups_config(file)
    assert recorded["input"]["files"] == ["{subject}__dwi.nii.gz"]
    assert recorded["input"][schema.FILES_FOUND] == [{"file": "sub-1__dwi.nii.gz", "nb_features": 3}]
    assert schema.FILES_FOUND not in recorded["streamlines"]


def test_all_subjects_that_lack_a_file_are_named(three):
    groups = {
        "input": {"type": "volume", "files": ["{subject}.nii.gz", "dwi.nii.gz"]},
        "streamlines": {"type": "streamlines", "files": ["wb.trk"]},
    }
    for subject in "abc":
        three.volume(subject, f"{subject}.nii.gz", nib.load(three.folder / subject / "dwi.nii.gz").get_fdata())
    (three.folder / "c/wb.trk").unlink()
    with pytest.raises(FileNotFoundError, match=r"^Group 'streamlines' of subject 'c': '.*/c/wb.trk' was not found"):
        three.create(groups)
    (three.folder / "a/a.nii.gz").unlink()
    sentence = (
        r"^2 of 3 subjects lack a file: 'a' \(a.nii.gz\), 'c' \(wb.trk\). Group 'input' of subject 'a': '.*/a.nii.gz' "
        "was not found; '.*' has: 'dwi.nii.gz', "
    )
    with pytest.raises(FileNotFoundError, match=sentence):
        three.create(groups)
    three.assert_nothing_written()


@pytest.mark.parametrize("key", ["files", "std_mask"])
def test_a_pattern_must_match_as_many_files_of_each_subject(three, key):
    """A pattern that matches two files adds a feature unnoticed; it must at least do so for all subjects."""
    shape = nib.load(three.folder / "a/mask.nii.gz").shape
    for subject in "abc":
        three.volume(subject, "fa.nii.gz", np.ones(shape, dtype=np.uint8))
    three.volume("b", "fa_old.nii.gz", np.ones(shape, dtype=np.uint8))
    group = {"type": "volume", "files": ["dwi.nii.gz"], "standardization": "all", key: ["fa*"]}
    sentence = (
        r"Group 'input': 'fa.*' matches 2 files of subject 'b' \('fa.nii.gz', 'fa_old.nii.gz'\) and 1 file of subject "
        r"'a' \('fa.nii.gz'\)"
    )
    with pytest.raises(ValueError, match=sentence):
        three.create({"input": group})
    for subject in "ac":
        three.volume(subject, "fa_old.nii.gz", np.ones(shape, dtype=np.uint8))
    summary = three.create({"input": group})
    if key == "files":
        assert summary.files == {"input": [("fa.nii.gz", 1), ("fa_old.nii.gz", 1)]}


def test_files_of_one_subject_in_another_order_are_refused(three):
    shape = nib.load(three.folder / "a/mask.nii.gz").shape
    for subject, names in (("a", ("x1", "x2")), ("b", ("x2", "x1")), ("c", ("x1", "x2"))):
        for nb, name in enumerate(names, 1):
            three.volume(subject, f"{name}.nii.gz", np.ones((*shape, nb), dtype=np.float32))
    with pytest.raises(
        ValueError, match=r"not in the same order: '.*b/x1.nii.gz' of subject 'b' has 2 features and '.*a/x1"
    ):
        three.create({"input": {"type": "volume", "files": ["x*"]}})
    three.assert_nothing_written()


def test_streamlines_reached_through_a_link_are_counted_once(three, caplog):
    for name, other in (("a", "all.trk"), ("b", "z.trk")):
        (three.folder / name / other).symlink_to("wb.trk")
    groups = {
        "input": {"type": "volume", "files": ["d*.nii.gz"]},
        "streamlines": {"type": "streamlines", "files": ["*.trk"]},
    }
    (three.folder / "c" / "d2.nii.gz").symlink_to("dwi.nii.gz")
    summary = three.create(groups)
    count = summary.streamlines["streamlines"]
    assert (count.nb_files, count.nb_streamlines) == (3, 4 + 5 + 6)
    assert summary.nb_features == {"input": 3}
    assert sum("which is read once" in message for message in caplog.messages) == 3
    assert "have the same streamlines" not in caplog.text


def test_a_tractogram_of_two_subjects_is_told(three, caplog):
    (three.folder / "b" / "wb.trk").unlink()
    (three.folder / "b" / "wb.trk").symlink_to("../a/wb.trk")
    three.create(training=["a"], validation=["b"])
    assert "Subjects 'a' and 'b' have the same streamlines: '" in caplog.text
