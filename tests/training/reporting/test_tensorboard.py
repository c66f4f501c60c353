"""TensorBoard: its files are read back by TensorBoard itself; each value is there once, after kills too."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from small_training import small_trainer

from dwiml.training.reporting.loggers import TensorBoardLogger, read_metrics, tensorboard
from dwiml.training.reporting.loggers.batches import read_batches
from dwiml.training.reporting.loggers.tensorboard import check_tensorboard_state

Scalars = dict[str, list[tuple[int, float]]]


def _scalars(folder: Path) -> Scalars:
    """Return the values that TensorBoard shows, by name, with their steps."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    read.Reload()
    return {tag: [(each.step, each.value) for each in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def _line(step: int) -> dict[str, float]:
    return {"epoch": 0, "batch": step - 1, "step": step, "train_loss": 1 / step, "learning_rate": 0.01}


def test_a_training_writes_what_the_local_logs_have(tiny_hdf5: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    options: dict[str, Any] = {"tensorboard": True, "log_batches": 1}
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, **options).train_and_validate()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=3, resume="must", **options).train_and_validate()
    experiment = tmp_path / "exp"
    found = _scalars(experiment / "tensorboard")
    expected: Scalars = {}
    for record in read_metrics(experiment):
        for name, value in record.items():
            if name != "epoch":
                expected.setdefault(f"epoch/{name}", []).append((record["epoch"], pytest.approx(value, rel=1e-6)))
    batches = read_batches(experiment)
    for name in set(batches) - {"epoch", "batch", "step"}:
        values = zip(batches["step"], batches[name], strict=True)
        expected[f"batch/{name}"] = [(int(step), pytest.approx(value, rel=1e-6)) for step, value in values]
    assert len(batches["step"]) >= 3
    assert found == expected


def test_a_killed_run_leaves_no_value_twice(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    first = TensorBoardLogger(tmp_path)
    first.begin_anew()
    first.log_parameters({"trainer": {"max_epochs": 3}})
    first.log_batches([_line(1), _line(2)])
    first.log_metrics({"train_loss": 1.0}, 0)
    state = first.state_dict()
    check_tensorboard_state(state)
    # After the checkpoint, and not closed: as after a kill, with half a record.
    first.log_batches([_line(3)])
    first.log_metrics({"train_loss": 7.0}, 1)
    (file,) = (tmp_path / "tensorboard").iterdir()
    with file.open("ab") as stream:
        stream.write(b"\x18\0\0")
    # A run that was killed before its first checkpoint.
    other = TensorBoardLogger(tmp_path)
    other.load_state_dict(state)
    other.log_parameters({})
    other.log_metrics({"train_loss": 8.0}, 1)

    second = TensorBoardLogger(tmp_path)
    second.load_state_dict(state)
    second.log_parameters({})
    second.log_batches([_line(3)])
    second.log_metrics({"train_loss": 0.5}, 1)
    second.close()
    found = _scalars(tmp_path / "tensorboard")
    assert found["epoch/train_loss"] == [(0, 1.0), (1, 0.5)]
    assert [step for step, _ in found["batch/train_loss"]] == [1, 2, 3]
    assert [value for _, value in found["batch/learning_rate"]] == pytest.approx([0.01] * 3)


def test_a_new_training_removes_what_an_earlier_one_left(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for loss in (1.0, 2.0):
        log = TensorBoardLogger(tmp_path)
        log.begin_anew()
        log.log_parameters({"model": {"hidden": 4}})
        log.log_metrics({"train_loss": loss}, 0)
        log.close()
    assert _scalars(tmp_path / "tensorboard") == {"epoch/train_loss": [(0, 2.0)]}


def test_a_backup_and_other_files_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    folder.mkdir()
    name, other = "events.out.tfevents.1.host.1.0", "notes.txt"
    (folder / name).write_bytes(b"0123456789")
    (folder / other).write_text("mine")
    (tmp_path / "backup").hardlink_to(folder / name)
    log = TensorBoardLogger(tmp_path)
    log.load_state_dict({"files": {name: 4}})
    assert (tmp_path / "backup").read_bytes() == b"0123456789"
    assert (folder / name).read_bytes() == b"0123"
    log.begin_anew()
    assert [path.name for path in folder.iterdir()] == [other]


def test_files_elsewhere_are_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "events.out.tfevents.1.host.1.0").write_bytes(b"0123")
    (tmp_path / "tensorboard").symlink_to(elsewhere)
    for action in (lambda log: log.begin_anew(), lambda log: log.load_state_dict({"files": {}})):
        with pytest.raises(OSError, match="is a link"):
            action(TensorBoardLogger(tmp_path))
    assert [path.read_bytes() for path in elsewhere.iterdir()] == [b"0123"]


def test_what_earlier_runs_have_logged_is_written_too(tiny_hdf5: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for max_epochs, on in ((2, False), (3, True), (4, False), (5, True)):
        resume = "auto"
        small_trainer(tiny_hdf5, tmp_path, max_epochs=max_epochs, resume=resume, tensorboard=on).train_and_validate()
    found = _scalars(tmp_path / "exp" / "tensorboard")
    assert [step for step, _ in found["epoch/train_loss"]] == [0, 1, 2, 3, 4]
    steps = read_batches(tmp_path / "exp")["step"].tolist()
    assert [step for step, _ in found["batch/train_loss"]] == steps


@pytest.mark.parametrize(
    "state",
    [None, {"files": 1}, {"other": {}}, {"files": {"../events.out.tfevents.1": 1}}, {"files": {"notes.txt": 1}}]
    + [{"files": {"events.out.tfevents.1": size}} for size in (-1, 1.0, True, None)],
)
def test_a_state_that_is_not_one_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match="TensorBoard"):
        check_tensorboard_state(state)


def test_without_the_package_a_new_training_does_not_start(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'not installed: pip install "dwiml\[tensorboard\]"'):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=1, tensorboard=True).train_and_validate()
    assert not (tmp_path / "exp").exists()


def test_without_the_package_a_resumed_training_goes_on(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.WARNING):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=3, resume="must", tensorboard=True).train_and_validate()
    (record,) = caplog.records
    assert record.getMessage().startswith("Logger 'tensorboard' failed (ImportError: ")
    assert tensorboard.INSTALL in record.getMessage()
    assert len(read_metrics(tmp_path / "exp")) == 3
