"""Tractograms written piece by piece: what is read back, and what an interruption leaves."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from dipy.io.stateful_tractogram import Origin, Space, StatefulTractogram
from dipy.io.streamline import load_tractogram
from dipy.tracking.streamlinespeed import compress_streamlines
from scipy.spatial.transform import Rotation
from trx import trx_file_memmap

from dwiml.ops.spaces import from_vox_corner
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.trk import check_trk_whole
from dwiml.tractograms.writing import writer as writing
from dwiml.tractograms.writing.writer import TractogramWriter

EXTENSIONS = (".trk", ".tck", ".trx")
WITH_DATA = (".trk", ".trx")
SHAPE = (30, 24, 18)
SIZES = np.array([1.0, 2.0, 3.5])
AFFINE = np.eye(4)
AFFINE[:3, :3] = Rotation.from_euler("xyz", [20, -15, 40], degrees=True).as_matrix() * SIZES * [-1, 1, 1]
AFFINE[:3, 3] = [30.0, -42.0, 11.0]
REFERENCE = nib.Nifti1Image(np.zeros(SHAPE, dtype=np.int8), AFFINE)
RNG = np.random.default_rng(5)
LINES = [
    (RNG.uniform(0.2, 0.5, 3) * SHAPE + RNG.uniform(0, 0.02, (n, 3)) * SHAPE * np.arange(n)[:, None] / n * 10).astype(
        np.float32
    )
    for n in (12, 2, 1, 40, 7, 1, 3, 25)
]
SEEDS = RNG.normal(size=(len(LINES), 3)).astype(np.float32)
NUMBERS = np.arange(len(LINES), dtype=np.float32)[:, None]


def flat(lines):
    return np.concatenate(lines) if lines else np.zeros((0, 3), np.float32), np.array([len(line) for line in lines])


def a_writer(path, **options):
    grid = Grid(options.pop("affine", AFFINE), options.pop("dimensions", SHAPE))
    return TractogramWriter(path, grid=grid, **options)


def read(path):
    """Read with dipy: voxel space, corner origin."""
    return load_tractogram(str(path), REFERENCE, to_space=Space.VOX, to_origin=Origin.TRACKVIS, bbox_valid_check=True)


def assert_holds(path, lines):
    found = read(path).streamlines
    assert [len(line) for line in found] == [len(line) for line in lines]
    for line, wanted in zip(found, lines, strict=True):
        assert np.abs((line - wanted) * SIZES).max() < 1e-3
    if path.suffix == ".trk":
        check_trk_whole(path, "test")


def in_rasmm(lines):
    return [(line - 0.5) @ AFFINE[:3, :3].T + AFFINE[:3, 3] for line in lines]


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for line, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(line, other, rtol=0, atol=1e-3)


@pytest.fixture(params=EXTENSIONS)
def path(request, tmp_path):
    return tmp_path / f"lines{request.param}"


@pytest.mark.parametrize("space", [Space.VOX, Space.VOXMM, Space.RASMM])
@pytest.mark.parametrize("origin", list(Origin))
def test_from_voxel_space_to_every_other_as_dipy(space, origin):
    tractogram = StatefulTractogram(LINES, REFERENCE, Space.VOX, origin=Origin.TRACKVIS)
    tractogram.to_space(space)
    tractogram.to_origin(origin)
    found = from_vox_corner(flat(LINES)[0], space=space, origin=origin, affine=AFFINE, voxel_sizes=SIZES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, tractogram.streamlines.get_data(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("pieces", [[8], [3, 5], [0, 1, 1, 0, 5, 1]])
def test_what_is_appended_is_read_back(path, pieces):
    with a_writer(path) as writer:
        done = 0
        for size in pieces:
            writer.append(*flat(LINES[done : done + size]))
            done += size
            assert writer.nb_streamlines == done
            assert not path.exists()
            assert_holds(writer.partial, LINES[:done])
    assert os.listdir(path.parent) == [path.name]
    assert_holds(path, LINES)


def test_readers_agree(path):
    with a_writer(path) as writer:
        writer.append(*flat(LINES))
    if path.suffix == ".trx":
        file = trx_file_memmap.load(str(path))
        assert_same(file.streamlines, in_rasmm(LINES))
        np.testing.assert_allclose(file.header["VOXEL_TO_RASMM"], AFFINE, atol=1e-5)
        assert tuple(file.header["DIMENSIONS"]) == SHAPE
        file.close()
        return
    for lazy in (False, True):
        file = nib.streamlines.load(path, lazy_load=lazy)
        assert_same(list(file.tractogram.streamlines), in_rasmm(LINES))
    assert int(nib.streamlines.load(path, lazy_load=True).header.get("count", len(LINES))) == len(LINES)
    if path.suffix == ".trk":
        np.testing.assert_allclose(file.header["voxel_to_rasmm"], AFFINE, atol=1e-5)
        assert tuple(file.header["dimensions"]) == SHAPE


def test_a_file_is_what_nibabel_writes(tmp_path):
    """The same bytes as nibabel's own, but for rounding in coordinates."""
    path, other = tmp_path / "lines.trk", tmp_path / "other.trk"
    with a_writer(path, data_per_streamline={"number": 1, "seeds": 3}) as writer:
        for some in (slice(0, 3), slice(3, 8)):
            writer.append(*flat(LINES[some]), {"seeds": SEEDS[some], "number": NUMBERS[some]})
    tractogram = nib.streamlines.Tractogram(
        in_rasmm(LINES), {"seeds": SEEDS, "number": NUMBERS}, affine_to_rasmm=np.eye(4)
    )
    nib.streamlines.save(tractogram, str(other), header=nib.streamlines.load(path, lazy_load=True).header)
    ours, theirs = path.read_bytes(), other.read_bytes()
    assert ours[:1000] == theirs[:1000]
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(
        np.frombuffer(ours[1000:], "<f4"), np.frombuffer(theirs[1000:], "<f4"), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("extension", WITH_DATA)
def test_data_per_streamline(tmp_path, extension):
    path = tmp_path / f"lines{extension}"
    with a_writer(path, data_per_streamline={"seeds": 3, "number": 1}) as writer:
        writer.append(*flat([]))
        for some in (slice(0, 5), slice(5, 5), slice(5, 8)):
            writer.append(*flat(LINES[some]), {"number": NUMBERS[some], "seeds": SEEDS[some]})
            found = read(writer.partial).data_per_streamline
            np.testing.assert_array_equal(found["seeds"], SEEDS[: some.stop])
    assert_holds(path, LINES)
    found = read(path).data_per_streamline
    assert set(found) == {"seeds", "number"}
    np.testing.assert_array_equal(found["seeds"], SEEDS)
    np.testing.assert_array_equal(found["number"], NUMBERS)


@pytest.mark.parametrize("appended", [False, True])
def test_an_empty_tractogram_can_be_read(path, appended):
    data = {"seeds": 3} if path.suffix in WITH_DATA else {}
    with a_writer(path, data_per_streamline=data) as writer:
        if appended:
            writer.append(*flat([]), {name: np.zeros((0, width)) for name, width in data.items()})
        assert_holds(writer.partial, [])
    assert_holds(path, [])
    if path.suffix != ".trx":
        assert len(nib.streamlines.load(path).streamlines) == 0


def test_slabs_give_the_same_file(path, monkeypatch):
    with a_writer(path) as writer:
        writer.append(*flat(LINES))
    whole = path.read_bytes()
    monkeypatch.setattr(writing, "_SLAB", 10)
    with a_writer(path, overwrite=True) as writer:
        writer.append(*flat(LINES))
    assert path.read_bytes() == whole


def test_compression_is_in_mm(path, monkeypatch):
    monkeypatch.setattr(writing, "_SLAB", 30)
    t = np.linspace(0, 3, 60)
    arcs = [
        (np.column_stack([12 + r * np.cos(t), 10 + r * np.sin(t) / 2, 5 + t]) + 0.1).astype(np.float32)
        for r in (4, 6, 8)
    ]
    with a_writer(path, compress=0.1) as writer:
        writer.append(*flat(arcs))
    wanted = [line / SIZES for line in compress_streamlines([arc.astype(float) * SIZES for arc in arcs], tol_error=0.1)]
    assert sum(map(len, wanted)) < 90
    assert_holds(path, wanted)


KILLED = """
import os, sys
import numpy as np
from dwiml.tractograms.grid import Grid
from dwiml.tractograms.writing.writer import TractogramWriter

lines = np.load(sys.argv[2])
writer = TractogramWriter(sys.argv[1], grid=Grid(lines["affine"], tuple(lines["shape"])), overwrite=True)
writer.__enter__()
writer.append(lines["points"][:14], [12, 2])
writer.append(lines["points"][14:55], [1, 40])
os._exit(9)
"""


def test_killed_after_two_appends(path, tmp_path):
    arrays = tmp_path / "arrays.npz"
    np.savez(arrays, points=flat(LINES)[0], affine=AFFINE, shape=SHAPE)
    path.write_bytes(b"older")
    done = subprocess.run([sys.executable, "-c", KILLED, path, arrays], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert path.read_bytes() == b"older"
    partial = path.with_name(f"lines.partial{path.suffix}")
    assert_holds(partial, LINES[:4])
    path.unlink()
    with pytest.raises(FileExistsError, match="lines.partial.*a run that was stopped"):
        a_writer(path)
    with a_writer(path, overwrite=True) as writer:
        writer.append(*flat(LINES[5:]))
    assert_holds(path, LINES[5:])
    assert not partial.exists()


def test_what_a_stopped_run_left_is_replaced_with_a_warning_only(path, caplog):
    interrupted(path, [LINES[:4]])
    caplog.clear()
    with a_writer(path, overwrite=True) as writer:
        writer.append(*flat(LINES))
    assert f"'{writer.partial}', left by a run that was stopped, is replaced." in caplog.text
    assert_holds(path, LINES)


def test_two_runs_never_write_one_partial_file(path):
    early = a_writer(path, overwrite=True)
    with a_writer(path, overwrite=True) as first:
        first.append(*flat(LINES[:4]))
        with pytest.raises(FileExistsError, match="Another run is writing '.*lines.partial"):
            a_writer(path, overwrite=True)
        # Checked when it was not there yet.
        with pytest.raises(FileExistsError, match="Another run is writing"):
            early.__enter__()
        first.append(*flat(LINES[4:]))
    assert_holds(path, LINES)
    assert os.listdir(path.parent) == [path.name]
    # Its lock has ended with it.
    with early:
        early.append(*flat(LINES[:2]))
    assert_holds(path, LINES[:2])


def test_where_the_disk_has_no_locks_another_ones_file_is_not_taken(path, monkeypatch):
    def no_locks(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    path.write_bytes(b"older")
    first = a_writer(path, overwrite=True).__enter__()
    first.append(*flat(LINES[:4]))
    with a_writer(path, overwrite=True) as second:
        second.append(*flat(LINES[4:6]))
        with pytest.raises(FileNotFoundError, match="was removed or replaced while it was written"):
            first.__exit__(None, None, None)
        assert path.read_bytes() == b"older"
        second.append(*flat(LINES[6:]))
    assert_holds(path, LINES[4:])


@pytest.mark.parametrize("extension", [".trk", ".tck"])
def test_killed_within_an_append(tmp_path, monkeypatch, extension):
    """Whatever part of an append is on the disk, what was appended before is read."""
    path, snapshots = tmp_path / f"lines{extension}", []
    write = os.pwrite

    def piecewise(handle, content, at):
        snapshot = tmp_path / f"snapshot{len(snapshots)}{extension}"
        shutil.copy(writer.partial, snapshot)
        snapshots.append((snapshot, writer.nb_streamlines))
        # A header is written at once; of streamlines, two points at a time.
        return write(handle, content[:24] if at else content, at)

    with a_writer(path) as writer:
        writer.append(*flat(LINES[:3]))
        monkeypatch.setattr("os.pwrite", piecewise)
        writer.append(*flat(LINES[3:5]))
        writer.append(*flat(LINES[5:]))
        monkeypatch.undo()
    assert_holds(path, LINES)
    assert len(snapshots) > 20
    for snapshot, nb in snapshots:
        found = list(nib.streamlines.load(snapshot).streamlines)
        assert nb <= len(found) <= len(LINES)
        assert_same(found[:nb], in_rasmm(LINES[:nb]))


def interrupted(path, pieces):
    """Append, and leave by a Ctrl-C."""
    writer = a_writer(path, overwrite=True)

    def work():
        with writer:
            for lines in pieces:
                writer.append(*flat(lines))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    return writer


def test_an_exception_leaves_the_partial_file_and_the_older_one(path, caplog):
    path.write_bytes(b"older")
    writer = interrupted(path, [LINES[:4], LINES[4:6]])
    assert path.read_bytes() == b"older"
    assert writer.partial.is_file()
    assert_holds(writer.partial, LINES[:6])
    assert sorted(os.listdir(path.parent)) == sorted([path.name, writer.partial.name])
    assert f"The 6 streamlines written so far are in '{writer.partial}'; '{path}' was not touched." in caplog.text


def test_an_exception_before_the_first_streamline_leaves_nothing(path, caplog):
    path.write_bytes(b"older")
    interrupted(path, [[]])
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == b"older"
    assert not caplog.text


def test_an_older_file_is_replaced_by_an_empty_one_with_a_warning(path, caplog):
    path.write_bytes(b"older")
    with a_writer(path, overwrite=True):
        pass
    assert_holds(path, [])
    assert os.listdir(path.parent) == [path.name]
    assert caplog.messages == [f"There are no streamlines: '{path}' is replaced by an empty tractogram."]


def test_an_empty_tractogram_does_not_replace_a_file_that_appeared_meanwhile(path, caplog):
    with pytest.raises(FileExistsError, match="appeared in the meantime"), a_writer(path):
        path.write_bytes(b"mine")
    assert path.read_bytes() == b"mine"
    assert os.listdir(path.parent) == [path.name]


def test_a_new_empty_tractogram_gives_no_warning(path, caplog):
    with a_writer(path, overwrite=True):
        pass
    assert_holds(path, [])
    assert not caplog.messages


def test_an_older_file_is_replaced_at_the_end(path):
    path.write_bytes(b"older")
    with a_writer(path, overwrite=True) as writer:
        writer.append(*flat(LINES[:4]))
        assert path.read_bytes() == b"older"
    assert_holds(path, LINES[:4])


@pytest.mark.parametrize("room", [30, 700], ids=["in the first slab", "in a later slab"])
def test_a_full_disk_loses_the_append_only(path, monkeypatch, room):
    monkeypatch.setattr(writing, "_SLAB", 10)
    write, left = os.pwrite, [room]

    def filling(handle, content, at):
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        nb = write(handle, content[: left[0]], at)
        left[0] -= nb
        return nb

    with a_writer(path) as writer:
        writer.append(*flat(LINES[:3]))
        with monkeypatch.context() as full:
            full.setattr("os.pwrite", filling)
            with pytest.raises(OSError, match="No space left on device: '.*partial"):
                writer.append(*flat(LINES[3:]))
        assert writer.nb_streamlines == 3
        writer.append(*flat(LINES[3:5]))
    assert_holds(path, LINES[:5])


def test_a_file_that_appears_in_the_meantime_stays(path, caplog):
    writer = a_writer(path).__enter__()
    writer.append(*flat(LINES))
    path.write_bytes(b"another's")
    with pytest.raises(FileExistsError, match="appeared in the meantime"):
        writer.__exit__(None, None, None)
    assert path.read_bytes() == b"another's"
    assert_holds(writer.partial, LINES)
    assert f"are in '{writer.partial}'" in caplog.text


def test_a_link_is_followed_and_file_rights_are_the_usual(path):
    target = path.parent / "elsewhere" / path.name
    target.parent.mkdir()
    path.symlink_to(target)
    with a_writer(path) as writer:
        writer.append(*flat(LINES))
    assert path.is_symlink()
    assert_holds(target, LINES)
    usual = path.parent / "usual"
    usual.touch()
    assert target.stat().st_mode == usual.stat().st_mode


def test_a_folder_of_another_is_never_removed(path):
    folder = path.with_name(f"lines.partial{path.suffix}")
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(IsADirectoryError, match="that dwiml did not create"):
        a_writer(path, overwrite=True)
    assert (folder / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("name", "options", "error", "sentence"),
    [
        ("lines.vtk", {}, ValueError, "does not have the extension of a tractogram; use one of .trk, .tck, .trx"),
        ("lines.trk.gz", {}, ValueError, "does not have the extension of a tractogram"),
        ("lines", {}, ValueError, "does not have the extension of a tractogram"),
        ("no/lines.trk", {}, FileNotFoundError, "The tractogram: the folder '.*no' does not exist; create it first"),
        ("folder.trk", {"overwrite": True}, IsADirectoryError, "folder.trk' is a folder"),
        ("there.tck", {}, FileExistsError, "there.tck' exists; replace it with overwrite=True"),
        ("pipe.trx", {"overwrite": True}, ValueError, "pipe.trx' is not a regular file"),
        ("link.trk", {"overwrite": True}, ValueError, "is a link to '.*there.tck', of another format"),
        ("a.tck", {"data_per_streamline": {"seeds": 3}}, ValueError, r"a .tck file cannot hold .*\(seeds\)"),
        (
            "a.trk",
            {"data_per_streamline": {"n" * 19: 3}},
            ValueError,
            "name is too long or has characters outside of Latin-1",
        ),
        ("a.trk", {"data_per_streamline": {f"n{i}": 1 for i in range(11)}}, ValueError, "at most 10 names"),
        ("a.trx", {"data_per_streamline": {"a.b": 3}}, ValueError, "leave out dots and slashes"),
        ("a.trx", {"data_per_streamline": {"": 3}}, ValueError, "need a name, got ''"),
        ("a.trk", {"data_per_streamline": {"seeds": 0}}, ValueError, "The size of 'seeds' must be a whole number"),
        ("a.trk", {"dimensions": (40000, 2, 2)}, ValueError, "at most 32767 voxels along an axis"),
        ("a.trk", {"dimensions": (2, 2)}, ValueError, "must have three numbers"),
        ("a.trk", {"affine": np.zeros((4, 4))}, ValueError, "not finite or not invertible"),
        ("a.trk", {"compress": 0}, ValueError, "compress must be above 0 and at most 10, got 0"),
        ("a.trk", {"compress": 1e300}, ValueError, "compress must be above 0 and at most 10, got 1e"),
    ],
)
def test_what_is_refused_before_work_starts(tmp_path, name, options, error, sentence):
    (tmp_path / "folder.trk").mkdir()
    (tmp_path / "there.tck").touch()
    (tmp_path / "link.trk").symlink_to(tmp_path / "there.tck")
    os.mkfifo(tmp_path / "pipe.trx")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error, match=sentence) as caught:
        a_writer(tmp_path / name, **options)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    ("points", "lengths", "data", "sentence"),
    [
        (np.zeros((4, 3)), [3], SEEDS[:1], r"must have shape \(3, 3\), as the lengths say, got \(4, 3\)"),
        (np.zeros((4, 2)), [4], SEEDS[:1], r"got \(4, 2\)"),
        (np.zeros((4, 3)), [4.0], SEEDS[:1], "Lengths must be whole numbers"),
        (np.zeros((4, 3)), [4, 0], SEEDS[:2], "Streamline 1 of 2 has no point"),
        ([[1, 1, 1], [1, np.nan, 1]], [1, 1], SEEDS[:2], r"Streamline 1 \(counted from 0\) of 2 holds a NaN"),
        (np.zeros((4, 3)), [4], SEEDS[:2], r"'seeds' must have shape \(1, 3\), got \(2, 3\)"),
        (np.zeros((4, 3)), [4], None, r"\['seeds'\] were declared, got \[\]"),
    ],
)
def test_what_cannot_be_appended(tmp_path, points, lengths, data, sentence):
    path = tmp_path / "lines.trk"
    with a_writer(path, data_per_streamline={"seeds": 3}) as writer:
        writer.append(*flat(LINES[:2]), {"seeds": SEEDS[:2]})
        with pytest.raises(ValueError, match=sentence):
            writer.append(points, lengths, None if data is None else {"seeds": data})
    assert_holds(path, LINES[:2])


def test_appending_outside_the_block_is_refused(path):
    writer = a_writer(path)
    with pytest.raises(ValueError, match="append inside its 'with' block"):
        writer.append(*flat(LINES))
    assert os.listdir(path.parent) == []
