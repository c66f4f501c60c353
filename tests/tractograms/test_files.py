"""What .tck and .trx files announce, against what is in them; which kinds are read."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scoring_support import OBLIQUE, SHAPE, random_lines, save_lines

from dwiml.tractograms.grid import Grid
from dwiml.tractograms.kinds import check_kind
from dwiml.tractograms.reading import open_tractogram, read_streamlines
from dwiml.tractograms.tck import announced_streamlines
from dwiml.tractograms.trx_file import TrxFile
from dwiml.tractograms.writing.writer import TractogramWriter
from dwiml.viz.pieces import DrawnTractogram

LINES = random_lines(np.random.default_rng(0), 6, reach=0)


@pytest.fixture
def tck(tmp_path: Path) -> Path:
    path = tmp_path / "lines.tck"
    save_lines(path, LINES, OBLIQUE)
    return path


@pytest.fixture
def trx(tmp_path: Path) -> Path:
    path = tmp_path / "lines.trx"
    points, lengths = np.concatenate(LINES).astype(np.float32), np.array([len(line) for line in LINES])
    with TractogramWriter(path, grid=Grid(OBLIQUE, SHAPE), data_per_streamline={"id": 1}) as writer:
        writer.append(points, lengths, {"id": np.arange(6.0, dtype=np.float32)[:, None]})
    return path


def announce(tck: Path, count: str) -> None:
    content = tck.read_bytes()
    assert b"count: 0000000006" in content
    tck.write_bytes(content.replace(b"count: 0000000006", f"count: {count:>10}".encode()))


def repack(trx: Path, *, header: dict[str, Any] | None = None, members: dict[str, bytes] | None = None) -> None:
    """Change the header and the arrays of a .trx."""
    with zipfile.ZipFile(trx) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["header.json"] = json.dumps({**json.loads(content["header.json"]), **(header or {})}).encode()
    content |= members or {}
    with zipfile.ZipFile(trx, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)


READERS = {
    "score": lambda path: read_streamlines(path, OBLIQUE),
    "show_tractogram": lambda path: DrawnTractogram.from_file(path, color="uniform", max_streamlines=3),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_tck_that_announces_600_streamlines_and_holds_6(tck: Path, read: Any) -> None:
    announce(tck, "0000000600")
    with pytest.raises(
        ValueError, match=r"'.*lines.tck' is truncated, or its header is wrong: 600 streamlines are ann"
    ):
        read(tck)


@pytest.mark.parametrize("count", ["0000000000", "0", "many", "-3"])
def test_an_unknown_count_is_what_is_there(tck: Path, count: str, caplog: pytest.LogCaptureFixture) -> None:
    announce(tck, count)
    assert len(read_streamlines(tck, OBLIQUE)[1]) == 6
    tck.write_bytes(tck.read_bytes().replace(b"count", b"mount"))
    assert len(read_streamlines(tck, OBLIQUE)[1]) == 6
    assert not caplog.text


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_tck_with_more_than_it_announces_is_told_and_read(
    tck: Path, read: Any, caplog: pytest.LogCaptureFixture
) -> None:
    announce(tck, "0000000004")
    read(tck)
    assert "announces 4 streamlines (count) but it holds 6; all of them are read." in caplog.text


def test_streamlines_of_no_point_count_as_announced(tck: Path, caplog: pytest.LogCaptureFixture) -> None:
    announce(tck, "0000000007")
    content = tck.read_bytes()
    tck.write_bytes(content[:-12] + np.full(3, np.nan, "<f4").tobytes() + content[-12:])
    assert announced_streamlines(nib.streamlines.load(tck, lazy_load=True).header) == 7
    assert len(read_streamlines(tck, OBLIQUE)[1]) == 6
    assert not caplog.text


def test_a_streamline_with_nan_is_counted_among_those_with_points(tmp_path: Path) -> None:
    lines = [np.zeros((0, 3)), np.ones((3, 3)), np.full((2, 3), np.nan)]
    save_lines(tmp_path / "nan.trk", [line.astype("<f4") for line in lines], np.eye(4), (5, 5, 5))
    with pytest.raises(ValueError, match=r"is number 1 \(counted from 0, without those that have no points\)"):
        read_streamlines(tmp_path / "nan.trk", np.eye(4))


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("header", "members", "sentence"),
    [
        (
            {"NB_STREAMLINES": 600},
            {},
            "it is truncated: its header announces 600 rows in 'offsets.uint64', but there are 7",
        ),
        ({"NB_VERTICES": 9000}, {}, "it is truncated: its header announces 9000 rows in 'positions.3.float32'"),
        ({"NB_STREAMLINES": 4}, {}, "its header announces 4 rows in '.*', but there are [67]"),
        ({"NB_VERTICES": 4}, {}, "its header announces 4 rows in 'positions.3.float32', "),
        ({"NB_STREAMLINES": 1e15}, {}, "it is truncated"),
        ({"NB_STREAMLINES": -1}, {}, "NB_STREAMLINES in its header must be a non-negative integer, got -1"),
        ({"NB_VERTICES": "many"}, {}, "NB_VERTICES in its header must be a non-negative integer, got 'many'"),
        ({"VOXEL_TO_RASMM": 3}, {}, "its header does not give a voxel grid"),
        ({"DIMENSIONS": [0, 1, 1]}, {}, "its header does not give a voxel grid"),
        (
            {},
            {"dps/id.float32": bytes(8)},
            "it is truncated: its header announces 6 rows in 'dps/id.float32', but there are 2",
        ),
        ({}, {"positions.3.float16": b""}, "it holds 'positions' twice"),
        ({}, {"offsets.uint64": np.full(7, 2**62, "<u8").tobytes()}, "is beyond its"),
        ({}, {"offsets.uint64": np.zeros(7, "<u8").tobytes()}, "its offsets end at 0, its header announces"),
        ({}, {"offsets.uint64": np.array([0, 5, 3, 4, 5, 6, 6], "<u8").tobytes()}, "do not increase|offsets end at"),
        ({}, {"dps/x.object": bytes(48)}, "'dps/x.object' has no data type"),
    ],
)
def test_a_trx_whose_header_and_arrays_disagree(
    trx: Path, read: Any, header: dict[str, Any], members: dict[str, bytes], sentence: str
) -> None:
    repack(trx, header=header, members=members)
    with pytest.raises(ValueError, match=sentence) as caught:
        read(trx)
    assert "lines.trx' is damaged" in str(caught.value)


def test_a_trx_that_says_that_it_expands_to_more_than_it_can(trx: Path) -> None:
    """1e12 points in some hundred bytes: refused by its sizes, nothing is unpacked."""
    repack(trx, header={"NB_VERTICES": 10**12})
    content = trx.read_bytes()
    size = sum(len(line) for line in LINES) * 12
    old, new = size.to_bytes(4, "little"), (2**32 - 2).to_bytes(4, "little")
    assert old in content
    trx.write_bytes(content.replace(old, new))
    with pytest.raises(ValueError, match="cannot unpack to the 4294967294 bytes that it announces|is damaged"):
        read_streamlines(trx, OBLIQUE)


def test_a_packed_trx_of_zeros_is_bounded_by_the_memory(trx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nb = 10**5
    offsets = np.array([0, nb], "<u8").tobytes()
    with zipfile.ZipFile(trx) as archive:
        header = json.loads(archive.read("header.json"))
    with zipfile.ZipFile(trx, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({**header, "NB_STREAMLINES": 1, "NB_VERTICES": nb}))
        archive.writestr("positions.3.float32", bytes(12 * nb))
        archive.writestr("offsets.uint64", offsets)
    assert len(read_streamlines(trx, OBLIQUE)[0]) == nb
    monkeypatch.setattr("dwiml.files.sizes.machine_memory", lambda: 10**6)
    with pytest.raises(
        ValueError, match=r"cannot be read: .* .'positions' would need 0.0 GB of memory; this machine has 0.0 GB"
    ):
        read_streamlines(trx, OBLIQUE)


def test_a_trx_that_is_read_only_or_a_growing_folder(trx: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = read_streamlines(trx, OBLIQUE)
    np.testing.assert_allclose(expected[0], np.concatenate(LINES), atol=1e-4)
    trx.chmod(0o444)
    np.testing.assert_array_equal(read_streamlines(trx, OBLIQUE)[0], expected[0])
    folder = trx.with_name("folder.trx")
    with zipfile.ZipFile(trx) as archive:
        archive.extractall(folder)
    np.testing.assert_array_equal(read_streamlines(folder, OBLIQUE)[0], expected[0])
    assert not caplog.text
    with (folder / "positions.3.float32").open("ab") as stream:
        stream.write(bytes(120))
    np.testing.assert_array_equal(read_streamlines(folder, OBLIQUE)[0], expected[0])
    assert "only what it announces is read. Is it still being written" in caplog.text
    assert sorted(path.name for path in trx.parent.iterdir()) == ["folder.trx", "lines.trx"]


@pytest.mark.parametrize("name", ["positions.3.float32", "dps"])
def test_a_link_in_a_trx_folder_is_not_followed_and_named(trx: Path, name: str) -> None:
    folder = trx.with_name("folder.trx")
    with zipfile.ZipFile(trx) as archive:
        archive.extractall(folder)
    outside = trx.with_name("outside")
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    sentence = (
        f"^The tractogram: in the folder '.*folder.trx', '{name}' is a symbolic link, which could lead to any file; "
    )
    with pytest.raises(ValueError, match=sentence):
        read_streamlines(folder, OBLIQUE)
    with pytest.raises(ValueError, match=sentence):
        open_tractogram(folder).has_streamlines()
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=f"'{name}' is a device, a pipe or a socket; remove it"):
        read_streamlines(folder, OBLIQUE)


def test_a_link_in_a_trx_file_is_named(trx: Path) -> None:
    linked = trx.with_name("linked.trx")
    with zipfile.ZipFile(trx) as source, zipfile.ZipFile(linked, "w") as target:
        for member in source.infolist():
            content = source.read(member)
            if member.filename.startswith("positions"):
                member, content = zipfile.ZipInfo(member.filename), b"/etc/passwd"
                member.external_attr = (stat.S_IFLNK | 0o777) << 16
            target.writestr(member, content)
    sentence = (
        "^The tractogram: in the file '.*linked.trx', 'positions.3.float32' is a symbolic link, which could lead to "
        r"any file; replace it with a copy of what it leads to\.$"
    )
    with pytest.raises(ValueError, match=sentence):
        read_streamlines(linked, OBLIQUE)
    with pytest.raises(ValueError, match=sentence):
        open_tractogram(linked).has_streamlines()


def test_a_trx_tells_its_grid_and_holds_dwis_streamlines(trx: Path) -> None:
    grid = open_tractogram(trx).grid
    assert grid is not None
    np.testing.assert_allclose(grid.affine, OBLIQUE, atol=1e-6)
    assert grid.shape == SHAPE
    with TrxFile(trx) as file:
        assert (file.nb_streamlines, file.nb_points) == (6, sum(map(len, LINES)))
        np.testing.assert_array_equal(file.values("dps/id")[:, 0], np.arange(6))


@pytest.mark.parametrize("name", ["x.trx.gz", "x.TRX.GZ"])
def test_compressed_tractograms_are_told_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    sentence = f"The tractogram '.*{name}' is compressed, .* run 'gunzip -k {name}' first, and give '{name[:5]}'"
    for read in (check_kind, open_tractogram, lambda path, _="": read_streamlines(path, OBLIQUE)):
        with pytest.raises(ValueError, match=sentence):
            read(tmp_path / name, "The tractogram")
    with pytest.raises(ValueError, match=sentence):
        DrawnTractogram.from_file(tmp_path / name, color="uniform", max_streamlines=3)


@pytest.mark.parametrize("suffix", [".trk", ".tck", ".trx"])
def test_the_true_reason_is_told(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"lines{suffix}"
    if suffix == ".trx":
        shutil.copyfile(__file__, path)
    else:
        save_lines(path, LINES, OBLIQUE)
    opened = os.open

    def refusing(name: Any, *arguments: Any, **options: Any) -> int:
        if os.fspath(name) == str(path):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)
        return opened(name, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(OSError, match=f"'.*lines{suffix}' cannot be read: too many files are open in this process"):
        read_streamlines(path, OBLIQUE)


@pytest.mark.parametrize("suffix", [".trk", ".tck", ".trx"])
def test_a_pipe_is_never_waited_for(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"lines{suffix}"
    os.mkfifo(path)
    with pytest.raises(ValueError, match="is not a regular file but a device, a pipe or a socket"):
        read_streamlines(path, OBLIQUE)
