"""Running ``dwiml train`` and ``dwiml resume``: signals that arrive before the training starts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from dwiml.cli import run_command
from dwiml.failures import TRAINING_ADVICE
from dwiml.training.cluster.slurm import in_job, requeue
from dwiml.training.cluster.stopping import check_stop_signal

NOT_BEGUN = "the training had not started; nothing was trained, and an existing checkpoint is unchanged"


def run_training(
    action: Callable[[], None], settings: Mapping[str, Any], *, parser: argparse.ArgumentParser, verbose: bool
) -> int:
    """Run a training command with :func:`dwiml.cli.run_command`.

    During the training, the trainer handles signals. Before, while the data are loaded, a signal ends the command
    immediately, and SLURM is asked to requeue the job if ``requeue`` is set.

    Parameters
    ----------
    action
        Loads the data and trains.
    settings
        The settings that are known; ``"stop_signal"`` and ``"requeue"`` are used.
    parser
        The command's parser, whose options errors name.
    verbose
        Show the library's informative messages.

    Returns
    -------
    int
        The exit code.
    """
    stop_signal = None
    # The trainer reports an invalid signal.
    with suppress(ValueError):
        stop_signal = check_stop_signal(settings.get("stop_signal", "SIGUSR1"))
    wanted = bool(settings.get("requeue"))
    return run_command(
        action,
        parser=parser,
        verbose=verbose,
        signals=["SIGTERM", "SIGHUP"] + ([stop_signal.name] if stop_signal is not None else []),
        stop_message=f"{NOT_BEGUN}; SLURM is asked to requeue the job" if wanted and in_job() else NOT_BEGUN,
        after_stop=requeue if wanted else None,
        advice=TRAINING_ADVICE,
    )
