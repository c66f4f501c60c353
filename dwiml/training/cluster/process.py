"""The process of a training: its device, its failures, and an early stop."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from dwiml.failures import TRAINING_ADVICE, ResourceError, resource_error
from dwiml.files.streams import fill_missing_descriptors
from dwiml.training.catalog import CLASSES
from dwiml.training.cluster.slurm import in_job, requeue
from dwiml.training.cluster.stopping import TrainingInterrupted
from dwiml.training.reporting.events import STOP
from dwiml.training.reporting.progress import announce
from dwiml.user_classes.finding import found_as, is_dwiml_class

if TYPE_CHECKING:
    from dwiml.training.reporting.monitors import PhaseMonitor
    from dwiml.training.trainer import DWIMLTrainer

logger = logging.getLogger(__name__)


def choose_device(use_gpu: bool | None, local_rank: int = 0) -> torch.device:
    """Return the device to train on.

    Parameters
    ----------
    use_gpu
        Whether to train on a GPU; None to use one if available.
    local_rank
        Rank of the process on its machine, which is the index of its GPU.

    Raises
    ------
    ValueError
        If there is no GPU and `use_gpu` is True, or there are fewer GPUs than processes.
    """
    if use_gpu not in (None, True, False):
        raise ValueError(f"use_gpu must be True, False, or None to use a GPU if available, got {use_gpu!r}.")
    available = torch.cuda.is_available()
    if use_gpu and not available:
        raise ValueError("use_gpu is True, but torch finds no GPU here.")
    if not available or use_gpu is False:
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"There is no GPU for process {local_rank} of this machine, which has {torch.cuda.device_count()}; start "
            "one process per GPU (option nproc_per_node of torchrun)."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


@contextmanager
def checkpoint_on_failure(trainer: DWIMLTrainer, monitor: PhaseMonitor) -> Iterator[None]:
    """If the block fails (a killed worker, for instance), write a checkpoint of the last step.

    The error of the block is raised in any case, never an error of the writing.

    Parameters
    ----------
    trainer
        The trainer, between two steps.
    monitor
        Monitor of the current phase.
    """
    try:
        yield
    except Exception:
        # With several ranks, all of them would have to take part.
        if trainer.ranks.alone and trainer.updater.is_empty and trainer.position.is_inside:
            try:
                trainer.checkpointer.save(trainer, monitor)
            except Exception as error:
                logger.warning(
                    "The checkpoint of the last step could not be written (%s); the previous one is kept.", error
                )
        raise


@contextmanager
def explained_failures(trainer: DWIMLTrainer) -> Iterator[None]:
    """Convert errors about missing resources (memory, disk, GPU) in the block to :class:`dwiml.failures.ResourceError`.

    Parameters
    ----------
    trainer
        The trainer; the message says how to continue it.

    Raises
    ------
    ResourceError
        If a resource of the machine was exhausted.
    """
    # If a standard stream is closed, a checkpoint must not get its descriptor, to which libraries write messages.
    fill_missing_descriptors()
    try:
        yield
    except ResourceError:
        raise
    except Exception as error:
        failure = resource_error(error, TRAINING_ADVICE)
        if failure is None:
            raise
        kept = f" Then continue with {how_to_resume(trainer)}; the last checkpoint is kept."
        # A trial keeps nothing.
        raise ResourceError(f"{failure}{'' if trainer.settings.fast_dev_run else kept}", failure.kind) from error


def how_to_resume(trainer: DWIMLTrainer) -> str:
    """Return how to continue after a stop; ``dwiml resume`` is named only if it can rebuild all objects.

    Parameters
    ----------
    trainer
        The trainer, with its model, sampler and loader.
    """
    by_command = trainer.config is not None
    script = "the same command and --resume auto" if by_command else "the same script and resume='auto'"
    objects = (trainer, trainer.model, trainer.batch_sampler, trainer.batch_loader)
    options = [_resume_option(kind, type(each)) for kind, each in zip(CLASSES, objects, strict=True)]
    chosen = trainer.settings
    has_own = callable(chosen.optimizer) or callable(chosen.lr_scheduler) or bool(chosen.loggers)
    if has_own or trainer.checkpointer.has_registered or None in options:
        return script
    command = ["dwiml", "resume", str(trainer.folder.path), *(word for option in options for word in option or ())]
    return f"{script}, or {shlex.join(command)}"


def _resume_option(kind: str, found: type) -> list[str] | None:
    """Return the option by which ``dwiml resume`` finds a class, empty if it needs none; None if it cannot find it."""
    if is_dwiml_class(found):
        return [] if found.__name__ in CLASSES[kind] else None
    name = found_as(found)
    if name is None or kind not in ("model", "trainer"):
        return None
    # The name of an installed model is recorded.
    return [f"--{kind}_class", name] if ":" in name else []


def stop_training(trainer: DWIMLTrainer, *, written: bool) -> TrainingInterrupted:
    """Announce why the training stops, requeue the SLURM job if ``requeue`` is set, and return the exception to raise.

    Parameters
    ----------
    trainer
        The trainer that stops.
    written
        Whether its checkpoint was written.
    """
    # The request may have come from another rank.
    reason, code = trainer.requests.reason or "another process", trainer.requests.exit_code
    if trainer.ranks.is_first and trainer.settings.fast_dev_run:
        announce(f"Stopped ({reason}). This was a trial: nothing is kept.")
    elif trainer.ranks.is_first:
        state = "a checkpoint is written" if written else "the checkpoint could NOT be written, the last one is kept"
        line = f"Stopped ({reason}): {state}. Continue with {how_to_resume(trainer)}."
        announce(line)
        trainer.events.add(STOP, line, epoch=trainer.position.epoch, batch=trainer.position.batch)
        if trainer.settings.requeue:
            if in_job():
                announce("SLURM is asked to requeue the job.")
            requeue()
    return TrainingInterrupted(reason, code)
