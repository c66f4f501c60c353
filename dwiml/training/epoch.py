"""The passes over the training and validation batches of an epoch."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from dwiml.arguments import quoted, shown
from dwiml.batching.fetcher import BatchSlices, on_device
from dwiml.batching.loader import DWIMLBatchLoaderOneInput
from dwiml.batching.model_batch import check_mean_loss
from dwiml.ops.sequences import TensorSequence
from dwiml.training.cluster.process import checkpoint_on_failure, stop_training
from dwiml.training.cluster.stopping import NOTHING, STOP
from dwiml.training.experiment.bad_batches import explain_bad_batch
from dwiml.training.reporting.loggers import BatchLog
from dwiml.training.reporting.memory import forget_peak, peak_memory
from dwiml.training.reporting.metrics import GRAD_NORM, GRAD_NORM_CLIPPED, LEARNING_RATE, PADDING, loss_of
from dwiml.training.reporting.monitors import NonFiniteValueError, PhaseMonitor
from dwiml.training.reporting.progress import EpochProgress, announce
from dwiml.training.reporting.windows import BatchWindows

if TYPE_CHECKING:
    from dwiml.training.trainer import DWIMLTrainer

# Parameters of a loader that add noise.
_NOISES = ("noise_gaussian_size_forward", "noise_gaussian_size_loss", "noise_correlated_size")

logger = logging.getLogger(__name__)


class BatchLoss(torch.nn.Module):
    """The trainer's ``run_one_batch`` as a module, so that ``DistributedDataParallel`` can wrap it.

    Parameters
    ----------
    trainer
        The trainer, with its model.
    """

    def __init__(self, trainer: DWIMLTrainer) -> None:
        super().__init__()
        self.model = trainer.model
        self._trainer = trainer

    def forward(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> tuple[torch.Tensor, int]:
        """Return the mean loss and its weight; for a share without points, a loss of 0 that depends on all weights."""
        if len(targets):
            result = self._trainer.run_one_batch(targets, ids_per_subj)
            mean_loss, n = check_mean_loss(result, f"{type(self._trainer).__name__}.run_one_batch")
            if n > 0:
                return mean_loss, n
        # A mean over nothing may be NaN, and weighting it by 0 would not change that.
        parts = [weights.sum() * 0 for weights in self.model.parameters() if weights.requires_grad]
        return torch.stack(parts).sum(), 0


class EpochRunner:
    """Runs the phases of each epoch.

    Parameters
    ----------
    trainer
        The trainer; its position tells where to continue, and its hooks are called for each batch.
    measured
        State of the monitor of the phase in which the training was stopped; None if it was between two phases.
    """

    def __init__(self, trainer: DWIMLTrainer, measured: dict[str, Any] | None) -> None:
        self._trainer = trainer
        self._measured = measured
        self._step = trainer.ranks.wrap_ddp(BatchLoss(trainer))
        self._loaders: dict[str, DataLoader[Any]] = {}
        self._is_first_batch = self._is_first_step = True
        # Of the last epoch that was not resumed in its middle.
        self._epoch_s: float | None = None
        self._begin, self._began_whole = time.perf_counter(), not trainer.position.is_inside
        trainer.batch_loader.called.clear()

    def close(self) -> None:
        """Stop the workers of the data loaders."""
        self._loaders.clear()

    def run_phase(self, phase: str) -> dict[str, float]:
        """Run the remaining batches of a phase, ``"training"`` or ``"validation"``; return its metrics by name.

        Raises
        ------
        FloatingPointError
            If a loss, a gradient or a metric is NaN or infinite; the message names the batch, which is saved.
        TrainingInterrupted
            If the training is asked to stop, once the checkpoint is written.
        """
        trainer, training = self._trainer, phase == "training"
        monitor = self._enter(phase)
        position, updater, verbose = trainer.position, trainer.updater, trainer.verbose
        done, nb_batches = position.batch, position.batch + len(trainer.batch_sampler)
        max_epochs = trainer.settings.max_epochs
        shown: dict[str, Any] = {"done": done, "shown": verbose, "epoch_s": self._epoch_s}
        progress = EpochProgress(phase, position.epoch, max_epochs, nb_batches, **shown)
        weights = nullcontext() if training else trainer.averaged_weights()
        with torch.set_grad_enabled(training), weights, progress:
            try:
                for targets, ids_per_subj in self._batches(phase, monitor):
                    fraction = position.batch / nb_batches
                    wanted = self._run_batch(targets, ids_per_subj, monitor)
                    if updater.is_due or (not updater.is_empty and position.batch == nb_batches):
                        self._take_step(fraction, monitor)
                    if monitor.windows is not None:
                        is_last, rate = position.batch == nb_batches, trainer.schedule.current()
                        monitor.windows.count(monitor, position.batch - 1, rate, is_last=is_last)
                    progress.update(monitor)
                    if updater.is_empty:
                        # A single process also considers a request that arrived during the step.
                        handle_requests(trainer, trainer.requests.wanted if trainer.ranks.alone else wanted, monitor)
                metrics = monitor.metrics(trainer.ranks.gather)
                if training:
                    # Without any loss, no weight was updated.
                    loss_of(metrics, position.epoch, has_validation=False)
            except NonFiniteValueError as error:
                raise FloatingPointError(self._explain(error)) from error
        if trainer.settings.profile and verbose:
            announce(trainer.profiler.report(phase, nb_batches - done))
        if not training:
            return metrics
        weights_moved = {} if trainer.weight_changes is None else trainer.weight_changes.measure()
        memory = peak_memory(trainer.device)
        return {LEARNING_RATE: trainer.schedule.current(), **metrics, **memory, **weights_moved}

    def finish_epoch(self) -> None:
        """Call the trainer's ``finish_epoch`` with the metrics of the epoch.

        Raises
        ------
        RuntimeError
            If a subclass overrides it without calling that of its superclass: the epoch would be repeated forever.
        """
        position = self._trainer.position
        epoch = position.epoch
        if self._began_whole:
            self._epoch_s = time.perf_counter() - self._begin
        self._begin, self._began_whole = time.perf_counter(), True
        self._trainer.finish_epoch(dict(position.metrics))
        _require_super(self._trainer, "finish_epoch", position.epoch > epoch)

    def _enter(self, phase: str) -> PhaseMonitor:
        """Prepare the model, sampler and schedule for a phase; return its monitor, restored if resumed in it."""
        trainer, training = self._trainer, phase == "training"
        settings, position = trainer.settings, trainer.position
        trainer.model.train(training)
        # Validation always uses the batches of epoch 0, so that its losses can be compared.
        same = not training or settings.overfit_batches is not None
        epoch, limit = 0 if same else position.epoch, settings.max_batches(phase)
        trainer.batch_sampler.set_position(phase, epoch, first_batch=position.batch, max_batches=limit)
        if training and position.batch == 0:
            trainer.schedule.begin_epoch(position.epoch)
        monitor = PhaseMonitor(phase, position.epoch)
        measured, self._measured = self._measured, None
        if measured is not None and position.batch > 0:
            monitor.load_state_dict(measured, device=trainer.device, is_first_rank=trainer.ranks.is_first)
        forget_peak(trainer.device)
        # That of a tracking phase, in which the model ran too.
        trainer.model.take_padding()
        log = next((each for each in trainer.loggers if isinstance(each, BatchLog)), None)
        if training and log is not None and settings.log_batches is not None:
            if not log.is_placed:
                log.place(self._nb_batches_before(), position.epoch, position.batch)
            monitor.windows = BatchWindows(
                settings.log_batches, trainer.loggers, log.step, lambda: trainer.checkpointer.is_ours
            )
            monitor.windows.begin(monitor, log.next_batch(position.epoch))
        return monitor

    def _nb_batches_before(self) -> int:
        """Return the number of training batches of the earlier epochs, and of this one so far."""
        trainer, settings = self._trainer, self._trainer.settings
        limit, position = settings.max_batches("training"), trainer.position
        epochs = [0 if settings.overfit_batches is not None else epoch for epoch in range(position.epoch)]
        return sum(trainer.batch_sampler.nb_batches("training", epoch, max_batches=limit) for epoch in epochs) + (
            position.batch
        )

    def _batches(self, phase: str, monitor: PhaseMonitor) -> Iterator[tuple[TensorSequence, BatchSlices]]:
        """Yield the batches of a phase, on the device, and measure the time spent waiting for them."""
        trainer = self._trainer
        if phase not in self._loaders:
            self._loaders[phase] = trainer.batch_loader.data_loader(
                phase, trainer.batch_sampler, nb_cpu_processes=trainer.settings.nb_cpu_processes
            )
        batches = on_device(self._loaders[phase], trainer.device)
        while True:
            before = time.perf_counter()
            with trainer.profiler.part("waiting for data"), checkpoint_on_failure(trainer, monitor):
                batch = next(batches, None)
            if batch is None:
                return
            monitor.data_wait_s += time.perf_counter() - before
            # All ranks have about the same number.
            monitor.nb_points += batch[0].total_points * trainer.ranks.nb
            yield batch

    def _run_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices, monitor: PhaseMonitor) -> int:
        """Compute the loss of a batch and, in training, its gradient; return the highest request of the ranks."""
        trainer, index = self._trainer, self._trainer.position.batch
        with trainer.updater.autocast(), trainer.profiler.part("forward and loss"), trainer.logged.accepting():
            mean_loss, n = self._step(targets, ids_per_subj)
        if self._is_first_batch and len(targets):
            self._is_first_batch = False
            self._warn_of_unused_batch()
        rows, places = trainer.model.take_padding()
        if places:
            monitor.means[PADDING].update(mean_loss.new_tensor(1 - rows / places), places, index)
        nb_points, wanted = trainer.ranks.all_reduce(n, trainer.requests.wanted)
        trainer.position.batch += 1
        loss = trainer.ranks.mean(mean_loss, n, nb_points)
        if nb_points and trainer.nonfinite.is_bad(loss):
            trainer.nonfinite.skip_or_raise(monitor.loss, index, loss, monitor, nb_batches=1)
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
                nb_waiting = trainer.updater.nb_waiting
                trainer.back_propagate(mean_loss, n)
                _require_super(trainer, "back_propagate", trainer.updater.nb_waiting > nb_waiting)
        return wanted

    def _take_step(self, fraction: float, monitor: PhaseMonitor) -> None:
        """Update the weights, unless the gradient is NaN or infinite; `fraction` is the part of the epoch done."""
        trainer, updater = self._trainer, self._trainer.updater
        with trainer.profiler.part("optimizer"):
            index, nb_batches = trainer.position.batch - 1, updater.nb_waiting
            norm = updater.gradient_norm()
            bad = trainer.nonfinite.is_bad(norm)
            # In fp16, the scaler skips a step that overflows and lowers the scale. At a scale of 1, it is an error.
            if bad and not (updater.scaler.is_enabled() and updater.scaler.get_scale() >= 1):
                trainer.nonfinite.skip_or_raise(monitor.means[GRAD_NORM], index, norm, monitor, nb_batches=nb_batches)
                updater.discard()
                return
            if not bad:
                monitor.means[GRAD_NORM].update(norm, 1, index)
                limit = trainer.settings.clip_grad
                if limit is not None:
                    monitor.means[GRAD_NORM_CLIPPED].update(norm.clamp(max=limit), 1, index)
            trainer.schedule.begin_step(trainer.position.epoch, fraction)
            trainer.update_weights()
            _require_super(trainer, "update_weights", updater.is_empty)
        if self._is_first_step:
            # The state of the optimizer, and those that the user registered, may be complete only now.
            self._is_first_step = False
            trainer.checkpointer.check_state(trainer)

    def _explain(self, error: NonFiniteValueError) -> str:
        """Save the batch that gave a NaN or infinite value; return the message for the user."""
        trainer = self._trainer
        if not trainer.ranks.is_first:
            return str(error)
        trainer.checkpointer.refuse_if_taken_over()
        sampler, loader = trainer.batch_sampler, trainer.batch_loader
        return explain_bad_batch(error, trainer.folder, sampler, loader, epoch=trainer.position.epoch)

    def _warn_of_unused_batch(self) -> None:
        """Warn if the loader's noise or volume may not reach the model, because they were not asked of the loader."""
        trainer, loader = self._trainer, self._trainer.batch_loader
        if "model_batch" in loader.called or not trainer.ranks.is_first:
            return
        unused = [name for name in _NOISES if getattr(loader, name)]
        if isinstance(loader, DWIMLBatchLoaderOneInput) and "load_batch_inputs" not in loader.called:
            unused.append(f"the volume '{loader.input_group_name}'")
        if unused:
            logger.warning(
                "%s.run_one_batch does not call self.model_batch: settings of the batch loader (%s) have no effect on "
                "the model, unless run_one_batch applies them itself.",
                type(trainer).__name__,
                ", ".join(unused),
            )


def handle_requests(trainer: DWIMLTrainer, wanted: int, monitor: PhaseMonitor | None = None) -> None:
    """Write a checkpoint if one is requested, and end the training on ``STOP``; all ranks call it between two steps.

    Parameters
    ----------
    trainer
        The trainer, between two steps.
    wanted
        The highest request of the ranks (:attr:`Requests.wanted`).
    monitor
        Monitor of the current phase, if any.

    Raises
    ------
    TrainingInterrupted
        If ``STOP`` is requested; raised once the checkpoint is written.
    """
    if wanted == NOTHING:
        return
    written = trainer.checkpointer.save(trainer, monitor)
    trainer.requests.note_checkpoint()
    if wanted == STOP:
        raise stop_training(trainer, written=written)


def _require_super(trainer: DWIMLTrainer, method: str, is_done: bool) -> None:
    """Raise RuntimeError if a method of a subclass left out the work of its superclass."""
    if not is_done:
        raise RuntimeError(
            f"{type(trainer).__name__}.{method} must call super().{method}(...), which has not been done: see 'The "
            "loop' in the page on custom trainers."
        )


def check_passed_on(trainer: DWIMLTrainer, metrics: Any) -> None:
    """Check that ``finish_epoch`` of a subclass has passed on all metrics of the epoch.

    Raises
    ------
    TypeError, ValueError
        If it passed something else, or without some of them.
    """
    method = f"{type(trainer).__name__}.finish_epoch"
    if not isinstance(metrics, dict):
        raise TypeError(f"{method} must call super().finish_epoch with a dictionary of metrics, got {shown(metrics)}.")
    missing = [name for name in trainer.position.metrics if name not in metrics]
    if missing:
        raise ValueError(
            f"{method} must pass the metrics that it receives to super().finish_epoch, which did not get "
            f"{quoted(missing, limit=3)}: call super().finish_epoch({{**metrics, ...}})."
        )
