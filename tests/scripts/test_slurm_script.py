"""The SLURM job of scripts/, with stand-ins for srun and scontrol."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_training import logs
from tests_support import write_hdf5

from dwiml.training.experiment.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"

TRAINING = """
import sys
from pathlib import Path
from small_training import small_trainer

hdf5_file, experiments, max_epochs = sys.argv[1:]
trainer = small_trainer(
    Path(hdf5_file), Path(experiments), lazy=True, resume="auto", requeue=True, max_epochs=int(max_epochs), verbose=True
)
trainer.train_and_validate()
"""


def executable(path: Path, text: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a job on a node."""
    programs = tmp_path / "bin"
    programs.mkdir()
    executable(programs / "srun", 'exec "$@"')
    executable(programs / "scontrol", f'echo "$@" >> {tmp_path}/scontrol.txt')
    executable(programs / "python", f'exec {sys.executable} "$@"')
    executable(programs / "torchrun", f'exec {sys.executable} -m torch.distributed.run "$@"')
    (tmp_path / "node").mkdir()
    (tmp_path / "train.py").write_text(TRAINING)
    write_hdf5(tmp_path / "data.hdf5", {"sub-a": 40}, {"sub-b": 10})
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": "77",
        "SLURM_TMPDIR": str(tmp_path / "node"),
    }


def job(tmp_path: Path, environment: dict[str, str], max_epochs: int) -> subprocess.Popen[str]:
    command = ["bash", str(ROOT / "scripts/slurm_train.sh"), str(tmp_path / "train.py"), str(tmp_path / "data.hdf5")]
    return subprocess.Popen(
        [*command, str(tmp_path), str(max_epochs)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("nb_gpus", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_stopped_before_the_limit_requeued_and_ended(tmp_path: Path, cluster: dict[str, str], nb_gpus: str) -> None:
    cluster["SLURM_GPUS_ON_NODE"] = nb_gpus
    process = job(tmp_path, cluster, 5000)
    log, deadline = tmp_path / "exp/logs/metrics.jsonl", time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    # What --signal=USR1@180 does.
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert "Stopped (SIGUSR1): a checkpoint is written." in output
    assert process.returncode != 0
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 77\n"
    assert (tmp_path / "node" / "data.hdf5").stat().st_size == (tmp_path / "data.hdf5").stat().st_size
    epoch = load_checkpoint(tmp_path / "exp" / "checkpoint")["position"]["epoch"]
    process = job(tmp_path, cluster, epoch + 1)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert [line["epoch"] for line in logs(tmp_path / "exp")] == list(range(epoch + 1))
