from __future__ import annotations

import logging
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dwiml.files.tensors import write_tensors
from dwiml.training.experiment.checkpoint import (
    DICTIONARIES,
    FORMAT_VERSION,
    KEYS,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_or_warn,
)


def state(number: int) -> dict[str, Any]:
    """Return a state with all keys, known by a number."""
    values: dict[str, Any] = {key: {} if key in DICTIONARIES else None for key in KEYS - {"format_version"}}
    return {**values, "model": {"weight": torch.full((50, 50), float(number))}}


def number_of(loaded: dict[str, Any]) -> int:
    return int(loaded["model"]["weight"][0, 0])


def save(folder: Path, *numbers: int) -> None:
    for number in numbers:
        save_checkpoint(folder, state(number))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def signed(folder: Path, content: Any) -> None:
    """Write ``latest.pt`` with a right digest, but whatever content."""
    with (folder / "latest.pt").open("wb") as stream:
        write_tensors(content, stream, kind="checkpoint")


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    assert names(tmp_path) == ["latest.pt", "previous.pt"]
    assert number_of(load_checkpoint(tmp_path)) == 3
    (tmp_path / "latest.pt").unlink()
    assert number_of(load_checkpoint(tmp_path)) == 2
    assert names(tmp_path) == ["previous.pt"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("step", ["fsync 1", "link 1", "replace 1", "replace 2"])
def test_killed_at_any_step_the_last_one_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, links: bool
) -> None:
    save(tmp_path, 1, 2)
    name, turn = step.split()
    real, calls = getattr(os, name), []

    def stop(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        if len(calls) == int(turn):
            # A kill cleans nothing up.
            monkeypatch.setattr(os, "unlink", lambda *args, **kwargs: None)
            raise KeyboardInterrupt
        real(*args, **kwargs)

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, name, stop)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 3)
    monkeypatch.undo()
    assert has_checkpoint(tmp_path)
    assert number_of(load_checkpoint(tmp_path)) == 2
    save(tmp_path, 3)
    assert number_of(load_checkpoint(tmp_path)) == 3
    (tmp_path / "latest.pt").unlink()
    assert number_of(load_checkpoint(tmp_path)) == 2


def refuse(*args: Any) -> None:
    raise PermissionError("no links here")


def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse)
    save(tmp_path, 1, 2, 3)
    assert names(tmp_path) == ["latest.pt", "previous.pt"]
    (tmp_path / "latest.pt").unlink()
    assert number_of(load_checkpoint(tmp_path)) == 2


def test_two_names_of_one_file_leave_nothing_aside(tmp_path: Path) -> None:
    save(tmp_path, 1)
    os.link(tmp_path / "latest.pt", tmp_path / "previous.pt")
    save(tmp_path, 2)
    assert names(tmp_path) == ["latest.pt", "previous.pt"]
    assert number_of(load_checkpoint(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "text"])
def test_a_damaged_one_is_named_and_the_previous_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    save(tmp_path, 1, 2)
    latest = tmp_path / "latest.pt"
    content = latest.read_bytes()
    rng = np.random.default_rng(0)
    latest.write_bytes(
        {"cut": content[: len(content) // 2], "empty": b"", "noise": rng.bytes(4000), "text": b"hello"}[damage]
    )
    with caplog.at_level(logging.WARNING):
        assert number_of(load_checkpoint(tmp_path)) == 1
    (record,) = caplog.records
    assert f"'{latest}' is damaged" in record.message
    assert (
        f"It is now '{tmp_path / 'damaged.pt'}'. Resuming from the previous one, '{tmp_path / 'previous.pt'}'"
        in record.message
    )
    # Stopped while the next one takes over: the good one must still be there.
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert number_of(load_checkpoint(tmp_path)) == 1


def test_reading_a_damaged_one_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 1, 2)
    latest = tmp_path / "latest.pt"
    latest.write_bytes(latest.read_bytes()[:500])
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    with caplog.at_level(logging.WARNING):
        assert number_of(load_checkpoint(tmp_path, resuming=False)) == 1
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    (record,) = caplog.records
    assert record.message.endswith(f". Loaded instead: the previous one, '{tmp_path / 'previous.pt'}'.")
    assert f"'{latest}' is damaged" in record.message
    with pytest.raises(FileNotFoundError, match=r"^No checkpoint in '.*none'\.$"):
        load_checkpoint(tmp_path / "none", resuming=False)


def interrupt(*args: Any) -> None:
    raise KeyboardInterrupt


def test_both_damaged_are_both_named_in_one_sentence(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for name in names(tmp_path):
        content = bytearray((tmp_path / name).read_bytes())
        content[5000] ^= 1
        (tmp_path / name).write_bytes(content)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    with pytest.raises(ValueError, match=r"latest.pt' is damaged: [^.]*; Checkpoint '.*previous.pt' is damaged: "):
        load_checkpoint(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_torch_and_unzip_read_the_file_as_it_is(tmp_path: Path) -> None:
    save(tmp_path, 4)
    path = tmp_path / "latest.pt"
    for mapped in (False, True):
        by_hand = torch.load(path, weights_only=True, mmap=mapped)
        assert by_hand["format_version"] == FORMAT_VERSION
        assert number_of(by_hand) == 4
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"dwiml checkpoint sha256:")
    torch.save(by_hand, tmp_path / "plain.pt")
    assert path.stat().st_size - (tmp_path / "plain.pt").stat().st_size < 1000


def test_every_kind_of_value_comes_back(tmp_path: Path) -> None:
    weights = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(weights.parameters())
    weights(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = {
        **state(1),
        "model": weights.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": {"value": float("inf"), "epoch": None, "names": ("a", "b"), "flags": [True, 2**70, "é\n"]},
    }
    save_checkpoint(tmp_path, saved)
    loaded = load_checkpoint(tmp_path)
    assert isinstance(loaded["model"], OrderedDict)
    assert loaded["best"] == saved["best"]
    weights.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    assert torch.equal(loaded["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


class Foreign:
    pass


@pytest.mark.parametrize("value", [np.float64(2), {"a": [np.zeros(3)]}, Foreign(), torch.nn.Linear(1, 1), print])
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, value: Any) -> None:
    save(tmp_path, 1)
    key = min(KEYS - DICTIONARIES - {"format_version"})
    with pytest.raises(ValueError, match=f"^The new checkpoint cannot be saved .'{key}' -> .*: a state may hold only"):
        save_checkpoint(tmp_path, {**state(2), key: value})
    assert names(tmp_path) == ["latest.pt"]
    assert number_of(load_checkpoint(tmp_path)) == 1


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (os.environ["DWIML_TEST_TRAP"],))


@pytest.mark.parametrize("form", ["pickle", "torch", "signed"])
def test_a_crafted_one_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    trap = tmp_path / "trap"
    monkeypatch.setenv("DWIML_TEST_TRAP", str(trap))
    path = tmp_path / "latest.pt"
    content = {**state(1), "format_version": FORMAT_VERSION, "model": RunsCode()}
    if form == "signed":
        signed(tmp_path, content)
    elif form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    message = {"pickle": "does not end with a digest"}.get(form, "holds other objects than plain values and tensors")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path)
    assert not trap.exists()


def test_missing_and_unknown_keys_are_named(tmp_path: Path) -> None:
    content = {**state(1), "format_version": FORMAT_VERSION, "extra": 1, "two\nlines": 2, 3: 3}
    del content["optimizer"]
    signed(tmp_path, content)
    with pytest.raises(ValueError, match="missing: 'optimizer'; unknown: '3', 'extra', 'two lines'"):
        load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="^The new checkpoint has wrong keys: missing: none; unknown: 'extra'.$"):
        save_checkpoint(tmp_path, {**state(1), "extra": 1})


@pytest.mark.parametrize("value", [None, [1], "text", torch.zeros(3)])
@pytest.mark.parametrize("key", sorted(DICTIONARIES))
def test_a_key_with_another_kind_of_value_is_named(tmp_path: Path, key: str, value: Any) -> None:
    signed(tmp_path, {**state(1), "format_version": FORMAT_VERSION, key: value})
    kind = "None" if value is None else f"an object of type {type(value).__name__}"
    with pytest.raises(ValueError, match=f"must have a dictionary as '{key}', got {kind}"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds an object of type list, not the state of a training"),
        (torch.zeros(3), "holds an object of type Tensor, not the state of a training"),
        ({**state(1), "format_version": 7}, "has format version 7; this dwiml reads 3: use a newer dwiml"),
        (
            {**state(1), "format_version": torch.tensor([2, 2])},
            "a number as its format version, got an object of type Tensor",
        ),
        ({**state(1), "format_version": True}, "must have a number as its format version, got an object of type bool"),
    ],
)
def test_what_is_no_checkpoint_of_this_version(tmp_path: Path, content: Any, message: str) -> None:
    signed(tmp_path, content)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("version", [1, 2])
def test_one_of_an_older_dwiml_says_what_to_do(tmp_path: Path, version: int) -> None:
    if version == 1:
        torch.save({**state(1), "format_version": 1}, tmp_path / "latest.pt")
    else:
        signed(tmp_path, {**state(1), "format_version": 2})
    with pytest.raises(ValueError, match=rf"older dwiml \(format version {version}; this one reads 3\): finish that"):
        load_checkpoint(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        load_checkpoint(tmp_path)


def test_save_or_warn_tells_whether_it_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert save_or_warn(tmp_path, state(1)) is True
    assert number_of(load_checkpoint(tmp_path)) == 1
    assert not caplog.records
    with pytest.raises(ValueError, match="unknown: 'extra'"):
        save_or_warn(tmp_path, {**state(1), "extra": 1})
