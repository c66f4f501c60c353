"""The fingerprint, the digests, and a file that changes while it is in use."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from fuzzing import run_watched
from tests_support import SHAPE, add_digests, edited, write_hdf5

from dwiml import MultiSubjectDataset
from dwiml.cli.main import main
from dwiml.hdf5.stored.fingerprint import fingerprint_of, is_older
from dwiml.ops.resampling import lengths_mm


def rewritten(path: Path, change: Callable[[h5py.File], None], *, digests: bool) -> str:
    """Return the fingerprint of a copy that was made with a change, as if its input had been another."""
    copy = path.with_name("rewritten.hdf5")
    shutil.copy(path, copy)
    with edited(copy) as handle:
        change(handle)
    if digests:
        add_digests(copy)
    return fingerprint_of(copy)


def move_points(group: h5py.Group, first: int, nb: int) -> None:
    """Move points by some mm, and write the lengths that they have then."""
    points = group["data"][()]
    points[first : first + nb, 0] += 2.5
    group["data"][...] = points
    sizes = np.linalg.norm(group.attrs["affine"][:3, :3], axis=0)
    group["euclidean_lengths"][...] = lengths_mm(points, group["lengths"][()], sizes)


@pytest.mark.parametrize("digests", [pytest.param(True, marks=pytest.mark.slow), False])
def test_any_50_points_of_a_subject_change_the_fingerprint(tmp_path: Path, digests: bool) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 3, "sub-b": 6000}, {"sub-c": 3})
    if digests:
        add_digests(path)
    before = fingerprint_of(path)
    with h5py.File(path) as handle:
        # More than what is read whole with a digest, and without.
        nb_points = len(handle["sub-b/streamlines/data"])
        assert handle["sub-b/streamlines/data"].nbytes > 2**20
    for first in np.linspace(0, nb_points - 50, 7).astype(int):
        after = rewritten(
            path, lambda handle, first=first: move_points(handle["sub-b/streamlines"], first, 50), digests=digests
        )
        assert after != before


@pytest.mark.slow
@pytest.mark.parametrize("digests", [True, False])
def test_each_subject_replaced_changes_the_fingerprint(tmp_path: Path, digests: bool) -> None:
    names = [f"sub-{number:03}" for number in range(130)]
    path = write_hdf5(tmp_path / "data.hdf5", dict.fromkeys(names, 4))
    if digests:
        add_digests(path)
    before = {fingerprint_of(path)}
    for name in names[::64]:

        def replace(handle: h5py.File, name: str = name) -> None:
            for place in ("input/data", "streamlines/data"):
                values = handle[f"{name}/{place}"]
                values[...] = values[()][::-1]

        before.add(rewritten(path, replace, digests=digests))
    assert len(before) == 4


def test_a_copy_and_a_file_of_another_day_have_the_same_fingerprint(tmp_path: Path) -> None:
    path = add_digests(write_hdf5(tmp_path / "data.hdf5", {"sub-a": 3}))
    before = fingerprint_of(path)
    (tmp_path / "disk").mkdir()
    copy = Path(shutil.copy(path, tmp_path / "disk/other_name.hdf5"))
    with h5py.File(copy, "r+") as handle:
        handle.attrs["data_and_time"] = "1 January 2027 00:00:00"
    for lazy in (False, True):
        dataset = MultiSubjectDataset(copy, lazy=lazy)
        dataset.load_data()
        assert dataset.fingerprint() == before
    assert not is_older(before)
    assert is_older("0123456789abcdef0123456789abcdef")


@pytest.mark.parametrize("where", ["sub-a/input", "sub-a/streamlines", "sub-a", "/"])
def test_attributes_are_in_the_fingerprint(tmp_path: Path, where: str) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 3})
    before = fingerprint_of(path)
    with h5py.File(path, "r+") as handle:
        handle[where].attrs["more"] = 1
    assert fingerprint_of(path) != before


def test_values_edited_under_their_digests_are_told_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = add_digests(write_hdf5(tmp_path / "data.hdf5", {"sub-a": 3, "sub-b": 6000}))
    with h5py.File(path, "r+") as handle:
        handle["sub-b/streamlines/data"][30_011] += 1e-3
    # Too large to be compared when it is only mapped, and between the blocks that the fingerprint reads.
    MultiSubjectDataset(path, lazy=True).load_data()
    assert main(["check_hdf5", str(path)]) == 0
    assert main(["check_hdf5", str(path), "--digests"]) == 2
    out, err = capsys.readouterr()
    assert "sub-b    streamlines" in out
    assert "DAMAGED" in out
    assert err.startswith(f"error: 1 fault in '{path}': ")
    assert f"'sub-b/streamlines/data' of the HDF5 file '{path}' does not match its digest" in err
    with pytest.raises(ValueError, match="'sub-b/streamlines/data' of .* does not match its digest"):
        MultiSubjectDataset(path).load_data()


def replace(path: Path) -> None:
    other = write_hdf5(path.with_name("other.hdf5"), {"sub-a": 30, "sub-b": 5}, seed=1)
    os.replace(other, path)


def write_to(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(3000)
        stream.write(b"x")


def cut_off(path: Path) -> None:
    os.truncate(path, 5000)


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "replaced": (replace, "was replaced by another file after it was loaded"),
    "written": (write_to, "was modified after it was loaded"),
    "cut off": (cut_off, "to 5000 bytes after it was loaded"),
    "removed": (Path.unlink, "was removed after it was loaded"),
}


@pytest.fixture(params=["mapped", "chunked"])
def used(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 30, "sub-b": 5})
    if request.param == "chunked":
        with h5py.File(path, "r+") as handle:
            for name in ("input/data", "streamlines/data"):
                values = handle[f"sub-a/{name}"][()]
                del handle[f"sub-a/{name}"]
                handle.create_dataset(f"sub-a/{name}", data=values, chunks=True, compression="gzip")
    return path


@pytest.mark.parametrize(("change", "sentence"), CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("read_before", [False, True])
def test_a_file_that_changes_under_lazy_data_is_told(
    used: Path, change: Callable[[Path], None], sentence: str, read_before: bool
) -> None:
    dataset = MultiSubjectDataset(used, lazy=True)
    dataset.load_data()
    subject = dataset.training_set[0]
    in_worker = pickle.loads(pickle.dumps(subject))
    if read_before:
        subject.streamlines["streamlines"].get([1])
        subject.volumes["input"].as_tensor()
    change(used)
    os.utime(used, ns=(1, 1)) if used.exists() else None
    for each in (subject, in_worker):
        with pytest.raises(ValueError, match=sentence) as caught:
            each.streamlines["streamlines"].get([2])
        assert str(caught.value).startswith(f"HDF5 file '{used}' ")
        with pytest.raises(ValueError, match=sentence):
            each.volumes["input"].as_tensor()
    with pytest.raises(ValueError, match=sentence):
        dataset.fingerprint()


def test_eager_data_do_not_depend_on_the_file(used: Path) -> None:
    dataset = MultiSubjectDataset(used)
    dataset.load_data()
    used.unlink()
    assert len(dataset.training_set[0].streamlines["streamlines"].get()) == 30
    assert dataset.training_set[0].volumes["input"].as_tensor().shape == (*SHAPE, 4)


def test_loading_again_reads_the_new_file(used: Path) -> None:
    dataset = MultiSubjectDataset(used, lazy=True)
    dataset.load_data()
    os.replace(write_hdf5(used.with_name("other.hdf5"), {"sub-x": 7}), used)
    dataset.load_data()
    assert dataset.training_set.subjects == ["sub-x"]
    assert len(dataset.training_set[0].streamlines["streamlines"].get()) == 7


def test_many_mapped_subjects_take_one_open_file(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {f"sub-{number}": 3 for number in range(40)})
    dataset = MultiSubjectDataset(path, lazy=True)
    before = len(os.listdir("/proc/self/fd"))
    dataset.load_data()
    for subject in dataset.training_set:
        subject.volumes["input"].as_tensor()
        subject.streamlines["streamlines"].get()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    del dataset, subject
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_command_on_a_damaged_file_ends_in_a_sentence(tmp_path: Path) -> None:
    path = add_digests(write_hdf5(tmp_path / "data.hdf5", {"sub-a": 3}, {"sub-b": 3}))
    with h5py.File(path, "r+") as handle:
        handle["sub-a/streamlines/data"][0, 0] = np.nan
        handle["sub-b/input"].attrs["affine"] = np.zeros((4, 4))
    outcome = run_watched(lambda: main(["check_hdf5", str(path), "--digests"]))
    assert outcome.kind == "sentence"
    assert "'sub-b/input' of the HDF5 file" in outcome.err
    assert "'sub-a/streamlines/data' of the HDF5 file" in outcome.err
    rows = {tuple(line.split()[1:3]): line.split()[-1] for line in outcome.out.splitlines()[1:-1]}
    assert rows["sub-a", "streamlines"] == rows["sub-b", "input"] == "DAMAGED"
    assert rows["sub-a", "input"] == rows["sub-b", "streamlines"] == "good"
