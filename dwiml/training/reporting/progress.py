"""The progress of a training: a bar in a terminal, and a line for each epoch."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from dwiml.arguments import duration, grouped
from dwiml.files.streams import safe_stderr
from dwiml.training.reporting.metrics import LOSSES, name_of
from dwiml.training.reporting.monitors import BestMonitor, PhaseMonitor
from dwiml.training.reporting.user_metrics import user_metric_names

SECONDS_BETWEEN_READINGS = 0.5
SECONDS_BETWEEN_LINES = 60.0


def announce(sentence: str) -> None:
    """Write a line to stderr without breaking a progress bar; do nothing if it cannot be written."""
    tqdm.write(sentence, file=safe_stderr)


def epoch_line(metrics: dict[str, float], epoch: int, max_epochs: int, *, is_best: bool, by: str | None = None) -> str:
    """Return the line of an epoch; epochs are counted from 0, as in the log.

    It has the losses, then the user's metrics in alphabetical order, with four significant digits.

    Parameters
    ----------
    metrics
        Metrics of the epoch, by name.
    epoch, max_epochs
        Index of the epoch, and number of epochs.
    is_best
        Whether the model of the epoch is the best so far.
    by
        Metric that selects the best model; None for the loss.
    """
    losses = [name for name in reversed(LOSSES) if name in metrics]
    shown = dict.fromkeys([*user_metric_names(metrics), by])
    others = [name for name in shown if name in metrics and name not in losses]
    parts = [f"{name_of(name)} {metrics[name]:.5f}" for name in losses]
    parts += [
        f"{name_of(name)} {_four_digits(metrics[name])}" for name in others if name in metrics and name not in losses
    ]
    seconds = metrics.get("train_duration_s", 0.0) + metrics.get("valid_duration_s", 0.0)
    parts.append(f"{seconds:.1f} s")
    if "train_points_per_s" in metrics:
        parts.append(f"{grouped(metrics['train_points_per_s'])} points/s")
    # Without its unit, which is in parentheses too.
    best = "best" if by is None else f"best {name_of(by).partition(' (')[0]}"
    return f"{_title(epoch, max_epochs)}: {', '.join(parts)}{f' ({best})' if is_best else ''}"


def not_selected(epoch: int, nb_skipped: int) -> str:
    """Return the line for an epoch whose loss is not comparable with that of the others."""
    batches = "a batch was" if nb_skipped == 1 else f"{nb_skipped} batches were"
    return f"Epoch {epoch} does not count for the best model and patience: {batches} skipped as NaN."


def _four_digits(value: float) -> str:
    """Return a number with four significant digits: ``1.000``, ``0.2500``, ``1234``."""
    # Python leaves a point at the end of a number without decimals.
    return f"{value:#.4g}".removesuffix(".")


def _title(epoch: int, max_epochs: int) -> str:
    return f"Epoch {epoch} of {max_epochs}"


def end_line(
    best: BestMonitor, first: int, nb_epochs: int, folder: Path | None, *, validated: bool, by: str | None = None
) -> str:
    """Return the line that reports why a training ended, and its result.

    Parameters
    ----------
    best
        Best value of the training.
    first, nb_epochs
        First epoch of this run, and number of epochs done.
    folder
        Folder of the results; None if nothing is kept.
    validated
        Whether the loss that selects the best model is that of the validation.
    by
        Metric that selects the best model; None for the loss.
    """
    done = "1 epoch is done" if nb_epochs == 1 else f"{nb_epochs} epochs are done"
    reason = "patience has run out" if best.is_exhausted else done
    beginning = "Nothing to train" if first == nb_epochs else "Training ended"
    if best.best_value is None and first == nb_epochs:
        value = ""
    elif best.best_value is None:
        lacking = "all epochs had skipped batches" if by is None else f"no epoch had a value of {name_of(by)}"
        value = f"; {lacking}, so there is no best model"
    elif by is None:
        value = (
            f"; best {'validation' if validated else 'training'} loss {best.best_value:.4g} in epoch {best.best_epoch}"
        )
    else:
        value = f"; the best model by {name_of(by)} is that of epoch {best.best_epoch}"
    where = "This was a trial: nothing is kept" if folder is None else f"Results are in {folder}"
    more = ""
    if first == nb_epochs:
        name = "patience" if best.is_exhausted else "max_epochs"
        more = f" To train further, give a larger {name} ('dwiml resume': --new_{name})."
    return f"{beginning}: {reason}{value}. {where}.{more}"


class EpochProgress:
    """A progress bar over the batches of a phase, or a line every minute if the output is not a terminal.

    It reads the device at most twice per second.

    Parameters
    ----------
    phase, epoch, max_epochs
        Phase, index of the epoch and number of epochs, for the title.
    nb_batches
        Number of batches of the phase.
    done
        Number of batches already done.
    shown
        Whether to show anything.
    epoch_s
        Duration of an epoch, in seconds, with all its phases; None if none is done yet: it is then that of the batches
        of this phase.
    """

    def __init__(
        self,
        phase: str,
        epoch: int,
        max_epochs: int,
        nb_batches: int,
        *,
        done: int = 0,
        shown: bool,
        epoch_s: float | None = None,
    ) -> None:
        self._title = f"{_title(epoch, max_epochs)}, {phase}"
        self._nb_batches = nb_batches
        self._nb_done = self._nb_before = done
        self._shown = shown
        self._nb_later, self._epoch_s = max_epochs - epoch - 1, epoch_s
        self._begin = time.perf_counter()
        self._bar: Any = tqdm(
            total=nb_batches,
            initial=done,
            desc=self._title,
            unit="batch",
            leave=False,
            file=safe_stderr,
            # None: no bar if stderr is not a terminal.
            disable=None if shown else True,
        )
        self._last_reading = self._last_line = time.perf_counter()

    def __enter__(self) -> EpochProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, monitor: PhaseMonitor) -> None:
        """Count a batch; at intervals, check the losses and show their mean.

        Raises
        ------
        NonFiniteValueError
            If a loss, a gradient or a user's metric is NaN or infinite.
        """
        self._bar.update(1)
        self._nb_done += 1
        now = time.perf_counter()
        if now - self._last_reading < SECONDS_BETWEEN_READINGS:
            return
        self._last_reading = now
        monitor.read()
        loss, speed = monitor.loss.mean(), grouped(monitor.points_per_s)
        own = {name: _four_digits(value) for name, value in monitor.own.means().items()}
        if not self._bar.disable:
            shown = {} if loss is None else {"loss": f"{loss:.4f}"}
            self._bar.set_postfix({**shown, **own, "points/s": speed, "run": f"{self._left()} left"})
        elif self._shown and now - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = now
            mean = "" if loss is None else f", loss {loss:.5f}"
            mean += "".join(f", {name_of(name)} {value}" for name, value in own.items())
            batches = "batch" if self._nb_batches == 1 else "batches"
            done = f"{self._nb_done} of {self._nb_batches} {batches}"
            announce(f"{self._title}: {done}{mean}, {speed} points/s, {self._left()} left in all")

    def _left(self) -> str:
        """Return the time until the last epoch is done, if the speed stays the same and patience does not run out."""
        batch_s = (time.perf_counter() - self._begin) / max(self._nb_done - self._nb_before, 1)
        epoch_s = batch_s * self._nb_batches if self._epoch_s is None else self._epoch_s
        return duration(batch_s * (self._nb_batches - self._nb_done) + epoch_s * self._nb_later)
