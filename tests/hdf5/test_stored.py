"""What a file from a stranger, or a damaged one, may not do: reach another file, take memory, end in a traceback."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from fuzzing import run_watched
from tests_support import SHAPE, add_digests, edited, write_hdf5

from dwiml import MultiSubjectDataset
from dwiml.cli.main import main
from dwiml.hdf5 import schema
from dwiml.hdf5.stored import open_hdf5
from dwiml.hdf5.stored.layout import subject_lists


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_hdf5(tmp_path / "data.hdf5", {"sub-a": 6, "sub-b": 5}, {"sub-c": 4})


def refusal(path: Path, *, lazy: bool = False) -> str:
    """Return the one sentence with which a file is refused."""

    def load() -> None:
        dataset = MultiSubjectDataset(path, lazy=lazy)
        dataset.load_data()
        for subject in dataset.training_set:
            subject.volumes["input"].as_tensor()
            subject.streamlines["streamlines"].get()

    with pytest.raises(ValueError, match=".") as caught:
        load()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value) or "sub-" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", ["sub-b/input/data", "sub-b/streamlines/lengths"])
def test_external_storage_is_not_followed(path: Path, tmp_path: Path, name: str, lazy: bool) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(256)) * 100)
    with h5py.File(path, "r+") as handle:
        shape, dtype = handle[name].shape, handle[name].dtype
        del handle[name]
        handle.create_dataset(name, shape, dtype, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    sentence = refusal(path, lazy=lazy)
    assert f"'{name}' of the HDF5 file '{path}' keeps its values in another file (external storage)" in sentence


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("source", ["missing.hdf5", "."])
def test_virtual_datasets_are_not_followed(path: Path, source: str, lazy: bool) -> None:
    with h5py.File(path, "r+") as handle:
        layout = h5py.VirtualLayout((*SHAPE, 4), np.float32)
        layout[...] = h5py.VirtualSource(source, "/sub-a/input/data", shape=(*SHAPE, 4))
        del handle["sub-b/input/data"]
        handle["sub-b/input"].create_virtual_dataset("data", layout)
    assert f"'sub-b/input/data' of the HDF5 file '{path}' is a virtual dataset" in refusal(path, lazy=lazy)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", ["sub-b", "sub-b/streamlines", "sub-b/streamlines/data", "sub-b/input/data"])
@pytest.mark.parametrize("through_a_soft_link", [False, True])
def test_links_to_other_files_are_not_followed(
    path: Path, tmp_path: Path, name: str, through_a_soft_link: bool, lazy: bool
) -> None:
    other = Path(shutil.copy(path, tmp_path / "other.hdf5"))
    with h5py.File(path, "r+") as handle:
        del handle[name]
        if through_a_soft_link:
            handle["away"] = h5py.ExternalLink(str(other), "/")
            handle[name] = h5py.SoftLink(f"/away/{name}")
        else:
            handle[name] = h5py.ExternalLink(str(other), f"/{name}")
    sentence = refusal(path, lazy=lazy)
    assert f"'{name}' of the HDF5 file '{path}' is a link to another file ('{other}')" in sentence


def test_soft_links_inside_the_file_are_followed(path: Path) -> None:
    expected = MultiSubjectDataset(path)
    expected.load_data()
    with h5py.File(path, "r+") as handle:
        handle.move("sub-b", "elsewhere")
        handle["sub-b"] = h5py.SoftLink("/elsewhere")
        handle.move("sub-a/streamlines/data", "sub-a/streamlines/points")
        handle["sub-a/streamlines/data"] = h5py.SoftLink("points")
    dataset = MultiSubjectDataset(path)
    dataset.load_data()
    for old, new in zip(expected.training_set, dataset.training_set, strict=True):
        assert old.subject_id == new.subject_id
        assert np.array_equal(old.streamlines["streamlines"].gather()[0], new.streamlines["streamlines"].gather()[0])


@pytest.mark.parametrize(
    ("links", "reason"),
    [
        ({"sub-b": "/sub-b"}, "its links are circular"),
        ({"sub-b": "/one", "one": "/two", "two": "/one"}, "its links are circular"),
        ({"sub-b": "/nowhere"}, "a link leads nowhere"),
        ({"sub-b": "/sub-a/input/data/x"}, "a link leads nowhere"),
    ],
)
def test_links_that_lead_nowhere(path: Path, links: dict[str, str], reason: str) -> None:
    with h5py.File(path, "r+") as handle:
        del handle["sub-b"]
        for name, target in links.items():
            handle[name] = h5py.SoftLink(target)
    assert refusal(path) == f"'sub-b' of the HDF5 file '{path}' is damaged: {reason}; copy it again or recreate it."


def test_a_pipe_or_a_device_never_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        start = time.monotonic()
        outcome = run_watched(lambda name=name: main(["check_hdf5", str(name)]), most_seconds=10)
        assert outcome.kind == "sentence", outcome
        assert "is not a regular file" in outcome.err or "has no file *.hdf5" in outcome.err
        assert time.monotonic() - start < 10


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("options", [{}, {"chunks": (2**18, 3)}, {"chunks": (2**18, 3), "compression": "gzip"}])
def test_no_memory_is_taken_for_values_that_are_not_there(path: Path, options: dict[str, object], lazy: bool) -> None:
    with h5py.File(path, "r+") as handle:
        del handle["sub-b/streamlines/data"]
        handle["sub-b/streamlines"].create_dataset("data", (10**11, 3), np.float32, **options)
    sentence = refusal(path, lazy=lazy)
    assert "'sub-b/streamlines/data' of the HDF5 file" in sentence
    assert "never written" in sentence or "0 of its 381470 chunks" in sentence


def test_packed_zeros_are_not_unpacked_without_bound(path: Path) -> None:
    with h5py.File(path, "r+") as handle:
        del handle["sub-b/input/data"]
        shape = (32, 1024, 1024, 5)
        data = handle["sub-b/input"].create_dataset(
            "data", shape, np.float32, chunks=(1, *shape[1:]), compression="gzip"
        )
        handle["sub-b/input"].attrs["nb_features"] = 5
        del handle["sub-a/input/data"], handle["sub-c/input/data"]
        for name in ("sub-a", "sub-c"):
            handle[f"{name}/input/data"] = np.zeros((*SHAPE, 5), dtype=np.float32)
            handle[f"{name}/input"].attrs["nb_features"] = 5
        packed = zlib.compress(bytes(int(np.prod(shape[1:])) * 4), 1)
        for index in range(32):
            data.id.write_direct_chunk((index, 0, 0, 0), packed)
    sentence = refusal(path)
    assert "'sub-b/input/data'" in sentence
    assert "MB in the file would become 0.671 GB in memory" in sentence


def test_two_datasets_may_not_lie_in_the_same_bytes(path: Path) -> None:
    with h5py.File(path) as handle:
        offsets = [handle[f"sub-{name}/input/data"].id.get_offset() for name in "ab"]
    content = path.read_bytes()
    first, second = (offset.to_bytes(8, "little") for offset in offsets)
    assert content.count(second) == 1
    path.write_bytes(content.replace(second, first))
    assert "its values overlap those of 'sub-a/input/data'" in refusal(path)


@pytest.mark.parametrize(
    "name",
    ["../../outside", "/etc/passwd", "..", ".", "", "a/b", "a\x1b[2J", "a\nb", "a\u202eb", "x" * 300],
)
def test_names_that_cannot_be_those_of_files(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as handle:
        handle.attrs["training_subjs"] = [name]
    with pytest.raises(ValueError, match="cannot be used as a file name") as caught:
        MultiSubjectDataset(path)
    assert str(caught.value).isprintable()


def test_names_of_groups_are_checked(path: Path) -> None:
    with h5py.File(path, "r+") as handle:
        for name in ("sub-a", "sub-b", "sub-c"):
            handle[name].move("input", "in\tput")
    assert "'in\\tput' cannot be used as a file name" in refusal(path)


@pytest.mark.parametrize(
    ("training", "validation", "sentence"),
    [
        (["sub-a", "sub-a"], ["sub-c"], "lists 'sub-a' twice, in the training set; a subject must be listed once"),
        (["sub-a", "sub-c"], ["sub-c"], "lists 'sub-c' twice, in the training and the validation set"),
    ],
)
def test_a_subject_is_in_one_set_once(path: Path, training: list[str], validation: list[str], sentence: str) -> None:
    with h5py.File(path, "r+") as handle:
        handle.attrs["training_subjs"], handle.attrs["validation_subjs"] = training, validation
    assert sentence in refusal(path)


@pytest.mark.parametrize("link", [lambda handle: handle["sub-a"], lambda _: h5py.SoftLink("/sub-a")])
def test_one_subject_under_two_names_is_refused(path: Path, link: Callable[[h5py.File], object]) -> None:
    with h5py.File(path, "r+") as handle:
        del handle["sub-c"]
        handle["sub-c"] = link(handle)
    assert "subjects 'sub-a' and 'sub-c' refer to the same data" in refusal(path)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("group", "attribute", "value"),
    [
        ("sub-b/input", "affine", np.eye(4)),
        ("sub-b/streamlines", "space", "voxmm"),
        ("sub-b/streamlines", "dimensions", np.array([12, 10, 8], dtype=np.int16)),
        ("sub-b/streamlines", "more", 1),
    ],
)
def test_a_changed_attribute_is_told(path: Path, group: str, attribute: str, value: object, lazy: bool) -> None:
    add_digests(path)
    with h5py.File(path, "r+") as handle:
        handle[group].attrs[attribute] = value
    sentence = refusal(path, lazy=lazy)
    assert f"'{group}' of the HDF5 file '{path}' does not match its digest: an attribute or" in sentence
    with edited(path):
        pass
    if attribute == "more":
        MultiSubjectDataset(path, lazy=lazy).load_data()


@pytest.mark.parametrize("lazy", [False, True])
def test_a_digest_that_vanished_is_told(path: Path, lazy: bool) -> None:
    """Damage of a group's header can hide attributes, and the digest with them."""
    add_digests(path)
    with h5py.File(path, "r+") as handle:
        for name in ("dimensions", "dwiml_digest"):
            del handle["sub-b/streamlines"].attrs[name]
    assert "its attribute 'dwiml_digest' is missing, or something else changed" in refusal(path, lazy=lazy)


def test_a_changed_list_of_subjects_is_told(path: Path) -> None:
    add_digests(path)
    with h5py.File(path, "r+") as handle:
        handle.attrs["training_subjs"] = ["sub-b", "sub-a"]
    assert f"The root attributes of the HDF5 file '{path}' do not match their digest" in refusal(path)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", ["input/data", "streamlines/data", "streamlines/lengths", "streamlines/offsets"])
def test_changed_values_are_told(path: Path, name: str, lazy: bool) -> None:
    add_digests(path)
    with h5py.File(path) as handle:
        place = handle[f"sub-b/{name}"].id.get_offset() + 9
    with path.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))
    sentence = refusal(path, lazy=lazy)
    assert f"'sub-b/{name}' of the HDF5 file '{path}' does not match its digest: its values changed" in sentence
    assert f"delete the attribute '{schema.DIGEST}'" in sentence


def test_a_locked_file_is_not_called_damaged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    with path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="it is locked by another process.*HDF5_USE_FILE_LOCKING=FALSE") as caught:
            MultiSubjectDataset(path)
    assert "damaged" not in str(caught.value)
    MultiSubjectDataset(path)


def test_too_many_open_files_is_said_to_be_so(path: Path) -> None:
    def act() -> int:
        # All numbers below the first free one are taken, so that no file can be opened any more.
        first_free = os.dup(0)
        os.close(first_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, first_free))
        return main(["check_hdf5", str(path)])

    main(["check_hdf5", str(path)])
    outcome = run_watched(act)
    assert outcome.kind == "sentence", outcome
    assert "cannot be read: too many files are open in this process" in outcome.err


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Return a folder that any user may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def _as_nobody(*argv: str) -> int:
    if os.geteuid() == 0:
        os.setuid(65534)
    return main(list(argv))


def test_read_only_files_and_folders_are_read(path: Path, public_folder: Path) -> None:
    main(["check_hdf5", str(path)])
    copy = Path(shutil.copy(path, public_folder))
    copy.chmod(0o444)
    public_folder.chmod(0o555)
    outcome = run_watched(lambda: _as_nobody("check_hdf5", str(copy), "--digests"))
    assert outcome.kind == "read", outcome
    public_folder.chmod(0o755)
    copy.chmod(0o000)
    outcome = run_watched(lambda: _as_nobody("check_hdf5", str(copy)))
    assert outcome.kind == "sentence"
    assert "permission denied" in outcome.err


def test_texts_overwritten_with_zeros_never_hang(path: Path) -> None:
    """HDF5 goes through such a place for ever."""
    content = bytearray(path.read_bytes())
    start = content.index(b"GCOL") + 16
    content[start : start + 200] = bytes(200)
    path.write_bytes(content)
    outcome = run_watched(lambda: main(["check_hdf5", str(path)]), most_seconds=10)
    assert outcome.kind == "sentence", outcome
    assert "the text of its attributes (from byte " in outcome.err


def test_the_lists_come_in_the_order_of_the_file(path: Path) -> None:
    with open_hdf5(path) as file:
        assert subject_lists(file) == {"training": ["sub-a", "sub-b"], "validation": ["sub-c"], "testing": []}


def test_files_of_dwi_ml_write_empty_lists_as_numbers(path: Path) -> None:
    with h5py.File(path, "r+") as handle:
        handle.attrs["testing_subjs"] = []
    assert MultiSubjectDataset(path).volume_groups == ["input", "wm_mask"]
