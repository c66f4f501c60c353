"""Weights & Biases online: the real client sends a training to a stand-in server on this computer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback_server import serve
from wandb_server import WandbServer

from dwiml.training.reporting.loggers import read_metrics
from dwiml.training.reporting.loggers.batches import read_batches

pytestmark = pytest.mark.slow

Row = dict[str, Any]

# Before the second batch of an epoch, it waits, because the client sends rows every 15 seconds, and may be killed.
RUN = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[5].split(os.pathsep)
from small_training import small_trainer
from dwiml import DWIMLTrainerOneInput
class Killed(DWIMLTrainerOneInput):
    def run_one_batch(self, *args):
        if (self.position.epoch, self.position.batch) == (int(sys.argv[4]), 1):
            time.sleep(float(sys.argv[6]))
            if sys.argv[7] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        return super().run_one_batch(*args)
trainer = small_trainer(
    Path(sys.argv[1]), Path(sys.argv[2]), max_epochs=int(sys.argv[3]), resume="auto", wandb_project="tracts",
    wandb_entity="team", log_batches=1, verbose=True, trainer_class=Killed,
)
trainer.train_and_validate()
"""


@pytest.fixture
def server() -> Iterator[WandbServer]:
    pytest.importorskip("wandb")
    with serve(WandbServer()) as running:
        yield running


def _train(
    hdf5: Path,
    folder: Path,
    server: WandbServer,
    max_epochs: int,
    *,
    stops_in: int = -1,
    waits_s: float = 0,
    then: str = "",
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(folder), "OMP_NUM_THREADS": "1", **server.environment}
    words = [hdf5, folder, max_epochs, stops_in, os.pathsep.join(sys.path), waits_s, then]
    command = [sys.executable, "-c", RUN, *(str(word) for word in words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def _expected(experiment: Path) -> list[Row]:
    """Return the rows that the local logs stand for."""
    columns = read_batches(experiment)
    names = set(columns) - {"epoch", "batch"}
    rows: list[Row] = []
    for record in read_metrics(experiment):
        places = [i for i, epoch in enumerate(columns["epoch"]) if epoch == record["epoch"]]
        rows += [{f"batch_{name}": columns[name][i] for name in names} for i in places]
        rows.append(record)
    return rows


def _received(server: WandbServer) -> list[Row]:
    """Return the rows of the only run, without what the client adds, after a check of their steps."""
    (rows,) = server.rows.values()
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    return [{name: row[name] for name in row if not name.startswith("_") and name != "curves"} for row in rows]


def _equal(received: list[Row], expected: list[Row]) -> bool:
    return received == [pytest.approx(row) for row in expected]


def test_a_training_arrives_once_and_whole(tiny_hdf5: Path, tmp_path: Path, server: WandbServer) -> None:
    ended = _train(tiny_hdf5, tmp_path, server, 2)
    assert ended.returncode == 0, ended.stderr
    ((run, rows),) = server.rows.items()
    assert f"Weights & Biases shows this run at {server.address}/team/tracts/runs/{run}" in ended.stderr
    expected = _expected(tmp_path / "exp")
    assert len(expected) == 10
    assert _equal(_received(server), expected)
    assert server.config[run]["trainer"]["value"]["max_epochs"] == 2
    assert server.ends == [(run, 0)]
    assert server.files[rows[-1]["curves"]["path"]].startswith(b"\x89PNG")
    assert server.unknown == []
    # A second start of the finished training changes nothing there.
    again = _train(tiny_hdf5, tmp_path, server, 2)
    assert (again.returncode, "ignored" in again.stderr) == (0, False), again.stderr
    assert server.rows == {run: rows}


@pytest.mark.parametrize("waits_s", [0, 20])
def test_a_killed_training_is_whole_after_its_resume(
    tiny_hdf5: Path, tmp_path: Path, server: WandbServer, waits_s: float
) -> None:
    killed = _train(tiny_hdf5, tmp_path, server, 3, stops_in=2, waits_s=waits_s, then="kill")
    assert killed.returncode == -9, killed.stderr
    before = {run: [dict(row) for row in rows] for run, rows in server.rows.items()}
    ended = _train(tiny_hdf5, tmp_path, server, 3)
    assert ended.returncode == 0, ended.stderr
    assert _equal(_received(server), _expected(tmp_path / "exp"))
    ((run, rows),) = server.rows.items()
    # The client keeps the last row until the next one.
    assert len(before[run]) >= (9 if waits_s else 0)
    # What was there stays as it was.
    assert rows[: len(before[run])] == before[run]
    assert server.config[run]["trainer"]["value"]["max_epochs"] == 3


@pytest.mark.parametrize("failing", ["error", "hang up"])
def test_a_server_that_breaks_does_not_stop_the_training(
    tiny_hdf5: Path, tmp_path: Path, server: WandbServer, failing: str
) -> None:
    server.failing, server.fails_after = failing, 1
    ended = _train(tiny_hdf5, tmp_path, server, 3, stops_in=1, waits_s=18)
    assert ended.returncode == 0, ended.stderr
    assert server.nb_failures > 1
    experiment = tmp_path / "exp"
    assert [record["epoch"] for record in read_metrics(experiment)] == [0, 1, 2]
    nb_received = len(_received(server))
    assert 0 < nb_received < 15
    assert ended.stderr.count("Logger 'wandb' failed (") == 1
    assert "Traceback" not in ended.stderr

    # What is missing is sent when the training goes on.
    server.failing = ""
    ended = _train(tiny_hdf5, tmp_path, server, 4)
    assert ended.returncode == 0, ended.stderr
    assert _equal(_received(server), _expected(experiment))
