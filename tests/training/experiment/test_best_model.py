"""The best model: on the disk, or in memory until the disk takes it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dwiml import Learn2TrackModel
from dwiml.training.experiment.best_model import BestModelKeeper

FILES = ["model_state.pt", "parameters.json"]


def a_model(seed: int) -> Learn2TrackModel:
    torch.manual_seed(seed)
    return Learn2TrackModel(nb_features=3, rnn_layer_sizes=(5, 4), nb_previous_dirs=1)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def train_on(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for each in model.parameters():
            each.add_(1.0)


def full(*args: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def disk_full(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Refuse all that is to stay on the disk, until undo()."""
    monkeypatch.setattr(os, "fsync", full)
    return monkeypatch


def test_what_is_saved_is_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, keeper = a_model(1), BestModelKeeper(tmp_path / "best_model")
    assert keeper.save(model) is True
    assert not keeper.pending
    assert keeper.retry(model) is True
    keeper.close()
    assert same(weights(Learn2TrackModel.load(tmp_path / "best_model")), weights(model))
    assert not caplog.records


def test_pending_weights_are_those_of_the_best_epoch(
    tmp_path: Path, disk_full: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, model = tmp_path / "best_model", a_model(1)
    keeper, best = BestModelKeeper(folder), weights(model)
    assert keeper.save(model) is False
    assert keeper.pending
    (record,) = caplog.records
    assert f"could not be written to '{folder}' (no space left on the disk); it is kept in memory" in record.message
    train_on(model)
    assert keeper.retry(model) is False
    assert keeper.pending
    assert os.listdir(folder) == []
    assert len(caplog.records) == 1

    disk_full.undo()
    assert keeper.retry(model) is True
    assert not keeper.pending
    assert same(weights(Learn2TrackModel.load(folder)), best)
    # Byte by byte what the model would have written.
    written = {name: (folder / name).read_bytes() for name in FILES}
    model.load_state_dict(best)
    model.save(tmp_path / "model")
    assert written["parameters.json"] == (tmp_path / "model" / "parameters.json").read_bytes()
    assert len(written["model_state.pt"]) == (tmp_path / "model" / "model_state.pt").stat().st_size


def test_a_later_best_takes_the_place_of_what_is_pending(tmp_path: Path, disk_full: pytest.MonkeyPatch) -> None:
    model, keeper = a_model(1), BestModelKeeper(tmp_path)
    for _ in range(2):
        assert keeper.save(model) is False
        train_on(model)
    second = weights(model)
    assert keeper.save(model) is False
    train_on(model)
    with pytest.MonkeyPatch.context() as patch:
        disk_full.undo()
        keeper.close()
        assert same(weights(Learn2TrackModel.load(tmp_path)), second)
        # Written at last, then better: nothing old comes back.
        patch.setattr(os, "fsync", full)
        assert keeper.save(model) is False
    train_on(model)
    assert keeper.save(model) is True
    assert not keeper.pending
    newest = weights(model)
    train_on(model)
    keeper.retry(model)
    keeper.close()
    assert same(weights(Learn2TrackModel.load(tmp_path)), newest)


@pytest.mark.parametrize("has_earlier", [True, False])
def test_close_names_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, has_earlier: bool
) -> None:
    model, keeper = a_model(1), BestModelKeeper(tmp_path)
    first = weights(model)
    if has_earlier:
        keeper.save(model)
    train_on(model)
    monkeypatch.setattr(os, "fsync", full)
    keeper.save(model)
    caplog.clear()
    keeper.close()
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert f"The best model could not be written to '{tmp_path}' (no space left on the disk)" in record.message
    assert record.message.endswith("an earlier best model is there." if has_earlier else "no earlier one is there.")
    if has_earlier:
        assert same(weights(Learn2TrackModel.load(tmp_path)), first)
    assert sorted(os.listdir(tmp_path)) == (FILES if has_earlier else [])


def test_refused_between_the_two_files_the_model_before_still_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, keeper = a_model(1), BestModelKeeper(tmp_path)
    keeper.save(model)
    first = weights(model)
    train_on(model)
    real, calls = os.fsync, []

    def full_at_the_weights(handle: int) -> None:
        calls.append(handle)
        # The first is parameters.json, the second its folder.
        if len(calls) > 2:
            full()
        real(handle)

    monkeypatch.setattr(os, "fsync", full_at_the_weights)
    assert keeper.save(model) is False
    monkeypatch.undo()
    assert json.loads((tmp_path / "parameters.json").read_text())["class"] == "Learn2TrackModel"
    assert same(weights(Learn2TrackModel.load(tmp_path)), first)


def test_errors_that_are_no_full_disk_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise ValueError("a defect")

    keeper = BestModelKeeper(tmp_path)
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(ValueError, match="a defect"):
        keeper.save(a_model(1))
    assert not keeper.pending
