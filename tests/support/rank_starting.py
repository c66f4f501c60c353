"""Starts rank_training.py, alone or with torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent
# What is drawn for a whole batch, and shared out. Noise and dropout are each rank's own.
OPTIONS: dict[str, Any] = {
    "max_epochs": 3,
    "loader_args": {"noise_gaussian_size_forward": 0, "noise_gaussian_size_loss": 0},
    "model_args": {"dropout": 0.0},
}


def start(hdf5_file: Path, folder: Path, name: str, *, nb: int, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable]
    if nb > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={nb}"]
    command += [str(SUPPORT / "rank_training.py"), str(hdf5_file), str(folder), name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path])}
    return subprocess.Popen(
        [*command, json.dumps({**OPTIONS, **options})],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def train(*args: Any, code: int | None = 0, **options: Any) -> str:
    """Train to the end; return the output. A code of None: any (torchrun has its own for a signal)."""
    process = start(*args, **options)
    output, _ = process.communicate(timeout=180)
    assert code is None or process.returncode == code, output
    return output
