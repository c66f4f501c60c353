"""Where the numbers of a training go: a local file always, Comet.ml and the user's own when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dwiml.training.reporting.loggers.base import Logger
from dwiml.training.reporting.loggers.comet import CometLogger, check_comet_state
from dwiml.training.reporting.loggers.guest import GuestLogger
from dwiml.training.reporting.loggers.local import LocalLogger, check_local_state, read_metrics

__all__ = [
    "CometLogger",
    "LocalLogger",
    "Logger",
    "build_loggers",
    "check_logger_states",
    "check_loggers",
    "read_metrics",
    "start_loggers",
]

_CHECKS = {LocalLogger.name: check_local_state, CometLogger.name: check_comet_state}


def check_loggers(loggers: Any) -> None:
    """Check the loggers that a user gives.

    Raises
    ------
    TypeError, ValueError
        For anything but a list of loggers, each with its own name.
    """
    given = loggers if isinstance(loggers, (list, tuple)) else [loggers]
    wrong = [each for each in given if not isinstance(each, Logger)]
    if wrong or given is not loggers:
        received = wrong[0] if wrong else loggers
        kind = f"the class {received.__name__}" if isinstance(received, type) else f"a {type(received).__name__}"
        raise TypeError(f"loggers must be a list of instances of subclasses of dwiml.Logger, got {kind}.")
    names = [*_CHECKS, *(each.name for each in given)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Two loggers are called {name!r}: give each its own name (the property 'name').")


def build_loggers(
    folder: Path,
    comet_workspace: str | None = None,
    comet_project: str | None = None,
    own: Sequence[Logger] = (),
    *,
    verbose: bool = True,
) -> list[Logger]:
    """Return an experiment's loggers: the local one, Comet's when both its names are given, and the user's.

    Parameters
    ----------
    folder
        The experiment's folder; its name is the run's name on Comet.
    comet_workspace, comet_project
        Where Comet shows the run.
    own
        The user's.
    verbose
        False: that Comet is offline is not worth a warning (a failure of Comet always is).
    """
    loggers: list[Logger] = [LocalLogger(folder)]
    if comet_workspace is not None and comet_project is not None:
        loggers.append(CometLogger(comet_workspace, comet_project, folder.name, folder, verbose=verbose))
    return [*loggers, *(GuestLogger(each) for each in own)]


def start_loggers(loggers: Sequence[Logger], parameters: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Bring loggers back to the state of a checkpoint, where it has one, and give them the parameters."""
    for each in loggers:
        if each.name in states:
            each.load_state_dict(states[each.name])
        each.log_parameters(parameters)


def check_logger_states(states: Mapping[str, Any], own: Sequence[str] = ()) -> None:
    """Check the loggers' states of a checkpoint.

    Parameters
    ----------
    states
        By name.
    own
        The names of the user's loggers, which have checked theirs when they were written.

    Raises
    ------
    ValueError
        For one that no logger wrote.
    """
    for name, state in states.items():
        if name in own:
            if type(state) is not dict:
                raise ValueError(f"The state of logger '{name}' must be a dictionary, got a {type(state).__name__}.")
            continue
        if name not in _CHECKS:
            raise ValueError(
                f"There is no logger {' '.join(str(name).split())[:60]!r}; there are: {', '.join(_CHECKS)}."
            )
        _CHECKS[name](state)
