"""The local log: whole lines, finite numbers, a state that agrees with the file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dwiml.training.reporting.loggers import CometLogger, LocalLogger, build_loggers, check_logger_states, read_metrics
from dwiml.training.settings import TrainerSettings


def _path(folder: Path) -> Path:
    return folder / "logs" / "metrics.jsonl"


def _all_lines(log: LocalLogger) -> list[str]:
    """Return what a run that is resumed from the log's state would have: what is in the file, then what waits."""
    state = log.state_dict()
    content = log.path.read_bytes()[: state["size"]] if log.path.exists() else b""
    assert hashlib.sha256(content).hexdigest() == state["sha256"]
    return [*content.decode().split("\n")[:-1], *state["pending"]]


def test_each_epoch_is_a_line_of_plain_json(tmp_path: Path) -> None:
    log = LocalLogger(tmp_path)
    log.log_parameters({"trainer": {"max_epochs": 2}})
    log.log_metrics({"train_loss": 0.5, "valid_loss": 1}, 0)
    log.log_metrics({"train_loss": 0.25}, 1)
    assert log.close() is None
    lines = _path(tmp_path).read_text().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [
        {"epoch": 0, "train_loss": 0.5, "valid_loss": 1},
        {"epoch": 1, "train_loss": 0.25},
    ]
    assert lines[-1] == ""


def test_numpy_and_torch_numbers_are_converted(tmp_path: Path) -> None:
    values = {
        "a": np.float32(0.5),
        "b": np.int64(3),
        "c": torch.tensor(0.25),
        "d": np.array([0.125]),
        "e": torch.tensor(2.0, requires_grad=True),
    }
    LocalLogger(tmp_path).log_metrics(values, np.int64(4))
    (line,) = _path(tmp_path).read_text().splitlines()
    assert json.loads(line) == {"epoch": 4, "a": 0.5, "b": 3, "c": 0.25, "d": 0.125, "e": 2.0}


@pytest.mark.parametrize(
    ("metrics", "epoch", "message"),
    [
        ({"train_loss": float("nan")}, 2, "Metric 'train_loss' of epoch 2 must be finite, got nan"),
        ({"ok": 1.0, "valid_loss": torch.tensor(float("inf"))}, 0, "'valid_loss' of epoch 0 must be finite, got inf"),
        ({"valid_loss": np.float32("-inf")}, 0, "must be finite, got -inf"),
        ({"loss": "0.5"}, 0, "must be a single number, got '0.5'"),
        ({"loss": None}, 0, "must be a single number, got None"),
        ({"loss": True}, 0, "must be a single number, got True"),
        ({"loss": np.zeros(2)}, 0, "must be a single number"),
        ({"epoch": 1}, 0, "cannot be called 'epoch'"),
        ({"loss": 0.5}, -1, "0 or more, got -1"),
        ({"loss": 0.5}, 0.5, "must be an integer, 0 or more, got 0.5"),
    ],
)
def test_what_is_no_finite_number_is_refused_and_nothing_is_written(
    tmp_path: Path, metrics: dict[str, object], epoch: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LocalLogger(tmp_path).log_metrics(metrics, epoch)  # type: ignore[arg-type]
    assert not _path(tmp_path).exists()


def test_state_brings_the_file_back_byte_by_byte(tmp_path: Path) -> None:
    log = LocalLogger(tmp_path)
    assert log.state_dict() == {
        "size": 0,
        "sha256": hashlib.sha256(b"").hexdigest(),
        "last_epoch": None,
        "pending": [],
    }
    log.log_metrics({"train_loss": 0.1 + 0.2}, 0)
    state = json.loads(json.dumps(log.state_dict()))
    before = _path(tmp_path).read_bytes()
    log.log_metrics({"train_loss": 0.2}, 1)
    resumed = LocalLogger(tmp_path)
    resumed.load_state_dict(state)
    assert _path(tmp_path).read_bytes() == before
    assert os.listdir(_path(tmp_path).parent) == ["metrics.jsonl"]
    assert resumed.state_dict() == state
    with pytest.raises(ValueError, match="must have 'size', 'sha256', 'last_epoch' and 'pending'"):
        resumed.load_state_dict({"epoch": 3})


def test_a_state_does_not_grow_with_the_log(tmp_path: Path) -> None:
    log, sizes = LocalLogger(tmp_path), []
    for epoch in range(60):
        log.log_metrics({"train_loss": 1 / 3, "valid_loss": 2 / 3}, epoch)
        sizes.append(len(json.dumps(log.state_dict())))
    assert _path(tmp_path).stat().st_size > 3000
    assert max(sizes) - min(sizes) < 10


@pytest.mark.parametrize(
    ("damage", "how", "kept"),
    [
        (lambda path: path.unlink(), "was deleted", []),
        (lambda path: path.write_bytes(path.read_bytes()[:70]), "has become shorter", [0, 1]),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"0.5", b"0.6")), "has changed", [0, 1, 2]),
    ],
)
def test_a_log_that_was_lost_or_changed_is_told_and_the_rest_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object], how: str, kept: list[int]
) -> None:
    log = LocalLogger(tmp_path)
    for epoch in range(3):
        log.log_metrics({"train_loss": 1 / (epoch + 1)}, epoch)
    state = log.state_dict()
    for epoch in range(3, 6):
        log.log_metrics({"train_loss": 1 / (epoch + 1)}, epoch)
    damage(_path(tmp_path))
    resumed = LocalLogger(tmp_path)
    resumed.load_state_dict(state)
    (record,) = caplog.records
    assert f"metrics.jsonl' {how} since the checkpoint was written: {len(kept)} lines" in record.message
    resumed.log_metrics({"train_loss": 0.1}, 3)
    assert [line["epoch"] for line in read_metrics(tmp_path)] == [*kept, 3]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_the_log_is_never_written_through_a_link_nor_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    other, path = tmp_path / "other.txt", _path(tmp_path)
    other.write_text("mine\n")
    path.parent.mkdir()
    if kind == "link":
        path.symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    log = LocalLogger(tmp_path)
    log.log_metrics({"train_loss": 1.0}, 0)
    assert log.pending
    assert "is kept in memory" in caplog.text
    assert other.read_text() == "mine\n"


def test_a_log_with_a_second_name_does_not_grow_there(tmp_path: Path) -> None:
    log = LocalLogger(tmp_path)
    log.log_metrics({"train_loss": 1.0}, 0)
    backup = tmp_path / "backup"
    os.link(_path(tmp_path), backup)
    before = backup.read_bytes()
    for epoch in (1, 2):
        log.log_metrics({"train_loss": 1.0}, epoch)
    assert backup.read_bytes() == before
    assert [line["epoch"] for line in read_metrics(tmp_path)] == [0, 1, 2]


_GOOD = {"size": 0, "sha256": "0" * 64, "last_epoch": None, "pending": []}


@pytest.mark.parametrize(
    "changes",
    [
        {"size": -1},
        {"size": 10**12},
        {"size": True},
        {"size": torch.zeros(3)},
        {"sha256": 3},
        {"last_epoch": "2"},
        {"pending": "text"},
        {"pending": torch.zeros(1).expand(10**9)},
        {"pending": ["[1]"]},
        {"pending": ['{"epoch": 1}', '{"epoch": 1}']},
        {"pending": ['{"epoch": 1}\n{"epoch": 2}']},
        {"pending": ['{"epoch": "1"}']},
        {"lines": []},
    ],
)
def test_a_stranger_s_state_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="The local log's"):
        check_logger_states({"local": {**_GOOD, **changes}})


def test_a_log_that_cannot_be_read_stops_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LocalLogger(tmp_path)
    log.log_metrics({"train_loss": 0.5}, 0)

    def refused(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("dwiml.training.reporting.loggers.local.open_regular", refused)
        log.log_metrics({"train_loss": 0.25}, 1)
        state = log.state_dict()
    again = LocalLogger(tmp_path)
    again.load_state_dict(state)
    assert [(line["epoch"], line["train_loss"]) for line in read_metrics(tmp_path)] == [(0, 0.5), (1, 0.25)]


@pytest.mark.parametrize("key", ["../../../secret", "*" * 32, "a", 3, "a" * 51])
def test_a_stranger_s_key_of_comet_names_no_file_of_the_user_s(key: object) -> None:
    check_logger_states({"comet": {"key": "a1" * 16, "pending": [{"epoch": 0, "metrics": {"loss": 1.0}}]}})
    with pytest.raises(ValueError, match="32 to 50 letters and digits"):
        check_logger_states({"comet": {"key": key, "pending": []}})
    with pytest.raises(ValueError, match="There is no logger 'other'"):
        check_logger_states({"other": {}})


def test_an_epoch_run_again_takes_the_place_of_its_line_and_of_later_ones(tmp_path: Path) -> None:
    log = LocalLogger(tmp_path)
    for epoch in range(3):
        log.log_metrics({"train_loss": 1.0}, epoch)
    LocalLogger(tmp_path).log_metrics({"train_loss": 2.0}, 1)
    assert read_metrics(tmp_path) == [{"epoch": 0, "train_loss": 1.0}, {"epoch": 1, "train_loss": 2.0}]


def test_a_half_line_is_left_out_by_the_reader_and_replaced_by_the_logger(tmp_path: Path) -> None:
    log = LocalLogger(tmp_path)
    log.log_metrics({"train_loss": 1.0}, 0)
    with _path(tmp_path).open("a") as handle:
        handle.write('{"epoch": 1, "train_lo')
    assert read_metrics(tmp_path) == [{"epoch": 0, "train_loss": 1.0}]
    assert len(_all_lines(log)) == 1
    log.log_metrics({"train_loss": 0.5}, 1)
    assert [line["epoch"] for line in read_metrics(tmp_path)] == [0, 1]


def _cut_short(descriptor: int, data: bytes) -> int:
    return _whole_write(descriptor, data[:7])


def _full(*args: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_whole_write = os.write


@pytest.mark.parametrize(("function", "fails"), [("write", _cut_short), ("write", _full), ("fsync", _full)])
def test_lines_that_cannot_be_written_wait_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, function: str, fails: object
) -> None:
    undisturbed = LocalLogger(tmp_path / "undisturbed")
    log = LocalLogger(tmp_path)
    for epoch in range(6):
        metrics = {"train_loss": 1 / (epoch + 1)}
        undisturbed.log_metrics(metrics, epoch)
        with monkeypatch.context() as patch:
            full = epoch in (1, 2, 4)
            if full:
                before = _path(tmp_path).read_bytes()
                patch.setattr(os, function, fails)
            log.log_metrics(metrics, epoch)
        assert _all_lines(log) == _all_lines(undisturbed)
        whole = _path(tmp_path / "undisturbed").read_bytes()
        assert _path(tmp_path).read_bytes() == (before if full else whole)
    assert log.close() is None
    # One warning each time that it became full.
    assert ["epoch 1 is kept in memory" in record.message for record in caplog.records] == [True, False]
    assert "epoch 4 is kept in memory" in caplog.records[1].message


def test_close_is_the_last_try_and_says_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = LocalLogger(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", _full)
        for epoch in range(3):
            log.log_metrics({"train_loss": 1.0}, epoch)
        caplog.clear()
        assert log.close() is None
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        assert "metrics.jsonl' ends without epochs 0 to 2 (no space left on the disk)" in record.message
        assert read_metrics(tmp_path) == []
    assert log.close() is None
    assert [line["epoch"] for line in read_metrics(tmp_path)] == [0, 1, 2]


def test_a_half_line_that_cannot_be_removed_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LocalLogger(tmp_path)
    log.log_metrics({"train_loss": 1.0}, 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", _cut_short)
        patch.setattr(os, "ftruncate", _full)
        log.log_metrics({"train_loss": 2.0}, 1)
    assert not _path(tmp_path).read_bytes().endswith(b"\n")
    assert [json.loads(line)["epoch"] for line in _all_lines(log)] == [0, 1]
    log.log_metrics({"train_loss": 3.0}, 2)
    assert [json.loads(line)["train_loss"] for line in _path(tmp_path).read_text().splitlines()] == [1.0, 2.0, 3.0]


def test_an_epoch_run_again_replaces_lines_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LocalLogger(tmp_path)
    for epoch in range(3):
        log.log_metrics({"train_loss": 1.0}, epoch)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", _full)
        for epoch in (3, 4, 1, 2):
            log.log_metrics({"train_loss": 2.0}, epoch)
        assert [json.loads(line)["epoch"] for line in _all_lines(log)] == [0, 1, 2]
    log.close()
    assert [(line["epoch"], line["train_loss"]) for line in read_metrics(tmp_path)] == [(0, 1.0), (1, 2.0), (2, 2.0)]


def test_a_state_that_the_file_agrees_with_needs_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LocalLogger(tmp_path)
    log.log_metrics({"train_loss": 1.0}, 0)
    monkeypatch.setattr(os, "fsync", _full)
    LocalLogger(tmp_path).load_state_dict(log.state_dict())
    with pytest.raises(OSError, match="No space left on device.*metrics.jsonl"):
        LocalLogger(tmp_path).load_state_dict(LocalLogger(tmp_path / "new").state_dict())


def test_kill_9_never_leaves_a_half_line(tmp_path: Path) -> None:
    program = (
        "import sys; from dwiml.training.reporting.loggers import LocalLogger; log = LocalLogger(sys.argv[1])\n"
        "for epoch in range(10**9): log.log_metrics({f'metric_{i}': i / 7 for i in range(100)}, epoch)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    end = time.monotonic() + 30
    while time.monotonic() < end and not (_path(tmp_path).exists() and _path(tmp_path).stat().st_size > 50_000):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines = _path(tmp_path).read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert len(lines) >= 10
    assert [json.loads(line)["epoch"] for line in lines] == list(range(len(lines)))
    assert all(len(json.loads(line)) == 101 for line in lines)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"epoch": 1, "train', r"Line 2 of '.*metrics.jsonl' is not valid JSON"),
        ('{"epoch": 1, "train_loss": Infinity}', "JSON has no Infinity"),
        ('{"train_loss": 0.5}', "Line 2 of .* must be an object with an integer 'epoch'"),
        ('{"epoch": 0.5}', "must be an object with an integer 'epoch'"),
        ("[1]", "must be an object"),
        (f'{{"epoch": 1, "train_loss": {"9" * 401}}}', "^'train_loss' in line 2 of '.*metrics.jsonl' is too large"),
        ('{"epoch": 1, "train_loss": -1e999}', "'train_loss' in line 2 of .* is too large"),
        (f'{{"epoch": {"9" * 401}}}', "'epoch' in line 2 of .* is too large"),
    ],
)
def test_reader_names_a_broken_line_in_the_middle(tmp_path: Path, line: str, message: str) -> None:
    _path(tmp_path).parent.mkdir()
    _path(tmp_path).write_text(f'{{"epoch": 0}}\n{line}\n{{"epoch": 2}}\n')
    with pytest.raises(ValueError, match=message):
        read_metrics(tmp_path)


def test_of_an_epoch_that_is_there_twice_the_last_line_counts(tmp_path: Path) -> None:
    _path(tmp_path).parent.mkdir()
    lines = [f'{{"epoch": {epoch}, "train_loss": {loss}}}\n' for epoch, loss in enumerate((5, 4, 3))]
    _path(tmp_path).write_text("".join(lines) + '{"epoch": 0, "train_loss": 9}\n{"epoch": 1, "train_loss": 8}\n')
    assert [(each["epoch"], each["train_loss"]) for each in read_metrics(tmp_path)] == [(0, 9), (1, 8), (2, 3)]


@pytest.mark.parametrize("content", [b"\x89PNG\x00\xff", b"{\x00\x01", b"some words", b"[1]", b'{"a": 1}'])
def test_what_never_was_a_log_is_not_taken_for_one_without_epochs(tmp_path: Path, content: bytes) -> None:
    _path(tmp_path).parent.mkdir()
    _path(tmp_path).write_bytes(content)
    with pytest.raises(ValueError, match=r"^Line 1 of '.*metrics.jsonl' (is not valid JSON|must be an object)"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("content", ["", "{", '{"epoch": 0, "train_lo', '{"epoch": 0, "name": "\u00e9'])
def test_the_first_line_may_be_there_in_part(tmp_path: Path, content: str) -> None:
    _path(tmp_path).parent.mkdir()
    _path(tmp_path).write_text(content)
    assert read_metrics(tmp_path) == []


def test_reader_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="'.*nowhere' does not exist"):
        read_metrics(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no logs/metrics.jsonl"):
        read_metrics(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file, not an experiment folder"):
        read_metrics(tmp_path / "file")


def test_comet_is_there_only_when_asked_for(tmp_path: Path) -> None:
    assert [log.name for log in build_loggers(tmp_path, TrainerSettings(log_batches=None))] == ["local"]
    settings = TrainerSettings(comet_workspace="workspace", comet_project="project", tensorboard=True)
    loggers = build_loggers(tmp_path / "my_run", settings, verbose=False)
    assert [log.name for log in loggers] == ["local", "batches", "comet", "tensorboard"]
    comet = loggers[2]
    assert isinstance(comet, CometLogger)
    assert (comet.workspace, comet.project, comet.experiment_name) == ("workspace", "project", "my_run")


def test_loggers_load_neither_torch_nor_comet() -> None:
    program = (
        "import sys; from dwiml.training.reporting.loggers import CometLogger, LocalLogger\n"
        "CometLogger('w', 'p', 'e', '.')\n"
        "print([name for name in ('torch', 'comet_ml', 'matplotlib') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"
