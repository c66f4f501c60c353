"""The settings of a training: every keyword of the trainer, checked before any work starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import numpy as np

from dwiml.arguments import USUAL_NAMES, check_choice, check_number, check_whole
from dwiml.ops.randomness import check_seed
from dwiml.params import checks_arguments, qualified_name
from dwiml.training.cluster.stopping import check_stop_signal, parse_max_time
from dwiml.training.optimization.averaging import check_ema_decay
from dwiml.training.optimization.nonfinite import NAN_POLICIES
from dwiml.training.optimization.optimizers import OptimizerFactory, check_learning_rates
from dwiml.training.optimization.torch_schedules import SchedulerFactory
from dwiml.training.optimization.updates import PRECISIONS
from dwiml.training.reporting.loggers import Logger, check_loggers

RESUME = ("never", "auto", "must")
BATCHES_OF_A_DEV_RUN = 2
# What to give instead of a parameter that the trainer does not have.
MEANT = {
    **{usual: f"'{name}'" for usual, name in USUAL_NAMES.items()},
    **dict.fromkeys(("batch_size", "batch_size_training"), "the batch sampler's 'batch_size_training'"),
}


class TrainerKeywords(TypedDict, total=False):
    """The keywords of :class:`TrainerSettings`, for editors and type checkers; a test checks that the two agree."""

    learning_rates: float | Sequence[float]
    lr_scheduler: str | SchedulerFactory | None
    lr_scheduler_args: Mapping[str, Any] | None
    weight_decay: float
    optimizer: str | OptimizerFactory
    max_epochs: int
    max_batches_per_epoch_training: int | None
    max_batches_per_epoch_validation: int | None
    patience: int | None
    patience_delta: float
    clip_grad: float | None
    accumulate_batches: int
    precision: str
    ema_decay: float | None
    compile_model: bool
    deterministic: bool
    nan_policy: str
    resume: str
    allow_changed_data: bool
    checkpoint_minutes: float | None
    stop_signal: str | None
    max_time: str | None
    requeue: bool
    nb_cpu_processes: int
    use_gpu: bool | None
    comet_workspace: str | None
    comet_project: str | None
    tensorboard: bool
    wandb_project: str | None
    wandb_entity: str | None
    loggers: Sequence[Logger]
    log_weights: bool
    log_batches: int | None
    seed: int | None
    verbose: bool
    profile: bool
    overfit_batches: int | None
    fast_dev_run: bool


@checks_arguments
@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """The trainer's keywords, with the values in use (``trainer.settings``).

    Parameters
    ----------
    learning_rates
        Learning rate, or one for each epoch; the last one is used for all further epochs.
    lr_scheduler
        ``"warmup_cosine"``, or a class of ``torch.optim.lr_scheduler`` (``"StepLR"``), stepped at the end of each
        epoch; needs a single learning rate. It may also be a function that takes an optimizer and returns a torch
        scheduler.
    lr_scheduler_args
        Arguments of the scheduler; ``warmup_cosine`` takes ``warmup_epochs`` and ``min_ratio``.
    weight_decay
        L2 penalty for Adam, RAdam and SGD; decoupled weight decay for AdamW.
    optimizer
        Optimizer: ``"Adam"``, ``"AdamW"``, ``"RAdam"`` or ``"SGD"``. It may also be a function that takes the model's
        parameters and returns a torch optimizer.
    max_epochs
        Number of epochs to train.
    max_batches_per_epoch_training
        Maximum number of training batches per epoch; None for all of them.
    max_batches_per_epoch_validation
        Maximum number of validation batches per epoch; None for all of them.
    patience
        Stop after this many epochs without progress of the validation loss (the training loss if there is no validation
        set); None to never stop early.
    patience_delta
        Minimum decrease of the loss that counts as progress. It does not affect the choice of the best model, which
        always has the lowest loss.
    clip_grad
        Maximum norm of the gradient over all weights; None for no clipping.
    accumulate_batches
        Number of batches per update of the weights. The gradient is that of all their points, as if they were one
        large batch, with the memory of a small one.
    precision
        ``"float32"``, ``"bf16"`` or ``"fp16"``. With the last two, the model computes in that precision where torch
        considers it safe (autocast); weights and losses stay in float32.
    ema_decay
        Decay, such as 0.999, of an exponential moving average of the weights, which is validated and saved as the best
        model; None for no average.
    compile_model
        Compile the model's layers with ``torch.compile``.
    deterministic
        Make torch use deterministic algorithms, which may be slower on a GPU.
    nan_policy
        What to do about a NaN or infinite loss or gradient: ``"stop"``, or ``"skip"`` the batch (the log gives the
        number of skipped batches).
    resume
        Whether to resume an existing experiment: ``"never"`` (an existing one is an error), ``"auto"`` (if there is a
        checkpoint) or ``"must"`` (a missing checkpoint is an error).
    allow_changed_data
        Resume even if the HDF5 file has changed since the training started.
    checkpoint_minutes
        Write a checkpoint every N minutes, in addition to the one at the end of each epoch.
    stop_signal
        Signal at which to write a checkpoint and stop, in addition to SIGTERM and Ctrl-C. ``"SIGUSR1"`` corresponds to
        SLURM's ``--signal=USR1@120``.
    max_time
        Write a checkpoint and stop after this time: ``"11:50:00"``, or ``"1-23:50:00"`` with days. It is counted from
        the start of the process.
    requeue
        Ask SLURM to requeue the job after a stop by a signal or by `max_time`.
    nb_cpu_processes
        Number of processes that prepare batches; 0 to prepare them in the main process. The batches are the same.
    use_gpu
        Train on a GPU; None to use one if available.
    comet_workspace
        Workspace on Comet.ml to log to; needs ``comet_project``.
    comet_project
        Project on Comet.ml to log to; needs ``comet_workspace``.
    tensorboard
        Write files for TensorBoard, in ``tensorboard/`` of the experiment (``pip install "dwiml[tensorboard]"``).
    wandb_project
        Project on Weights & Biases to log to (``pip install "dwiml[wandb]"``).
    wandb_entity
        User or team that owns this project; None for the default one.
    loggers
        Your own loggers, subclasses of :class:`dwiml.Logger`, in addition to the others.
    log_weights
        Log the norm of each layer's weights and of their change, for each epoch. This keeps a copy of the weights, also
        in the checkpoints.
    log_batches
        Log every N training batches: their mean loss and gradient norm, the learning rate and the speed, in
        ``logs/batches.jsonl``. None for no such log.
    seed
        Seed of torch's generator during the training (dropout). It does not affect the initial weights: call
        :func:`dwiml.seed_everything` before creating the model. None to use the seed of ``seed_everything``, or else to
        draw one and record it.
    verbose
        Show a summary, a progress bar (in a terminal) and a line for each epoch.
    profile
        Show how the time of a step is spent, at the end of each epoch. This is slower: each part of a step waits for
        the GPU.
    overfit_batches
        Train on the same N batches again and again, without validation. They are the first batches of the first epoch.
        A model that cannot learn them has a bug.
    fast_dev_run
        Run 2 batches of each phase, for one epoch, in a temporary folder that is removed at the end. This is a quick
        check of a script.

    Raises
    ------
    ValueError, TypeError
        If a value is invalid.
    """

    learning_rates: float | Sequence[float] = 0.001
    lr_scheduler: str | SchedulerFactory | None = None
    lr_scheduler_args: Mapping[str, Any] | None = None
    weight_decay: float = 0.0
    optimizer: str | OptimizerFactory = "Adam"
    max_epochs: int = 10
    max_batches_per_epoch_training: int | None = 1000
    max_batches_per_epoch_validation: int | None = 1000
    patience: int | None = None
    patience_delta: float = 1e-6
    clip_grad: float | None = None
    accumulate_batches: int = 1
    precision: str = "float32"
    ema_decay: float | None = None
    compile_model: bool = False
    deterministic: bool = False
    nan_policy: str = "stop"
    resume: str = "never"
    allow_changed_data: bool = False
    checkpoint_minutes: float | None = None
    stop_signal: str | None = "SIGUSR1"
    max_time: str | None = None
    requeue: bool = False
    nb_cpu_processes: int = 0
    use_gpu: bool | None = None
    comet_workspace: str | None = None
    comet_project: str | None = None
    tensorboard: bool = False
    wandb_project: str | None = None
    wandb_entity: str | None = None
    loggers: Sequence[Logger] = ()
    log_weights: bool = False
    log_batches: int | None = 10
    seed: int | None = None
    verbose: bool = True
    profile: bool = False
    overfit_batches: int | None = None
    fast_dev_run: bool = False

    def __post_init__(self) -> None:
        for name in ("max_epochs", "max_batches_per_epoch_training", "max_batches_per_epoch_validation", "patience"):
            _check_count(name, getattr(self, name), needed=name == "max_epochs")
        _check_count("overfit_batches", self.overfit_batches)
        _check_count("log_batches", self.log_batches)
        most_workers = max(64, 4 * (os.cpu_count() or 1))
        check_whole("nb_cpu_processes", self.nb_cpu_processes, low=0, high=most_workers)
        check_number("weight_decay", self.weight_decay, low=0, high=100)
        check_number("patience_delta", self.patience_delta, low=0, high=1e6)
        if self.clip_grad is not None:
            check_number("clip_grad", self.clip_grad, low=0, high=1e9, low_included=False)
        if self.checkpoint_minutes is not None:
            check_number("checkpoint_minutes", self.checkpoint_minutes, low=0, high=1e6, low_included=False)
        check_choice("resume", self.resume, RESUME)
        check_choice("nan_policy", self.nan_policy, NAN_POLICIES)
        check_choice("precision", self.precision, PRECISIONS)
        if (self.comet_workspace is None) != (self.comet_project is None):
            raise ValueError("Comet needs both comet_workspace and comet_project (or neither, for no Comet).")
        if self.wandb_entity is not None and self.wandb_project is None:
            raise ValueError("wandb_entity needs wandb_project (or neither, for no Weights & Biases).")
        check_loggers(self.loggers)
        object.__setattr__(self, "loggers", tuple(self.loggers))
        if self.max_time is not None:
            parse_max_time(self.max_time)
        check_stop_signal(self.stop_signal)
        check_whole("accumulate_batches", self.accumulate_batches, low=1)
        check_ema_decay(self.ema_decay)
        check_seed(self.seed)
        rates = check_learning_rates(self.learning_rates)
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        plain |= {"learning_rates": tuple(rates) if np.ndim(self.learning_rates) else rates[0]}
        plain |= {"loggers": tuple(self.loggers)}
        # The object is frozen: NumPy's scalars become Python's, and later changes to a list of the user have no effect.
        for name, value in plain.items():
            object.__setattr__(self, name, value.item() if isinstance(value, np.generic) else value)

    def max_batches(self, phase: str) -> int | None:
        """Return the maximum number of batches of a phase, ``"training"`` or ``"validation"``; None for all of them."""
        limits = {
            "training": self.max_batches_per_epoch_training,
            "validation": self.max_batches_per_epoch_validation,
        }
        return self.overfit_batches or limits[phase]

    def effective(self) -> TrainerSettings:
        """Return the settings in use: with ``fast_dev_run``, those of a short run that leaves no trace."""
        if not self.fast_dev_run:
            return self
        few = BATCHES_OF_A_DEV_RUN
        return replace(
            self,
            max_epochs=1,
            max_batches_per_epoch_training=few,
            max_batches_per_epoch_validation=few,
            resume="never",
            comet_workspace=None,
            comet_project=None,
            tensorboard=False,
            wandb_project=None,
            wandb_entity=None,
            loggers=(),
        )


def split_keywords(settings_class: type[Any], keywords: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split keywords into those that are fields of a dataclass of settings, and the others."""
    own = {each.name for each in fields(settings_class)}
    taken = {name: value for name, value in keywords.items() if name in own}
    return taken, {name: value for name, value in keywords.items() if name not in own}


def as_recorded(values: Mapping[str, Any], logger_names: Sequence[str]) -> dict[str, Any]:
    """Return keywords as they are recorded: functions and loggers by name; without what earlier versions lacked."""
    recorded = dict(values)
    for name in ("optimizer", "lr_scheduler"):
        if callable(recorded.get(name)):
            recorded[name] = qualified_name(recorded[name])
    if recorded.pop("loggers", ()):
        recorded["loggers"] = list(logger_names)
    # Absent in the checkpoints of earlier versions.
    if not recorded.get("log_weights", True):
        del recorded["log_weights"]
    if recorded.get("log_batches") == TrainerSettings.log_batches:
        del recorded["log_batches"]
    return recorded


def _check_count(name: str, count: int | None, *, needed: bool = False) -> None:
    if count is not None or needed:
        check_whole(name, count, low=1, high=10**9)
