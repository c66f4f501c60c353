"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.utils.data import DataLoader

from dwiml.batching.fetcher import BatchSlices
from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.batching.transfer import on_device
from dwiml.models.allocator import keep_freed_memory
from dwiml.ops.randomness import check_seed, draw_seed
from dwiml.ops.sequences import TensorSequence
from dwiml.params import Parameterized
from dwiml.training import checks, optimizers
from dwiml.training.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from dwiml.training.experiment import ExperimentFolder, arguments_of, describe, refuse_differences, write_parameters
from dwiml.training.loggers import Logger, build_loggers
from dwiml.training.monitors import BestMonitor, PhaseMonitor
from dwiml.training.progress import EpochProgress, announce, end_line, epoch_line

RESUME = ("never", "auto", "must")


class DWIMLTrainer(Parameterized):
    """Trains a model on batches of streamlines, epoch after epoch, and survives being stopped.

    The loop, with the methods that a child may override::

        train_and_validate()
            for each epoch:
                _run_epoch("training")
                    for each batch of the loader:
                        mean_loss, n = run_one_batch(targets, ids_per_subj)     <- your model's forward and loss
                        update_weights(mean_loss)                               <- backward, clipping, optimizer
                _run_epoch("validation")                                        (no gradient, no augmentation)
                finish_epoch(metrics): best model, checkpoint, logs
                stop when patience has run out

    Parameters
    ----------
    model
        A child of ``MainModelAbstract``.
    experiments_path, experiment_name
        What the training makes goes to ``experiments_path/experiment_name``.
    batch_sampler, batch_loader
        Which streamlines make a batch, and what the model receives of them.
    learning_rates
        A number, or a list with a number for each epoch; the last one holds for the epochs that follow.
    weight_decay
        L2 penalty of Adam, RAdam and SGD; decoupled decay of AdamW.
    optimizer
        ``"Adam"``, ``"AdamW"``, ``"RAdam"`` or ``"SGD"``.
    max_epochs
        How many epochs to train.
    max_batches_per_epoch_training, max_batches_per_epoch_validation
        Stop a phase after so many batches; None for all of them.
    patience
        Epochs without a better validation loss (training loss, without a validation set) before stopping; None: never.
    patience_delta
        How much lower a loss must be to be better.
    clip_grad
        Largest norm of the gradient of all weights together; None to leave it.
    nb_cpu_processes
        Processes that prepare batches beside the training; the batches are the same with 0.
    use_gpu
        None: when there is one.
    comet_workspace, comet_project
        Log to Comet too.
    resume
        ``"never"`` refuses an experiment that exists, ``"auto"`` goes on from its checkpoint if it has one, ``"must"``
        refuses to begin anew.
    seed
        Of torch's generator (dropout); None to draw one, which is recorded.
    verbose
        Show a progress bar (in a terminal) and a line for each epoch.

    Raises
    ------
    ValueError, FileExistsError, FileNotFoundError
        For what would stop the training later: parameters out of range, no training streamline, an experiment that
        exists, a checkpoint that does not fit.
    """

    _loaders: dict[str, DataLoader[Any]]
    _not_params: ClassVar[frozenset[str]] = frozenset(
        {"model", "experiments_path", "experiment_name", "batch_sampler", "batch_loader"}
    )

    def __init__(
        self,
        model: Any,
        experiments_path: str | Path,
        experiment_name: str,
        batch_sampler: DWIMLBatchIDSampler,
        batch_loader: DWIMLStreamlinesBatchLoader,
        *,
        learning_rates: float | Sequence[float] = 0.001,
        weight_decay: float = 0.0,
        optimizer: str = "Adam",
        max_epochs: int = 10,
        max_batches_per_epoch_training: int | None = 1000,
        max_batches_per_epoch_validation: int | None = 1000,
        patience: int | None = None,
        patience_delta: float = 1e-6,
        clip_grad: float | None = None,
        nb_cpu_processes: int = 0,
        use_gpu: bool | None = None,
        comet_workspace: str | None = None,
        comet_project: str | None = None,
        resume: str = "never",
        seed: int | None = None,
        verbose: bool = True,
    ) -> None:
        checks.check_counts(
            max_epochs=max_epochs,
            max_batches_per_epoch_training=max_batches_per_epoch_training,
            max_batches_per_epoch_validation=max_batches_per_epoch_validation,
            patience=patience,
        )
        sizes = {"weight_decay": weight_decay, "patience_delta": patience_delta}
        checks.check_options(nb_cpu_processes=nb_cpu_processes, clip_grad=clip_grad, **sizes)
        checks.check_choice("resume", resume, RESUME)
        checks.check_place(experiments_path, experiment_name)
        checks.check_comet(comet_workspace, comet_project)
        checks.check_objects(model, batch_sampler, batch_loader)
        self.model = model
        self.batch_sampler = batch_sampler
        self.batch_loader = batch_loader
        self.folder = ExperimentFolder(Path(experiments_path) / experiment_name)
        self.learning_rates = optimizers.check_learning_rates(learning_rates)
        self.max_epochs = max_epochs
        self.max_batches = {"training": max_batches_per_epoch_training, "validation": max_batches_per_epoch_validation}
        self.clip_grad, self.nb_cpu_processes, self.verbose = clip_grad, nb_cpu_processes, verbose
        self.seed_was_given = seed is not None
        self._set_seed(draw_seed() if seed is None else seed)
        self.device = checks.choose_device(use_gpu)
        self.next_epoch = 0
        self.has_validation = checks.has_validation_set(batch_sampler)
        self.best = BestMonitor(patience, patience_delta)
        # Before the optimizer: moving a model later would leave the optimizer with the old weights.
        self.model.to(self.device)
        self.optimizer = optimizers.build_optimizer(
            optimizer, model.parameters(), learning_rate=self.learning_rates[0], weight_decay=weight_decay
        )
        self.loggers: list[Logger] = []
        self._comet = (comet_workspace, comet_project)
        self.resume = resume
        self._checkpoint = self._take_up(resume)
        self.parameters = self._describe()

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
        checkpoint = load_checkpoint(ExperimentFolder(Path(experiments_path) / experiment_name).checkpoint)
        params = arguments_of(checkpoint["parameters"]["trainer"])
        params.update(changes, resume="must")
        if new_max_epochs is not None:
            params["max_epochs"] = new_max_epochs
        if new_patience is not None:
            params["patience"] = new_patience
        return cls(model, experiments_path, experiment_name, batch_sampler, batch_loader, **params)

    def train_and_validate(self) -> None:
        """Train until the last epoch, or until patience has run out.

        Raises
        ------
        FloatingPointError
            When a loss or a gradient is NaN or infinite; the last checkpoint is from before.
        """
        self._begin()
        first = self.next_epoch
        try:
            while self.next_epoch < self.max_epochs and not self.best.is_exhausted:
                metrics = self._run_epoch("training", self.next_epoch)
                if self.has_validation:
                    metrics |= self._run_epoch("validation", self.next_epoch)
                self.finish_epoch(metrics)
            if self.verbose:
                announce(end_line(self.best, first, self.next_epoch, self.folder.path))
        finally:
            self._close()

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
        streamlines = self._model_streamlines(targets, ids_per_subj)
        outputs = self.model(streamlines)
        result: tuple[torch.Tensor, int] = self.model.compute_loss(
            outputs, self.batch_loader.add_noise_loss(targets, ids_per_subj)
        )
        return result

    def update_weights(self, mean_loss: torch.Tensor) -> torch.Tensor:
        """Take one step of the optimizer; return the gradient's norm before clipping, a 0-d tensor."""
        self.optimizer.zero_grad(set_to_none=True)
        mean_loss.backward()  # type: ignore[no-untyped-call]
        limit = float("inf") if self.clip_grad is None else self.clip_grad
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.optimizer.step()
        return norm

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        """Keep the best model, log the epoch, and write the checkpoint.

        Parameters
        ----------
        metrics
            By name; a child that adds some overrides this method and hands on.
        """
        epoch = self.next_epoch
        judged = "valid_loss" if self.has_validation else "train_loss"
        if judged not in metrics:
            raise ValueError(
                f"Epoch {epoch} has no {judged}: run_one_batch counted no point (n) in any of its batches."
            )
        is_best = self.best.update(metrics[judged], epoch)
        if is_best:
            self.model.save(self.folder.best_model)
        for each in self.loggers:
            each.log_metrics(metrics, epoch)
        self.next_epoch = epoch + 1
        save_checkpoint(self.folder.checkpoint, self._state())
        if self.verbose:
            announce(epoch_line(metrics, epoch, self.max_epochs, is_best=is_best))

    def _run_epoch(self, phase: str, epoch: int) -> dict[str, float]:
        """Go through the batches of a phase once; return its metrics."""
        training = phase == "training"
        metrics: dict[str, float] = {}
        if training:
            metrics["learning_rate"] = optimizers.set_learning_rate(self.optimizer, self.learning_rates, epoch)
        self.model.train(training)
        # Validation always sees the batches of its epoch 0, so that its losses can be compared.
        self.batch_sampler.set_position(phase, epoch if training else 0, max_batches=self.max_batches[phase])
        monitor = PhaseMonitor(phase, epoch)
        progress = EpochProgress(phase, epoch, self.max_epochs, len(self.batch_sampler), shown=self.verbose)
        with torch.set_grad_enabled(training), progress:
            for targets, ids_per_subj in self._batches(phase, monitor):
                mean_loss, n = checks.check_batch_result(self.run_one_batch(targets, ids_per_subj))
                monitor.loss.update(mean_loss, n)
                if self.device.type == "cpu":
                    # Nothing to wait for here: stop before the weights take a step into nowhere.
                    monitor.loss.check()
                if training and n > 0:
                    norm = self.update_weights(mean_loss)
                    monitor.grad_norm.update(norm, 1)
                    if self.clip_grad is not None:
                        monitor.grad_norm_clipped.update(norm.clamp(max=self.clip_grad), 1)
                progress.update(monitor)
        return metrics | monitor.metrics()

    def _batches(self, phase: str, monitor: PhaseMonitor) -> Iterator[tuple[TensorSequence, BatchSlices]]:
        """Give the phase's batches, on the device, and measure the time that is spent waiting for them."""
        if phase not in self._loaders:
            self._loaders[phase] = self.batch_loader.data_loader(
                phase, self.batch_sampler, nb_cpu_processes=self.nb_cpu_processes
            )
        before = time.perf_counter()
        for targets, ids_per_subj in on_device(self._loaders[phase], self.device):
            monitor.data_wait_s += time.perf_counter() - before
            monitor.nb_points += targets.total_points
            yield targets, ids_per_subj
            before = time.perf_counter()

    def _model_streamlines(self, targets: TensorSequence, ids_per_subj: BatchSlices) -> TensorSequence:
        """Return the points at which the model is run: with noise, and without the last ones if it ignores them."""
        streamlines = targets if self.model.forward_uses_last_point else targets.trimmed_last()
        return self.batch_loader.add_noise_forward(streamlines, ids_per_subj)

    def _begin(self) -> None:
        """Make the folder and the loggers, and put torch's generators where they belong."""
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.resume == "never" and self.next_epoch == 0:
            # Another training may have begun here since this one was made.
            self.folder.refuse_used()
        self.folder.make()
        self._loaders = {}
        write_parameters(self.folder, self.parameters)
        self.loggers = build_loggers(self.folder.path, *self._comet, verbose=self.verbose)
        if self._checkpoint is None:
            torch.manual_seed(self.seed)
        else:
            for each in self.loggers:
                if each.name in self._checkpoint["loggers"]:
                    each.load_state_dict(self._checkpoint["loggers"][each.name])
            torch.set_rng_state(self._checkpoint["torch_rng"])
            if self.device.type == "cuda" and self._checkpoint["cuda_rng"] is not None:
                torch.cuda.set_rng_state(self._checkpoint["cuda_rng"], self.device)
            self._checkpoint = None
        for each in self.loggers:
            each.log_parameters(self.parameters)

    def _close(self) -> None:
        for each in self.loggers:
            sentence = each.close()
            if sentence and self.verbose:
                announce(sentence)
        # Ends the workers.
        self._loaders.clear()

    def _set_seed(self, seed: int) -> None:
        self.seed = check_seed(seed) or 0
        self._record(seed=self.seed)

    def _describe(self) -> dict[str, dict[str, Any]]:
        objects = {"trainer": self, "sampler": self.batch_sampler, "loader": self.batch_loader, "model": self.model}
        return describe(objects, self.batch_sampler.dataset)

    def _state(self) -> dict[str, Any]:
        on_gpu = self.device.type == "cuda"
        return {
            "parameters": self.parameters,
            "next_epoch": self.next_epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best.state_dict(),
            "loggers": {each.name: each.state_dict() for each in self.loggers},
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if on_gpu else None,
        }

    def _take_up(self, resume: str) -> dict[str, Any] | None:
        """Restore the checkpoint, where there is one to go on from, and return it."""
        found = has_checkpoint(self.folder.checkpoint)
        if resume == "never":
            self.folder.refuse_used()
        if resume == "must" and not found:
            raise FileNotFoundError(f"No checkpoint in '{self.folder.checkpoint}': nothing to resume.")
        if not found:
            return None
        checkpoint = load_checkpoint(self.folder.checkpoint)
        self._restore(checkpoint)
        return checkpoint

    def _restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Take up a checkpoint's state, after the check that it belongs to this run."""
        recorded = checkpoint["parameters"]
        for thing, section in ((self.batch_sampler, "sampler"), (self.batch_loader, "loader")):
            if not thing.seed_was_given:
                thing.set_seed(recorded[section]["seed"])
        if not self.seed_was_given:
            self._set_seed(recorded["trainer"]["seed"])
        refuse_differences(recorded, self._describe(), str(self.folder.path))
        try:
            self.model.load_state_dict(checkpoint["model"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"The checkpoint of '{self.folder.path}' does not fit this model ({error}).") from error
        self.best.load_state_dict(checkpoint["best"])
        self.next_epoch = checkpoint["next_epoch"]
        checks.warn_of_lost_model(self.folder.best_model)
