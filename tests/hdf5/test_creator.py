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


@pytest.mark.first(7)
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
@pytest.mark.parametrize("nb_done", [0, 2])
def test_an_error_and_ctrl_c_leave_the_old_file_and_the_finished_subjects(three, stop, nb_done):
    three.out.write_bytes(OLD)

    def fail(done, total, name):
        if done == nb_done:
            raise stop("in the middle")

    with pytest.raises(stop):
        three.create(overwrite=True, on_progress=fail)
    assert three.out.read_bytes() == OLD
    kept = [".out.hdf5.parts"] if nb_done else []
    assert sorted(path.name for path in three.root.iterdir()) == [*kept, "config.json", "out.hdf5", "subjects"]
    names = sorted(path.name for folder in kept for path in (three.root / folder).glob("*.hdf5"))
    assert [name.split(".")[0] for name in names] == ["a", "b"][:nb_done]


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
    left = sorted(
        path.name.split(".")[:2] for path in (three.root / ".out.hdf5.parts").iterdir() if path.name != "lock"
    )
    assert [each[0] or each[1] for each in left] == ["out", "a", "b"]
    if not old:
        with pytest.raises(FileExistsError, match=r"parts' holds 2 subjects, finished by a creation .*: continue with"):
            three.create()
    three.create(overwrite=True)
    assert "parts' held 2 subjects, finished by a creation that was stopped; they are deleted" in caplog.text
    assert sorted(path.name for path in three.root.iterdir()) == ["config.json", "out.hdf5", "subjects"]
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


@pytest.mark.parametrize(("room", "told"), [(500, []), (30_000, []), (33_000, ["0", "1", "2"])])
def test_a_full_disk_gets_one_sentence(three, room, told):
    """There is no room for the parts and the file together; or, at the end, none for the third subject in the file."""
    three.config()
    three.out.write_bytes(OLD)
    arguments = [str(three.folder), str(three.out), str(three.root / "config.json"), str(room)]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    *progress, sentence = done.stdout.splitlines()
    assert progress == told
    place = three.root / ".out.hdf5.parts"
    assert sentence.startswith(f"'{place}' has no space for another 0.0 MB of the HDF5 file (File too large); ")
    assert three.out.read_bytes() == OLD
    assert len(list(place.glob("*.hdf5"))) == len(told)
    assert not list(place.glob(".*"))


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


@pytest.mark.parametrize("nb_done", [0, 1, 2, 3])
def test_a_stopped_creation_is_continued_and_gives_the_same_bytes(three, monkeypatch, nb_done):
    monkeypatch.setattr(file_writer, "now", lambda: datetime.datetime(2020, 1, 2))
    whole = three.create(nb_points=5)
    expected = three.out.read_bytes()
    three.out.unlink()

    def stop(done, total, name):
        if done == nb_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        three.create(nb_points=5, on_progress=stop)
    calls = []
    again = three.create(nb_points=5, resume=True, on_progress=lambda *call: calls.append(call))
    assert three.out.read_bytes() == expected
    assert calls == [(nb_done, 3, ""), *((k + 1, 3, "abc"[k]) for k in range(nb_done, 3))]
    assert again.nb_reused == nb_done
    again.nb_reused = 0
    assert again == whole
    assert not (three.root / ".out.hdf5.parts").exists()


def stopped_after_two(three, **options):
    def stop(done, total, name):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        three.create(on_progress=stop, **options)
    return sorted((three.root / ".out.hdf5.parts").iterdir())


@pytest.mark.parametrize("change", ["options", "config", "file", "damage", "cut"])
def test_only_parts_of_the_same_files_and_options_are_used_again(three, change):
    parts = stopped_after_two(three)
    options, groups = {}, None
    if change == "options":
        options = {"remove_invalid": True}
    elif change == "config":
        groups = json.loads((three.root / "config.json").read_text())
        groups["input"]["standardization"] = "all"
    elif change == "file":
        three.plain("a", seed=9)
    elif change == "damage":
        with h5py.File(parts[0], "r+") as handle:
            handle["a/input/data"][1, 2, 2, 0] += 1
    else:
        parts[0].write_bytes(parts[0].read_bytes()[:-100])
    summary = three.create(groups, resume=True, **options)
    assert summary.nb_reused == (0 if change in ("options", "config") else 1)
    found = three.out.read_bytes()
    three.create(groups, overwrite=True, **options)
    with h5py.File(three.out) as handle:
        expected = {name: handle[f"{name}/input/data"][()] for name in handle}
    three.out.write_bytes(found)
    with h5py.File(three.out) as handle:
        for name, values in expected.items():
            np.testing.assert_array_equal(handle[f"{name}/input/data"][()], values)


def test_a_second_creation_of_the_same_file_is_refused(three):
    def second(done, total, name):
        if done == 1:
            with pytest.raises(OSError, match=r"out.hdf5' is being created by another process; wait for it to end"):
                three.create(resume=True)

    three.create(on_progress=second)
    assert three.out.exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_place_of_parts_that_is_something_else_is_refused(three, kind):
    place = three.root / ".out.hdf5.parts"
    if kind == "file":
        place.write_text("mine")
    else:
        (three.root / "mine").mkdir()
        (three.root / "mine/notes.hdf5").write_text("mine")
        place.symlink_to(three.root / "mine")
    with pytest.raises(OSError, match=r"parts' cannot be used \("):
        three.create(overwrite=True)
    assert place.read_text() == "mine" if kind == "file" else (three.root / "mine/notes.hdf5").read_text() == "mine"


def test_the_bytes_of_a_subject_are_contiguous_and_those_of_the_digests(three):
    three.create()
    with open_hdf5(three.out) as file:
        for name in "abc":
            for group in file.root.group(name).names:
                for dataset in file.root.group(name).group(group).datasets():
                    assert dataset.offset is not None
                    assert dataset.digest is not None
                    dataset.check_values()
