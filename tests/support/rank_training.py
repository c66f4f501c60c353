"""A training script for the tests that start it with torchrun: rank_training.py HDF5 EXPERIMENTS NAME OPTIONS."""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from small_training import small_trainer, with_angle

from dwiml.models.catalog import MODELS


def main() -> None:
    hdf5_file, experiments, name, options = sys.argv[1:]
    arguments: dict[str, Any] = json.loads(options)
    dies_at = arguments.pop("dies_at", None)
    stops_at_track_step = arguments.pop("stops_at_track_step", None)
    stops_at = arguments.pop("stops_at", None)
    logs_angle = arguments.pop("logs_angle", False)
    # On the second rank.
    others = arguments.pop("others", {})
    if os.environ.get("RANK") == "1":
        hdf5_file = others.pop("hdf5_file", hdf5_file)
        arguments |= others
    marks_tracking = arguments.pop("marks_tracking", False)
    registered = arguments.pop("registered", None)
    averages = arguments.pop("averages", None)
    if "model_class" in arguments:
        arguments["model_class"] = pkgutil.resolve_name(MODELS[arguments["model_class"]])
    trainer = small_trainer(Path(hdf5_file), Path(experiments), name, resume="auto", **arguments)
    if registered is not None:
        trainer.register_state(registered, torch.nn.Linear(1, 1))
    if averages is not None:
        register_average(trainer, of=averages)
    if logs_angle:
        with_angle(trainer)
    run, seen = trainer.run_one_batch, []

    def run_or_die(*batch: Any) -> Any:
        seen.append(None)
        if len(seen) == dies_at and os.environ.get("RANK") == "1":
            raise MemoryError("Rank 1 is out of memory.")
        if len(seen) == stops_at and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return run(*batch)

    trainer.run_one_batch = run_or_die  # type: ignore[method-assign]
    track_step, steps = trainer.model.track_step, []

    def track_or_stop(*batch: Any) -> Any:
        steps.append(None)
        if len(steps) == stops_at_track_step and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return track_step(*batch)

    trainer.model.track_step = track_or_stop
    if marks_tracking:
        mark_tracking(trainer, Path(experiments) / f"{name}.tracking")
    trainer.train_and_validate()


def register_average(trainer: Any, *, of: str) -> None:
    """Register a sum of the losses: of the batches of this process, or of the epochs (the same in all processes)."""
    total = torch.nn.Module()
    total.register_buffer("value", torch.zeros((), dtype=torch.float64))
    trainer.register_state("total", total)
    run, finish = trainer.run_one_batch, trainer.finish_epoch

    def run_and_add(*batch: Any) -> Any:
        result = run(*batch)
        total.value += result[0].detach()
        return result

    def add_and_finish(metrics: dict[str, float]) -> None:
        total.value += metrics["train_loss"]
        finish(metrics)

    if of == "batches":
        trainer.run_one_batch = run_and_add
    else:
        trainer.finish_epoch = add_and_finish


def mark_tracking(trainer: Any, path: Path) -> None:
    """Have a file appear when the model tracks."""
    phase = trainer.run_tracking_phase

    def run_and_mark() -> Any:
        path.touch()
        return phase()

    trainer.run_tracking_phase = run_and_mark


if __name__ == "__main__":
    main()
