"""Comet online: the real client sends a training to a stand-in server on this computer."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from comet_server import METRICS, CometServer
from loopback_server import serve
from small_training import small_trainer

from dwiml.training.reporting.loggers import read_metrics
from dwiml.training.reporting.loggers.batches import read_batches

Value = tuple[str, int, int, float]

# It is killed before the second batch of an epoch, so that a batch is waiting to be sent.
RUN = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[5].split(os.pathsep)
from small_training import small_trainer
from dwiml import DWIMLTrainerOneInput
class Killed(DWIMLTrainerOneInput):
    def run_one_batch(self, *args):
        if (self.position.epoch, self.position.batch) == (int(sys.argv[4]), 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run_one_batch(*args)
trainer = small_trainer(
    Path(sys.argv[1]), Path(sys.argv[2]), max_epochs=int(sys.argv[3]), resume="auto", comet_workspace="team",
    comet_project="tracts", log_batches=1, verbose=True, trainer_class=Killed,
)
trainer.train_and_validate()
"""

LOG = """
import json, os, signal, sys
from pathlib import Path
from matplotlib.figure import Figure
from dwiml.training.reporting.loggers import CometLogger
folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
state = folder / "state.json"
log = CometLogger("team", "tracts", "my run", folder)
if first > 0:
    log.load_state_dict(json.loads(state.read_text()))
log.log_parameters({"model": {"hidden": 64}})
for epoch in range(first, last):
    log.log_metrics({"train_loss": 1 / (epoch + 1)}, epoch)
    state.write_text(json.dumps(log.state_dict()))
if first == 0:
    os.kill(os.getpid(), signal.SIGKILL)
figure = Figure()
figure.add_subplot().plot([1, 2])
log.log_figure("curves", figure)
print(log.close())
"""


@pytest.fixture
def server() -> Iterator[CometServer]:
    with serve(CometServer()) as running:
        yield running


def _run(words: list[str], server: CometServer, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMET_")}
    environment |= {"HOME": str(home), "OMP_NUM_THREADS": "1", **server.environment}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=300)


def _train(
    hdf5: Path, folder: Path, server: CometServer, max_epochs: int, killed_in: int = -1
) -> subprocess.CompletedProcess[str]:
    words = ["-c", RUN, str(hdf5), str(folder), str(max_epochs), str(killed_in), os.pathsep.join(sys.path)]
    return _run(words, server, folder)


def _expected(experiment: Path) -> list[Value]:
    """Return the values of the local logs, as Comet has them."""
    values: list[Value] = []
    for record in read_metrics(experiment):
        epoch = int(record["epoch"])
        values += [(name, epoch, epoch, float(value)) for name, value in record.items() if name != "epoch"]
    columns = read_batches(experiment)
    for i, step in enumerate(columns["step"]):
        names = set(columns) - {"epoch", "batch", "step"}
        place = int(step), int(columns["epoch"][i])
        # A value that a record lacks is NaN in the columns.
        row = {name: float(columns[name][i]) for name in names if not math.isnan(columns[name][i])}
        values += [(f"batch_{name}", *place, value) for name, value in row.items()]
    return values


def _received(server: CometServer, key: str | None = None) -> list[Value]:
    # Comet's own client adds one.
    return [each for each in server.metrics(key) if each[0] != "process duration"]


def test_a_killed_run_continues(tmp_path: Path, server: CometServer) -> None:
    # Without a training, which takes longer to start.
    killed = _run(["-c", LOG, str(tmp_path), "0", "2"], server, tmp_path)
    assert killed.returncode == -9, killed.stderr
    assert sorted(_received(server)) == [("train_loss", 0, 0, 1.0), ("train_loss", 1, 1, 0.5)]
    ended = _run(["-c", LOG, str(tmp_path), "2", "3"], server, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    (key,) = server.experiments()
    assert ended.stdout == f"Comet shows this run at {server.address}{key}\n"
    assert sorted(_received(server)) == [("train_loss", epoch, epoch, 1 / (epoch + 1)) for epoch in range(3)]
    assert server.parameters()["model|hidden"] == 64
    assert [name for name, _ in server.figures()] == ["curves"]


@pytest.mark.slow
def test_a_training_arrives_once_and_whole(tiny_hdf5: Path, tmp_path: Path, server: CometServer) -> None:
    ended = _train(tiny_hdf5, tmp_path, server, 2)
    assert ended.returncode == 0, ended.stderr
    (key,) = server.experiments()
    assert f"Comet shows this run at {server.address}{key}" in ended.stderr
    expected = _expected(tmp_path / "exp")
    assert {step for name, step, _, _ in expected if name == "batch_train_loss"} == set(range(1, 9))
    assert {step for name, step, _, _ in expected if name == "valid_loss"} == {0, 1}
    assert sorted(_received(server)) == sorted(expected)
    parameters = server.parameters()
    assert (parameters["trainer|max_epochs"], parameters["model|rnn_layer_sizes"]) == (2, [8, 8])
    ((name, content),) = server.figures()
    assert name == "curves"
    assert b"<svg" in content
    assert not (tmp_path / "exp" / "comet_offline").exists()


@pytest.mark.slow
def test_a_killed_training_is_whole_after_its_resume(tiny_hdf5: Path, tmp_path: Path, server: CometServer) -> None:
    killed = _train(tiny_hdf5, tmp_path, server, 3, killed_in=2)
    assert killed.returncode == -9, killed.stderr
    # The checkpoint says that the first epochs are on the server, and they are.
    before = _received(server)
    assert {epoch for _, _, epoch, _ in before} == {0, 1}
    ended = _train(tiny_hdf5, tmp_path, server, 3)
    assert ended.returncode == 0, ended.stderr
    assert len(server.experiments()) == 1
    received = _received(server)
    assert received[: len(before)] == before
    assert sorted(received) == sorted(_expected(tmp_path / "exp"))
    assert [name for name, _ in server.figures()] == ["curves"]


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["error", "hang up"])
def test_a_server_that_breaks_does_not_stop_the_training(
    tiny_hdf5: Path, tmp_path: Path, server: CometServer, failing: str
) -> None:
    # In the second epoch: one or two requests bring the values of the first one.
    server.failing, server.fails_after = failing, 2
    ended = _train(tiny_hdf5, tmp_path, server, 3)
    assert ended.returncode == 0, ended.stderr
    assert server.nb_failures > 1
    experiment = tmp_path / "exp"
    expected = _expected(experiment)
    assert {epoch for _, _, epoch, _ in expected} == {0, 1, 2}
    assert 0 < len(_received(server)) < len(expected)
    assert ended.stderr.count("Comet failed (") == 1
    assert "Traceback" not in ended.stderr
    assert f"send it as a new experiment: dwiml comet_upload {experiment} -f" in ended.stderr

    # What is missing is sent when the training goes on, and nothing comes twice with different values.
    server.failing = ""
    ended = _train(tiny_hdf5, tmp_path, server, 4)
    assert ended.returncode == 0, ended.stderr
    assert len(server.experiments()) == 1
    received, expected = _received(server), _expected(experiment)
    assert set(received) == set(expected)
    assert len({value[:3] for value in received}) == len(expected)
    assert not (experiment / "comet_offline").exists()


def _upload(experiment: Path, server: CometServer) -> subprocess.CompletedProcess[str]:
    command = [
        "-m",
        "dwiml.cli.main",
        "comet_upload",
        str(experiment),
        "--workspace",
        "team",
        "--project",
        "tracts",
    ]
    return _run(command, server, experiment.parent)


@pytest.mark.slow
def test_an_experiment_is_sent_afterwards(tiny_hdf5: Path, tmp_path: Path, server: CometServer) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, log_batches=1).train_and_validate()
    experiment = tmp_path / "exp"
    ended = _upload(experiment, server)
    assert ended.returncode == 0, ended.stderr
    (key,) = server.experiments()
    assert f"{server.address}{key}" in ended.stdout
    assert sorted(_received(server)) == sorted(_expected(experiment))
    assert server.parameters()["trainer|max_epochs"] == 2
    assert [name for name, _ in server.figures()] == ["curves"]


@pytest.mark.slow
@pytest.mark.parametrize("fails_after", [0, 1])
def test_an_experiment_that_cannot_be_sent_is_one_sentence(
    tiny_hdf5: Path, tmp_path: Path, server: CometServer, fails_after: int
) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, log_batches=1).train_and_validate()
    experiment = tmp_path / "exp"
    before = sorted(experiment.rglob("*"))
    server.failing, server.fails_after = "error", fails_after
    ended = _upload(experiment, server)
    assert ended.returncode == 2
    (sentence,) = ended.stderr.splitlines()
    assert ("Comet is offline" if fails_after == 0 else "the experiment is not complete there") in sentence
    # Nothing says that it was sent, so that it can be sent again.
    assert sorted(experiment.rglob("*")) == before
    server.failing = ""
    ended = _upload(experiment, server)
    assert ended.returncode == 0, ended.stderr
    keys = [body["experimentKey"] for body in server.bodies(METRICS)]
    assert sorted(_received(server, keys[-1])) == sorted(_expected(experiment))
