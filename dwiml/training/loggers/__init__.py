"""Where the numbers of a training go: a local file always, Comet.ml when it is asked for."""

from __future__ import annotations

from pathlib import Path

from dwiml.training.loggers.base import Logger
from dwiml.training.loggers.comet import CometLogger
from dwiml.training.loggers.local import LocalLogger, read_metrics

__all__ = ["CometLogger", "LocalLogger", "Logger", "build_loggers", "read_metrics"]


def build_loggers(
    folder: Path, comet_workspace: str | None = None, comet_project: str | None = None, *, verbose: bool = True
) -> list[Logger]:
    """Return an experiment's loggers: the local one, and Comet's when both its names are given.

    Parameters
    ----------
    folder
        The experiment's folder; its name is the run's name on Comet.
    comet_workspace, comet_project
        Where Comet shows the run.
    verbose
        False: that Comet is offline is not worth a warning (a failure of Comet always is).
    """
    loggers: list[Logger] = [LocalLogger(folder)]
    if comet_workspace is not None and comet_project is not None:
        loggers.append(CometLogger(comet_workspace, comet_project, folder.name, folder, verbose=verbose))
    return loggers
