"""Where the numbers of a training go: a local file always, Comet.ml when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dwiml.training.reporting.loggers.base import Logger
from dwiml.training.reporting.loggers.comet import CometLogger, check_comet_state
from dwiml.training.reporting.loggers.local import LocalLogger, check_local_state, read_metrics

__all__ = ["CometLogger", "LocalLogger", "Logger", "build_loggers", "check_logger_states", "read_metrics"]

_CHECKS = {LocalLogger.name: check_local_state, CometLogger.name: check_comet_state}


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


def check_logger_states(states: Mapping[str, Any]) -> None:
    """Check the loggers' states of a checkpoint; ValueError for one that no logger wrote."""
    for name, state in states.items():
        if name not in _CHECKS:
            raise ValueError(
                f"There is no logger {' '.join(str(name).split())[:60]!r}; there are: {', '.join(_CHECKS)}."
            )
        _CHECKS[name](state)
