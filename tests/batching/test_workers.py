"""Workers survive the signals that stop a training, but end with their main process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import small_trainer
from torch.utils.data import DataLoader, TensorDataset

from dwiml.batching.workers import STOP_SIGNALS, ignore_stop_signals, kill_workers_at_exit

SCRIPT = """
import signal, sys, time
import torch
from torch.utils.data import DataLoader, TensorDataset
from dwiml.batching.workers import kill_workers_at_exit, ignore_stop_signals

kill_workers_at_exit()
loader = DataLoader(
    TensorDataset(torch.arange(1000)), num_workers=2, worker_init_fn=ignore_stop_signals, persistent_workers=True,
)
batches = iter(loader)
next(batches), next(batches)
print(*[worker.pid for worker in batches._workers], flush=True)
"""


@pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_continue_after_signals(start_method: str) -> None:
    loader: Any = DataLoader(
        TensorDataset(torch.arange(200)),
        num_workers=2,
        worker_init_fn=ignore_stop_signals,
        multiprocessing_context=start_method,
    )
    batches = iter(loader)
    # One batch from each worker: both have started.
    values = [int(next(batches)[0]), int(next(batches)[0])]
    workers = batches._workers
    for number in STOP_SIGNALS:
        for worker in workers:
            os.kill(worker.pid, number)
    values += [int(batch[0]) for batch in batches]
    assert values == list(range(200))
    assert [worker.exitcode for worker in workers] == [0, 0]


def run_script(end: str) -> tuple[subprocess.Popen[str], list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT + end], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    return process, pids


@pytest.mark.slow
def test_a_script_that_exits_with_a_live_loader_ends() -> None:
    """The workers ignore the SIGTERM that multiprocessing sends at exit."""
    process, pids = run_script("sys.exit(143)")
    try:
        _, errors = process.communicate(timeout=40)
    finally:
        process.kill()
    assert (process.returncode, errors) == (143, "")
    assert not any(is_running(pid) for pid in pids)


def test_only_a_loader_with_workers_registers_an_exit_function(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path)
    kill_workers_at_exit.cache_clear()
    for nb_workers in (0, 2):
        trainer.batch_loader.data_loader("training", trainer.batch_sampler, nb_cpu_processes=nb_workers)
        assert kill_workers_at_exit.cache_info().currsize == bool(nb_workers)


@pytest.mark.slow
def test_workers_end_when_their_main_process_is_killed() -> None:
    process, pids = run_script("time.sleep(120)")
    assert all(is_running(pid) for pid in pids)
    os.kill(process.pid, signal.SIGKILL)
    limit = time.monotonic() + 30
    while any(is_running(pid) for pid in pids) and time.monotonic() < limit:
        time.sleep(0.2)
    left = [pid for pid in pids if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert left == []


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
