"""Checking, at the end of a training, that all results were written to disk."""

from __future__ import annotations

from collections.abc import Sequence

from dwiml.training.experiment.best_model import BestModelKeeper
from dwiml.training.experiment.folder import ExperimentFolder
from dwiml.training.reporting.loggers import LocalLogger, Logger


class ResultsNotSavedError(OSError):
    """The training has ended, but some results could not be written to disk; the message names them."""


def require_saved(
    folder: ExperimentFolder, best_model: BestModelKeeper, loggers: Sequence[Logger], *, has_checkpoint: bool
) -> None:
    """Check that all results of a training that has ended are on disk.

    Parameters
    ----------
    folder
        The experiment folder.
    best_model
        Writes the best model.
    loggers
        The loggers of the training; pending lines of the local log are retried.
    has_checkpoint
        Whether the last checkpoint was written.

    Raises
    ------
    ResultsNotSavedError
        If some results are missing; the message names them.
    """
    missing = []
    if best_model.pending:
        missing.append(f"the best model's weights ('{best_model.folder}')")
    if not has_checkpoint:
        missing.append(f"the last checkpoint ('{folder.checkpoint}')")
    for each in loggers:
        if isinstance(each, LocalLogger) and not each.retry():
            missing.append(f"the last lines of the log ('{each.path}')")
    if missing:
        raise ResultsNotSavedError(
            f"The training has ended, but could not write {' nor '.join(missing)}: see the warnings above. Free disk "
            "space or check the permissions, and run the training again with resume='auto': it continues from the last "
            "checkpoint that was written."
        )
