"""The loggers of a training: always local files; services and the user's loggers if requested."""

from __future__ import annotations

import copy
import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwiml.arguments import kind_shown
from dwiml.training.reporting.loggers.base import Logger
from dwiml.training.reporting.loggers.batches import BatchLog, check_batches_state
from dwiml.training.reporting.loggers.comet import OFFLINE_FOLDER, CometLogger, check_comet_state
from dwiml.training.reporting.loggers.guest import GuestLogger, name_of_logger
from dwiml.training.reporting.loggers.local import LocalLogger, check_local_state, read_metrics
from dwiml.training.reporting.loggers.network import check_installed
from dwiml.training.reporting.loggers.tensorboard import (
    TENSORBOARD_FOLDER,
    TensorBoardLogger,
    check_tensorboard_state,
)
from dwiml.training.reporting.loggers.weights_and_biases import (
    WANDB_FOLDER,
    WandbLogger,
    check_wandb_state,
)

if TYPE_CHECKING:
    from dwiml.training.settings import TrainerSettings

__all__ = [
    "BatchLog",
    "CometLogger",
    "LocalLogger",
    "Logger",
    "TensorBoardLogger",
    "WandbLogger",
    "build_loggers",
    "check_logger_states",
    "check_loggers",
    "check_services",
    "give_figures",
    "read_metrics",
    "start_loggers",
]

logger = logging.getLogger(__name__)

_CHECKS = {
    LocalLogger.name: check_local_state,
    BatchLog.name: check_batches_state,
    CometLogger.name: check_comet_state,
    TensorBoardLogger.name: check_tensorboard_state,
    WandbLogger.name: check_wandb_state,
}

SERVICE_FOLDERS = (OFFLINE_FOLDER, TENSORBOARD_FOLDER, WANDB_FOLDER)
"""Folders of an experiment in which the loggers of services write."""


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
    for name in own:
        if name in _CHECKS:
            raise ValueError(f"{name!r} is the name of a logger of dwiml: give yours another one (self.name = '...').")
        if own.count(name) > 1:
            raise ValueError(f"Two loggers are called {name!r}: give each its own name (self.name = '...').")
    return own


def build_loggers(
    folder: Path, settings: TrainerSettings, own: Mapping[str, Logger] | None = None, *, verbose: bool = True
) -> list[Logger]:
    """Return the loggers of an experiment: local logs, the services of the settings, and those of the user.

    Parameters
    ----------
    folder
        The experiment folder; its name is the name of the run on the services.
    settings
        The settings of the trainer.
    own
        Loggers of the user, by name.
    verbose
        Whether to warn if a service is offline (a failure always gives a warning).
    """
    loggers: list[Logger] = [LocalLogger(folder), *([] if settings.log_batches is None else [BatchLog(folder)])]
    workspace, project = settings.comet_workspace, settings.comet_project
    if workspace is not None and project is not None:
        loggers.append(CometLogger(workspace, project, folder.name, folder, verbose=verbose))
    # Their failures are handled as those of the user's loggers.
    guests: dict[str, Logger] = {}
    if settings.tensorboard:
        guests[TensorBoardLogger.name] = TensorBoardLogger(folder)
    if settings.wandb_project is not None:
        entity = settings.wandb_entity
        guests[WandbLogger.name] = WandbLogger(settings.wandb_project, entity, folder, verbose=verbose)
    guests |= own or {}
    return [*loggers, *(GuestLogger(each, name) for name, each in guests.items())]


def check_services(settings: TrainerSettings) -> None:
    """Check that the packages of the services of the settings are installed.

    Raises
    ------
    ValueError
        If one is not; the message says how to install it.
    """
    if settings.tensorboard:
        check_installed("tensorboard", "tensorboard=True")
    if settings.wandb_project is not None:
        check_installed("wandb", "wandb_project")


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


def give_figures(loggers: Sequence[Logger], folder: Path) -> None:
    """Draw the curves of a training that has finished, and give them to the loggers that take figures.

    A figure that cannot be drawn is a warning.

    Parameters
    ----------
    loggers
        The loggers of the training.
    folder
        The experiment folder.
    """
    receivers = [each for each in loggers if each._takes_figures()]
    if not receivers:
        return
    try:
        # Imported here: viz reads the logs of trainings, and only the end of a training draws.
        draw = importlib.import_module("dwiml.viz.logs").plot_logs
        # One for each: a logger may change its own.
        figures = [draw([folder]) for _ in receivers]
    except Exception as error:
        logger.warning("The curves for %s cannot be drawn: %s", ", ".join(each.name for each in receivers), error)
        return
    for each, figure in zip(receivers, figures, strict=True):
        each.log_figure("curves", figure)


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
