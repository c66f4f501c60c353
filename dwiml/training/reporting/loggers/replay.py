"""Give a logger what the local logs of an experiment hold."""

from __future__ import annotations

from pathlib import Path

from dwiml.training.reporting.loggers.base import Logger
from dwiml.training.reporting.loggers.batches import records_after
from dwiml.training.reporting.loggers.local import METRICS_FILE, read_metrics
from dwiml.training.reporting.metrics import EPOCH


def replay(experiment: Path, target: Logger) -> None:
    """Call the methods of a logger as the training did, with the records of the local logs, in order.

    Parameters
    ----------
    experiment
        The experiment folder.
    target
        The logger.

    Raises
    ------
    ValueError
        If a log is damaged.
    OSError
        If a log cannot be read.
    """
    batches: dict[int, list[dict[str, float]]] = {}
    for record in records_after(experiment, 0):
        batches.setdefault(int(record[EPOCH]), []).append(record)
    has_log = (experiment / METRICS_FILE).exists()
    metrics = {record[EPOCH]: record for record in read_metrics(experiment)} if has_log else {}
    for epoch in sorted(batches.keys() | metrics.keys()):
        if epoch in batches:
            target.log_batches(batches[epoch])
        if epoch in metrics:
            target.log_metrics({name: value for name, value in metrics[epoch].items() if name != EPOCH}, epoch)
