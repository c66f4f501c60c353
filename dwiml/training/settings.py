"""What may be chosen for a training: every keyword of the trainer, checked before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dwiml.arguments import check_whole, unknown_parameter
from dwiml.ops.randomness import check_seed
from dwiml.params import Parameterized
from dwiml.seeding import choose_seed
from dwiml.training import checks
from dwiml.training.cluster.stopping import check_stop_signal, parse_max_time
from dwiml.training.optimization.averaging import check_ema_decay
from dwiml.training.optimization.nonfinite import NAN_POLICIES
from dwiml.training.optimization.optimizers import check_learning_rates
from dwiml.training.optimization.updates import PRECISIONS

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
    **dict.fromkeys(("clip_grad_norm", "gradient_clip_val", "max_grad_norm"), "'clip_grad'"),
}


class TrainerSettings(Parameterized):
    """The trainer's keywords.

    Parameters
    ----------
    learning_rates
        A number, or a list with a number for each epoch; the last one holds for the epochs that follow.
    lr_scheduler, lr_scheduler_args
        ``"warmup_cosine"`` (args ``warmup_epochs``, ``min_ratio``), or the name of a class of
        ``torch.optim.lr_scheduler`` and its arguments, stepped at each epoch's end; needs a single learning rate.
    weight_decay
        L2 penalty of Adam, RAdam and SGD; decoupled decay of AdamW.
    optimizer
        ``"Adam"``, ``"AdamW"``, ``"RAdam"`` or ``"SGD"``.
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
    ValueError
        For what would stop the training later.
    TypeError
        For a parameter that no class of the trainer has; what may be meant is named.
    """

    def __init__(
        self,
        *,
        learning_rates: float | Sequence[float] = 0.001,
        lr_scheduler: str | None = None,
        lr_scheduler_args: Mapping[str, Any] | None = None,
        weight_decay: float = 0.0,
        optimizer: str = "Adam",
        max_epochs: int = 10,
        max_batches_per_epoch_training: int | None = 1000,
        max_batches_per_epoch_validation: int | None = 1000,
        patience: int | None = None,
        patience_delta: float = 1e-6,
        clip_grad: float | None = None,
        accumulate_batches: int = 1,
        precision: str = "float32",
        ema_decay: float | None = None,
        compile_model: bool = False,
        deterministic: bool = False,
        nan_policy: str = "stop",
        resume: str = "never",
        allow_changed_data: bool = False,
        checkpoint_minutes: float | None = None,
        stop_signal: str | None = "SIGUSR1",
        max_time: str | None = None,
        requeue: bool = False,
        nb_cpu_processes: int = 0,
        use_gpu: bool | None = None,
        comet_workspace: str | None = None,
        comet_project: str | None = None,
        seed: int | None = None,
        verbose: bool = True,
        profile: bool = False,
        overfit_batches: int | None = None,
        fast_dev_run: bool = False,
        **unknown: Any,
    ) -> None:
        # What no class of the chain has taken ends here, where all their names are known.
        if unknown:
            known = set(self._recorded) - set(unknown) - self._not_params
            raise unknown_parameter(type(self).__name__, next(iter(unknown)), known, USUAL_NAMES)
        checks.check_counts(
            max_epochs=max_epochs,
            max_batches_per_epoch_training=max_batches_per_epoch_training,
            max_batches_per_epoch_validation=max_batches_per_epoch_validation,
            patience=patience,
            overfit_batches=overfit_batches,
        )
        checks.check_options(
            nb_cpu_processes=nb_cpu_processes,
            weight_decay=weight_decay,
            patience_delta=patience_delta,
            clip_grad=clip_grad,
            checkpoint_minutes=checkpoint_minutes,
        )
        checks.check_choice("resume", resume, RESUME)
        checks.check_choice("nan_policy", nan_policy, NAN_POLICIES)
        checks.check_choice("precision", precision, PRECISIONS)
        checks.check_comet(comet_workspace, comet_project)
        if max_time is not None:
            parse_max_time(max_time)
        check_stop_signal(stop_signal)
        self.learning_rates = check_learning_rates(learning_rates)
        self.lr_scheduler, self.lr_scheduler_args = lr_scheduler, lr_scheduler_args
        self.optimizer_name, self.weight_decay = optimizer, weight_decay
        self.max_epochs, self.patience, self.patience_delta = max_epochs, patience, patience_delta
        # What a schedule is made for, even in a run that ends before.
        self.planned_epochs = int(max_epochs)
        self.max_batches = {"training": max_batches_per_epoch_training, "validation": max_batches_per_epoch_validation}
        self.clip_grad, self.precision = clip_grad, precision
        self.accumulate_batches = check_whole("accumulate_batches", accumulate_batches, low=1)
        self.ema_decay = check_ema_decay(ema_decay)
        self.compile_model, self.deterministic, self.nan_policy = compile_model, deterministic, nan_policy
        self.resume, self.allow_changed_data = resume, allow_changed_data
        self.checkpoint_minutes, self.max_time = checkpoint_minutes, max_time
        self.stop_signal, self.requeue = stop_signal, requeue
        self.nb_cpu_processes, self.use_gpu = nb_cpu_processes, use_gpu
        self.comet = (comet_workspace, comet_project)
        self.verbose, self.profile = verbose, profile
        self.overfit_batches, self.fast_dev_run = overfit_batches, fast_dev_run
        if fast_dev_run:
            self._shorten()
        chosen = choose_seed(seed)
        self.seed_was_given, self.seed_source = seed is not None, chosen.source
        self.set_seed(chosen.seed)

    def set_seed(self, seed: int) -> None:
        """Use another seed from now on, for instance the recorded one of a run that is resumed."""
        self.seed = check_seed(seed) or 0
        self._record(seed=self.seed)

    def _shorten(self) -> None:
        """Choose what makes a run of seconds that touches nothing of the user's."""
        self.max_epochs, self.resume, self.comet = 1, "never", (None, None)
        self.max_batches = dict.fromkeys(self.max_batches, BATCHES_OF_A_DEV_RUN)
