"""A training whose machine has no more memory, open files or workers: a sentence, and the last step's checkpoint."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import logs, same_weights, small_trainer
from tests_support import write_hdf5

from dwiml.batching.fetcher import StreamlineFetcher
from dwiml.failures import WORKER, ResourceError
from dwiml.training.experiment.checkpoint import load_checkpoint

SUPPORT = Path(__file__).parents[2] / "support"


def act_at(trainer: Any, nth: int, act: Any) -> None:
    """Have something done in the middle of the nth batch."""
    make = trainer.batch_loader.data_loader

    def make_and_note(phase: str, *args: Any, **kwargs: Any) -> Any:
        loader = make(phase, *args, **kwargs)
        if phase == "training":
            trainer.loader_of_training = loader
        return loader

    trainer.batch_loader.data_loader = make_and_note
    run, seen = trainer.run_one_batch, []

    def run_and_act(*batch: Any) -> Any:
        seen.append(None)
        if len(seen) == nth:
            act()
        return run(*batch)

    trainer.run_one_batch = run_and_act


def kill_a_worker(trainer: Any, number: signal.Signals) -> None:
    """Kill a worker of the training: other children may be left of other tests."""
    for worker in trainer.loader_of_training._iterator._workers[:1]:
        assert worker.pid is not None
        os.kill(worker.pid, number)
        worker.join(10)


# More batches than the workers fetch ahead.
MANY: dict[str, Any] = {"max_epochs": 2, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def long_hdf5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hdf5(tmp_path_factory.mktemp("long") / "data.hdf5", {"sub-a": 170}, {"sub-d": 12})


@pytest.mark.first(1)
@pytest.mark.parametrize(("number", "words"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGBUS, "SIGBUS")])
def test_a_worker_that_dies_costs_no_step(long_hdf5: Path, tmp_path: Path, number: signal.Signals, words: str) -> None:
    whole = small_trainer(long_hdf5, tmp_path, "whole", **MANY)
    whole.train_and_validate()
    part = small_trainer(long_hdf5, tmp_path, "part", nb_cpu_processes=2, **MANY)
    act_at(part, 5, lambda: kill_a_worker(part, number))
    with pytest.raises(ResourceError) as caught:
        part.train_and_validate()
    assert caught.value.kind == WORKER
    assert words in str(caught.value)
    assert "Then continue with the same script and resume='auto', or dwiml resume" in str(caught.value)
    position = load_checkpoint(tmp_path / "part" / "checkpoint")["position"]
    assert (position["epoch"], position["phase"]) == (0, "training")
    assert position["batch"] >= 5, "The step that was running is whole, and kept."
    assert not (tmp_path / "part" / "lock.json").exists()
    resumed = small_trainer(long_hdf5, tmp_path, "part", resume="must", **MANY)
    resumed.train_and_validate()
    assert same_weights(whole.model, resumed.model)
    assert logs(tmp_path / "whole") == logs(tmp_path / "part")


@pytest.mark.slow
def test_a_worker_that_dies_between_two_epochs(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=3, nb_cpu_processes=1)
    # The only batch of validation, while the training's worker waits.
    act_at(trainer, 5, lambda: kill_a_worker(trainer, signal.SIGKILL))
    with pytest.raises(ResourceError, match="SIGKILL"):
        trainer.train_and_validate()
    assert load_checkpoint(tmp_path / "exp" / "checkpoint")["position"]["epoch"] == 1


def no_memory() -> None:
    raise MemoryError


@pytest.mark.first(1)
@pytest.mark.parametrize("act", [no_memory, lambda: torch.empty(2**50)], ids=["python", "torch"])
def test_memory_that_is_missing_in_a_step(tiny_hdf5: Path, tmp_path: Path, act: Any) -> None:
    small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=2).train_and_validate()
    trainer = small_trainer(tiny_hdf5, tmp_path, "part", max_epochs=2)
    # In the second epoch: one has 4 batches of training and 1 of validation.
    act_at(trainer, 7, act)
    with pytest.raises(ResourceError, match=r"^There is not enough memory.*; lower the batch size.*last checkpoint is"):
        trainer.train_and_validate()
    assert load_checkpoint(tmp_path / "part" / "checkpoint")["position"]["epoch"] == 1
    small_trainer(tiny_hdf5, tmp_path, "part", max_epochs=2, resume="must").train_and_validate()
    assert logs(tmp_path / "whole") == logs(tmp_path / "part")


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (ValueError("Subject 'sub-a' holds NaN."), ValueError, r"^Subject 'sub-a' holds NaN\.$"),
        (MemoryError("Unable to allocate 3 GiB"), ResourceError, r"^There is not enough memory \(Unable to allocate 3"),
    ],
)
@pytest.mark.parametrize("nb_cpu_processes", [0, 2])
def test_an_error_of_the_loading_is_its_own(
    tiny_hdf5: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    expected: type[Exception],
    words: str,
    nb_cpu_processes: int,
) -> None:
    fetch = StreamlineFetcher.fetch

    def fail(self: StreamlineFetcher, batch_ids: Any, drawn: Any = None) -> Any:
        if batch_ids.key.batch_index == 2:
            raise error
        return fetch(self, batch_ids, drawn)

    monkeypatch.setattr(StreamlineFetcher, "fetch", fail)
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, nb_cpu_processes=nb_cpu_processes)
    with pytest.raises(expected, match=words):
        trainer.train_and_validate()
    position = load_checkpoint(tmp_path / "exp" / "checkpoint")["position"]
    assert (position["phase"], position["batch"]) == ("training", 2), "The two steps before are kept."


@pytest.mark.slow
@pytest.mark.parametrize("limit", [24, 30, 33])
def test_few_open_files_are_no_hang(tiny_hdf5: Path, tmp_path: Path, limit: int) -> None:
    options = json.dumps({"nb_cpu_processes": 2, "max_epochs": 2})
    command = [sys.executable, str(SUPPORT / "rank_training.py"), str(tiny_hdf5), str(tmp_path), "exp", options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path])}
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    )
    last = done.stderr.splitlines()[-1] if done.stderr else ""
    assert done.returncode == 0 or "Too many files are open in this process; raise the limit with 'ulimit -n" in last
