"""What may be chosen for a training: every keyword of the trainer, checked before any work starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from dwiml.arguments import check_choice, check_number, check_whole
from dwiml.ops.randomness import check_seed
from dwiml.params import qualified_name
from dwiml.training.cluster.stopping import check_stop_signal, parse_max_time
from dwiml.training.optimization.averaging import check_ema_decay
from dwiml.training.optimization.nonfinite import NAN_POLICIES
from dwiml.training.optimization.optimizers import OptimizerFactory, check_learning_rates
from dwiml.training.optimization.torch_schedules import SchedulerFactory
from dwiml.training.optimization.updates import PRECISIONS
from dwiml.training.reporting.loggers import Logger, check_loggers

RESUME = ("never", "auto", "must")
BATCHES_OF_A_DEV_RUN = 2
# Under which other libraries have some of them.
USUAL_NAMES = {
    **dict.fromkeys(("lr", "learning_rate"), "'learning_rates'"),
    **dict.fromkeys(("epochs", "nb_epochs", "num_epochs", "n_epochs"), "'max_epochs'"),
    **dict.fromkeys(("batch_size", "batch_size_training"), "the batch sampler's 'batch_size_training'"),
    **dict.fromkeys(("num_workers", "nb_workers", "workers"), "'nb_cpu_processes'"),
    **dict.fromkeys(("device", "gpu", "gpus", "cuda"), "'use_gpu'"),
    **dict.fromkeys(("scheduler", "lr_schedule"), "'lr_scheduler'"),
    **dict.fromkeys(("logger", "callbacks"), "'loggers'"),
    **dict.fromkeys(("clip_grad_norm", "gradient_clip_val", "max_grad_norm"), "'clip_grad'"),
}


class TrainerKeywords(TypedDict, total=False):
    """The keywords of :class:`TrainerSettings`, for editors and type checkers: a test keeps the two alike."""

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
    loggers: Sequence[Logger]
    seed: int | None
    verbose: bool
    profile: bool
    overfit_batches: int | None
    fast_dev_run: bool


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """The trainer's keywords, as they are in force (``trainer.settings``).

    Parameters
    ----------
    learning_rates
        A number, or a list with a number for each epoch; the last one holds for the epochs that follow.
    lr_scheduler, lr_scheduler_args
        ``"warmup_cosine"`` (args ``warmup_epochs``, ``min_ratio``), or the name of a class of
        ``torch.optim.lr_scheduler`` and its arguments, stepped at each epoch's end; needs a single learning rate. Or a
        function that takes an optimizer and returns a scheduler of torch.
    weight_decay
        L2 penalty of Adam, RAdam and SGD; decoupled decay of AdamW.
    optimizer
        ``"Adam"``, ``"AdamW"``, ``"RAdam"`` or ``"SGD"``. Or a function that takes the model's parameters and returns
        an optimizer of torch.
    max_epochs
        How many epochs to train.
    max_batches_per_epoch_training, max_batches_per_epoch_validation
        Stop a phase after this many batches; None for all of them.
    patience
        Epochs without progress of the validation loss (training loss, without a validation set) before stopping; None:
        never.
    patience_delta
        By how much a loss must be lower to count as progress. The best model is that of the lowest loss in any case.
    clip_grad
        Largest norm of the gradient of all weights together; None to leave it.
    accumulate_batches
        Number of batches for each update of the weights. The gradient is that of all their points: a larger batch in
        the memory of a small one.
    precision
        ``"float32"``, ``"bf16"`` or ``"fp16"``. The latter two: the model computes in that precision where torch finds
        it safe (autocast); weights and losses stay in float32.
    ema_decay
        Validate and keep an exponential moving average of the weights, with 0.999 for instance; None: the weights
        themselves.
    compile_model
        Compile the model's layers with ``torch.compile``.
    deterministic
        Make torch use deterministic algorithms, on a GPU too, where they may be slower.
    nan_policy
        What to do with a NaN or infinite loss or gradient: ``"stop"``, or ``"skip"`` the batch, which the log counts.
    resume
        ``"never"`` refuses an existing experiment, ``"auto"`` continues it, ``"must"`` refuses a new one. ``"auto"``
        starts over where there is no checkpoint.
    allow_changed_data
        Continue although the HDF5 file is no longer the one that the training began with.
    checkpoint_minutes
        Write a checkpoint every N minutes too, not only at each epoch's end.
    stop_signal
        Write a checkpoint and end at this signal too, beside SIGTERM and Ctrl-C. ``"SIGUSR1"`` goes with SLURM's
        ``--signal=USR1@120``.
    max_time
        Write a checkpoint and end after this time, as ``"11:50:00"`` or ``"1-23:50:00"`` (with days). It counts
        from the start of the process.
    requeue
        Ask SLURM to queue the job again after a stop by a signal or by `max_time`.
    nb_cpu_processes
        Number of processes that prepare batches; with 0, the training does so itself. The batches are the same.
    use_gpu
        Train on the GPU; None: where there is one.
    comet_workspace, comet_project
        Log to Comet too.
    loggers
        Loggers of your own, subclasses of :class:`dwiml.Logger`, beside the local log and Comet.
    seed
        Of torch's generator during the training (dropout), not of the weights, which the model has already: call
        :func:`dwiml.seed_everything` before the model is made. None: the seed of that, or one that is drawn and
        recorded.
    verbose
        Show a summary, a progress bar (in a terminal) and a line for each epoch.
    profile
        Show where the time of a step goes, at each epoch's end. Waits for the GPU at each part of a step: it is slower.
    overfit_batches
        Train on this many batches again and again, without validation. They are the first of the first epoch; a model
        that cannot learn them has a fault.
    fast_dev_run
        Run 2 batches of each phase in a temporary folder that is removed at the end. One epoch: is the script in order?

    Raises
    ------
    ValueError, TypeError
        For what would stop the training later.
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
    loggers: Sequence[Logger] = ()
    seed: int | None = None
    verbose: bool = True
    profile: bool = False
    overfit_batches: int | None = None
    fast_dev_run: bool = False

    def __post_init__(self) -> None:
        for name in ("max_epochs", "max_batches_per_epoch_training", "max_batches_per_epoch_validation", "patience"):
            _check_count(name, getattr(self, name), needed=name == "max_epochs")
        _check_count("overfit_batches", self.overfit_batches)
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
        check_loggers(self.loggers)
        if self.max_time is not None:
            parse_max_time(self.max_time)
        check_stop_signal(self.stop_signal)
        check_learning_rates(self.learning_rates)
        check_whole("accumulate_batches", self.accumulate_batches, low=1)
        check_ema_decay(self.ema_decay)
        check_seed(self.seed)

    def max_batches(self, phase: str) -> int | None:
        """Return after how many batches a phase, ``"training"`` or ``"validation"``, ends; None: after all of them."""
        limits = {
            "training": self.max_batches_per_epoch_training,
            "validation": self.max_batches_per_epoch_validation,
        }
        return self.overfit_batches or limits[phase]

    def in_force(self) -> TrainerSettings:
        """Return the settings; of a trial (``fast_dev_run``), those of a run of seconds that touches nothing else."""
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
            loggers=(),
        )


def split_keywords(settings_class: type[Any], keywords: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keywords that a dataclass of settings has, and the others."""
    own = {each.name for each in fields(settings_class)}
    taken = {name: value for name, value in keywords.items() if name in own}
    return taken, {name: value for name, value in keywords.items() if name not in own}


def as_recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords as they are recorded: of what the script has made, the names; no list of loggers without one."""
    recorded = dict(values)
    for name in ("optimizer", "lr_scheduler"):
        if callable(recorded.get(name)):
            recorded[name] = qualified_name(recorded[name])
    if "loggers" in recorded:
        recorded["loggers"] = [each.name for each in recorded["loggers"]]
        if not recorded["loggers"]:
            del recorded["loggers"]
    return recorded


def _check_count(name: str, count: int | None, *, needed: bool = False) -> None:
    if count is not None or needed:
        check_whole(name, count, low=1, high=10**9)
