"""Two processes that train together (gloo) do what one does alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_starting import start, train
from small_training import logs
from tests_support import write_hdf5

from dwiml import Learn2TrackModel
from dwiml.training.experiment.checkpoint import load_checkpoint
from dwiml.training.reporting.loggers.batches import read_batches


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks") / "data.hdf5"
    # The last batch of an epoch has a single streamline: nothing is left for the second rank.
    return write_hdf5(path, {"sub-a": 20, "sub-b": 13}, {"sub-c": 9})


@pytest.fixture(scope="module")
def alone(data: Path) -> Path:
    train(data, data.parent, "alone", nb=1, log_weights=True, log_batches=1)
    return data.parent / "alone"


def close(some: Path, other: Path, tolerance: float = 1e-5) -> None:
    lines, others = logs(some), logs(other)
    assert [line["epoch"] for line in lines] == [line["epoch"] for line in others] == [0, 1, 2]
    for line, expected in zip(lines, others, strict=True):
        for name in ("train_loss", "valid_loss", "grad_norm"):
            assert line[name] == pytest.approx(expected[name], abs=tolerance), name
    states = [Learn2TrackModel.load(path / "best_model").state_dict() for path in (some, other)]
    assert all(torch.allclose(states[0][key], states[1][key], atol=1e-4) for key in states[0])


def test_two_processes_have_the_losses_of_one(data: Path, alone: Path) -> None:
    train(data, data.parent, "two", nb=2, log_weights=True, log_batches=1)
    close(data.parent / "two", alone)
    for line, expected in zip(logs(data.parent / "two"), logs(alone), strict=True):
        names = [name for name in expected if name.startswith("weight_")]
        assert len(names) > 4
        assert {name: line[name] for name in names} == pytest.approx({name: expected[name] for name in names}, rel=1e-3)
    assert len(load_checkpoint(data.parent / "two" / "checkpoint")["generators"]) == 2
    # The log of batches has each batch once, with the loss of both processes.
    batches, expected_batches = read_batches(data.parent / "two"), read_batches(alone)
    assert batches["step"].tolist() == expected_batches["step"].tolist() == list(range(1, len(batches["step"]) + 1))
    assert len(batches["step"]) > 3
    for name in ("train_loss", "grad_norm"):
        assert batches[name] == pytest.approx(expected_batches[name], abs=1e-5)


@pytest.mark.slow
def test_torch_does_not_warn_of_what_is_meant(data: Path) -> None:
    output = train(data, data.parent, "quiet", nb=2, max_epochs=1)
    assert "find_unused_parameters" not in output


@pytest.mark.slow
def test_other_data_or_options_in_one_process_are_named(data: Path) -> None:
    other = write_hdf5(data.parent / "other.hdf5", {"sub-a": 20, "sub-b": 13}, {"sub-c": 9}, seed=5)
    options: dict[str, Any] = {"others": {"hdf5_file": str(other)}}
    output = train(data, data.parent, "mixed", nb=2, code=1, **options)
    assert "ValueError: The 2 processes have different parameters: data.fingerprint is '" in output
    assert "Give all the same HDF5 file and parameters." in output
    assert not (data.parent / "mixed").exists()
    output = train(data, data.parent, "mixed", nb=2, code=1, others={"clip_grad": 2.0})
    assert "trainer.clip_grad is 1.0 in process 0 and 2.0 in process 1" in output
    # A copy elsewhere is the same data.
    copy = data.parent / "copy.hdf5"
    shutil.copy(data, copy)
    train(data, data.parent, "copies", nb=2, max_epochs=1, others={"hdf5_file": str(copy)})


@pytest.mark.slow
def test_processes_that_register_different_states_end_at_the_start(data: Path) -> None:
    output = train(data, data.parent, "registered", nb=2, code=1, registered="a", others={"registered": "b"})
    assert "have different registered states: 'a' in process 0, 'b' in process 1" in output
    output = train(data, data.parent, "registered", nb=2, code=1, others={"registered": "b"})
    assert "have different registered states: none in process 0, 'b' in process 1" in output
    assert not (data.parent / "registered").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("averages", "nb_warnings"), [("batches", 1), ("epochs", 0)])
def test_a_registered_state_that_differs_between_processes_is_named_once(
    data: Path, tmp_path: Path, averages: str, nb_warnings: int
) -> None:
    output = train(data, tmp_path, "averages", nb=2, max_epochs=2, averages=averages)
    assert output.count("The state registered as 'total' is not the same in the 2 processes") == nb_warnings


@pytest.mark.slow
def test_two_processes_track_what_one_does(data: Path) -> None:
    options = {"tracking": True, "tracking_phase_theta": 180.0, "best_model_metric": "gv_endpoint_distance_mm"}
    for name, nb in (("tracks_alone", 1), ("track_together", 2)):
        train(data, data.parent, name, nb=nb, **options)
    alone, together = (logs(data.parent / name) for name in ("tracks_alone", "track_together"))
    for line, expected in zip(together, alone, strict=True):
        for metric in ("gv_endpoint_distance_mm", "gv_length_ratio"):
            assert line[metric] == pytest.approx(expected[metric], rel=0.01)


@pytest.mark.slow
def test_a_signal_to_one_process_in_the_tracking_phase_stops_both(data: Path) -> None:
    options = {"tracking": True, "tracking_phase_theta": 180.0}
    output = train(data, data.parent, "stopped_tracking", nb=2, code=1, stops_at_track_step=5, **options)
    assert "Stopped (another process): a checkpoint is written." in output
    assert load_checkpoint(data.parent / "stopped_tracking" / "checkpoint")["position"]["phase"] == "generation"
    train(data, data.parent, "stopped_tracking", nb=1, **options)
    assert [line["epoch"] for line in logs(data.parent / "stopped_tracking")] == [0, 1, 2]


@pytest.mark.slow
def test_accumulating_and_averaging_too(data: Path) -> None:
    options = {"accumulate_batches": 2, "ema_decay": 0.9, "lr_scheduler": "warmup_cosine", "learning_rates": 0.01}
    for nb, name in ((1, "alone_more"), (2, "two_more")):
        train(data, data.parent, name, nb=nb, **options)
    close(data.parent / "two_more", data.parent / "alone_more")


@pytest.mark.slow
def test_a_run_of_two_goes_on_with_one(data: Path, alone: Path) -> None:
    train(data, data.parent, "two_then_one", nb=2, max_epochs=1)
    assert len(logs(data.parent / "two_then_one")) == 1
    train(data, data.parent, "two_then_one", nb=1)
    close(data.parent / "two_then_one", alone)


@pytest.mark.slow
def test_a_signal_stops_all_with_a_checkpoint_in_the_epoch(data: Path, alone: Path) -> None:
    experiment = data.parent / "stopped"
    process = start(data, data.parent, "stopped", nb=2, max_epochs=3000)
    deadline = time.monotonic() + 120
    while not (experiment / "logs" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert "Stopped (SIGTERM): a checkpoint is written." in output
    state = load_checkpoint(experiment / "checkpoint")
    lines = [json.loads(line)["epoch"] for line in (experiment / "logs/metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(state["position"]["epoch"]))
    assert not (experiment / "lock.json").exists()


@pytest.mark.slow
def test_a_rank_that_dies_ends_all_with_its_message(data: Path) -> None:
    output = train(data, data.parent, "died", nb=2, dies_at=4, code=1)
    assert "Rank 1 is out of memory." in output


ENDING = """
import torch
from dwiml.training.cluster.ranks import Ranks

ranks = Ranks()
step = ranks.wrap_ddp(torch.nn.Linear(3, 3))
step(torch.ones(2, 3)).sum().backward()
ranks.mean(torch.tensor(2.0), 1, 2)
assert ranks.gather(ranks.rank) == [0, 1]
"""


@pytest.mark.slow
def test_processes_that_are_done_end_without_an_abort(tmp_path: Path) -> None:
    # Without a wait for gloo's threads, one in seven processes was aborted.
    (tmp_path / "ending.py").write_text(ENDING)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}
    codes = []
    for _run in range(20):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        ranks = [
            subprocess.Popen(
                [sys.executable, tmp_path / "ending.py"],
                env={**environment, "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        ]
        codes += [process.wait(timeout=60) for process in ranks]
    assert codes == [0] * 40
