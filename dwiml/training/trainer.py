"""The trainer: what it has, its loop, and the methods that a subclass may override."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from dwiml.arguments import unknown_parameter
from dwiml.batching.fetcher import BatchSlices
from dwiml.batching.lengths import notes_on_lengths
from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.batching.model_batch import ModelBatch
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.models.base import MainModelAbstract
from dwiml.ops.randomness import check_seed
from dwiml.ops.sequences import TensorSequence
from dwiml.params import Parameterized
from dwiml.seeding import SEEDS, choose_seed, describe_seeds
from dwiml.training.cluster.process import choose_device
from dwiml.training.cluster.ranks import Ranks
from dwiml.training.cluster.stopping import Requests
from dwiml.training.epoch import running
from dwiml.training.experiment.best_model import BestModelKeeper
from dwiml.training.experiment.checkpoint import max_bytes_for
from dwiml.training.experiment.checkpointer import Checkpointer, Stateful, recorded_arguments, restore
from dwiml.training.experiment.folder import ExperimentFolder, check_place, trial_folder
from dwiml.training.experiment.objects import check_objects, has_validation_set
from dwiml.training.experiment.parameters import describe
from dwiml.training.generation.selection import loss_of, skipped_batches
from dwiml.training.optimization.averaging import AveragedWeights
from dwiml.training.optimization.building import build_optimization
from dwiml.training.optimization.nonfinite import NonFinitePolicy
from dwiml.training.optimization.schedule_base import Schedule, planned_epochs_of
from dwiml.training.optimization.updates import WeightUpdater
from dwiml.training.reporting.loggers import Logger
from dwiml.training.reporting.monitors import BestMonitor
from dwiml.training.reporting.own_metrics import BatchMetrics
from dwiml.training.reporting.profiling import StepProfiler
from dwiml.training.reporting.progress import announce, end_line, epoch_line, not_selected
from dwiml.training.reporting.summary import summarize
from dwiml.training.settings import USUAL_NAMES, TrainerKeywords, TrainerSettings, as_recorded, split_keywords
from dwiml.training.state import TRAINING, VALIDATION, Position

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class DWIMLTrainer(Parameterized):
    """Trains a model on batches of streamlines, epoch after epoch, and survives being stopped.

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
        A subclass of ``MainModelAbstract``.
    experiments_path, experiment_name
        What the training makes goes to ``experiments_path/experiment_name``.
    batch_sampler, batch_loader
        Which streamlines make a batch, and what the model receives of them.
    **settings
        All those of :class:`~dwiml.training.settings.TrainerSettings`.

    Raises
    ------
    ValueError, TypeError, FileExistsError, FileNotFoundError
        For what would stop the training later: parameters unknown or out of range, no training streamline, an
        experiment that exists, a checkpoint that does not fit.
    """

    model: MainModelAbstract  # what is trained, on its device
    batch_sampler: DWIMLBatchIDSampler  # which streamlines make a batch
    batch_loader: DWIMLStreamlinesBatchLoader  # what the model receives of a batch
    settings: TrainerSettings  # the keywords, as they are in force
    seed: int  # of torch's generators, the one that is used
    seed_was_given: bool  # whether the script gave it
    seed_source: str  # where it is from: see dwiml.seeding
    verbose: bool  # whether this process shows anything: settings.verbose, in the first one
    device: torch.device  # where the model is
    ranks: Ranks  # the processes that train together
    requests: Requests  # signals, the end of max_time, checkpoints that are due
    has_validation: bool  # whether epochs have a validation
    position: Position  # how far the training has come
    best: BestMonitor  # the best value so far, and patience
    folder: ExperimentFolder  # where everything is written
    checkpointer: Checkpointer  # writes what evolves, and takes it up again
    best_model: BestModelKeeper  # writes the best model
    optimizer: torch.optim.Optimizer  # of the model's parameters
    schedule: Schedule  # sets the optimizer's learning rate
    averaged: AveragedWeights | None  # the weights' moving average (ema_decay)
    updater: WeightUpdater  # adds up gradients, clips them, steps the optimizer
    nonfinite: NonFinitePolicy  # finds NaN and infinite values
    loggers: list[Logger]  # of the first process
    logged: BatchMetrics  # what self.log was given in this batch
    has_model_batch: bool  # whether run_one_batch has called model_batch
    profiler: StepProfiler  # where the time of a step goes
    notes: list[str]  # what a user should know before the training goes on
    config: str | None  # text of config.yaml, for an experiment that the command line makes; else None
    parameters: dict[str, Any]  # all that was chosen, by section, as parameters.json has it

    settings_classes: ClassVar[tuple[type, ...]] = (TrainerSettings,)
    """Whose fields are keywords of the trainer, beside those of the constructors."""
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
        given, unknown = split_keywords(TrainerSettings, settings)
        self._record_part(TrainerSettings, given)
        if unknown:
            known = set(self._recorded) - set(unknown) - self._not_params
            raise unknown_parameter(type(self).__name__, next(iter(unknown)), known, USUAL_NAMES)
        asked = TrainerSettings(**given)
        self.settings = asked.in_force()
        chosen = choose_seed(self.settings.seed)
        self.seed_was_given, self.seed_source = self.settings.seed is not None, chosen.source
        self.set_seed(chosen.seed)
        check_place(experiments_path, experiment_name)
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
        # A trial's schedule is that of the whole training; one that goes on has the plan that it began with.
        planned = int(asked.max_epochs)
        planned = planned if checkpoint is None else planned_epochs_of(checkpoint["schedule"], planned)
        parts = build_optimization(model, self.settings, device=self.device, planned_epochs=planned)
        self.optimizer, self.schedule, self.averaged, self.updater, self.nonfinite = parts
        self.requests = Requests.of(self.settings)
        self.loggers, self.config = [], None
        self.logged, self.has_model_batch = BatchMetrics(self.device), False
        self.profiler = StepProfiler(self.device, enabled=self.settings.profile)
        # All ranks draw alike, each for its share of a batch.
        self.batch_sampler.set_rank(self.ranks.rank, self.ranks.nb)
        for drawing in (self, batch_sampler, batch_loader):
            drawing.set_seed(self.ranks.broadcast(drawing.seed))
        self.ranks.check_alike(self.describe())
        self.notes = notes_on_lengths(batch_sampler.dataset, batch_sampler.streamline_group_name, model)
        self.notes += [] if self.settings.fast_dev_run else self.schedule.notes(self.settings.max_epochs)
        if checkpoint is None:
            seeds = describe_seeds(model.weights_seed, trainer=self, sampler=batch_sampler, loader=batch_loader)
        else:
            self.notes += restore(self, checkpoint)
            seeds = checkpoint["parameters"].get(SEEDS, {})
        self.parameters = self.describe() | {SEEDS: seeds}

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
        """Return a trainer that goes on where an experiment's checkpoint was written.

        Parameters
        ----------
        model, experiments_path, experiment_name, batch_sampler, batch_loader
            As they were; seeds that are not given are those that were recorded.
        new_max_epochs, new_patience
            Other limits than before; None to keep them.
        **changes
            Other parameters that a resumed run may have, for instance ``use_gpu``.

        Raises
        ------
        FileNotFoundError, ValueError
            When there is no checkpoint, or it does not fit.
        """
        limits = {"max_epochs": new_max_epochs, "patience": new_patience}
        given = {**changes, **{name: value for name, value in limits.items() if value is not None}}
        folder = ExperimentFolder(Path(experiments_path) / experiment_name)
        params = recorded_arguments(folder, model, cls, given)
        return cls(model, experiments_path, experiment_name, batch_sampler, batch_loader, **params)

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
        with running(self) as epochs:
            while not self.is_finished:
                if self.position.phase == TRAINING:
                    self.position.end_training(epochs.run_phase(TRAINING))
                if self.position.phase == VALIDATION:
                    self.position.end_validation(epochs.run_phase(VALIDATION) if self.has_validation else {})
                self.finish_epoch(self.position.metrics)
            self.checkpointer.require_saved(self)
            if self.verbose:
                folder = None if self.settings.fast_dev_run else self.folder.path
                announce(end_line(self.best, first, self.position.epoch, folder, by=self.selection_metric))

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
        batch = self.model_batch(targets, ids_per_subj)
        return self.compute_loss(self.run_model(batch), batch)

    def model_batch(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> ModelBatch:
        """Return what the model sees of a batch, and what its loss compares: noise, last points, the volume's features.

        Parameters
        ----------
        targets, ids_per_subj
            As in :meth:`run_one_batch`.
        """
        self.has_model_batch = True
        with self.profiler.part("interpolation"):
            return self.batch_loader.model_batch(targets, ids_per_subj)

    def run_model(self, batch: ModelBatch) -> Any:
        """Return the model's outputs for a batch of :meth:`model_batch`."""
        return batch.run(self.model)

    def compute_loss(self, outputs: Any, batch: ModelBatch) -> tuple[torch.Tensor, int]:
        """Return the model's own loss of its outputs for a batch, a 0-d tensor, and the number of points it is over."""
        return batch.loss(self.model, outputs)

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
            What it is the mean of, its weight: a whole number, which has to be given. Nothing is logged for 0.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            For a name that is reserved, no `n`, a value that is not one number, a call outside of `run_one_batch`.
            A NaN or infinite value stops the training later, with the metric and the batch named.
        """
        self.logged.add(name, value, n)

    def register_state(self, name: str, thing: Stateful) -> None:
        """Have an object's state in the checkpoints, and back after a stop: to be called before the training begins.

        Parameters
        ----------
        name
            Its own among those that are registered; the same each time that the script runs.
        thing
            Has ``state_dict()``, of numbers, texts, tensors, and lists and dictionaries of them, and
            ``load_state_dict(state)``, which is called at once where a checkpoint is taken up. Under ``torchrun`` the
            first process' state is saved, and all of them take it up.

        Raises
        ------
        ValueError, TypeError
            When it cannot be saved, or the checkpoint has no such state.
        """
        self.checkpointer.register(name, thing)

    def back_propagate(self, mean_loss: torch.Tensor, n: int) -> None:
        """Add a batch's gradient to the others of the same step; ``n`` is the weight of its mean loss."""
        self.updater.back_propagate(mean_loss, n)

    def update_weights(self) -> None:
        """Take one step of the optimizer with the gradients that were added up."""
        self.updater.apply()

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        """Keep the best model, log the epoch, and write the checkpoint.

        Parameters
        ----------
        metrics
            By name; a subclass that adds some overrides this method and passes them on to it.
        """
        self.checkpointer.refuse_if_taken_over()
        epoch = self.position.epoch
        loss = loss_of(metrics, epoch, has_validation=self.has_validation)
        # A loss that skipped batches is not that of the others: it may be lower for want of the hard ones.
        nb_skipped = skipped_batches(metrics)
        value = None if nb_skipped and self.selection_metric is None else self.selection_value(metrics)
        is_best = value is not None and self.best.update(value, epoch)
        if self.ranks.is_first:
            with self.averaged_weights():
                _ = self.best_model.save(self.model) if is_best else self.best_model.retry(self.model)
            for each in self.loggers:
                each.log_metrics(metrics, epoch)
        if nb_skipped:
            self.schedule.pass_epoch()
        else:
            self.schedule.end_epoch(loss)
        self.position.end_epoch()
        self.checkpointer.save(self)
        if self.verbose:
            announce(epoch_line(metrics, epoch, self.settings.max_epochs, is_best=is_best, by=self.selection_metric))
            if nb_skipped and value is None:
                announce(not_selected(epoch, nb_skipped))

    @property
    def selection_metric(self) -> str | None:
        """The metric that :meth:`selection_value` is made of, for the lines that a user reads; None: the loss."""
        return None

    def selection_value(self, metrics: dict[str, float]) -> float | None:
        """Return what the best model is chosen by, of an epoch's metrics: the lower the better; None: not judged."""
        return loss_of(metrics, self.position.epoch, has_validation=self.has_validation)

    @property
    def next_epoch(self) -> int:
        """The epoch that is being trained, or comes next; from 0."""
        return self.position.epoch

    @property
    def is_finished(self) -> bool:
        """Whether the last epoch is done, or patience has run out."""
        return self.position.epoch >= self.settings.max_epochs or self.best.is_exhausted

    def summary(self) -> str:
        """Return some lines on the model, the data that an epoch sees, and the memory that they take at least."""
        return summarize(self)

    def set_seed(self, seed: int) -> None:
        """Use another seed from now on, for instance the recorded one of a run that is resumed."""
        self.seed = check_seed(seed) or 0
        self._record(seed=self.seed)

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return all that was chosen, by section."""
        objects = {"trainer": self, "sampler": self.batch_sampler, "loader": self.batch_loader, "model": self.model}
        return describe(objects, self.batch_sampler.dataset)

    def averaged_weights(self) -> AbstractContextManager[Any]:
        """Return the context in which the model has the averaged weights, where they are asked for."""
        return nullcontext() if self.averaged is None else self.averaged.applied()

    def _plain(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return super()._plain(as_recorded(values))
