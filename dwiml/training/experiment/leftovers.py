"""At the end of a training: is all of it on the disk?"""

from __future__ import annotations

from collections.abc import Sequence

from dwiml.training.experiment.best_model import BestModelKeeper
from dwiml.training.experiment.folder import ExperimentFolder
from dwiml.training.reporting.loggers import LocalLogger, Logger


class ResultsNotSavedError(OSError):
    """A training came to its end, but the disk does not have all of it; the message says what is missing."""


def require_saved(
    folder: ExperimentFolder, best_model: BestModelKeeper, loggers: Sequence[Logger], *, has_checkpoint: bool
) -> None:
    """Check that the disk has the results of a training that has come to its end.

    Parameters
    ----------
    folder
        The experiment's.
    best_model, loggers
        Of the training; what waits in memory was tried again, or is now.
    has_checkpoint
        Whether the last checkpoint was written.

    Raises
    ------
    ResultsNotSavedError
        Naming what is missing, and what to do.
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
            f"The training has come to its end, but the disk does not have {' nor '.join(missing)}: see the warnings "
            "above. Make room, or get the right to write there, and run the same with resume='auto' (--resume "
            "auto): it goes on from the last checkpoint that was written."
        )
