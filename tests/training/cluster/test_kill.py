"""``kill -9`` at random moments, resumed with the same command each time: the run ends as if it had never happened."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import batch_logs, logs
from small_transformers import SMALL_OF
from tests_support import write_hdf5

from dwiml.models.direction_getters import DIRECTION_GETTERS
from dwiml.training.experiment.checkpoint import load_checkpoint

SUPPORT = Path(__file__).parents[2] / "support"
SEED = 20261123
# Of all four ways of loading together.
KILLS = int(os.environ.get("DWIML_KILLS", "52"))
KILLS_A_RUN = 4
MOMENTS = (
    "while loading",
    "any time",
    "in a checkpoint",
    "while tracking",
    "in the log",
    "in the log of batches",
    "in the best model",
)
LONGEST_S = 120.0


def start(hdf5_file: Path, name: str, options: dict[str, Any]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path])}
    command = [sys.executable, str(SUPPORT / "rank_training.py"), str(hdf5_file), str(hdf5_file.parent), name]
    return subprocess.Popen([*command, json.dumps(options)], env=environment, stderr=subprocess.PIPE)


def wait_for_the_moment(moment: str, experiment: Path, process: subprocess.Popen[bytes], delay: float) -> None:
    """Return when it is time to kill: so long after the training began, or the first time that a file is written."""
    deadline = time.monotonic() + LONGEST_S
    if moment == "while loading":
        # Imports take most of it.
        time.sleep(5 * delay)
        return
    tracking = experiment.with_suffix(".tracking")
    tracking.unlink(missing_ok=True)

    def running() -> bool:
        return process.poll() is None and time.monotonic() < deadline

    while running() and not (experiment / "lock.json").exists():
        time.sleep(0.002)
    time.sleep(delay)
    watched = {"in a checkpoint": experiment / "checkpoint", "in the best model": experiment / "best_model"}
    if moment in watched:
        while running() and not list(watched[moment].glob(".*.tmp")):
            pass
    elif moment == "while tracking":
        while running() and not tracking.exists():
            pass
        time.sleep(delay / 30)
    elif moment in ("in the log", "in the log of batches"):
        log = experiment / "logs" / ("metrics.jsonl" if moment == "in the log" else "batches.jsonl")
        before = log.stat().st_size if log.exists() else 0
        while running() and (log.stat().st_size if log.exists() else 0) == before:
            pass


def run_with_kills(hdf5_file: Path, name: str, options: dict[str, Any], nb_kills: int, seed: str) -> list[str]:
    """Kill an experiment so many times, then let it end; return the moments of the kills."""
    draw = random.Random(f"{SEED} {seed}")
    killed: list[str] = []
    moments = itertools.cycle(draw.sample(MOMENTS, len(MOMENTS)))
    while True:
        process = start(hdf5_file, name, options)
        if len(killed) < nb_kills:
            moment = next(moments)
            wait_for_the_moment(moment, hdf5_file.parent / name, process, draw.uniform(0, 0.6))
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=LONGEST_S)
        if process.returncode == 0:
            return killed
        assert process.returncode == -signal.SIGKILL, errors.decode()
        killed.append(moment)


def same_end(one: Path, other: Path) -> bool:
    states = [load_checkpoint(path / "checkpoint") for path in (one, other)]
    best = [torch.load(path / "best_model" / "model_state.pt", weights_only=True) for path in (one, other)]
    pairs = [(states[0]["model"], states[1]["model"]), (best[0], best[1])]
    same = all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)
    same_logs = logs(one) == logs(other) and batch_logs(one) == batch_logs(other)
    return same and same_logs and states[0]["best"] == states[1]["best"]


def kill_and_compare(folder: Path, nb_kills: int, seed: str, **more: Any) -> list[str]:
    """Kill runs so many times in all, and compare each with one that was left alone; return the moments."""
    path = write_hdf5(folder / "data.hdf5", {"sub-a": 60, "sub-b": 40}, {"sub-c": 15})
    options: dict[str, Any] = {
        "max_epochs": 25,
        "log_batches": 2,
        "checkpoint_minutes": 0.001,
        "ema_decay": 0.95,
        "tracking": True,
        "tracking_phase_theta": 180.0,
        "marks_tracking": True,
        **more,
    }
    run_with_kills(path, "undisturbed", options, 0, "")
    shares = [KILLS_A_RUN] * (nb_kills // KILLS_A_RUN) + [nb_kills % KILLS_A_RUN] * (nb_kills % KILLS_A_RUN > 0)
    killed: list[str] = []
    nb_runs = 0
    # A run may have ended before its moment came: then there is another one.
    while len(killed) < nb_kills:
        with ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(run_with_kills, path, f"killed_{i}", options, nb, f"{seed} {i}")
                for i, nb in enumerate(shares, start=nb_runs)
            ]
            killed += [moment for job in jobs for moment in job.result()]
        nb_runs += len(shares)
        shares = [1]
    different = [i for i in range(nb_runs) if not same_end(folder / "undisturbed", folder / f"killed_{i}")]
    assert different == [], f"of {nb_runs} runs"
    return killed


@pytest.mark.slow
@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize("nb_cpu_processes", [0, 2])
def test_killed_runs_end_as_one_that_was_not(tmp_path: Path, lazy: bool, nb_cpu_processes: int) -> None:
    each = -(-KILLS // 4)
    killed = kill_and_compare(
        tmp_path, each, f"{lazy} {nb_cpu_processes}", lazy=lazy, nb_cpu_processes=nb_cpu_processes
    )
    assert len(killed) >= each
    assert each < 13 or len(set(killed)) > 3, killed


AROUND: dict[str, Any] = {"neighborhood_type": "grid", "neighborhood_radius": 1}
OTHER_MODELS: dict[str, dict[str, Any]] = {
    "recurrent": {
        "model_args": {
            "dg_key": "fisher-von-mises-mixture",
            "input_embedding_key": "cnn_embedding",
            "input_embedding_args": {"nb_filters": [4]},
            "prev_dirs_embedding_key": "mlp_embedding",
            "prev_dirs_embedded_size": 6,
            "prev_dirs_embedding_args": {"hidden_sizes": [5], "dropout": 0.2},
            **AROUND,
        }
    },
    "encoder": {
        "model_class": "transformer-src-tgt-concat",
        "model_args": {
            **SMALL_OF["src-tgt-concat"],
            "dropout": 0.2,
            "dg_key": "gaussian-mixture",
            "dg_args": {"dropout": 0.2, "add_eos": True},
            "input_embedding_key": "cnn_embedding",
            "positional_encoding": "rotary",
            **AROUND,
        },
    },
    "encoder and decoder": {
        "model_class": "transformer-src-and-tgt",
        "model_args": {
            **SMALL_OF["src-and-tgt"],
            "dropout": 0.2,
            "dg_key": "smooth-sphere-classification",
            "dg_args": {"sphere": "repulsion100"},
            "input_embedding_key": "mlp_embedding",
            "input_embedding_args": {"hidden_sizes": [6], "dropout": 0.3},
        },
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_MODELS)
def test_killed_runs_of_other_models(tmp_path: Path, name: str) -> None:
    assert len(kill_and_compare(tmp_path, KILLS_A_RUN, name, max_epochs=10, **OTHER_MODELS[name])) >= KILLS_A_RUN


EVERY_MODEL: dict[str, dict[str, Any]] = {"learn2track": {}} | {
    f"transformer-{kind}": {**sizes, "dropout": 0.2} for kind, sizes in SMALL_OF.items()
}


@pytest.mark.slow
@pytest.mark.parametrize("dg_key", sorted(DIRECTION_GETTERS))
@pytest.mark.parametrize("name", EVERY_MODEL)
def test_a_killed_run_of_each_model_with_each_direction_getter(tmp_path: Path, name: str, dg_key: str) -> None:
    dg_args = {"sphere": "repulsion100"} if "sphere" in dg_key else {"add_eos": True}
    options = {"model_class": name, "model_args": {**EVERY_MODEL[name], "dg_key": dg_key, "dg_args": dg_args}}
    assert kill_and_compare(tmp_path, 1, f"{name} {dg_key}", max_epochs=6, **options)


@pytest.mark.slow
def test_a_run_that_is_killed_twice(tmp_path: Path) -> None:
    assert len(kill_and_compare(tmp_path, 2, "short", max_epochs=8)) >= 2
