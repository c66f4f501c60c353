"""The log of batches: what its lines say, also after a stop, and whatever happens to the file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import batch_logs, interrupt, logs, small_trainer
from small_transformers import SMALL_OF
from tests_support import write_hdf5

from dwiml import Logger, TransformerSrcOnlyModel
from dwiml.training.experiment.fitting import check_monitors
from dwiml.training.reporting.events import read_events
from dwiml.training.reporting.loggers import batches as module
from dwiml.training.reporting.loggers.batches import BatchLog, check_batches_state, read_batches, records_after
from dwiml.training.reporting.memory import peak_bytes, peak_memory
from dwiml.training.reporting.monitors import PhaseMonitor


class Keeper(Logger):
    """Keeps the records that it gets."""

    def __init__(self) -> None:
        self.records: list[Mapping[str, float]] = []

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        pass

    def log_batches(self, records: Sequence[Mapping[str, float]]) -> None:
        self.records += records


def path_in(folder: Path) -> Path:
    return folder / "logs" / "batches.jsonl"


def record(step: int, **more: float) -> dict[str, float]:
    return {"epoch": (step - 1) // 4, "batch": (step - 1) % 4, "step": step, "train_loss": 1 / step, **more}


def some_lines(folder: Path, steps: Sequence[int]) -> BatchLog:
    log = BatchLog(folder)
    for step in steps:
        log.log_batches([record(step)])
    return log


def train(path: Path, folder: Path, name: str, every: int | None, **options: Any) -> list[Mapping[str, float]]:
    keeper = Keeper()
    trainer = small_trainer(path, folder, name, log_batches=every, loggers=[keeper], **options)
    trainer.train_and_validate()
    return keeper.records


def test_a_line_has_the_means_of_the_batches_since_the_one_before(tiny_hdf5: Path, tmp_path: Path) -> None:
    # An epoch has 4 batches.
    each = train(tiny_hdf5, tmp_path, "each", 1, max_epochs=2, clip_grad=None)
    assert [(line["epoch"], line["batch"], line["step"]) for line in each] == [
        (step // 4, step % 4, step + 1) for step in range(8)
    ]
    by_three = batch_logs(tmp_path / "each")
    assert by_three == [{k: v for k, v in line.items() if not k.endswith("_s")} for line in each]
    three = train(tiny_hdf5, tmp_path, "three", 3, max_epochs=2, clip_grad=None)
    assert [(line["epoch"], line["batch"], line["step"]) for line in three] == [
        (0, 2, 3),
        (0, 3, 4),
        (1, 2, 7),
        (1, 3, 8),
    ]
    for line, (first, last) in zip(three, [(0, 3), (3, 4), (4, 7), (7, 8)], strict=True):
        assert line["grad_norm"] == pytest.approx(np.mean([part["grad_norm"] for part in each[first:last]]), rel=1e-6)
        own = [part["train_loss"] for part in each[first:last]]
        assert min(own) <= line["train_loss"] <= max(own)
        assert line["points_per_s"] > 0 < line["duration_s"]
        assert line["learning_rate"] == 0.01
    epochs = logs(tmp_path / "three")
    assert [line["train_loss"] for line in epochs] == [line["train_loss"] for line in logs(tmp_path / "each")]


def test_one_line_for_an_epoch_is_that_of_the_epoch(tiny_hdf5: Path, tmp_path: Path) -> None:
    lines = train(tiny_hdf5, tmp_path, "exp", 100, max_epochs=2, clip_grad=None)
    for line, epoch in zip(lines, logs(tmp_path / "exp"), strict=True):
        assert line["train_loss"] == pytest.approx(epoch["train_loss"], rel=1e-12)
        assert line["grad_norm"] == pytest.approx(epoch["grad_norm"], rel=1e-12)


def test_without_log_batches_there_is_no_log(tiny_hdf5: Path, tmp_path: Path) -> None:
    assert train(tiny_hdf5, tmp_path, "exp", None, max_epochs=1) == []
    assert not path_in(tmp_path / "exp").exists()
    assert all(len(values) == 0 for values in read_batches(tmp_path / "exp").values())
    with pytest.raises(ValueError, match="log_batches must be"):
        small_trainer(tiny_hdf5, tmp_path, "other", log_batches=0)


def test_the_number_may_change_when_a_run_is_resumed(tiny_hdf5: Path, tmp_path: Path) -> None:
    interrupt(small_trainer(tiny_hdf5, tmp_path, max_epochs=1), 1)
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, resume="must", log_batches=1).train_and_validate()
    assert [line["batch"] for line in batch_logs(tmp_path / "exp")] == [2, 3]


@pytest.mark.parametrize("sizes", [(3, 2), (2, 100), (100, 3), (3, None, 2), (None, 1), (1, None, 1)])
def test_each_batch_is_in_one_line_whatever_the_numbers(
    tiny_hdf5: Path, tmp_path: Path, sizes: tuple[int | None, ...]
) -> None:
    train(tiny_hdf5, tmp_path, "whole", 1, max_epochs=3)
    whole = batch_logs(tmp_path / "whole")
    nb_of_epoch = 1 + max(int(line["batch"]) for line in whole)
    assert nb_of_epoch >= 4
    for i, size in enumerate(sizes):
        trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=3, log_batches=size, resume="auto")
        if i < len(sizes) - 1:
            # Inside a window.
            interrupt(trainer, 2 + i)
        else:
            trainer.train_and_validate()
    lines = batch_logs(tmp_path / "exp")
    places = [(line["epoch"], line["batch"]) for line in lines]
    assert places == sorted(set(places))
    # The number of batches so far, also after batches of which there is no line.
    assert [line["step"] for line in lines] == [epoch * nb_of_epoch + batch + 1 for epoch, batch in places]
    assert places[-1] == (2, nb_of_epoch - 1)
    if None not in sizes:
        losses = [line["train_loss"] for line in whole]
        firsts = [0, *(line["step"] for line in lines[:-1])]
        for first, line in zip(firsts, lines, strict=True):
            window = losses[first : line["step"]]
            assert min(window) * (1 - 1e-6) <= line["train_loss"] <= max(window) * (1 + 1e-6)


def test_a_skipped_batch_has_no_loss(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, log_batches=1, nan_policy="skip")
    run, seen = trainer.run_one_batch, []

    def with_nan(*batch: Any) -> tuple[torch.Tensor, int]:
        loss, n = run(*batch)
        seen.append(n)
        return (loss * float("nan") if len(seen) == 2 else loss), n

    trainer.run_one_batch = with_nan  # type: ignore[method-assign]
    trainer.train_and_validate()
    assert ["train_loss" in line for line in batch_logs(tmp_path / "exp")] == [True, False, True, True]


def test_a_state_cuts_the_file_back(tmp_path: Path) -> None:
    log = some_lines(tmp_path, [1, 2, 3])
    state = json.loads(json.dumps(log.state_dict()))
    before = path_in(tmp_path).read_bytes()
    some_more = [record(4), record(5)]
    log.log_batches(some_more)
    log.close()
    resumed = BatchLog(tmp_path)
    resumed.load_state_dict(state)
    assert path_in(tmp_path).read_bytes() == before
    assert resumed.step == 3
    resumed.log_batches(some_more)
    assert [json.loads(line)["step"] for line in path_in(tmp_path).read_text().splitlines()] == [1, 2, 3, 4, 5]
    assert resumed.state_dict() == log.state_dict()


def test_what_a_training_without_a_checkpoint_has_left_is_removed(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    path = path_in(tmp_path / "exp")
    expected = batch_logs(tmp_path / "exp")
    for name in ("checkpoint", "best_model"):
        shutil.rmtree(tmp_path / "exp" / name)
    path.write_text(json.dumps(record(9)) + "\n")
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, resume="auto").train_and_validate()
    assert batch_logs(tmp_path / "exp") == expected


def test_a_process_that_lost_its_experiment_writes_nothing(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, log_batches=1)
    run, seen = trainer.run_one_batch, []

    def run_and_lose(*batch: Any) -> Any:
        seen.append(1)
        if len(seen) == 2:
            (tmp_path / "exp/lock.json").unlink()
        return run(*batch)

    trainer.run_one_batch = run_and_lose  # type: ignore[method-assign]
    with pytest.raises(OSError, match="was deleted, replaced or damaged"):
        trainer.train_and_validate()
    assert len(read_batches(tmp_path / "exp")["step"]) < 2
    assert [event["event"] for event in read_events(tmp_path / "exp")] == ["start"]


@pytest.mark.parametrize("kind", ["deleted", "shorter", "changed", "half a line", "other name"])
def test_whatever_happened_to_the_file_no_batch_is_there_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    log = some_lines(tmp_path, [1, 2, 3])
    state, path = log.state_dict(), path_in(tmp_path)
    log.log_batches([record(4)])
    content = path.read_bytes()
    kept = [1, 2, 3]
    if kind == "deleted":
        path.unlink()
        kept = []
    elif kind == "shorter":
        path.write_bytes(content[:70])
        kept = [1]
    elif kind == "changed":
        path.write_bytes(content.replace(b"0.5", b"0.6"))
    elif kind == "half a line":
        path.write_bytes(content[:-5])
    else:
        os.link(path, tmp_path / "backup")
    resumed = BatchLog(tmp_path)
    resumed.load_state_dict(state)
    resumed.log_batches([record(4)])
    assert read_batches(tmp_path)["step"].tolist() == [*kept, 4]
    assert ("has changed since the checkpoint" in caplog.text) == (kind in ("deleted", "shorter", "changed"))
    if kind == "other name":
        assert (tmp_path / "backup").read_bytes() == content


def test_a_file_that_changes_during_the_run_keeps_whole_lines(tmp_path: Path) -> None:
    log = some_lines(tmp_path, [1, 2])
    with path_in(tmp_path).open("ab") as stream:
        stream.write(b'{"epoch": 0, "ba')
    log.log_batches([record(3)])
    assert read_batches(tmp_path)["step"].tolist() == [1, 2, 3]
    path_in(tmp_path).unlink()
    log.log_batches([record(4)])
    assert read_batches(tmp_path)["step"].tolist() == [4]


def test_lines_wait_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = some_lines(tmp_path, [1])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dwiml.training.reporting.loggers.lines_file._append_to", full)
        log.log_batches([record(2)])
        log.log_batches([record(3)])
        assert caplog.text.count("cannot be written") == 1
        state = log.state_dict()
        assert [json.loads(line)["step"] for line in state["pending"]] == [2, 3]
    resumed = BatchLog(tmp_path)
    resumed.load_state_dict(state)
    assert read_batches(tmp_path)["step"].tolist() == [1, 2, 3]
    log.close()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_a_regular_file_is_written(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    path = path_in(tmp_path)
    path.parent.mkdir()
    (tmp_path / "mine").write_text("mine")
    if kind == "link":
        path.symlink_to(tmp_path / "mine")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    log = some_lines(tmp_path, [1])
    assert "cannot be written" in caplog.text
    assert (tmp_path / "mine").read_text() == "mine"
    log.close()
    assert "ends without its last 1 line." in caplog.text


@pytest.mark.parametrize(
    "state",
    [
        None,
        {"size": 0},
        {"size": -1, "sha256": "", "step": 0, "pending": []},
        {"size": 0, "sha256": 3, "step": 0, "pending": []},
        {"size": 0, "sha256": "", "step": -1, "pending": []},
        {"size": 0, "sha256": "", "step": 0, "pending": ["{}"]},
        {"size": 0, "sha256": "", "step": 0, "pending": ['{"epoch": 0,\n"batch": 0, "step": 1}']},
        {"size": 0, "sha256": "", "step": 0, "pending": ["[" * 100_000]},
    ],
)
def test_a_state_from_a_stranger_is_checked(state: Any) -> None:
    with pytest.raises(ValueError, match="log of batches"):
        check_batches_state(state)


def test_the_columns_are_those_of_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    log = BatchLog(tmp_path)
    log.log_batches([record(5, angle=2.0), record(1), record(2), record(3), record(3, angle=7.0), record(4)])
    with path_in(tmp_path).open("ab") as stream:
        stream.write(b'{"epoch": 9, "batch": 0, "st')
    columns = read_batches(tmp_path)
    assert columns["step"].tolist() == [1, 2, 3, 4, 5]
    assert columns["batch"].tolist() == [0, 1, 2, 3, 0]
    np.testing.assert_array_equal(columns["angle"], [np.nan, np.nan, 7.0, np.nan, 2.0])
    assert records_after(tmp_path, 4) == [record(5, angle=2.0)]


@pytest.mark.parametrize(
    "line", ["7", "{", '{"epoch": 0, "batch": 1}', '{"epoch": 0, "batch": 1, "step": NaN}', '{"epoch": "a"}', "\0"]
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    some_lines(tmp_path, [1, 2])
    with path_in(tmp_path).open("a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(ValueError, match="Line 3 of .*batches.jsonl"):
        read_batches(tmp_path)


def test_a_logger_that_fails_does_not_stop_the_training(
    tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Keeper):
        def log_batches(self, records: Sequence[Mapping[str, float]]) -> None:
            raise RuntimeError("no more room")

    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, loggers=[Failing()]).train_and_validate()
    assert "Logger 'Failing' failed (RuntimeError: no more room" in caplog.text
    assert len(batch_logs(tmp_path / "exp")) == 1


def test_the_share_of_padding_and_the_memory_are_in_the_log_of_epochs(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 40}, {"sub-b": 10})
    options: dict[str, Any] = {"model_class": TransformerSrcOnlyModel, "model_args": SMALL_OF["src-only"]}
    trainer = small_trainer(path, tmp_path, max_epochs=1, **options)
    shares: list[tuple[int, int]] = []
    take = trainer.model.take_padding

    def taken() -> tuple[int, int]:
        shares.append(take())
        return shares[-1]

    trainer.model.take_padding = taken  # type: ignore[method-assign]
    # As a tracking phase does, whose rows are not those of a batch.
    trainer.model.count_padding(1, 1000)
    trainer.train_and_validate()
    (line,) = logs(tmp_path / "exp", durations=True)
    assert shares[0] == (1, 1000)
    rows, places = np.array(shares[1:-1]).sum(axis=0)
    assert 0 < line["train_padding_share"] < 1
    assert line["train_padding_share"] == pytest.approx(1 - rows / places, rel=1e-5)
    assert line["peak_memory_mb"] == pytest.approx(peak_bytes() / 1e6, rel=0.2)


def test_the_memory_of_a_gpu_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3_000_000)
    assert peak_memory(torch.device("cuda"))["gpu_peak_memory_mb"] == 3.0
    assert "gpu_peak_memory_mb" not in peak_memory(torch.device("cpu"))


def test_measurements_of_an_earlier_version_are_accepted() -> None:
    empty = PhaseMonitor("training", 0).state_dict(lambda own: [own])
    older = {**empty, "means": {name: mean for name, mean in empty["means"].items() if name != "padding_share"}}
    check_monitors(older, empty, 0)
    PhaseMonitor("training", 0).load_state_dict(older, device=torch.device("cpu"))
