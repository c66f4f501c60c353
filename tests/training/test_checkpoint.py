from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dwiml.training.checkpoint import KEYS, load_checkpoint, save_checkpoint


def state(epoch: int) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(KEYS - {"format_version"})
    return {**values, "next_epoch": epoch, "model": {"weight": torch.full((50, 50), float(epoch))}}


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        save_checkpoint(tmp_path, state(epoch))
    assert load_checkpoint(tmp_path)["next_epoch"] == 3
    (tmp_path / "latest.pt").unlink()
    assert load_checkpoint(tmp_path)["next_epoch"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["previous.pt"]


@pytest.mark.parametrize("step", ["os.link", "os.replace 1", "torch.save", "os.replace 2"])
def test_stopped_at_any_step_something_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, state(epoch))
    name, _, turn = step.partition(" ")
    owner = torch if name == "torch.save" else os
    real, calls = getattr(owner, name.split(".")[1]), []

    def stop(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        if len(calls) == int(turn or 1):
            raise KeyboardInterrupt
        real(*args, **kwargs)

    monkeypatch.setattr(owner, name.split(".")[1], stop)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, state(3))
    monkeypatch.undo()
    assert load_checkpoint(tmp_path)["next_epoch"] == 2
    save_checkpoint(tmp_path, state(3))
    assert load_checkpoint(tmp_path)["next_epoch"] == 3


def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    for epoch in (1, 2):
        save_checkpoint(tmp_path, state(epoch))
    (tmp_path / "latest.pt").unlink()
    assert load_checkpoint(tmp_path)["next_epoch"] == 1


def stop(*args: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "text"])
def test_a_damaged_one_is_named_and_the_previous_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, state(epoch))
    latest = tmp_path / "latest.pt"
    content = latest.read_bytes()
    rng = np.random.default_rng(0)
    latest.write_bytes(
        {"cut": content[: len(content) // 2], "empty": b"", "noise": rng.bytes(4000), "text": b"hello"}[damage]
    )
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(tmp_path)["next_epoch"] == 1
    assert f"'{latest}' is damaged" in caplog.text
    assert "an epoch earlier" in caplog.text
    # Stopped while the next one is written: the good one must still be there.
    monkeypatch.setattr(torch, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, state(2))
    assert load_checkpoint(tmp_path)["next_epoch"] == 1


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (os.environ["DWIML_TEST_TRAP"],))


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_crafted_one_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    trap = tmp_path / "trap"
    monkeypatch.setenv("DWIML_TEST_TRAP", str(trap))
    path = tmp_path / "latest.pt"
    with path.open("wb") as stream:
        if form == "pickle":
            pickle.dump({"model": RunsCode()}, stream)
        else:
            torch.save({**state(1), "format_version": 1, "model": RunsCode()}, stream)
    with pytest.raises(ValueError, match="holds more than plain values"):
        load_checkpoint(tmp_path)
    assert not trap.exists()


def test_missing_and_unknown_keys_are_named(tmp_path: Path) -> None:
    content = {**state(1), "format_version": 1, "extra": 1}
    del content["optimizer"]
    torch.save(content, tmp_path / "latest.pt")
    with pytest.raises(ValueError, match="missing keys: 'optimizer'; unknown: 'extra'"):
        load_checkpoint(tmp_path)


def test_other_format_version(tmp_path: Path) -> None:
    torch.save({**state(1), "format_version": 7}, tmp_path / "latest.pt")
    with pytest.raises(ValueError, match="format version 7; this dwiml reads 1"):
        load_checkpoint(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        load_checkpoint(tmp_path)
