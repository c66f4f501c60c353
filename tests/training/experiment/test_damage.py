"""Two hundred damaged checkpoints: each is refused in one sentence or stepped over, and none runs code."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dwiml.files.tensors import write_tensors
from dwiml.training.experiment.checkpoint import DICTIONARIES, FORMAT_VERSION, KEYS, load_checkpoint, save_checkpoint

SEED = 20240613
LABEL = b"dwiml checkpoint sha256:"


def real_state(epoch: int) -> dict[str, Any]:
    """Return the state of a small training: a recurrent model, Adam's moments, generators."""
    torch.manual_seed(epoch)
    model = torch.nn.GRU(4, 8, num_layers=2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3, 1, 4))[0].sum().backward()
    optimizer.step()
    values: dict[str, Any] = {key: {} if key in DICTIONARIES else None for key in KEYS - {"format_version"}}
    return {
        **values,
        "parameters": {"trainer": {"max_epochs": 10, "seed": 1234}, "model": {"class": "Small"}},
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": {"value": 0.25, "epoch": epoch},
        "loggers": {"local": {"lines": ['{"epoch": 0, "train_loss": 0.5}']}},
    }


class RunsCode:
    """Leaves a mark when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch '{self.marker}'",))


class Harmless:
    """A class of its own: plain values only may be in a checkpoint."""


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def signed(content: Any) -> bytes:
    stream = io.BytesIO()
    write_tensors(content, stream, kind="checkpoint")
    return stream.getvalue()


def cut(good: bytes, rng: np.random.Generator) -> bytes:
    return good[: rng.integers(len(good))]


def cut_near_the_end(good: bytes, rng: np.random.Generator) -> bytes:
    return good[: -rng.integers(1, 120)]


def flip(good: bytes, rng: np.random.Generator) -> bytes:
    content = bytearray(good)
    content[rng.integers(len(good))] ^= 1 << rng.integers(8)
    return bytes(content)


def flip_near_the_end(good: bytes, rng: np.random.Generator) -> bytes:
    content = bytearray(good)
    content[-rng.integers(1, 120)] ^= 1 << rng.integers(8)
    return bytes(content)


def block(good: bytes, rng: np.random.Generator, value: bytes) -> bytes:
    # Where the value is there already, no harm is done: somewhere else then.
    while True:
        start, size = rng.integers(len(good) - 600), rng.integers(4, 600)
        damaged = good[:start] + (value * 600)[:size] + good[start + size :]
        if damaged != good:
            return damaged


def zeros(good: bytes, rng: np.random.Generator) -> bytes:
    return block(good, rng, b"\0")


def nans(good: bytes, rng: np.random.Generator) -> bytes:
    return block(good, rng, np.float32("nan").tobytes())


def piece_lost(good: bytes, rng: np.random.Generator) -> bytes:
    start, size = rng.integers(len(good) - 600), rng.integers(1, 600)
    return good[:start] + good[start + size :]


def more_at_the_end(good: bytes, rng: np.random.Generator) -> bytes:
    return good + rng.bytes(int(rng.integers(1, 200)))


def swapped_tensors(good: bytes, rng: np.random.Generator) -> bytes:
    """Zip the archive anew with two tensors of the same size exchanged, each with a right checksum, comment kept."""
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        comment = archive.comment
    pairs = [
        (one, other)
        for one in files
        for other in files
        if "/data/" in one and one < other and len(files[one]) == len(files[other]) and files[one] != files[other]
    ]
    one, other = pairs[rng.integers(len(pairs))]
    files[one], files[other] = files[other], files[one]
    return zipped(files, comment)


def swapped_in_place(good: bytes, rng: np.random.Generator) -> bytes:
    """Exchange the bytes of two tensors where they lie."""
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        tensors = [archive.read(name) for name in archive.namelist() if "/data/" in name]
    found = [each for each in dict.fromkeys(tensors) if len(each) >= 96 and good.count(each) == 1]
    pairs = [(one, other) for one in found for other in found if one < other and len(one) == len(other)]
    one, other = pairs[rng.integers(len(pairs))]
    return good.replace(one, b"?" * len(one)).replace(other, one).replace(b"?" * len(one), other)


def zipped_anew(good: bytes, rng: np.random.Generator) -> bytes:
    """Zip the same content again, stored or compressed: no longer the file that was written."""
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        return zipped(files, archive.comment, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[rng.integers(2)])


def zipped(files: dict[str, bytes], comment: bytes = b"", method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.comment = comment
    return stream.getvalue()


def comment_of_another(good: bytes, rng: np.random.Generator) -> bytes:
    """Put the digest of another checkpoint at the end of this one."""
    other = signed({**real_state(int(rng.integers(5, 50))), "format_version": FORMAT_VERSION})
    return good[: good.rindex(LABEL)] + other[other.rindex(LABEL) :]


# How often each is made: two hundred with those of strangers().
DAMAGES: dict[Callable[[bytes, np.random.Generator], bytes], int] = {
    cut: 25,
    cut_near_the_end: 10,
    flip: 45,
    flip_near_the_end: 15,
    zeros: 15,
    nans: 10,
    piece_lost: 10,
    more_at_the_end: 6,
    swapped_tensors: 12,
    swapped_in_place: 12,
    zipped_anew: 4,
    comment_of_another: 4,
}


def strangers(marker: Path) -> dict[str, bytes | None]:
    """Return files that dwiml never wrote; those that end in a right digest come as far as a file can."""
    good = {**real_state(2), "format_version": FORMAT_VERSION}
    trap = RunsCode(marker)
    missing = {key: value for key, value in good.items() if key != "optimizer"}
    pickled = pickle.dumps(trap)
    archive = {f"archive/{name}": text for name, text in (("data.pkl", pickled), ("version", b"3\n"))}
    contents = {
        "code alone": trap,
        "code in the model": {**good, "model": trap},
        "code deep inside": {**good, "loggers": {"local": {"lines": [trap]}}},
        "code as a key": {**good, "loggers": {(1, "a"): trap}},
        "a class": {**good, "best": Harmless()},
        "a module": torch.nn.Linear(2, 2),
        "a function": {**good, "best": {"value": os.system}},
        "numpy": {**good, "best": {"value": np.zeros(2)}},
        "missing key": missing,
        "missing and unknown": {**missing, "optimiser": {}},
        "unknown key": {**good, "extra\nline": 1},
        "a key of another kind": {**good, 7: 1},
        "no version": {key: value for key, value in good.items() if key != "format_version"},
        "other version": {**good, "format_version": 1},
        "NaN as version": {**good, "format_version": float("nan")},
        "tensor as version": {**good, "format_version": torch.ones(2)},
        "list as model": {**good, "model": [1, 2]},
        "text as optimizer": {**good, "optimizer": "text"},
        "None as loggers": {**good, "loggers": None},
        "a list": [good],
        "a tensor": torch.zeros(3),
        "nothing": None,
    }
    files: dict[str, bytes | None] = {f"signed: {name}": signed(content) for name, content in contents.items()}
    old = {**good, "format_version": 1}
    return files | {
        "unsigned: code": saved(contents["code in the model"]),
        "unsigned: older version": saved(old),
        "unsigned: oldest format": saved_in_the_oldest_format(contents["code in the model"]),
        "a pickle": pickled,
        "a pickle with a label": pickled + LABEL + b"0" * 64,
        "a pickle in a zip": zipped(archive),
        "a zip": zipped({"a.txt": b"hello"}),
        "empty": b"",
        "text": b"hello\n" * 100,
        "a folder": None,
    }


def saved_in_the_oldest_format(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def all_damaged(good: bytes, marker: Path) -> dict[str, bytes | None]:
    rng = np.random.default_rng(SEED)
    made = {f"{damage.__name__} {i}": damage(good, rng) for damage, times in DAMAGES.items() for i in range(times)}
    return {**made, **strangers(marker)}


@pytest.mark.slow
def test_two_hundred_damaged_checkpoints(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    marker, source = tmp_path / "code was run", tmp_path / "source"
    source.mkdir()
    for epoch in (1, 2):
        save_checkpoint(source, real_state(epoch))
    good, previous = (source / "latest.pt").read_bytes(), source / "previous.pt"
    damaged = all_damaged(good, marker)
    assert len(damaged) == 200
    for number, (name, content) in enumerate(damaged.items()):
        assert content != good, name
        folder = tmp_path / str(number)
        put(folder, content)
        with pytest.raises(ValueError, match="latest.pt'") as caught:
            load_checkpoint(folder)
        sentence = str(caught.value)
        assert sentence.startswith("Checkpoint '"), name
        assert sentence.endswith("."), name
        assert "\n" not in sentence, name
        assert len(sentence) - len(str(folder)) < 300, name
        assert os.listdir(folder) == ["latest.pt"], name

        shutil.copy(previous, folder / "previous.pt")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            loaded = load_checkpoint(folder)
        assert loaded["best"] == {"value": 0.25, "epoch": 1}, name
        (record,) = caplog.records
        assert sentence.removesuffix(". Restore a copy of it, or start another experiment.") in record.message, name
        assert sorted(os.listdir(folder)) == ["damaged.pt", "previous.pt"], name
        assert not marker.exists(), name
        shutil.rmtree(folder)


def put(folder: Path, content: bytes | None) -> None:
    """Make a folder with this as its latest checkpoint; None for a folder in its place."""
    folder.mkdir()
    if content is None:
        (folder / "latest.pt").mkdir()
    else:
        (folder / "latest.pt").write_bytes(content)


def test_the_trap_works(tmp_path: Path) -> None:
    marker = tmp_path / "code was run"
    pickle.loads(pickle.dumps(RunsCode(marker)))
    assert marker.exists()


def test_torch_alone_would_not_notice(tmp_path: Path) -> None:
    """Exchanged tensors load without a word when the digest is not looked at: it is what finds them."""
    good = signed({**real_state(2), "format_version": FORMAT_VERSION})
    rng = np.random.default_rng(SEED)
    for damage in (swapped_tensors, swapped_in_place):
        assert torch.load(io.BytesIO(damage(good, rng)), weights_only=True).keys() == KEYS


@pytest.mark.parametrize(
    ("place", "change"),
    [(0, b"PK\3\4"), (-30, b"\1"), (-12, b"\1"), (-50, b"\1"), (-58, b"\1"), (-66, b"\1"), (-42, b"QK")],
    ids=["before", "place of the record", "short number", "start", "size", "number", "no locator"],
)
def test_a_directory_that_readers_would_look_for_elsewhere(place: int, change: bytes, tmp_path: Path) -> None:
    """With a right digest: zipfile accepts bytes before an archive, for instance, and torch's reader does not."""
    good = saved({**real_state(1), "format_version": FORMAT_VERSION})
    end = len(good) + place
    content = change + good if place == 0 else good[:end] + change + good[end + len(change) :]
    (tmp_path / "latest.pt").write_bytes(
        content[:-2] + (88).to_bytes(2, "little") + LABEL + hashlib.sha256(content).hexdigest().encode()
    )
    with pytest.raises(ValueError, match=r"\(a damaged archive\)"):
        load_checkpoint(tmp_path)


@pytest.mark.slow
def test_a_bit_of_every_byte(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {**real_state(1), "model": {"bias": torch.ones(2)}, "optimizer": {}})
    path = tmp_path / "latest.pt"
    good = path.read_bytes()
    for place in range(len(good)):
        content = bytearray(good)
        content[place] ^= 1 << (place % 8)
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            load_checkpoint(tmp_path)
