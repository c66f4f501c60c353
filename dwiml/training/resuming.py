"""What evolves in a training, how it is written, and how it is taken up again."""

from __future__ import annotations

import logging
import tempfile
import warnings
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

from dwiml.batching.lengths import notes_on_lengths
from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.models.saving import load_state
from dwiml.seeding import DRAWN, SEEDS, describe_seeds
from dwiml.training import checks
from dwiml.training.cluster.ranks import Ranks
from dwiml.training.experiment import fitting
from dwiml.training.experiment.best_model import BestModelKeeper
from dwiml.training.experiment.checkpoint import (
    checkpoint_stamp,
    has_checkpoint,
    load_checkpoint,
    most_bytes_for,
    save_or_warn,
)
from dwiml.training.experiment.fitting import check_all, check_parameters, refuse_unknown
from dwiml.training.experiment.folder import ExperimentFolder, remove_trial
from dwiml.training.experiment.leftovers import require_saved
from dwiml.training.experiment.lock import ExperimentInUseError, ExperimentLock
from dwiml.training.experiment.parameters import arguments_of, data_has_changed, describe, refuse_differences
from dwiml.training.experiment.plain import check_like
from dwiml.training.optimization.averaging import AveragedWeights
from dwiml.training.optimization.compiling import compile_layers
from dwiml.training.optimization.nonfinite import NonFinitePolicy
from dwiml.training.optimization.optimizers import build_optimizer, load_optimizer_state
from dwiml.training.optimization.schedule_base import planned_epochs_of
from dwiml.training.optimization.schedules import build_schedule
from dwiml.training.optimization.updates import WeightUpdater
from dwiml.training.reporting.loggers import Logger, check_logger_states
from dwiml.training.reporting.monitors import BestMonitor, PhaseMonitor
from dwiml.training.reporting.own_metrics import BatchMetrics
from dwiml.training.reporting.profiling import StepProfiler
from dwiml.training.reporting.progress import announce
from dwiml.training.reporting.summary import UNSEEDED_WEIGHTS, resuming_line, summarize
from dwiml.training.reproducibility import generators_state
from dwiml.training.settings import TrainerSettings
from dwiml.training.state import Position

logger = logging.getLogger(__name__)


class ResumableTraining(TrainerSettings):
    """The parts of a training: the trainer without its loop.

    Parameters
    ----------
    model, experiments_path, experiment_name, batch_sampler, batch_loader, **settings
        As in :class:`~dwiml.training.trainer.DWIMLTrainer`.
    """

    _not_params: ClassVar[frozenset[str]] = frozenset(
        {"model", "experiments_path", "experiment_name", "batch_sampler", "batch_loader"}
    )

    _remove_trial: weakref.finalize[Any, Any] | None = None

    def __init__(
        self,
        model: Any,
        experiments_path: str | Path,
        experiment_name: str,
        batch_sampler: DWIMLBatchIDSampler,
        batch_loader: DWIMLStreamlinesBatchLoader,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        checks.check_place(experiments_path, experiment_name)
        checks.check_objects(model, batch_sampler, batch_loader)
        if self.fast_dev_run:
            experiments_path = tempfile.mkdtemp(prefix="dwiml_fast_dev_run_")
            # At the latest when the program ends.
            self._remove_trial = weakref.finalize(self, remove_trial, Path(experiments_path), experiment_name)
        self.model, self.batch_sampler, self.batch_loader = model, batch_sampler, batch_loader
        self.folder = ExperimentFolder(Path(experiments_path) / experiment_name)
        self.ranks = Ranks()
        self.verbose = self.verbose and self.ranks.is_first
        self.device = checks.choose_device(self.use_gpu, self.ranks.local_rank)
        self.has_validation = checks.has_validation_set(batch_sampler) and self.overfit_batches is None
        self.position = Position()
        self.best = BestMonitor(self.patience, self.patience_delta)
        self.loggers: list[Logger] = []
        self._lock: ExperimentLock | None = None
        self._stamp: tuple[int, int] | None = None
        # Whether the disk has the last checkpoint that was asked for.
        self._is_saved = True
        self._checkpoint = self._find_checkpoint()
        if self._checkpoint is not None:
            self.planned_epochs = planned_epochs_of(self._checkpoint["schedule"], self.planned_epochs)
        self._build_training()
        self._share_batches()
        self.ranks.check_alike(self._describe())
        # What a user should know before the training goes on.
        self._notes = notes_on_lengths(batch_sampler.dataset, batch_sampler.streamline_group_name, model)
        self._notes += [] if self.fast_dev_run else self.schedule.notes(self.max_epochs)
        if self._checkpoint is not None:
            self._restore(self._checkpoint)
        self.parameters = self._describe() | {SEEDS: self._seeds()}

    def _build_training(self) -> None:
        """Make all that changes weights."""
        # Before the optimizer: moving a model later would leave the optimizer with the old weights.
        self.model.to(self.device)
        if self.compile_model:
            compile_layers(self.model.layers_by_point)
        self.optimizer = build_optimizer(
            self.optimizer_name,
            self.model.parameters(),
            learning_rate=self.learning_rates[0],
            weight_decay=self.weight_decay,
        )
        self.schedule = build_schedule(
            self.lr_scheduler,
            self.lr_scheduler_args,
            optimizer=self.optimizer,
            learning_rates=self.learning_rates,
            planned_epochs=self.planned_epochs,
        )
        self.averaged = None if self.ema_decay is None else AveragedWeights(self.model, self.ema_decay)
        self.updater = WeightUpdater(
            self.model.parameters(),
            self.optimizer,
            self.schedule,
            device=self.device,
            precision=self.precision,
            clip_grad=self.clip_grad,
            accumulate_batches=self.accumulate_batches,
            averaged=self.averaged,
        )
        self.nonfinite = NonFinitePolicy(self.nan_policy, self.device, self.updater)
        self._logged = BatchMetrics(self.device)
        self.best_model = BestModelKeeper(self.folder.best_model)
        self.profiler = StepProfiler(self.device, enabled=self.profile)

    def _share_batches(self) -> None:
        """Have all ranks draw alike, each for its share of a batch."""
        self.batch_sampler.set_rank(self.ranks.rank, self.ranks.nb)
        for drawing in (self, self.batch_sampler, self.batch_loader):
            drawing.set_seed(self.ranks.broadcast(drawing.seed))

    @classmethod
    def init_from_checkpoint(
        cls,
        model: Any,
        experiments_path: str | Path,
        experiment_name: str,
        batch_sampler: DWIMLBatchIDSampler,
        batch_loader: DWIMLStreamlinesBatchLoader,
        *,
        new_max_epochs: int | None = None,
        new_patience: int | None = None,
        **changes: Any,
    ) -> Any:
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
        folder = ExperimentFolder(Path(experiments_path) / experiment_name)
        checkpoint = load_checkpoint(folder.checkpoint, most_bytes=most_bytes_for(model))
        check_all(checkpoint, {"parameters": check_parameters}, str(folder.path))
        params = arguments_of(checkpoint["parameters"]["trainer"])
        refuse_unknown(params, cls, str(folder.path))
        # Agreed to for one resume only.
        params.pop("allow_changed_data", None)
        params.update(changes, resume="must")
        if new_max_epochs is not None:
            params["max_epochs"] = new_max_epochs
        if new_patience is not None:
            params["patience"] = new_patience
        return cls(model, experiments_path, experiment_name, batch_sampler, batch_loader, **params)

    @property
    def next_epoch(self) -> int:
        """The epoch that is being trained, or comes next; from 0."""
        return self.position.epoch

    @property
    def is_finished(self) -> bool:
        """Whether the last epoch is done, or patience has run out."""
        return self.position.epoch >= self.max_epochs or self.best.is_exhausted

    def _averaged_weights(self) -> AbstractContextManager[Any]:
        """Return the context in which the model has the averaged weights, where they are asked for."""
        return nullcontext() if self.averaged is None else self.averaged.applied()

    def _seeds(self) -> dict[str, Any]:
        """Return what was seeded: of a training that goes on, when it began."""
        if self._checkpoint is not None:
            return dict(self._checkpoint["parameters"].get(SEEDS, {}))
        drawing = {"trainer": self, "sampler": self.batch_sampler, "loader": self.batch_loader}
        return describe_seeds(self.model.weights_seed, **drawing)

    def summary(self) -> str:
        """Return some lines on the model, the data that an epoch sees, and the memory that they take at least."""
        return summarize(
            self.model,
            self.optimizer,
            self.batch_sampler,
            self.batch_loader,
            max_batches=self.max_batches if self.overfit_batches is None else {"training": self.overfit_batches},
            device=self.device,
            nb_ranks=self.ranks.nb,
            accumulate_batches=self.accumulate_batches,
        )

    def _introduce(self, *, resumes: bool) -> None:
        """Tell what a user should know before the training: the summary, where it goes on, what was not seeded."""
        for note in self._notes:
            logger.warning(note)
        if not self.verbose:
            return
        announce(self.summary())
        if resumes:
            limit = self.overfit_batches or self.max_batches.get(self.position.phase)
            announce(resuming_line(self.position, self.batch_sampler, limit))
        elif self.seed_source != DRAWN and self.model.weights_seed is None:
            announce(UNSEEDED_WEIGHTS)

    def _describe(self) -> dict[str, dict[str, Any]]:
        objects = {"trainer": self, "sampler": self.batch_sampler, "loader": self.batch_loader, "model": self.model}
        return describe(objects, self.batch_sampler.dataset)

    def _save(self, monitor: PhaseMonitor | None = None) -> bool:
        """Write the checkpoint; all ranks call it, the first one writes. Return whether it is written."""
        if monitor is not None:
            # No checkpoint of weights that a NaN went into.
            monitor.check()
        # Until it is written: the state holds the model's tensors themselves.
        with nullcontext() if self.averaged is None else self.averaged.restored():
            state = self._state(monitor)
            if not self.ranks.is_first:
                return True
            self._refuse_if_taken_over()
            # A checkpoint knows of the best model: that has to be on the disk first.
            written = self.best_model.retry(self.model) and save_or_warn(self.folder.checkpoint, state)
            self._stamp = checkpoint_stamp(self.folder.checkpoint)
            self._is_saved = written
            return written

    def _refuse_if_taken_over(self) -> None:
        """Check, before anything is written, that the experiment is still this process's; the first rank looks.

        Raises
        ------
        ExperimentInUseError, ExperimentGoneError
            When another process has taken it over while this one was suspended, or its folder is gone.
        """
        if self._lock is not None:
            self._lock.check()

    def _write_what_waits(self) -> None:
        """Finish the best model and the logs, unless they are another process's by now."""
        if self._lock is not None and not self._lock.is_ours:
            return
        self.best_model.close()
        for each in self.loggers:
            sentence = each.close()
            if sentence and self.verbose:
                announce(sentence)

    def _require_saved(self) -> None:
        """At the end, try a last time to write what could not be written; all ranks call it.

        Raises
        ------
        ResultsNotSavedError
            Naming what is missing on the disk.
        """
        saved = self.ranks.broadcast(self._is_saved)
        if not saved:
            self._save()
        if self.ranks.is_first:
            require_saved(self.folder, self.best_model, self.loggers, has_checkpoint=self._is_saved)

    def _state(self, monitor: PhaseMonitor | None) -> dict[str, Any]:
        return {
            "parameters": self.parameters,
            "position": self.position.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.updater.scaler.state_dict(),
            "averaged_weights": None if self.averaged is None else self.averaged.state_dict(),
            "best": self.best.state_dict(),
            "loggers": {each.name: each.state_dict() for each in self.loggers},
            "generators": self.ranks.gather(generators_state(self.device)),
            "monitors": None if monitor is None else monitor.state_dict(self.ranks.gather),
        }

    def _find_checkpoint(self) -> dict[str, Any] | None:
        """Return the checkpoint to go on from; None where there is none."""
        # The first rank looks for all: it may begin to write while another one is still on its way here.
        if self.ranks.is_first:
            self.folder.refuse_foreign()
            if self.resume == "never":
                self.folder.refuse_used()
        found = self.ranks.broadcast(has_checkpoint(self.folder.checkpoint))
        if self.resume == "must" and not found:
            raise FileNotFoundError(f"No checkpoint in '{self.folder.checkpoint}': nothing to resume.")
        if not found:
            return None
        # It also moves a damaged checkpoint out of the way, before the others read.
        most_bytes = most_bytes_for(self.model)
        checkpoint = load_checkpoint(self.folder.checkpoint, most_bytes=most_bytes) if self.ranks.is_first else None
        self.ranks.broadcast(None)
        if checkpoint is None:
            checkpoint = load_checkpoint(self.folder.checkpoint, most_bytes=most_bytes)
        self._stamp = checkpoint_stamp(self.folder.checkpoint)
        check_all(checkpoint, {"parameters": check_parameters}, str(self.folder.path))
        return checkpoint

    def _refuse_newer_checkpoint(self) -> None:
        """Raise ExperimentInUseError when another process has trained here since this one read the checkpoint."""
        if checkpoint_stamp(self.folder.checkpoint) != self._stamp:
            raise ExperimentInUseError(
                f"Another process has trained in '{self.folder.path}' since this trainer was created: create it again."
            )

    def _restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Take up a checkpoint's state, after the check that it belongs to this run."""
        recorded = checkpoint["parameters"]
        for thing, section in ((self, "trainer"), (self.batch_sampler, "sampler"), (self.batch_loader, "loader")):
            if not thing.seed_was_given:
                thing.set_seed(recorded[section]["seed"])
        current = self._describe()
        chosen = {name: section for name, section in recorded.items() if name != SEEDS}
        if (policy := chosen["trainer"].get("nan_policy")) != self.nan_policy:
            self._notes.append(f"nan_policy was '{policy}' and is '{self.nan_policy}' from here on.")
        refuse_differences(chosen, current, str(self.folder.path), allow_changed_data=self.allow_changed_data)
        check_all(checkpoint, self._checks(checkpoint), str(self.folder.path))
        if not data_has_changed(recorded, current):
            limits: dict[str, Any] = {"overfit_batches": self.overfit_batches, "max_batches": self.max_batches}
            of_phase = {"position": lambda state: fitting.check_batches(state, self.batch_sampler, **limits)}
            check_all(checkpoint, of_phase, str(self.folder.path))
        evolving: dict[str, Callable[[Any], object]] = {
            "model": lambda state: load_state(self.model, state),
            "optimizer": lambda state: load_optimizer_state(self.optimizer, state),
            "schedule": self.schedule.load_state_dict,
            "scaler": self.updater.scaler.load_state_dict,
            "best": self.best.load_state_dict,
            "position": self.position.load_state_dict,
        }
        if self.averaged is not None:
            evolving["averaged_weights"] = self.averaged.load_state_dict
        check_all(checkpoint, evolving, str(self.folder.path))
        if self.position.is_inside and data_has_changed(recorded, current):
            warnings.warn(
                f"The data have changed: epoch {self.position.epoch} starts over, with the weights as they are.",
                stacklevel=4,
            )
            self.position = Position(self.position.epoch)
        if self.best.best_value is not None:
            checks.warn_of_lost_model(self.folder.best_model)

    def _checks(self, checkpoint: Mapping[str, Any]) -> dict[str, Callable[[Any], object]]:
        """Return, for each part of a checkpoint, what raises ValueError when it does not fit this run."""
        return {
            "position": fitting.check_position,
            "model": lambda state: fitting.check_model(self.model, state),
            "optimizer": lambda state: fitting.check_optimizer(self.optimizer, state),
            "schedule": self.schedule.check_state,
            "scaler": lambda state: check_like("its state", state, self.updater.scaler.state_dict()),
            "averaged_weights": lambda state: fitting.check_averaged(self.averaged, state),
            "best": lambda state: fitting.check_best(state, self.best.state_dict(), checkpoint["position"]["epoch"]),
            "loggers": check_logger_states,
            "generators": fitting.check_generators,
            "monitors": lambda state: fitting.check_monitors(
                state, PhaseMonitor("training", 0).state_dict(lambda own: [own]), checkpoint["position"]["batch"]
            ),
        }
