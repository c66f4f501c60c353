"""The trainer: its attributes, its loop, and the methods that a subclass may override."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from dwiml.arguments import unknown_parameter
from dwiml.batching.compatibility import batch_warnings
from dwiml.batching.fetcher import BatchSlices
from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.batching.model_batch import ModelBatch, check_mean_loss
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.models.base import MainModelAbstract
from dwiml.ops.sequences import TensorSequence
from dwiml.seeding import SEEDS_SECTION, describe_seeds
from dwiml.training.cluster.process import choose_device
from dwiml.training.cluster.ranks import Ranks
from dwiml.training.cluster.stopping import Requests
from dwiml.training.epoch import check_passed_on
from dwiml.training.experiment.best_model import BestModelKeeper
from dwiml.training.experiment.checkpoint import max_bytes_for
from dwiml.training.experiment.checkpointer import Checkpointer, Stateful
from dwiml.training.experiment.folder import ExperimentFolder, check_experiment_path, trial_folder
from dwiml.training.experiment.objects import check_objects, has_validation_set
from dwiml.training.experiment.parameters import describe, objects_of, recorded_arguments
from dwiml.training.experiment.restoring import restore
from dwiml.training.extending import Extensible, check_names
from dwiml.training.generation.selection import metric_of, select
from dwiml.training.optimization.averaging import AveragedWeights
from dwiml.training.optimization.building import build_optimization
from dwiml.training.optimization.nonfinite import NonFinitePolicy
from dwiml.training.optimization.schedule_base import Schedule, planned_epochs_of
from dwiml.training.optimization.updates import WeightUpdater
from dwiml.training.reporting.announcing import announce_end, announce_epoch
from dwiml.training.reporting.events import EventLog
from dwiml.training.reporting.loggers import Logger, check_loggers
from dwiml.training.reporting.metrics import loss_of, skipped_batches
from dwiml.training.reporting.monitors import BestMonitor
from dwiml.training.reporting.profiling import StepProfiler
from dwiml.training.reporting.summary import summarize
from dwiml.training.reporting.user_metrics import BatchMetrics
from dwiml.training.reporting.weights import WeightChanges, follow_weights
from dwiml.training.running import running
from dwiml.training.settings import MEANT, TrainerKeywords, TrainerSettings, as_recorded, split_keywords
from dwiml.training.state import TRAINING, VALIDATION, Position

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class DWIMLTrainer(Extensible):
    """Trains a model on batches of streamlines, and can be stopped and resumed at any time.

    The loop, with the methods that a subclass may override::

        train_and_validate()
            for each epoch:
                training, for each batch of the loader:
                    mean_loss, n = run_one_batch(targets, ids_per_subj)     <- your model's forward and loss
                    back_propagate(mean_loss, n)
                    update_weights()                                        <- optimizer
                validation                                                  (no gradient, no augmentation)
                finish_epoch(metrics): best model, logs, checkpoint
                stop when patience has run out

    Parameters
    ----------
    model
        The model to train, a subclass of ``MainModelAbstract``.
    experiments_path, experiment_name
        The results are written to the folder ``experiments_path/experiment_name``.
    batch_sampler, batch_loader
        Choose the streamlines of each batch, and load them for the model.
    **settings
        All other keywords, such as ``max_epochs``, ``learning_rates``, ``optimizer``, ``patience``, ``use_gpu`` or
        ``resume``: the parameters of :class:`~dwiml.training.settings.TrainerSettings`, with their meanings and
        defaults in ``help(dwiml.training.settings.TrainerSettings)``.

    Raises
    ------
    ValueError, TypeError
        If a parameter is invalid, there is no training streamline, or the checkpoint belongs to another training.
    FileExistsError, FileNotFoundError
        If the experiment exists and ``resume`` is ``"never"``, or does not and ``resume`` is ``"must"``.
    """

    model: MainModelAbstract  # the model, on its device
    batch_sampler: DWIMLBatchIDSampler  # chooses the streamlines of each batch
    batch_loader: DWIMLStreamlinesBatchLoader  # loads the batch for the model
    settings: TrainerSettings  # the keywords, with the values in use
    verbose: bool  # whether this process shows anything: settings.verbose, in the first process
    device: torch.device  # the device of the model
    ranks: Ranks  # the processes that train together
    requests: Requests  # signals, the end of max_time, checkpoints that are due
    has_validation: bool  # whether epochs include a validation
    position: Position  # how far the training has come
    best: BestMonitor  # the best value so far, and early stopping
    folder: ExperimentFolder  # where everything is written
    checkpointer: Checkpointer  # writes and reads checkpoints
    best_model: BestModelKeeper  # writes the best model
    optimizer: torch.optim.Optimizer  # the optimizer of the model's parameters
    schedule: Schedule  # sets the optimizer's learning rate
    averaged: AveragedWeights | None  # moving average of the weights (ema_decay)
    updater: WeightUpdater  # accumulates and clips gradients, steps the optimizer
    nonfinite: NonFinitePolicy  # detects NaN and infinite values
    loggers: list[Logger]  # empty except in the first process
    events: EventLog  # records what happens, in the first process
    logger_names: list[str]  # names of the user's loggers
    logged: BatchMetrics  # the values given to self.log in this batch
    weight_changes: WeightChanges | None  # measures the weights of each epoch (log_weights)
    profiler: StepProfiler  # measures how the time of a step is spent
    notes: list[str]  # warnings to show before the training starts
    config: str | None  # text of config.yaml, if the command line creates the experiment
    parameters: dict[str, Any]  # all recorded parameters, by section, as in parameters.json
    _built: dict[str, Any]  # the attributes, as the constructor set them

    settings_classes: ClassVar[tuple[type, ...]] = (TrainerSettings,)
    """Classes whose fields are keywords of the trainer, in addition to those of its constructor."""
    _not_params: ClassVar[frozenset[str]] = frozenset(
        {"model", "experiments_path", "experiment_name", "batch_sampler", "batch_loader"}
    )

    def __init__(
        self,
        model: MainModelAbstract,
        experiments_path: str | Path,
        experiment_name: str,
        batch_sampler: DWIMLBatchIDSampler,
        batch_loader: DWIMLStreamlinesBatchLoader,
        **settings: Unpack[TrainerKeywords],
    ) -> None:
        check_names(self, batch_loader, DWIMLTrainer.__annotations__.keys() - {"settings_classes"})
        given, unknown = split_keywords(TrainerSettings, settings)
        self._record_part(TrainerSettings, given)
        if unknown:
            known = set(self._recorded) - set(unknown) - self._not_params
            raise unknown_parameter(type(self).__name__, next(iter(unknown)), known, MEANT)
        asked = TrainerSettings(**given)
        self.settings, self.logger_names = asked.effective(), check_loggers(asked.loggers)
        self._use_seed(self.settings.seed)
        check_experiment_path(experiments_path, experiment_name)
        check_objects(model, batch_sampler, batch_loader)
        self.model, self.batch_sampler, self.batch_loader = model, batch_sampler, batch_loader
        folder = ExperimentFolder(Path(experiments_path) / experiment_name)
        self.folder = trial_folder(experiment_name) if self.settings.fast_dev_run else folder
        self.ranks = Ranks()
        self.verbose = self.settings.verbose and self.ranks.is_first
        self.device = choose_device(self.settings.use_gpu, self.ranks.local_rank)
        self.has_validation = has_validation_set(batch_sampler) and self.settings.overfit_batches is None
        self.position = Position()
        self.best = BestMonitor(self.settings.patience, self.settings.patience_delta)
        self.best_model = BestModelKeeper(self.folder.best_model)
        self.checkpointer = Checkpointer(self.folder, self.ranks)
        checkpoint = self.checkpointer.find(self.settings.resume, max_bytes_for(model))
        # A trial has the schedule of the whole training, and a resumed run the plan that it started with.
        planned = planned_epochs_of(checkpoint, otherwise=int(asked.max_epochs))
        parts = build_optimization(model, self.settings, device=self.device, planned_epochs=planned)
        self.optimizer, self.schedule, self.averaged, self.updater, self.nonfinite = parts
        self.requests = Requests(asked.stop_signal, asked.max_time, asked.checkpoint_minutes)
        self.loggers, self.config, self.logged = [], None, BatchMetrics(self.device)
        self.events = EventLog(self.folder.path)
        self.profiler = StepProfiler(self.device, enabled=self.settings.profile)
        # All ranks use the same seeds; each loads its share of a batch.
        self.batch_sampler.set_rank(self.ranks.rank, self.ranks.nb)
        for seeded in (self, batch_sampler, batch_loader):
            seeded.set_seed(self.ranks.broadcast(seeded.seed))
        self.ranks.check_alike(self.describe())
        self.notes = batch_warnings(batch_sampler, batch_loader, model)
        self.notes += [] if self.settings.fast_dev_run else self.schedule.notes(self.settings.max_epochs)
        if checkpoint is None:
            seeds = describe_seeds(model.weights_seed, trainer=self, sampler=batch_sampler, loader=batch_loader)
        else:
            self.notes += restore(self, checkpoint)
            seeds = checkpoint["parameters"].get(SEEDS_SECTION, {})
        self.weight_changes = follow_weights(self)
        self.parameters = self.describe() | {SEEDS_SECTION: seeds}
        self._built = dict(vars(self))

    @classmethod
    def init_from_checkpoint(
        cls,
        model: MainModelAbstract,
        experiments_path: str | Path,
        experiment_name: str,
        batch_sampler: DWIMLBatchIDSampler,
        batch_loader: DWIMLStreamlinesBatchLoader,
        *,
        new_max_epochs: int | None = None,
        new_patience: int | None = None,
        **changes: Unpack[TrainerKeywords],
    ) -> Self:
        """Return a trainer that resumes an experiment from its checkpoint.

        Parameters
        ----------
        model, experiments_path, experiment_name, batch_sampler, batch_loader
            As in the first run. Seeds that are not given are the recorded ones.
        new_max_epochs, new_patience
            New values of ``max_epochs`` and ``patience``; None to keep the recorded ones.
        **changes
            New values of other parameters that may differ in a resumed run, such as ``use_gpu``.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no checkpoint, or it is damaged or belongs to another training.
        """
        limits = {"max_epochs": new_max_epochs, "patience": new_patience}
        given = {**changes, **{name: value for name, value in limits.items() if value is not None}}
        params = recorded_arguments(ExperimentFolder(Path(experiments_path) / experiment_name), model, cls, given)
        return cls(model, experiments_path, experiment_name, batch_sampler, batch_loader, **params)

    def train_and_validate(self) -> None:
        """Train until the last epoch, or until patience has run out.

        Raises
        ------
        FloatingPointError
            If a loss, a gradient or a metric is NaN or infinite. The last checkpoint was written before.
        OSError
            If some results could not be written, or if another process has taken over the experiment.
        TrainingInterrupted
            If a signal was received or ``max_time`` is over; raised once the checkpoint is written. A script that does
            not catch it exits.
        """
        with running(self) as epochs:
            first = self.position.epoch
            while not self.is_finished:
                if self.position.phase == TRAINING:
                    self.position.end_training(epochs.run_phase(TRAINING))
                if self.position.phase == VALIDATION:
                    self.position.end_validation(epochs.run_phase(VALIDATION) if self.has_validation else {})
                epochs.finish_epoch()
            self.checkpointer.require_saved(self)
            announce_end(self, first)

    def run_one_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> tuple[torch.Tensor, int]:
        """Run the model on a batch and compute its loss. Override this method for another kind of model or loss.

        Parameters
        ----------
        targets
            Streamlines on the model's device: points (total_points, 3), float32, voxel space, corner origin.
        ids_per_subj
            Slice of the streamlines of each subject, by subject index.

        Returns
        -------
        mean_loss
            Mean loss of the batch, a 0-d tensor.
        n
            Number of points (or other items) in the mean: the weight of the batch in the mean of the epoch.
        """
        batch = self.model_batch(targets, ids_per_subj)
        result = self.compute_loss(self.run_model(batch), batch)
        return check_mean_loss(result, f"{type(self).__name__}.compute_loss")

    def model_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> ModelBatch:
        """Return the batch for the model and its loss: with noise, the last points removed, the volume interpolated.

        Parameters
        ----------
        targets, ids_per_subj
            As in :meth:`run_one_batch`.
        """
        self.batch_loader.called.add("model_batch")
        with self.profiler.part("interpolation"):
            return self.batch_loader.model_batch(targets, ids_per_subj)

    def run_model(self, batch: ModelBatch) -> Any:
        """Return the model's outputs for a batch of :meth:`model_batch`."""
        return batch.run(self.model)

    def compute_loss(self, outputs: Any, batch: ModelBatch) -> tuple[torch.Tensor, int]:
        """Return the model's loss of a batch, as (mean loss: 0-d tensor, number of points)."""
        return batch.loss(self.model, outputs)

    def log(self, name: str, value: torch.Tensor | float, n: int | None = None) -> None:
        """Log a metric of a batch; call it in :meth:`run_one_batch`, in training and in validation.

        Its mean over the epoch and over all processes appears in the log, the figures and Comet as ``train_<name>`` and
        ``valid_<name>``. The value stays on its device, so nothing waits for the GPU. The mean is the same in a resumed
        run. Values of a batch that is skipped as NaN are left out.

        Parameters
        ----------
        name
            Letters, digits and underscores. A unit at the end, as in ``angle_deg`` or ``error_mm``, is shown as a unit.
        value
            Mean over the batch: a number or a 0-d tensor.
        n
            Number of items in the mean, its weight (required). If it is 0, nothing is logged.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            If the name is invalid or reserved, the value is not a single number, `n` is missing, or the call is not in
            `run_one_batch`. A NaN or infinite value is an error later, which names the metric and the batch.
        """
        self.logged.add(name, value, n)

    def register_state(self, name: str, thing: Stateful) -> None:
        """Save the state of an object in the checkpoints, and restore it when resuming.

        Call it before the training starts. If the training is resumed, the state is restored immediately. Under
        ``torchrun``, the state of the first process is saved, and all processes restore it: it must be the same in all.

        Parameters
        ----------
        name
            A unique name, the same in each run of the script.
        thing
            Has ``load_state_dict(state)`` and ``state_dict()`` (numbers, strings, tensors, lists and dictionaries).

        Raises
        ------
        ValueError, TypeError
            If the name is already used, the state cannot be saved, or the checkpoint has no such state.
        """
        self.checkpointer.register(name, thing)

    def back_propagate(self, mean_loss: torch.Tensor, n: int) -> None:
        """Add the gradient of a batch to that of the current step; ``n`` is the weight of its mean loss."""
        self.updater.back_propagate(mean_loss, n)

    def update_weights(self) -> None:
        """Take one step of the optimizer with the accumulated gradient."""
        self.updater.apply()

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        """Save the model if it is the best, log the epoch, and write the checkpoint.

        Parameters
        ----------
        metrics
            Metrics of the epoch, by name. A subclass may add some and pass all of them to this method.
        """
        check_passed_on(self, metrics)
        self.checkpointer.refuse_if_taken_over()
        epoch = self.position.epoch
        loss = loss_of(metrics, epoch, has_validation=self.has_validation)
        value, metrics = select(self, metrics)
        is_best = value is not None and self.best.update(value, epoch)
        if self.ranks.is_first:
            with self.averaged_weights():
                _ = self.best_model.save(self.model) if is_best else self.best_model.retry(self.model)
            for each in self.loggers:
                each.log_metrics(metrics, epoch)
        if skipped_batches(metrics):
            self.schedule.skip_epoch()
        else:
            self.schedule.end_epoch(loss)
        self.position.end_epoch()
        self.checkpointer.save(self)
        announce_epoch(self, metrics, epoch, value=value)

    @property
    def selection_metric(self) -> str | None:
        """The metric that selects the best model; None for the loss. A subclass may name one of its own metrics."""
        return None

    def selection_value(self, metrics: dict[str, float]) -> float | None:
        """Return the value that selects the best model (lower is better); None: the epoch does not count."""
        if self.selection_metric is not None:
            return metric_of(metrics, self.selection_metric, self.position.epoch)
        return loss_of(metrics, self.position.epoch, has_validation=self.has_validation)

    @property
    def next_epoch(self) -> int:
        """The epoch in progress, or the next one; from 0."""
        return self.position.epoch

    @property
    def is_finished(self) -> bool:
        """Whether the last epoch is done, or patience has run out."""
        return self.position.epoch >= self.settings.max_epochs or self.best.is_exhausted

    def summary(self) -> str:
        """Return a summary of the model, the data of an epoch, and the memory needed at least."""
        return summarize(self)

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the parameters of the trainer, sampler, loader, model and data, by section."""
        return describe(objects_of(self), self.batch_sampler.dataset)

    def averaged_weights(self) -> AbstractContextManager[Any]:
        """Return a context in which the model has the averaged weights, if ``ema_decay`` is set."""
        return nullcontext() if self.averaged is None else self.averaged.applied()

    def _plain(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return super()._plain(as_recorded(values, self.logger_names))
