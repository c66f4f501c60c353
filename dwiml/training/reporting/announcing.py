"""What a training tells its user at its start, after each epoch and at its end, and records as events."""

from __future__ import annotations

import logging
import os
import platform
from typing import TYPE_CHECKING

from dwiml.arguments import counted
from dwiml.seeding import DRAWN
from dwiml.training.cluster.slurm import warn_without_job
from dwiml.training.generation.selection import selection_name
from dwiml.training.reporting.events import DONE, END, EPOCH_END, RESUME, START
from dwiml.training.reporting.metrics import is_comparable, skipped_batches
from dwiml.training.reporting.progress import announce, end_line, epoch_line, not_selected
from dwiml.training.state import GENERATION, TRAINING

if TYPE_CHECKING:
    from dwiml.training.trainer import DWIMLTrainer

logger = logging.getLogger(__name__)

# The line for a training with a seed whose model was created without one.
UNSEEDED_WEIGHTS = (
    "Seed       not used for the weights: dwiml.seed_everything was not called before the model was created, so "
    "another run starts with other weights (unless torch.manual_seed was called)"
)


def announce_start(trainer: DWIMLTrainer, *, resumes: bool) -> None:
    """Show warnings and the summary before the training, where it resumes, and whether the weights were not seeded."""
    if trainer.settings.requeue and not trainer.settings.fast_dev_run:
        warn_without_job()
    for note in trainer.notes:
        logger.warning(note)
    summary, resuming = trainer.summary(), _resuming_line(trainer) if resumes else ""
    trainer.events.add(
        RESUME if resumes else START,
        resuming or summary,
        epoch=trainer.position.epoch,
        batch=trainer.position.batch,
        **{DONE: _epochs_done(trainer)},
        max_epochs=trainer.settings.max_epochs,
        host=platform.node(),
        pid=os.getpid(),
        **({"slurm_job": os.environ["SLURM_JOB_ID"]} if os.environ.get("SLURM_JOB_ID") else {}),
    )
    if not trainer.verbose:
        return
    announce(summary)
    if resumes:
        announce(resuming)
    elif trainer.seed_source != DRAWN and trainer.model.weights_seed is None:
        announce(UNSEEDED_WEIGHTS)


def announce_epoch(trainer: DWIMLTrainer, metrics: dict[str, float], epoch: int, *, value: float | None) -> None:
    """Show and record the line of an epoch that is done.

    Parameters
    ----------
    trainer
        The trainer, after the epoch.
    metrics
        Metrics of the epoch.
    epoch
        Its index.
    value
        Its value for the selection of the best model; None if it does not count.
    """
    is_best = value is not None and trainer.best.best_epoch == epoch
    by = selection_name(trainer)
    line = epoch_line(metrics, epoch, trainer.settings.max_epochs, is_best=is_best, by=by)
    trainer.events.add(EPOCH_END, line, epoch=epoch)
    if not trainer.verbose:
        return
    announce(line)
    if value is None and not is_comparable(trainer.selection_metric, metrics):
        announce(not_selected(epoch, skipped_batches(metrics)))


def announce_end(trainer: DWIMLTrainer, first_epoch: int) -> None:
    """Show and record why a training ended, and its result; this run began with the epoch `first_epoch`."""
    line = end_line(
        trainer.best,
        first_epoch,
        trainer.position.epoch,
        None if trainer.settings.fast_dev_run else trainer.folder.path,
        validated=trainer.has_validation,
        by=selection_name(trainer),
    )
    trainer.events.add(END, line, epoch=trainer.position.epoch)
    if trainer.verbose:
        announce(line)


def _epochs_done(trainer: DWIMLTrainer) -> float:
    """Return the number of epochs done, with the part of the training batches of the current one."""
    position = trainer.position
    if position.phase != TRAINING:
        return position.epoch + 1.0
    if not position.batch:
        return float(position.epoch)
    nb_batches = trainer.batch_sampler.nb_batches(
        TRAINING, position.epoch, max_batches=trainer.settings.max_batches(TRAINING)
    )
    return round(position.epoch + position.batch / max(nb_batches, 1), 4)


def _resuming_line(trainer: DWIMLTrainer) -> str:
    """Return the line that reports where a training resumes; epochs are counted from 0."""
    position, sampler = trainer.position, trainer.batch_sampler
    line = f"Resuming at epoch {position.epoch}"
    if not position.is_inside:
        return line
    if position.phase == GENERATION:
        return f"{line}, after its validation"
    # Validation uses the same batches in each epoch.
    epoch, limit = position.epoch if position.phase == TRAINING else 0, trainer.settings.max_batches(position.phase)
    nb_batches = sampler.nb_batches(position.phase, epoch, max_batches=limit)
    return f"{line}, {position.phase}: {position.batch} of {counted(nb_batches, 'batch')} are done"
