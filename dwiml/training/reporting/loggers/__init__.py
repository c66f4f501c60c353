"""The loggers of a training: always local files; Comet.ml, TensorBoard and the user's loggers if requested."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dwiml.arguments import kind_shown
from dwiml.training.reporting.loggers.base import Logger
from dwiml.training.reporting.loggers.batches import BatchLog, check_batches_state
from dwiml.training.reporting.loggers.comet import CometLogger, check_comet_state
from dwiml.training.reporting.loggers.guest import GuestLogger, name_of_logger
from dwiml.training.reporting.loggers.local import LocalLogger, check_local_state, read_metrics
from dwiml.training.reporting.loggers.tensorboard import TensorBoardLogger, check_tensorboard_state

__all__ = [
    "BatchLog",
    "CometLogger",
    "LocalLogger",
    "Logger",
    "TensorBoardLogger",
    "build_loggers",
    "check_logger_states",
    "check_loggers",
    "read_metrics",
    "start_loggers",
]

_CHECKS = {
    LocalLogger.name: check_local_state,
    BatchLog.name: check_batches_state,
    CometLogger.name: check_comet_state,
    TensorBoardLogger.name: check_tensorboard_state,
}


def check_loggers(loggers: Any) -> list[str]:
    """Check the loggers given by the user, and return their names.

    Raises
    ------
    TypeError
        If it is not a list of loggers, or one lacks a method or has no name.
    ValueError
        If two loggers have the same name.
    """
    given = loggers if isinstance(loggers, (list, tuple)) else [loggers]
    wrong = [each for each in given if not isinstance(each, Logger)]
    if wrong or given is not loggers:
        received = kind_shown(wrong[0] if wrong else loggers)
        raise TypeError(f"loggers must be a list of instances of subclasses of dwiml.Logger, got {received}.")
    own = [name_of_logger(each) for each in given]
    names = [*_CHECKS, *own]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Two loggers are called {name!r}: give each its own name (self.name = '...').")
    return own


def build_loggers(
    folder: Path,
    comet_workspace: str | None = None,
    comet_project: str | None = None,
    own: Mapping[str, Logger] | None = None,
    *,
    batches: bool = False,
    tensorboard: bool = False,
    verbose: bool = True,
) -> list[Logger]:
    """Return the loggers of an experiment: local logs, Comet if both its names are given, TensorBoard, the user's.

    Parameters
    ----------
    folder
        The experiment folder; its name is the name of the run on Comet.
    comet_workspace, comet_project
        Workspace and project on Comet.
    own
        Loggers of the user, by name.
    batches
        Whether there is a local log of batches.
    tensorboard
        Whether to write files for TensorBoard.
    verbose
        Whether to warn if Comet is offline (a failure of Comet always gives a warning).
    """
    loggers: list[Logger] = [LocalLogger(folder), *([BatchLog(folder)] if batches else [])]
    if comet_workspace is not None and comet_project is not None:
        loggers.append(CometLogger(comet_workspace, comet_project, folder.name, folder, verbose=verbose))
    if tensorboard:
        # A failure of TensorBoard is handled as one of the user's loggers.
        loggers.append(GuestLogger(TensorBoardLogger(folder), TensorBoardLogger.name))
    return [*loggers, *(GuestLogger(each, name) for name, each in (own or {}).items())]


def start_loggers(
    loggers: Sequence[Logger], parameters: Mapping[str, Any], states: Mapping[str, Any], *, anew: bool = False
) -> None:
    """Restore the state of loggers from a checkpoint, if it has one, and give each its own copy of the parameters.

    With `anew`, the training starts from the beginning, whatever an earlier one has left without a checkpoint.
    """
    for each in loggers:
        if anew:
            each.begin_anew()
        if each.name in states:
            each.load_state_dict(states[each.name])
        each.log_parameters(copy.deepcopy(dict(parameters)))


def check_logger_states(states: Mapping[str, Any], own: Sequence[str] = ()) -> None:
    """Check the states of the loggers in a checkpoint.

    Parameters
    ----------
    states
        States of the loggers, by name.
    own
        Names of the user's loggers, whose states may be any dictionary.

    Raises
    ------
    ValueError
        If a logger is unknown, or its state is invalid.
    """
    for name, state in states.items():
        if name in own:
            if type(state) is not dict:
                raise ValueError(f"The state of logger '{name}' must be a dictionary, got {kind_shown(state)}.")
            continue
        if name not in _CHECKS:
            raise ValueError(
                f"There is no logger {' '.join(str(name).split())[:60]!r}; there are: {', '.join(_CHECKS)}."
            )
        _CHECKS[name](state)
