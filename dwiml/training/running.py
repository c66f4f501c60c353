"""What lives as long as a training runs: its folder's lock, its loggers, its way to leave."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from dwiml.batching.fetcher import BatchSlices
from dwiml.ops.sequences import TensorSequence
from dwiml.training.checks import check_batch_result
from dwiml.training.cluster.slurm import in_job, requeue
from dwiml.training.cluster.stopping import StopRequest, TrainingInterrupted
from dwiml.training.experiment.folder import ExperimentFolder
from dwiml.training.experiment.lock import ExperimentLock
from dwiml.training.reporting.loggers import Logger, build_loggers
from dwiml.training.reporting.progress import announce

# The classes that dwiml resume builds again, in the order of how_to_go_on: those of training.rebuild, and the sampler.
RESUMED_BY_COMMAND = {
    "trainer": ("DWIMLTrainerOneInput", "DWIMLTrainerOneInputWithGVPhase"),
    "model": ("Learn2TrackModel",),
    "sampler": ("DWIMLBatchIDSampler",),
    "loader": ("DWIMLBatchLoaderOneInput",),
}


class BatchLoss(torch.nn.Module):
    """The trainer's ``run_one_batch`` as a module, which torch can wrap to train on several processes.

    Parameters
    ----------
    model
        Whose weights have gradients.
    run_one_batch
        Called with the batch.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        run_one_batch: Callable[[TensorSequence, BatchSlices], tuple[torch.Tensor, int]],
    ) -> None:
        super().__init__()
        self.model = model
        self._run_one_batch = run_one_batch

    def forward(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> tuple[torch.Tensor, int]:
        """Return the mean loss and its weight; of a share without a point, a loss of 0 that all weights are in."""
        if len(targets):
            mean_loss, n = check_batch_result(self._run_one_batch(targets, ids_per_subj))
            if n > 0:
                return mean_loss, n
        # A mean over nothing may be NaN, and would be so after the weighting too.
        parts = [weights.sum() * 0 for weights in self.model.parameters() if weights.requires_grad]
        return torch.stack(parts).sum(), 0


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Have torch use deterministic algorithms within the block, where it is wanted."""
    if not wanted:
        yield
        return
    # cuBLAS reads it when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def take_folder(folder: ExperimentFolder, stack: ExitStack, *, starts_over: bool) -> ExperimentLock:
    """Make the experiment's folder, and keep every other process out of it until the stack is closed.

    A training that ends with an error before it has any result leaves no new folder behind.

    Raises
    ------
    FileExistsError
        When the folder is not of an experiment of dwiml, or the training starts over and one is there by now.
    ExperimentInUseError
        When another process trains there.
    """
    stack.enter_context(folder.left_only_with_results())
    lock = stack.enter_context(ExperimentLock(folder.path))
    # Another training may have begun and ended here since this one was made.
    folder.refuse_foreign()
    if starts_over:
        folder.refuse_used()
    folder.make()
    return lock


def start_loggers(
    folder: ExperimentFolder,
    comet: tuple[str | None, str | None],
    parameters: Mapping[str, Any],
    checkpoint: Mapping[str, Any] | None,
    *,
    verbose: bool,
) -> list[Logger]:
    """Return the experiment's loggers, back in the state of a checkpoint where there is one."""
    loggers = build_loggers(folder.path, *comet, verbose=verbose)
    for each in loggers:
        if checkpoint is not None and each.name in checkpoint["loggers"]:
            each.load_state_dict(checkpoint["loggers"][each.name])
        each.log_parameters(parameters)
    return loggers


def how_to_go_on(trainer: Any) -> str:
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
    if known and all(type(each).__module__.startswith("dwiml.") for each in objects):
        return f"{script} (--resume auto in dwiml train), or dwiml resume {shlex.quote(str(trainer.folder.path))}"
    return script


def leave(stop: StopRequest, trainer: Any, *, written: bool) -> TrainingInterrupted:
    """Tell the user why the training ends here, ask SLURM to go on with it later if wanted; return what to raise.

    Parameters
    ----------
    stop
        Why it ends.
    trainer
        The one that ends.
    written
        Whether its checkpoint is.
    """
    # Another rank may be the one that was told to stop.
    reason, code = stop.reason or "another process", stop.exit_code
    if trainer.ranks.is_first and trainer.fast_dev_run:
        announce(f"Stopped ({reason}). It was a trial: nothing is kept.")
    elif trainer.ranks.is_first:
        state = "a checkpoint is written" if written else "the checkpoint could NOT be written, the last one stays"
        announce(f"Stopped ({reason}): {state}. Go on with {how_to_go_on(trainer)}.")
        if trainer.requeue:
            if in_job():
                announce("SLURM is asked to queue the job again.")
            requeue()
    return TrainingInterrupted(reason, code)
