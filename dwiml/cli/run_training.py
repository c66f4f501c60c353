"""What ``dwiml train`` and ``dwiml resume`` share: how a signal ends them before the training has begun."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from dwiml.cli import run_command
from dwiml.failures import TRAINING_ADVICE
from dwiml.training.cluster.slurm import in_job, requeue
from dwiml.training.cluster.stopping import check_stop_signal

NOT_BEGUN = "the training had not begun; nothing was trained, and a checkpoint that is there stays as it was"


def run_training(action: Callable[[], None], settings: Mapping[str, Any], *, verbose: bool) -> int:
    """Run a training's command: see :func:`dwiml.cli.run_command`.

    Once it trains, the trainer handles the signals itself. Before, while the data are loaded, they end the command at
    once, and SLURM is asked to queue the job again where that was wanted.

    Parameters
    ----------
    action
        Loads and trains.
    settings
        With ``"stop_signal"`` and ``"requeue"``, where they are known.
    verbose
        Show the library's informative messages.
    """
    stop_signal = None
    # The trainer says what is wrong with it.
    with suppress(ValueError):
        stop_signal = check_stop_signal(settings.get("stop_signal", "SIGUSR1"))
    wanted = bool(settings.get("requeue"))
    return run_command(
        action,
        verbose=verbose,
        signals=["SIGTERM", "SIGHUP"] + ([stop_signal.name] if stop_signal is not None else []),
        when_stopped=f"{NOT_BEGUN}; SLURM is asked to queue the job again" if wanted and in_job() else NOT_BEGUN,
        after_stop=requeue if wanted else None,
        advice=TRAINING_ADVICE,
    )
