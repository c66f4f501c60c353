"""A process that writes the logs of a training without end until it is killed; resumed if called again.

Usage: ``python living_run.py EXPERIMENT PAUSE``, with the seconds between two lines (0: as fast as it can).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from dwiml.training.reporting.events import CHECKPOINT, DONE, EPOCH_END, RESUME, START, EventLog
from dwiml.training.reporting.loggers import BatchLog, LocalLogger

BATCHES_PER_EPOCH = 20
EVERY = 2


def main(folder: Path, pause: float) -> None:
    """Write until killed."""
    checkpoint = folder / "checkpoint" / "state.json"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    local, batches, events = LocalLogger(folder), BatchLog(folder), EventLog(folder)
    epoch = 0
    with events.recording(KeyboardInterrupt):
        if checkpoint.exists():
            state = json.loads(checkpoint.read_text())
            epoch = state["epoch"]
            local.load_state_dict(state["local"])
            batches.load_state_dict(state["batches"])
            events.add(RESUME, f"going on at epoch {epoch}", **{DONE: epoch})
        else:
            batches.begin_anew()
            events.add(START, "training", **{DONE: 0})
        while True:
            one_epoch(epoch, local, batches, pause)
            events.add(EPOCH_END, f"epoch {epoch}", epoch=epoch)
            epoch += 1
            state = {"epoch": epoch, "local": local.state_dict(), "batches": batches.state_dict()}
            new = checkpoint.with_suffix(".new")
            new.write_text(json.dumps(state))
            os.replace(new, checkpoint)
            events.add(CHECKPOINT, "saved", epoch=epoch)


def one_epoch(epoch: int, local: LocalLogger, batches: BatchLog, pause: float) -> None:
    """Write the lines of an epoch, whose values say where they belong."""
    for batch in range(EVERY - 1, BATCHES_PER_EPOCH, EVERY):
        step = epoch * BATCHES_PER_EPOCH + batch + 1
        place = {"epoch": epoch, "batch": batch, "step": step}
        values = {"learning_rate": 1e-3, "points_per_s": 1000.0, "duration_s": batch + 1.0}
        batches.log_batches([{**place, **values, "train_loss": float(step), "grad_norm": 1.0}])
        time.sleep(pause)
    loss = 1 / (epoch + 1)
    values = {"train_loss": loss, "valid_loss": loss, "grad_norm": 1.0, "learning_rate": 1e-3}
    local.log_metrics({**values, "train_duration_s": 20.0, "train_points_per_s": 1000.0}, epoch)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
