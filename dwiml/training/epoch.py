"""What lives as long as a training runs, and its passes over the training and the validation batches of an epoch."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from dwiml.batching.delivery import on_device
from dwiml.batching.fetcher import BatchSlices
from dwiml.batching.loader import DWIMLBatchLoaderOneInput
from dwiml.models.allocator import keep_freed_memory
from dwiml.ops.sequences import TensorSequence
from dwiml.training.cluster.process import explained_failures, kept_on_failure, leave
from dwiml.training.cluster.stopping import NOTHING, STOP
from dwiml.training.experiment.bad_batches import explain_bad_batch
from dwiml.training.experiment.folder import remove_trial
from dwiml.training.experiment.parameters import write_parameters
from dwiml.training.reporting.loggers import build_loggers, start_loggers
from dwiml.training.reporting.monitors import NonFiniteValueError, PhaseMonitor
from dwiml.training.reporting.progress import EpochProgress, announce
from dwiml.training.reporting.summary import introduce
from dwiml.training.reproducibility import deterministic_algorithms, restore_generators, seed_generators
from dwiml.training.state import Position

if TYPE_CHECKING:
    from dwiml.training.trainer import DWIMLTrainer

# What a loader adds to what the model or the loss sees, where it was asked for.
_NOISES = ("noise_gaussian_size_forward", "noise_gaussian_size_loss", "noise_correlated_size")

logger = logging.getLogger(__name__)


class BatchLoss(torch.nn.Module):
    """The trainer's ``run_one_batch`` as a module, which torch can wrap to train on several processes.

    Parameters
    ----------
    trainer
        Whose model has the gradients.
    """

    def __init__(self, trainer: DWIMLTrainer) -> None:
        super().__init__()
        self.model = trainer.model
        self._trainer = trainer

    def forward(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> tuple[torch.Tensor, int]:
        """Return the mean loss and its weight; of a share without a point, a loss of 0 that all weights are in."""
        if len(targets):
            mean_loss, n = _checked_result(self._trainer.run_one_batch(targets, ids_per_subj))
            if n > 0:
                return mean_loss, n
        # A mean over nothing may be NaN, and would be so after the weighting too.
        parts = [weights.sum() * 0 for weights in self.model.parameters() if weights.requires_grad]
        return torch.stack(parts).sum(), 0


class EpochRunner:
    """Runs the phases of the epochs of a trainer, as long as the training runs.

    Parameters
    ----------
    trainer
        Its position says what of a phase is left; its hooks are called for each batch.
    measured
        The monitor's state of the phase in which the training was stopped, if it was inside one.
    """

    def __init__(self, trainer: DWIMLTrainer, measured: dict[str, Any] | None) -> None:
        self._trainer = trainer
        self._measured = measured
        self._step = trainer.ranks.wrap_ddp(BatchLoss(trainer))
        self._loaders: dict[str, DataLoader[Any]] = {}
        self._is_first_batch = True

    def close(self) -> None:
        """End the loader's workers."""
        self._loaders.clear()

    def run_phase(self, phase: str) -> dict[str, float]:
        """Go through what is left of a phase, ``"training"`` or ``"validation"``; return its metrics by name.

        Raises
        ------
        FloatingPointError
            When a loss, a gradient or a metric is NaN or infinite; the batch is saved and named.
        TrainingInterrupted
            When the training is asked to stop, once the checkpoint is written.
        """
        trainer, training = self._trainer, phase == "training"
        monitor = self._enter(phase)
        position, updater, verbose = trainer.position, trainer.updater, trainer.verbose
        done, nb_batches = position.batch, position.batch + len(trainer.batch_sampler)
        max_epochs = trainer.settings.max_epochs
        progress = EpochProgress(phase, position.epoch, max_epochs, nb_batches, done=done, shown=verbose)
        weights = nullcontext() if training else trainer.averaged_weights()
        with torch.set_grad_enabled(training), weights, progress:
            try:
                for targets, ids_per_subj in self._batches(phase, monitor):
                    fraction = position.batch / nb_batches
                    wanted = self._run_batch(targets, ids_per_subj, monitor)
                    if updater.is_due or (not updater.is_empty and position.batch == nb_batches):
                        self._take_step(fraction, monitor)
                    progress.update(monitor)
                    if updater.is_empty:
                        # Alone, what came during the step counts already.
                        obey(trainer, trainer.requests.wanted if trainer.ranks.alone else wanted, monitor)
                metrics = monitor.metrics(trainer.ranks.gather)
            except NonFiniteValueError as error:
                raise FloatingPointError(self._explain(error)) from error
        if trainer.settings.profile and verbose:
            announce(trainer.profiler.report(phase, nb_batches - done))
        return {"learning_rate": trainer.schedule.current(), **metrics} if training else metrics

    def _enter(self, phase: str) -> PhaseMonitor:
        """Prepare model, sampler and schedule for a phase; return its monitor, that of a run that was stopped in it."""
        trainer, training = self._trainer, phase == "training"
        settings, position = trainer.settings, trainer.position
        trainer.model.train(training)
        # Validation always sees the batches of its epoch 0, so that its losses can be compared.
        same = not training or settings.overfit_batches is not None
        epoch, limit = 0 if same else position.epoch, settings.max_batches(phase)
        trainer.batch_sampler.set_position(phase, epoch, first_batch=position.batch, max_batches=limit)
        if training and position.batch == 0:
            trainer.schedule.begin_epoch(position.epoch)
        monitor = PhaseMonitor(phase, position.epoch)
        measured, self._measured = self._measured, None
        if measured is not None and position.batch > 0:
            monitor.load_state_dict(measured, device=trainer.device, is_first_rank=trainer.ranks.is_first)
        return monitor

    def _batches(self, phase: str, monitor: PhaseMonitor) -> Iterator[tuple[TensorSequence, BatchSlices]]:
        """Give the phase's batches, on the device, and measure the time that is spent waiting for them."""
        trainer = self._trainer
        if phase not in self._loaders:
            self._loaders[phase] = trainer.batch_loader.data_loader(
                phase, trainer.batch_sampler, nb_cpu_processes=trainer.settings.nb_cpu_processes
            )
        batches = on_device(self._loaders[phase], trainer.device)
        while True:
            before = time.perf_counter()
            with trainer.profiler.part("waiting for data"), kept_on_failure(trainer, monitor):
                batch = next(batches, None)
            if batch is None:
                return
            monitor.data_wait_s += time.perf_counter() - before
            # All ranks have about as many.
            monitor.nb_points += batch[0].total_points * trainer.ranks.nb
            yield batch

    def _run_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices, monitor: PhaseMonitor) -> int:
        """Compute a batch's loss and, in training, add its gradient to those of the step; return what ranks want."""
        trainer, index = self._trainer, self._trainer.position.batch
        with trainer.updater.autocast(), trainer.profiler.part("forward and loss"), trainer.logged.accepting():
            mean_loss, n = self._step(targets, ids_per_subj)
        if self._is_first_batch and len(targets):
            self._is_first_batch = False
            self._warn_of_unused_batch()
        nb_points, wanted = trainer.ranks.all_reduce(n, trainer.requests.wanted)
        trainer.position.batch += 1
        loss = trainer.ranks.mean(mean_loss, n, nb_points)
        if nb_points and trainer.nonfinite.is_bad(loss):
            trainer.nonfinite.pass_over(monitor.loss, index, loss, monitor, nb_batches=1)
            return wanted
        monitor.own.update(trainer.logged, index, skip_bad=trainer.nonfinite.skips)
        if trainer.device.type == "cpu":
            monitor.own.check()
        if not nb_points:
            return wanted
        monitor.loss.update(loss, nb_points, index)
        if torch.is_grad_enabled():
            trainer.updater.begin_batch(nb_points, trainer.ranks.nb)
            with trainer.profiler.part("backward"):
                trainer.back_propagate(mean_loss, n)
        return wanted

    def _take_step(self, fraction: float, monitor: PhaseMonitor) -> None:
        """Finish the gradient, and update the weights unless it is NaN or infinite; `fraction` of the epoch is done."""
        trainer, updater = self._trainer, self._trainer.updater
        with trainer.profiler.part("optimizer"):
            index, nb_batches = trainer.position.batch - 1, updater.nb_waiting
            norm = updater.gradient_norm()
            bad = trainer.nonfinite.is_bad(norm)
            # In fp16 a step that overflows is left out, and the next one is scaled less; that ends at a scale of 1.
            if bad and not (updater.scaler.is_enabled() and updater.scaler.get_scale() >= 1):
                trainer.nonfinite.pass_over(monitor.means["grad_norm"], index, norm, monitor, nb_batches=nb_batches)
                updater.discard()
                return
            if not bad:
                monitor.means["grad_norm"].update(norm, 1, index)
                limit = trainer.settings.clip_grad
                if limit is not None:
                    monitor.means["grad_norm_clipped"].update(norm.clamp(max=limit), 1, index)
            trainer.schedule.begin_step(trainer.position.epoch, fraction)
            trainer.update_weights()

    def _explain(self, error: NonFiniteValueError) -> str:
        """Save the batch that gave a NaN or infinite value; return what to tell the user."""
        trainer = self._trainer
        if not trainer.ranks.is_first:
            return str(error)
        trainer.checkpointer.refuse_if_taken_over()
        sampler, loader = trainer.batch_sampler, trainer.batch_loader
        return explain_bad_batch(error, trainer.folder, sampler, loader, epoch=trainer.position.epoch)

    def _warn_of_unused_batch(self) -> None:
        """Warn when what the loader was asked for reaches the model in no way that the trainer knows of."""
        trainer = self._trainer
        loader = trainer.batch_loader
        asked = [name for name in _NOISES if getattr(loader, name)]
        if isinstance(loader, DWIMLBatchLoaderOneInput):
            asked.append(f"the volume '{loader.input_group_name}'")
        if not asked or trainer.has_model_batch or not trainer.ranks.is_first:
            return
        logger.warning(
            "%s.run_one_batch does not call self.model_batch: what the batch loader was asked for (%s) does not reach "
            "the model, unless run_one_batch sees to it.",
            type(trainer).__name__,
            ", ".join(asked),
        )


@contextmanager
def running(trainer: DWIMLTrainer) -> Iterator[EpochRunner]:
    """Keep, within the block, what lives as long as the training runs: the folder's lock, signals, loggers, workers.

    Raises
    ------
    FileExistsError, ExperimentInUseError
        When the experiment's folder is another's, or another process trains there.
    """
    with ExitStack() as stack:
        stack.enter_context(explained_failures(trainer.folder.path))
        if trainer.settings.fast_dev_run:
            stack.callback(remove_trial, trainer.folder.path.parent)
        stack.enter_context(trainer.requests)
        stack.enter_context(deterministic_algorithms(trainer.settings.deterministic))
        if trainer.device.type == "cpu":
            keep_freed_memory()
        has_begun = trainer.position != Position()
        checkpoint = trainer.checkpointer.begin(goes_on=has_begun)
        if trainer.ranks.is_first:
            starts_over = trainer.settings.resume == "never" and not has_begun
            trainer.checkpointer.take_folder(stack, starts_over=starts_over)
            write_parameters(trainer.folder, trainer.parameters, trainer.batch_sampler.dataset.groups_config)
            if trainer.config is not None and checkpoint is None and not trainer.settings.fast_dev_run:
                trainer.folder.write_config(trainer.config)
            settings, logged = trainer.settings, {} if checkpoint is None else checkpoint["loggers"]
            trainer.loggers = build_loggers(
                trainer.folder.path,
                settings.comet_workspace,
                settings.comet_project,
                settings.loggers,
                verbose=trainer.verbose,
            )
            start_loggers(trainer.loggers, trainer.parameters, logged)
            stack.callback(_write_what_waits, trainer)
        if checkpoint is None:
            seed_generators(trainer.seed, trainer.ranks.rank)
        else:
            states = checkpoint["generators"]
            restore_generators(states, rank=trainer.ranks.rank, seed=trainer.seed, device=trainer.device)
        epochs = EpochRunner(trainer, None if checkpoint is None else checkpoint["monitors"])
        stack.callback(epochs.close)
        trainer.requests.note_checkpoint()
        if trainer.ranks.is_first and not trainer.is_finished:
            introduce(trainer, resumes=checkpoint is not None)
        yield epochs


def obey(trainer: DWIMLTrainer, wanted: int, monitor: PhaseMonitor | None = None) -> None:
    """Between two steps: write a checkpoint where one is wanted, and leave for ``STOP``; all ranks call it.

    Parameters
    ----------
    trainer
        Between two steps.
    wanted
        What the ranks want, as :attr:`Requests.wanted` says it.
    monitor
        Of the phase that it is in, if any.

    Raises
    ------
    TrainingInterrupted
        For ``STOP``, once the checkpoint is written.
    """
    if wanted == NOTHING:
        return
    written = trainer.checkpointer.save(trainer, monitor)
    trainer.requests.note_checkpoint()
    if wanted == STOP:
        raise leave(trainer, written=written)


def _write_what_waits(trainer: DWIMLTrainer) -> None:
    """Finish the best model and the logs, unless they are another process's by now."""
    if not trainer.checkpointer.is_ours:
        return
    trainer.best_model.close()
    for each in trainer.loggers:
        sentence = each.close()
        if sentence and trainer.verbose:
            announce(sentence)


def _checked_result(result: Any) -> tuple[torch.Tensor, int]:
    """Return what ``run_one_batch`` returned; raise TypeError when it is not (0-d tensor, n)."""
    if isinstance(result, (tuple, list)) and len(result) == 2:
        mean_loss, n = result
        if isinstance(mean_loss, torch.Tensor) and mean_loss.ndim == 0:
            return mean_loss, int(n)
    raise TypeError("run_one_batch must return (mean_loss, n): a 0-d tensor and the number of points that it is over.")
