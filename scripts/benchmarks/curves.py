"""Time of drawing the curves of many and of long experiments, after the import, and of ``visualize_logs --help``.

The experiments are invented: as many lines, with as many metrics, as a training writes.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measuring import peak_mb, seconds_of

from dwiml import visualize_logs

METRICS = ("train_loss", "valid_loss", "grad_norm", "grad_norm_clipped", "train_duration_s", "train_points_per_s")


def write_experiment(folder: Path, nb_epochs: int, nb_batches: int) -> None:
    """Write the logs of an experiment: one line for each epoch, and `nb_batches` lines in all."""
    (folder / "logs").mkdir(parents=True)
    with (folder / "logs" / "metrics.jsonl").open("w") as stream:
        for epoch in range(nb_epochs):
            values = {name: math.exp(-epoch / nb_epochs) + 0.01 * i for i, name in enumerate(METRICS)}
            stream.write(json.dumps({"epoch": epoch, "learning_rate": 1e-3, **values}) + "\n")
    each = nb_batches // nb_epochs
    with (folder / "logs" / "batches.jsonl").open("w") as stream:
        for step in range(each * nb_epochs):
            epoch, batch = divmod(step, each)
            place = {"epoch": epoch, "batch": 10 * batch + 9, "step": 10 * step + 10}
            values = {"learning_rate": 1e-3, "points_per_s": 31022, "duration_s": 0.1 * batch + 0.1}
            line = {**place, **values, "train_loss": math.exp(-step / nb_batches), "grad_norm": 1.72}
            stream.write(json.dumps(line) + "\n")


def least_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the least time of some repeats."""
    return min(seconds_of(work) for _ in range(repeats))


def main() -> None:
    """Write the experiments, draw them, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=3, help="repeats, of which the fastest counts (default: 3)")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i in range(40):
            write_experiment(folder / "many" / f"{i:02d}_learning_rate_1e-3_hidden_{i}", 300, 300)
        write_experiment(folder / "long", 100_000, 1_000_000)
        out = folder / "curves.png"
        works: dict[str, Callable[[], object]] = {
            "40 experiments of 300 epochs": lambda: visualize_logs([folder / "many"], out=out, overwrite=True),
            "100 000 epochs": lambda: visualize_logs([folder / "long"], out=out, overwrite=True),
            "1 000 000 lines of batches": lambda: visualize_logs(
                [folder / "long"], out=out, overwrite=True, per_batch=True
            ),
            "visualize_logs --help": lambda: subprocess.run(
                [sys.executable, "-m", "dwiml.cli.main", "visualize_logs", "--help"], check=True, capture_output=True
            ),
        }
        for title, work in works.items():
            print(f"{title:30} {least_seconds(work, repeats):6.2f} s")
        print(f"{'memory':30} {peak_mb():6.0f} MB")


if __name__ == "__main__":
    main()
