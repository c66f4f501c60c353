"""When the machine has no more memory, open files or workers: a sentence, and the checkpoint of the last step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwiml.failures import FILES, GPU, MEMORY, SHARED, WORKER, ResourceError, resource_error
from dwiml.files.streams import fill_missing_descriptors

if TYPE_CHECKING:
    from dwiml.training.reporting.monitors import PhaseMonitor

ADVICE = {
    MEMORY: "lower the batch size, leave the data on the disk (lazy), or use fewer workers (nb_cpu_processes)",
    GPU: "lower the batch size or cache_size, keep volumes in float16 (volume_dtype), or train in bf16 (precision)",
    FILES: "raise the limit with 'ulimit -n 4096', or use fewer workers (nb_cpu_processes)",
    WORKER: "use fewer workers (nb_cpu_processes) or a smaller batch, or ask the cluster for more memory",
    SHARED: "use fewer workers (nb_cpu_processes), or give the container more shared memory (docker run --shm-size)",
}

logger = logging.getLogger(__name__)


@contextmanager
def kept_on_failure(trainer: Any, monitor: PhaseMonitor) -> Iterator[None]:
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
                trainer._save(monitor)
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
        failure = resource_error(error, ADVICE)
        if failure is None:
            raise
        sentence = f"{failure} Then go on with resume='auto' (dwiml resume '{folder}'): the last checkpoint is kept."
        raise ResourceError(sentence, failure.kind) from error
