"""The training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch.utils.data import DataLoader

from dwiml.batching.delivery import on_device
from dwiml.batching.fetcher import BatchSlices
from dwiml.models.allocator import keep_freed_memory
from dwiml.ops.sequences import TensorSequence
from dwiml.training.cluster.failures import explained_failures, kept_on_failure
from dwiml.training.cluster.slurm import warn_without_job
from dwiml.training.cluster.stopping import StopRequest
from dwiml.training.experiment.bad_batches import explain_bad_batch
from dwiml.training.experiment.checkpoint import load_checkpoint
from dwiml.training.experiment.parameters import write_parameters
from dwiml.training.generation.selection import skipped_batches
from dwiml.training.reporting.monitors import NonFiniteValueError, PhaseMonitor
from dwiml.training.reporting.progress import EpochProgress, announce, end_line, epoch_line, not_selected
from dwiml.training.reproducibility import restore_generators, seed_generators
from dwiml.training.resuming import ResumableTraining
from dwiml.training.running import (
    BatchLoss,
    deterministic_algorithms,
    leave,
    start_loggers,
    take_folder,
)
from dwiml.training.state import Position

# What may be wanted between two steps; the highest of all ranks counts.
NOTHING, SAVE, STOP = 0, 1, 2

logger = logging.getLogger(__name__)


class DWIMLTrainer(ResumableTraining):
    """Trains a model on batches of streamlines, epoch after epoch, and survives being stopped.

    The loop, with the methods that a subclass may override::

        train_and_validate()
            for each epoch:
                _run_epoch("training")
                    for each batch of the loader:
                        mean_loss, n = run_one_batch(targets, ids_per_subj)     <- your model's forward and loss
                        back_propagate(mean_loss, n)
                        update_weights()                                        <- clipping, optimizer
                _run_epoch("validation")                                        (no gradient, no augmentation)
                finish_epoch(metrics): best model, logs, checkpoint
                stop when patience has run out

    Parameters
    ----------
    model
        A subclass of ``MainModelAbstract``.
    experiments_path, experiment_name
        What the training makes goes to ``experiments_path/experiment_name``.
    batch_sampler, batch_loader
        Which streamlines make a batch, and what the model receives of them.
    **settings
        All those of :class:`~dwiml.training.settings.TrainerSettings`.

    Raises
    ------
    ValueError, FileExistsError, FileNotFoundError
        For what would stop the training later: parameters out of range, no training streamline, an experiment that
        exists, a checkpoint that does not fit.
    """

    config: str | None = None
    """The text of the experiment's ``config.yaml``, written when a training starts; None: there is no such file."""
    _loaders: dict[str, DataLoader[Any]]
    _stop: StopRequest
    _step: torch.nn.Module
    _unfinished: dict[str, Any] | None
    _requested: int
    _nb_points: int
    _fraction: float
    _last_checkpoint: float

    def train_and_validate(self) -> None:
        """Train until the last epoch, or until patience has run out.

        Raises
        ------
        FloatingPointError
            When a loss, a gradient or a metric is NaN or infinite; the last checkpoint is from before.
        OSError
            When the disk does not have all results at the end, or another process has taken the experiment over.
        TrainingInterrupted
            After a signal, or at the end of ``max_time``, once the checkpoint is written. It ends a script that does
            not catch it.
        """
        first = self.position.epoch
        with ExitStack() as stack:
            self._begin(stack)
            while not self.is_finished:
                if self.position.phase == "training":
                    self.position.end_training(self._run_epoch("training"))
                if self.position.phase == "validation":
                    self.position.end_validation(self._run_epoch("validation") if self.has_validation else {})
                self.finish_epoch(self.position.metrics)
            self._require_saved()
            if self.verbose:
                folder = None if self.fast_dev_run else self.folder.path
                announce(
                    end_line(self.best, first, self.position.epoch, folder, selection_metric=self.selection_metric)
                )

    def run_one_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> tuple[torch.Tensor, int]:
        """Run the model on a batch and compute its loss: the method to override for a model of another kind.

        Parameters
        ----------
        targets
            The batch's streamlines, on the model's device: points (total_points, 3), voxel space, corner origin.
        ids_per_subj
            For each subject index, a slice of the streamlines.

        Returns
        -------
        mean_loss
            0-d tensor.
        n
            The number of points (or of whatever the mean is over): the weight of this batch in the epoch's mean.
        """
        batch = self.batch_loader.model_batch(targets, ids_per_subj)
        return batch.loss(self.model, batch.run(self.model))

    def log(self, name: str, value: torch.Tensor | float, n: int | None = None) -> None:
        """Log a metric of a batch, from :meth:`run_one_batch`, in training and in validation.

        The log, the figures and Comet have its mean over the epoch and over all processes as ``train_<name>`` and
        ``valid_<name>``. It is kept on its device: nothing waits for the GPU. A resumed run has the value of one that
        was never stopped. What is logged in a batch that is skipped as NaN is left out.

        Parameters
        ----------
        name
            Letters, digits and underscores; a unit at the end, as in ``angle_deg`` or ``error_mm``, is shown as one.
        value
            The batch's mean: a number or a 0-d tensor.
        n
            What it is the mean of: its weight, a whole number. Has to be given. Nothing is logged for 0.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            For a name that is reserved, no `n`, a value that is not a single number, a call outside of
            :meth:`run_one_batch`.
        FloatingPointError
            From the training, for a NaN or infinite value: the metric and the batch are named.
        """
        self._logged.add(name, value, n)

    def back_propagate(self, mean_loss: torch.Tensor, n: int) -> None:
        """Add a batch's gradient to the others of the same step; ``n`` is the weight of its mean loss."""
        self.updater.back_propagate(mean_loss, n, total=self._nb_points, share=self.ranks.nb)

    def update_weights(self) -> None:
        """Take one step of the optimizer with the gradients that were added up."""
        self.updater.apply(self.position.epoch, self._fraction)

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        """Keep the best model, log the epoch, and write the checkpoint.

        Parameters
        ----------
        metrics
            By name; a subclass that adds some overrides this method and passes them on to it.
        """
        self._refuse_if_taken_over()
        epoch, loss = self.position.epoch, self._loss_of(metrics)
        # A loss that skipped batches is not that of the others: it may be lower for want of the hard ones.
        nb_skipped = skipped_batches(metrics)
        value = None if nb_skipped and self.selection_metric is None else self.selection_value(metrics)
        is_best = value is not None and self.best.update(value, epoch)
        if self.ranks.is_first:
            with self._averaged_weights():
                _ = self.best_model.save(self.model) if is_best else self.best_model.retry(self.model)
            for each in self.loggers:
                each.log_metrics(metrics, epoch)
        if nb_skipped:
            self.schedule.pass_epoch()
        else:
            self.schedule.end_epoch(loss)
        self.position.end_epoch()
        self._save()
        if self.verbose:
            announce(
                epoch_line(metrics, epoch, self.max_epochs, is_best=is_best, selection_metric=self.selection_metric)
            )
            if nb_skipped and value is None:
                announce(not_selected(epoch, nb_skipped))

    @property
    def selection_metric(self) -> str | None:
        """The metric that :meth:`selection_value` is made of, for the lines that a user reads; None: the loss."""
        return None

    def selection_value(self, metrics: dict[str, float]) -> float | None:
        """Return what the best model is chosen by, the lower the better; None: this epoch is not judged.

        Parameters
        ----------
        metrics
            The epoch's, by name.
        """
        return self._loss_of(metrics)

    def _loss_of(self, metrics: dict[str, float]) -> float:
        """Return the validation loss, or the training loss where there is no validation set."""
        name = "valid_loss" if self.has_validation else "train_loss"
        if name not in metrics:
            raise ValueError(
                f"Epoch {self.position.epoch} has no {name}: run_one_batch counted no point (n) in any of its batches, "
                "or all were skipped as NaN."
            )
        return metrics[name]

    def _run_epoch(self, phase: str) -> dict[str, float]:
        """Go through what is left of a phase of the epoch; return its metrics."""
        training = phase == "training"
        monitor = self._enter(phase)
        done, nb_batches = self.position.batch, self.position.batch + len(self.batch_sampler)
        progress = EpochProgress(phase, self.position.epoch, self.max_epochs, nb_batches, done=done, shown=self.verbose)
        weights = nullcontext() if training else self._averaged_weights()
        with torch.set_grad_enabled(training), weights, progress:
            try:
                for targets, ids_per_subj in self._batches(phase, monitor):
                    self._fraction = self.position.batch / nb_batches
                    self._run_batch(targets, ids_per_subj, monitor)
                    if self.updater.is_due or (not self.updater.is_empty and self.position.batch == nb_batches):
                        self._take_step(monitor)
                    progress.update(monitor)
                    self._act_on_requests(monitor)
                metrics = monitor.metrics(self.ranks.gather)
            except NonFiniteValueError as error:
                raise FloatingPointError(self._explain(error)) from error
        if self.profile and self.verbose:
            announce(self.profiler.report(phase, nb_batches - done))
        return {"learning_rate": self.schedule.current(), **metrics} if training else metrics

    def _enter(self, phase: str) -> PhaseMonitor:
        """Prepare model, sampler and schedule for a phase; return its monitor, that of a run that was stopped in it."""
        training, position = phase == "training", self.position
        self.model.train(training)
        # Validation always sees the batches of its epoch 0, so that its losses can be compared.
        same = not training or self.overfit_batches is not None
        limit = self.overfit_batches or self.max_batches[phase]
        epoch = 0 if same else position.epoch
        self.batch_sampler.set_position(phase, epoch, first_batch=position.batch, max_batches=limit)
        if training and position.batch == 0:
            self.schedule.begin_epoch(position.epoch)
        monitor = PhaseMonitor(phase, position.epoch)
        if self._unfinished is not None and position.batch > 0:
            monitor.load_state_dict(self._unfinished, device=self.device, is_first_rank=self.ranks.is_first)
        self._unfinished = None
        return monitor

    def _batches(self, phase: str, monitor: PhaseMonitor) -> Iterator[tuple[TensorSequence, BatchSlices]]:
        """Give the phase's batches, on the device, and measure the time that is spent waiting for them."""
        if phase not in self._loaders:
            self._loaders[phase] = self.batch_loader.data_loader(
                phase, self.batch_sampler, nb_cpu_processes=self.nb_cpu_processes
            )
        batches = on_device(self._loaders[phase], self.device)
        while True:
            before = time.perf_counter()
            with self.profiler.part("waiting for data"), kept_on_failure(self, monitor):
                batch = next(batches, None)
            if batch is None:
                return
            monitor.data_wait_s += time.perf_counter() - before
            # All ranks have about as many.
            monitor.nb_points += batch[0].total_points * self.ranks.nb
            yield batch

    def _run_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices, monitor: PhaseMonitor) -> None:
        """Compute a batch's loss and, in training, add its gradient to those of the step."""
        index = self.position.batch
        with self.updater.autocast(), self.profiler.part("forward and loss"):
            self._logged.begin()
            mean_loss, n = self._step(targets, ids_per_subj)
            self._logged.end()
        self._nb_points, self._requested = self.ranks.all_reduce(n, self._request())
        self.position.batch += 1
        counts = self._nb_points > 0
        loss = self.ranks.mean(mean_loss, n, self._nb_points)
        if counts and self.nonfinite.is_bad(loss):
            self.nonfinite.pass_over(monitor.loss, index, loss, monitor, nb_batches=1)
            return
        monitor.own.update(self._logged, index, skip_bad=self.nonfinite.skips)
        if self.device.type == "cpu":
            monitor.own.check()
        if not counts:
            return
        monitor.loss.update(loss, self._nb_points, index)
        if torch.is_grad_enabled():
            with self.profiler.part("backward"):
                self.back_propagate(mean_loss, n)

    def _take_step(self, monitor: PhaseMonitor) -> None:
        """Finish the gradient, and update the weights unless it is NaN or infinite."""
        with self.profiler.part("optimizer"):
            index, nb_batches = self.position.batch - 1, self.updater.nb_waiting
            norm = self.updater.gradient_norm()
            bad = self.nonfinite.is_bad(norm)
            # In fp16 a step that overflows is left out, and the next one is scaled less; that ends at a scale of 1.
            if bad and not (self.updater.scaler.is_enabled() and self.updater.scaler.get_scale() >= 1):
                self.nonfinite.pass_over(monitor.means["grad_norm"], index, norm, monitor, nb_batches=nb_batches)
                self.updater.discard()
                return
            if not bad:
                monitor.means["grad_norm"].update(norm, 1, index)
                if self.clip_grad is not None:
                    monitor.means["grad_norm_clipped"].update(norm.clamp(max=self.clip_grad), 1, index)
            self.update_weights()

    def _explain(self, error: NonFiniteValueError) -> str:
        """Save the batch that gave a NaN or infinite value; return what to tell the user."""
        if not self.ranks.is_first:
            return str(error)
        self._refuse_if_taken_over()
        return explain_bad_batch(error, self.folder, self.batch_sampler, self.batch_loader, epoch=self.position.epoch)

    def _request(self) -> int:
        """Return what this rank wants once the step is done."""
        if self._stop.requested:
            return STOP
        minutes = (time.monotonic() - self._last_checkpoint) / 60
        return SAVE if self.checkpoint_minutes is not None and minutes >= self.checkpoint_minutes else NOTHING

    def _act_on_requests(self, monitor: PhaseMonitor) -> None:
        """Between two steps: write a checkpoint, and leave, if a rank wants it."""
        # Alone, what came during the step counts already.
        wanted = self._request() if self.ranks.alone else self._requested
        if wanted != NOTHING and self.updater.is_empty:
            self._act_on(wanted, monitor)

    def _act_on(self, wanted: int, monitor: PhaseMonitor | None = None) -> None:
        """Write a checkpoint, and leave for STOP."""
        written = self._save(monitor)
        self._last_checkpoint = time.monotonic()
        if wanted == STOP:
            raise leave(self._stop, self, written=written)

    def _begin(self, stack: ExitStack) -> None:
        """Take the experiment's folder, and make what lives as long as the training runs."""
        stack.enter_context(explained_failures(self.folder.path))
        if self._remove_trial is not None:
            stack.callback(self._remove_trial)
        self._stop = stack.enter_context(StopRequest(stop_signal=self.stop_signal, max_time=self.max_time))
        stack.enter_context(deterministic_algorithms(self.deterministic))
        if self.device.type == "cpu":
            keep_freed_memory()
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is None and self.position != Position():
            # The same object goes on, after it was stopped or has ended.
            checkpoint = load_checkpoint(self.folder.checkpoint)
        if self.ranks.is_first:
            starts_over = self.resume == "never" and self.position == Position()
            self._lock = take_folder(self.folder, stack, starts_over=starts_over)
            self._refuse_newer_checkpoint()
            write_parameters(self.folder, self.parameters, self.batch_sampler.dataset.groups_config)
            if self.config is not None and checkpoint is None and not self.fast_dev_run:
                self.folder.write_config(self.config)
            self.loggers = start_loggers(self.folder, self.comet, self.parameters, checkpoint, verbose=self.verbose)
            stack.callback(self._write_what_waits)
        if checkpoint is None:
            seed_generators(self.seed, self.ranks.rank)
        else:
            restore_generators(checkpoint["generators"], rank=self.ranks.rank, seed=self.seed, device=self.device)
        self._unfinished = None if checkpoint is None else checkpoint["monitors"]
        self._step = self.ranks.wrap_ddp(BatchLoss(self.model, lambda *batch: self.run_one_batch(*batch)))
        self._loaders = {}
        # Ends the workers.
        stack.callback(self._loaders.clear)
        self._last_checkpoint = time.monotonic()
        if self.ranks.is_first and not self.is_finished:
            if self.requeue and not self.fast_dev_run:
                warn_without_job()
            self._introduce(resumes=checkpoint is not None)
