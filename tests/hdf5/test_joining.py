"""Several HDF5 files joined into one: the same data, complete or absent."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from several_files import change_root, split, write_whole
from tests_support import write_hdf5

from dwiml import MultiSubjectDataset, join_hdf5
from dwiml.cli.main import main
from dwiml.data.checking import check_hdf5_file
from dwiml.hdf5 import file_writer, schema


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whole(tmp_path_factory.mktemp("whole") / "whole.hdf5")


@pytest.fixture
def files(whole: Path, tmp_path: Path) -> list[Path]:
    return split(whole, tmp_path / "parts")


def content(path: Path) -> dict[str, tuple[object, ...]]:
    """Return all objects of a file: attributes, and values and layout of datasets."""
    found: dict[str, tuple[object, ...]] = {}

    def note(name: str, node: h5py.HLObject) -> None:
        attributes = {key: np.asarray(value).tolist() for key, value in node.attrs.items()}
        for own in (schema.DATE_AND_TIME, *([schema.PROVENANCE] if name == "/" else [])):
            attributes.pop(own, None)
        values: tuple[object, ...] = ()
        if isinstance(node, h5py.Dataset):
            offset = node.id.get_offset()
            values = (node.dtype.str, node.chunks, node.compression, offset is not None, node[()].tobytes())
        found[name] = (attributes, *values)

    with h5py.File(path) as handle:
        note("/", handle)
        handle.visititems(note)
    return found


def test_the_joined_file_holds_what_the_whole_one_holds(whole: Path, files: list[Path], tmp_path: Path) -> None:
    out, seen = tmp_path / "out.hdf5", []
    summary = join_hdf5(files, out, on_progress=lambda *state: seen.append(state))
    assert summary.path == out
    assert summary.nb_bytes == out.stat().st_size
    assert summary.files == files
    assert summary.subjects == {"training": ["sub-a", "sub-b", "sub-c"], "validation": ["sub-d"], "testing": ["sub-e"]}
    names = ["", "sub-a", "sub-b", "sub-c", "sub-d", "sub-e"]
    assert seen == [(number, 5, name) for number, name in enumerate(names)]
    assert content(out) == content(whole)
    assert MultiSubjectDataset(out).fingerprint() == MultiSubjectDataset(whole).fingerprint()
    joined = MultiSubjectDataset(out).provenance
    assert (joined["command"], joined["joined"]) == ("Python", [{"file": str(path)} for path in files])
    report = check_hdf5_file(out, digests=True)
    assert report.all_faults == []
    assert all(group.nb_with_digest == group.nb_datasets > 0 for group in report.groups)


def test_the_subjects_of_each_set_keep_the_order_of_the_files(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.hdf5"
    assert join_hdf5(files[::-1], out).subjects["training"] == ["sub-c", "sub-b", "sub-a"]
    assert MultiSubjectDataset(out).fingerprint() == MultiSubjectDataset(files[::-1]).fingerprint()
    with h5py.File(out) as handle:
        assert list(handle.attrs[schema.CHOSEN_SUBJS]) == ["sub-c", "sub-b", "sub-a", "sub-d", "sub-e"]


def test_joining_in_steps_gives_the_same_bytes_but_date_and_provenance(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwiml.hdf5.file_writer.now", lambda: datetime(2026, 1, 2))
    # It names the files that were joined.
    monkeypatch.setattr("dwiml.hdf5.file_writer.write_provenance", lambda *_: None)
    join_hdf5(files, tmp_path / "at_once.hdf5")
    join_hdf5(files[:2], tmp_path / "two.hdf5")
    join_hdf5([tmp_path / "two.hdf5", files[2]], tmp_path / "steps.hdf5")
    assert (tmp_path / "at_once.hdf5").read_bytes() == (tmp_path / "steps.hdf5").read_bytes()


def test_the_joined_file_is_that_created_at_once_but_for_date_and_root_provenance(
    subjects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = file_writer.write_provenance
    monkeypatch.setattr(file_writer, "now", lambda: datetime(2026, 1, 2))
    monkeypatch.setattr(
        file_writer, "write_provenance", lambda node, recorded: None if node.name == "/" else write(node, recorded)
    )
    for number, name in enumerate(["sub-1", "sub-2", "sub-3", "sub-4"]):
        subjects.plain(name, nb_streamlines=4 + number, seed=number)
    created = {}
    lists = {
        "whole": (["sub-1", "sub-3"], ["sub-2", "sub-4"]),
        "a": (["sub-1"], ["sub-2"]),
        "b": (["sub-3"], ["sub-4"]),
    }
    for name, (training, validation) in lists.items():
        subjects.out = created[name] = tmp_path / f"{name}.hdf5"
        subjects.create(training=training, validation=validation)
    join_hdf5([created["a"], created["b"]], tmp_path / "joined.hdf5")
    assert (tmp_path / "joined.hdf5").read_bytes() == created["whole"].read_bytes()


def test_files_without_digests_and_compressed_ones(tmp_path: Path) -> None:
    first = write_hdf5(tmp_path / "a.hdf5", {"sub-1": 3, "sub-2": 4}, seed=1)
    second = write_hdf5(tmp_path / "b.hdf5", {}, {"sub-3": 3}, seed=2)
    with h5py.File(second, "r+") as handle:
        values = handle["sub-3/input/data"][()]
        del handle["sub-3/input/data"]
        handle.create_dataset("sub-3/input/data", data=values, compression="gzip")
    out = tmp_path / "out.hdf5"
    join_hdf5([first, second], out)
    parts = {**content(first), **content(second)}
    parts.pop("/")
    assert {name: values for name, values in content(out).items() if name != "/"} == parts
    assert MultiSubjectDataset(out).fingerprint() == MultiSubjectDataset([first, second]).fingerprint()
    with h5py.File(out) as handle:
        assert schema.DIGEST not in handle.attrs


def test_what_is_not_listed_is_not_copied(files: list[Path], tmp_path: Path) -> None:
    with h5py.File(files[0], "r+") as handle:
        handle.create_group("not-listed/input")
    join_hdf5(files, tmp_path / "out.hdf5")
    with h5py.File(tmp_path / "out.hdf5") as handle:
        assert sorted(handle) == ["sub-a", "sub-b", "sub-c", "sub-d", "sub-e"]


def external(handle: h5py.File) -> None:
    del handle["sub-c/input/data"]
    handle["sub-c/input/data"] = h5py.ExternalLink("other.hdf5", "/x")


def moved_value(handle: h5py.File) -> None:
    handle["sub-e/input/data"][2, 3, 4, 1] += 1


def renamed_attribute(handle: h5py.File) -> None:
    handle["sub-c/input"].attrs["voxres"] = [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (external, "'sub-c/input/data' of the HDF5 file '.*part-2.hdf5' is a link to another file"),
        (moved_value, "'sub-e/input/data' of the HDF5 file '.*part-2.hdf5' does not match its digest: its values"),
        (renamed_attribute, "'sub-c/input' of the HDF5 file '.*part-2.hdf5' does not match its digest: an attribute"),
    ],
)
def test_a_damaged_or_strange_file_is_refused_and_nothing_is_written(
    files: list[Path], tmp_path: Path, change: Callable[[h5py.File], None], sentence: str
) -> None:
    with h5py.File(files[2], "r+") as handle:
        change(handle)
    with pytest.raises(ValueError, match=sentence):
        join_hdf5(files, tmp_path / "out.hdf5")
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_soft_links_become_copies(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "a.hdf5", {"sub-1": 3})
    with h5py.File(source, "r+") as handle:
        handle.move("sub-1/input", "elsewhere")
        handle["sub-1/input"] = h5py.SoftLink("/elsewhere")
    join_hdf5(source, tmp_path / "out.hdf5")
    with h5py.File(tmp_path / "out.hdf5") as handle, h5py.File(source) as before:
        assert isinstance(handle["sub-1"].get("input", getlink=True), h5py.HardLink)
        np.testing.assert_array_equal(handle["sub-1/input/data"], before["elsewhere/data"])


def test_files_that_do_not_fit_together_are_refused_before_anything_is_written(
    whole: Path, files: list[Path], tmp_path: Path
) -> None:
    (again,) = split(whole, tmp_path / "again", [{"testing": ["sub-b"]}])
    with pytest.raises(ValueError, match=r"Subject 'sub-b' is in '.*part-1.hdf5' and in '.*again/part-0.hdf5'"):
        join_hdf5([*files, again], tmp_path / "out.hdf5")
    change_root(files[1], "step_size", 0.5)
    with pytest.raises(ValueError, match="part-0.hdf5' and '.*part-1.hdf5' cannot be one data set: their streamlines"):
        join_hdf5(files, tmp_path / "out.hdf5")
    assert not (tmp_path / "out.hdf5").exists()


def test_what_is_replaced(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.hdf5"
    join_hdf5(files[:1], out)
    before = out.read_bytes()
    with pytest.raises(FileExistsError, match=r"out.hdf5' exists; replace it with overwrite=True"):
        join_hdf5(files, out)
    with pytest.raises(ValueError, match=r"part-1.hdf5' is an input"):
        join_hdf5(files, files[1], overwrite=True)
    assert out.read_bytes() == before
    join_hdf5(files, out, overwrite=True)
    assert MultiSubjectDataset(out).fingerprint() == MultiSubjectDataset(files).fingerprint()
    other = tmp_path / "notes.hdf5"
    other.write_text("notes")
    with pytest.raises(FileExistsError, match="exists and is not an HDF5 file"):
        join_hdf5(files, other, overwrite=True)


def test_the_command(files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out.hdf5")
    assert main(["join_hdf5", *map(str, files), out]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}: 5 subjects (3 training, 1 validation, 1 testing) of 3 files, 0.000 GB\n"
    assert printed.err == ""
    assert main(["join_hdf5", str(files[0].parent), out]) == 2
    assert "replace it with -f" in capsys.readouterr().err
    Path(out).write_bytes(b"")
    assert main(["join_hdf5", str(files[0].parent), out, "-f"]) == 0
    assert MultiSubjectDataset(out).fingerprint() == MultiSubjectDataset(files).fingerprint()
    with pytest.raises(SystemExit):
        main(["join_hdf5", out])
    assert "the following arguments are required: OUT.hdf5" in capsys.readouterr().err


KILLED = """
import os, signal, sys
from dwiml.hdf5 import joining
calls, digest_of = [], joining.digest_of_rows
def killing(dataset):
    calls.append(1)
    if len(calls) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return digest_of(dataset)
joining.digest_of_rows = killing
joining.join_hdf5(sys.argv[3:], sys.argv[2], overwrite=True)
"""


@pytest.mark.parametrize("exists", [False, True])
def test_a_killed_process_leaves_no_unfinished_file(files: list[Path], tmp_path: Path, exists: bool) -> None:
    out = tmp_path / "out.hdf5"
    if exists:
        join_hdf5(files[:1], out)
    before = out.read_bytes() if exists else None
    words = [sys.executable, "-c", KILLED, "20", str(out), *map(str, files)]
    assert subprocess.run(words, check=False).returncode == -9
    assert (out.read_bytes() if exists else None) == before
    assert out.exists() == exists
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".out.hdf5.")]) == 1
    # The hidden file of the killed process is not part of the folder's data.
    assert MultiSubjectDataset(tmp_path / "parts").hdf5_files == files


@pytest.mark.slow
def test_killed_at_30_moments(whole: Path, tmp_path: Path) -> None:
    big = write_hdf5(tmp_path / "big.hdf5", {f"sub-{number}": 400 for number in range(40)})
    files = [big, *split(whole, tmp_path / "parts")]
    for path in files[1:]:
        with h5py.File(path, "r+") as handle:
            handle.attrs.pop(schema.DIGEST, None)
            for name in (schema.STEP_SIZE, schema.NB_POINTS, schema.COMPRESS):
                del handle.attrs[name]
    expected = MultiSubjectDataset(files).fingerprint()
    words = [sys.executable, "-m", "dwiml.cli.main", "join_hdf5", *map(str, files)]
    start = time.monotonic()
    assert subprocess.run([*words, str(tmp_path / "whole.hdf5")], check=False).returncode == 0
    most, draw, nb_whole = time.monotonic() - start, random.Random(0), 0
    for number in range(30):
        out = tmp_path / f"out-{number}.hdf5"
        process = subprocess.Popen([*words, str(out)], stdout=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.4, 1.1) * most)
        process.kill()
        process.wait()
        if out.exists():
            nb_whole += 1
            assert check_hdf5_file(out, digests=True).all_faults == []
            assert MultiSubjectDataset(out).fingerprint() == expected
            out.unlink()
        for left in tmp_path.glob(".out-*"):
            left.unlink()
    assert nb_whole < 30
