"""What the loggers record of every few training batches, without waiting for the device in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dwiml.training.reporting.metrics import BATCH, DURATION, EPOCH, GRAD_NORM, LEARNING_RATE, SPEED, STEP, TRAIN_LOSS

if TYPE_CHECKING:
    from dwiml.training.reporting.loggers import Logger
    from dwiml.training.reporting.monitors import PhaseMonitor


class BatchWindows:
    """Divides the training batches of each epoch into windows of N, and gives the loggers one record of each.

    A window is closed at batch N, 2 N, ... of an epoch, and at its end: so a resumed run has the windows of an
    uninterrupted one. The values of a window are read from the monitor of the phase when the loggers get its record:
    whenever the progress is shown, and before each checkpoint.

    Parameters
    ----------
    size
        Number of batches in a window.
    loggers
        They receive the records.
    step
        Number of batches in the records so far, in all epochs.
    may_write
        Function that returns whether the experiment still belongs to this process.
    """

    def __init__(self, size: int, loggers: Sequence[Logger], step: int, may_write: Callable[[], bool]) -> None:
        self._size, self._loggers, self._step, self._may_write = size, loggers, step, may_write
        # Windows that are closed, and the start of the next one.
        self._closed: list[dict[str, float]] = []
        self._first = 0
        self._nb_points, self._time = 0, 0.0

    def begin(self, monitor: PhaseMonitor, batch: int) -> None:
        """Begin the training of an epoch, or continue it after a number of batches.

        Parameters
        ----------
        monitor
            Monitor of the training.
        batch
            Index of the first batch of the epoch that is in no record yet.
        """
        self._first = batch
        self._nb_points, self._time = monitor.nb_points, time.perf_counter()

    def count(self, monitor: PhaseMonitor, batch: int, learning_rate: float, *, is_last: bool) -> None:
        """Count a batch; close the window that it fills.

        Parameters
        ----------
        monitor
            Monitor of the training, which has the values of the batch.
        batch
            Index of the batch in the epoch.
        learning_rate
            That of the step of this batch.
        is_last
            Whether it is the last one of the epoch.
        """
        if not is_last and (batch + 1) % self._size:
            return
        now = time.perf_counter()
        self._step += batch + 1 - self._first
        self._closed.append(
            {
                EPOCH: monitor.epoch,
                BATCH: batch,
                STEP: self._step,
                LEARNING_RATE: learning_rate,
                SPEED: round((monitor.nb_points - self._nb_points) / max(now - self._time, 1e-9)),
                DURATION: round(monitor.duration_s, 3),
                _FIRST: self._first,
            }
        )
        self._first, self._nb_points, self._time = batch + 1, monitor.nb_points, now

    def write(self, monitor: PhaseMonitor) -> None:
        """Give the records of the closed windows to the loggers (reads the device)."""
        if not self._closed or not self._may_write():
            return
        closed, self._closed = self._closed, []
        records = []
        for window in closed:
            first, last = int(window.pop(_FIRST)), int(window[BATCH])
            means = {TRAIN_LOSS: monitor.loss, GRAD_NORM: monitor.means[GRAD_NORM]}
            values = {name: mean.mean_between(first, last) for name, mean in means.items()}
            records.append(window | {name: value for name, value in values.items() if value is not None})
        for each in self._loggers:
            each.log_batches(records)


_FIRST = "first"
