"""This process: its device, how it fails, and how it ends before the training does."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dwiml.failures import TRAINING_ADVICE, ResourceError, resource_error
from dwiml.files.streams import fill_missing_descriptors
from dwiml.training.cluster.slurm import in_job, requeue
from dwiml.training.cluster.stopping import TrainingInterrupted
from dwiml.training.reporting.progress import announce

if TYPE_CHECKING:
    from dwiml.training.reporting.monitors import PhaseMonitor
    from dwiml.training.trainer import DWIMLTrainer

# The classes that dwiml resume builds again: those of training.loading, and the sampler.
RESUMED_BY_COMMAND = {
    "trainer": ("DWIMLTrainerOneInput", "DWIMLTrainerOneInputWithGVPhase"),
    "model": ("Learn2TrackModel",),
    "sampler": ("DWIMLBatchIDSampler",),
    "loader": ("DWIMLBatchLoaderOneInput",),
}

logger = logging.getLogger(__name__)


def choose_device(use_gpu: bool | None, local_rank: int = 0) -> torch.device:
    """Return the device to train on, on several GPUs the one of that rank.

    Raises
    ------
    ValueError
        When there is no GPU and should be, or fewer than ranks.
    """
    if use_gpu not in (None, True, False):
        raise ValueError(f"use_gpu must be True, False, or None for whichever there is, got {use_gpu!r}.")
    available = torch.cuda.is_available()
    if use_gpu and not available:
        raise ValueError("use_gpu was asked for, but torch finds no GPU here.")
    if not available or use_gpu is False:
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"Process {local_rank} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; start "
            "as many processes as there are GPUs (torchrun --nproc_per_node)."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


@contextmanager
def kept_on_failure(trainer: DWIMLTrainer, monitor: PhaseMonitor) -> Iterator[None]:
    """Where no batch comes any more within the block (a worker that was killed), write the checkpoint of the last step.

    The error itself is not replaced by one of the writing.

    Parameters
    ----------
    trainer
        Between two steps.
    monitor
        Of its phase.
    """
    try:
        yield
    except Exception:
        # All ranks would have to write together.
        if trainer.ranks.alone and trainer.updater.is_empty and trainer.position.is_inside:
            try:
                trainer.checkpointer.save(trainer, monitor)
            except Exception as error:
                logger.warning(
                    "The checkpoint of the last step could not be written (%s); the one before stays.", error
                )
        raise


@contextmanager
def explained_failures(folder: Path) -> Iterator[None]:
    """Turn what the machine could not give, within the block, into a :class:`dwiml.failures.ResourceError`.

    Parameters
    ----------
    folder
        The experiment's, from which the training goes on.
    """
    # A checkpoint must not take the number of a stream that was closed: what libraries say goes there.
    fill_missing_descriptors()
    try:
        yield
    except ResourceError:
        raise
    except Exception as error:
        failure = resource_error(error, TRAINING_ADVICE)
        if failure is None:
            raise
        sentence = f"{failure} Then go on with resume='auto' (dwiml resume '{folder}'): the last checkpoint is kept."
        raise ResourceError(sentence, failure.kind) from error


def how_to_go_on(trainer: DWIMLTrainer) -> str:
    """Return what to do after a stop; ``dwiml resume`` only where it can build all objects again.

    Parameters
    ----------
    trainer
        With its model, sampler and loader.
    """
    script = "the same script and resume='auto'"
    objects = (trainer, trainer.model, trainer.batch_sampler, trainer.batch_loader)
    # A class of the user's own may have one of these names.
    known = all(type(each).__name__ in names for each, names in zip(objects, RESUMED_BY_COMMAND.values(), strict=True))
    chosen = trainer.settings
    has_own = callable(chosen.optimizer) or callable(chosen.lr_scheduler) or bool(chosen.loggers)
    has_own = has_own or trainer.checkpointer.has_registered
    if known and not has_own and all(type(each).__module__.startswith("dwiml.") for each in objects):
        return f"{script}, or dwiml resume {shlex.quote(str(trainer.folder.path))}"
    return script


def leave(trainer: DWIMLTrainer, *, written: bool) -> TrainingInterrupted:
    """Tell the user why the training ends here, ask SLURM to go on with it later if wanted; return what to raise.

    Parameters
    ----------
    trainer
        The one that ends.
    written
        Whether its checkpoint is.
    """
    # Another rank may be the one that was told to stop.
    reason, code = trainer.requests.reason or "another process", trainer.requests.exit_code
    if trainer.ranks.is_first and trainer.settings.fast_dev_run:
        announce(f"Stopped ({reason}). It was a trial: nothing is kept.")
    elif trainer.ranks.is_first:
        state = "a checkpoint is written" if written else "the checkpoint could NOT be written, the last one stays"
        announce(f"Stopped ({reason}): {state}. Go on with {how_to_go_on(trainer)}.")
        if trainer.settings.requeue:
            if in_job():
                announce("SLURM is asked to queue the job again.")
            requeue()
    return TrainingInterrupted(reason, code)
