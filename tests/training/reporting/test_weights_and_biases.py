"""Weights & Biases: offline for real (its file is read), online with a stand-in; each value is there once."""

from __future__ import annotations

import json
import logging
import os
import struct
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from small_training import small_trainer

from dwiml.training.reporting.loggers import WandbLogger, read_metrics, weights_and_biases
from dwiml.training.reporting.loggers.batches import read_batches
from dwiml.training.reporting.loggers.weights_and_biases import INSTALL, check_wandb_state

Row = dict[str, Any]

RUN = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[4].split(os.pathsep)
from small_training import small_trainer
from dwiml import DWIMLTrainerOneInput
class Killed(DWIMLTrainerOneInput):
    def run_one_batch(self, *args):
        if self.position.epoch == int(sys.argv[3]) and self.position.batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run_one_batch(*args)
"""


class FakeRun:
    """What Weights & Biases has of a run: rows by step, of which none may come again."""

    url = "https://wandb.test/team/tracts"

    def __init__(self, options: Row) -> None:
        self.options = options
        self.id = options["id"]
        self.rows: dict[int, Row] = {}
        self.axes: dict[str, Any] = {}
        self.config: list[Row] = []
        self.nb_ends = 0
        self.images: list[tuple[int, int]] = []

    @property
    def step(self) -> int:
        return max(self.rows, default=-1) + 1

    def define_metric(self, name: str, step_metric: str | None = None, step_sync: bool = True) -> None:
        assert step_metric is None or not step_sync
        self.axes[name] = step_metric

    def log(self, row: Row, *, step: int) -> None:
        if list(row) == ["curves"]:
            assert step == self.step - 1
            self.images.append(row["curves"].size)
            return
        assert step == self.step
        self.rows[step] = row

    def finish(self) -> None:
        self.nb_ends += 1


class FakeWandb(types.ModuleType):
    """A server that keeps its runs when a client dies."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: dict[str, FakeRun] = {}
        self.settings = types.SimpleNamespace(base_url="https://wandb.test", mode="online", api_key=None)

    def setup(self) -> Any:
        return types.SimpleNamespace(settings=self.settings)

    def Image(self, image: Any) -> Any:
        return image

    def Settings(self, **settings: Any) -> Row:
        return settings

    def init(self, **options: Any) -> FakeRun:
        run = self.runs.setdefault(options["id"], FakeRun(options))
        run.options = options
        return run


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr("dwiml.training.reporting.loggers.check_installed", lambda package, setting: None)
    monkeypatch.setattr(weights_and_biases, "can_reach", lambda url, timeout: True)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return module


def _expected(experiment: Path) -> list[Row]:
    """Return the rows that the local logs stand for."""
    columns = read_batches(experiment)
    rows: list[Row] = []
    for record in read_metrics(experiment):
        for i in range(len(columns["step"])):
            if columns["epoch"][i] == record["epoch"]:
                names = set(columns) - {"epoch", "batch"}
                rows.append({f"batch_{name}": columns[name][i] for name in names})
        rows.append(record)
    return rows


def test_online_each_value_is_sent_once_after_a_resume(tiny_hdf5: Path, tmp_path: Path, fake: FakeWandb) -> None:
    options: dict[str, Any] = {"wandb_project": "tracts", "wandb_entity": "team", "log_batches": 1}
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, **options).train_and_validate()
    (run,) = fake.runs.values()
    # Rows that a killed process sent after its last checkpoint.
    run.rows |= {run.step + i: {"late": i} for i in range(2)}
    nb_late = run.step
    small_trainer(tiny_hdf5, tmp_path, max_epochs=3, resume="must", **options).train_and_validate()
    assert list(fake.runs.values()) == [run]
    expected = _expected(tmp_path / "exp")
    assert list(run.rows) == list(range(len(expected)))
    assert len(expected) > nb_late
    kept = [step for step, row in run.rows.items() if "late" not in row]
    assert [run.rows[step] for step in kept] == [expected[step] for step in kept]
    assert run.options["config"]["trainer"]["max_epochs"] == 3
    assert (run.options["project"], run.options["entity"], run.options["name"]) == ("tracts", "team", "exp")
    assert (run.options["mode"], run.options["resume"], run.nb_ends) == ("online", "allow", 2)
    assert [min(size) > 300 for size in run.images] == [True, True]
    names = {name for row in expected for name in row}
    axes = {name: "batch_step" if name.startswith("batch_") else "epoch" for name in names}
    assert run.axes == {**axes, "epoch": None, "batch_step": None}


def test_what_earlier_runs_have_logged_is_sent_too(tiny_hdf5: Path, tmp_path: Path, fake: FakeWandb) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, log_batches=2).train_and_validate()
    options: dict[str, Any] = {"resume": "must", "log_batches": 2, "wandb_project": "p"}
    small_trainer(tiny_hdf5, tmp_path, max_epochs=3, **options).train_and_validate()
    (run,) = fake.runs.values()
    assert list(run.rows.values()) == _expected(tmp_path / "exp")
    # A local log that has lost a line: the rows of the server cannot be told apart, and a new run has all.
    path = tmp_path / "exp" / "logs" / "batches.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    small_trainer(tiny_hdf5, tmp_path, max_epochs=4, **options).train_and_validate()
    _, second = fake.runs.values()
    assert list(second.rows.values()) == _expected(tmp_path / "exp")


def test_a_run_of_the_script_itself_is_left_alone(
    tiny_hdf5: Path, tmp_path: Path, fake: FakeWandb, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = FakeRun({"id": "mine"})
    monkeypatch.setattr(fake, "init", lambda **options: own)
    with caplog.at_level(logging.WARNING):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=1, wandb_project="p").train_and_validate()
    assert "another run of Weights & Biases is active" in caplog.text
    assert (own.rows, own.nb_ends) == ({}, 0)


def test_a_failure_is_one_warning(
    tiny_hdf5: Path, tmp_path: Path, fake: FakeWandb, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: FakeRun, row: Row, *, step: int) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(FakeRun, "log", fail)
    with caplog.at_level(logging.WARNING):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=2, wandb_project="p").train_and_validate()
    (record,) = caplog.records
    assert record.getMessage().startswith("Logger 'wandb' failed (ConnectionError: gone")
    assert len(read_metrics(tmp_path / "exp")) == 2


def test_why_it_is_offline(fake: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason() -> str:
        return weights_and_biases._why_offline(fake.settings)

    assert reason() == ""
    monkeypatch.setattr(weights_and_biases, "can_reach", lambda url, timeout: False)
    assert reason() == "https://wandb.test cannot be reached"
    monkeypatch.delenv("WANDB_API_KEY")
    logins = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(logins))
    assert reason().startswith("no API key is configured")
    logins.write_text("machine wandb.test\n  login user\n  password 0000\n")
    logins.chmod(0o600)
    assert reason() == "https://wandb.test cannot be reached"
    logins.unlink()
    fake.settings.api_key = "0" * 40
    assert reason() == "https://wandb.test cannot be reached"
    fake.settings.mode = "offline"
    assert reason().startswith("its mode is offline")
    fake.settings.mode = "disabled"
    with pytest.raises(RuntimeError, match="disabled"):
        reason()


@pytest.mark.parametrize(
    "state",
    [None, [], {"id": "../x", "rows": 1}, {"id": "A" * 32, "rows": 1}, {"id": "a" * 32, "rows": -1}, {"id": "a" * 32}],
)
def test_a_state_that_is_not_one_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match="Weights & Biases"):
        check_wandb_state(state)
    check_wandb_state(WandbLogger("p", None, "folder").state_dict())


def test_without_the_package_a_new_training_does_not_start(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="wandb_project needs the package wandb") as caught:
        small_trainer(tiny_hdf5, tmp_path, max_epochs=1, wandb_project="p").train_and_validate()
    assert INSTALL in str(caught.value)
    assert not (tmp_path / "exp").exists()


def _rows_of_file(path: Path) -> tuple[Row, list[Row]]:
    """Return the parameters and the rows of a file of Weights & Biases: blocks of 32 KiB of a LevelDB log."""
    from wandb.proto import wandb_internal_pb2

    raw, position, part = path.read_bytes(), 7, b""
    config: Row = {}
    rows: list[Row] = []
    while position + 7 <= len(raw):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", raw[position : position + 7])
        part += raw[position + 7 : position + 7 + size]
        position += 7 + size
        if kind not in (1, 4):
            continue
        record, part = wandb_internal_pb2.Record(), b"" if (whole := part) else part
        record.ParseFromString(whole)
        if record.WhichOneof("record_type") == "run":
            config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.WhichOneof("record_type") == "history":
            row = {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
            assert row["_step"] == len(rows)
            rows.append({name: value for name, value in row.items() if not name.startswith("_")})
    return config, rows


@pytest.mark.slow
def test_offline_for_real_with_a_kill_and_a_resume(tiny_hdf5: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    code = RUN + (
        f"trainer = small_trainer(Path({str(tiny_hdf5)!r}), Path(sys.argv[1]), max_epochs=int(sys.argv[2]), "
        "resume='auto', wandb_project='tracts', log_batches=1, verbose=True, trainer_class=Killed)\n"
        "trainer.train_and_validate()\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "WANDB_ERROR_REPORTING": "false"}

    def train(max_epochs: int, killed_in: int) -> subprocess.CompletedProcess[str]:
        words = [str(tmp_path), str(max_epochs), str(killed_in), os.pathsep.join(sys.path)]
        command = [sys.executable, "-c", code, *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    killed = train(3, killed_in=2)
    assert killed.returncode == -9, killed.stderr
    ended = train(3, killed_in=-1)
    assert ended.returncode == 0, ended.stderr
    experiment = tmp_path / "exp"
    (folder,) = (experiment / "wandb").glob("offline-run-*")
    assert f"run: wandb sync {folder}" in ended.stderr
    (file,) = folder.glob("*.wandb")
    config, rows = _rows_of_file(file)
    assert config["trainer"]["max_epochs"] == 3
    curves = [name for name in rows[-1] if name.startswith("curves/")]
    assert "curves/path" in curves
    rows[-1] = {name: value for name, value in rows[-1].items() if name not in curves}
    assert rows == [pytest.approx(row) for row in _expected(experiment)]
