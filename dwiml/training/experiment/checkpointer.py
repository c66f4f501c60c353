"""Writing the state of a training to checkpoints, and finding the one to resume from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dwiml.arguments import quoted, shown
from dwiml.training.cluster.agreement import differing_states
from dwiml.training.cluster.ranks import Ranks
from dwiml.training.experiment import fitting
from dwiml.training.experiment.checkpoint import (
    REGISTERED,
    as_saved,
    checkpoint_stamp,
    has_checkpoint,
    load_checkpoint,
    readable,
    save_or_warn,
)
from dwiml.training.experiment.folder import ExperimentFolder
from dwiml.training.experiment.lock import ExperimentInUseError, ExperimentLock
from dwiml.training.reporting import weights
from dwiml.training.reporting.events import note_checkpoint
from dwiml.training.reporting.loggers import CometLogger, LocalLogger
from dwiml.training.reporting.loggers.guest import GuestLogger
from dwiml.training.reporting.monitors import PhaseMonitor
from dwiml.training.reproducibility import generators_state

if TYPE_CHECKING:
    from dwiml.training.trainer import DWIMLTrainer

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Stateful(Protocol):
    """An object with a state that can be saved, such as torch's modules and optimizers."""

    def state_dict(self) -> Any:
        """Return the state: numbers, strings, tensors, and lists and dictionaries of them."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Restore a state that :meth:`state_dict` returned."""


class ResultsNotSavedError(OSError):
    """The training has ended, but some results could not be written to disk; the message names them."""


class Checkpointer:
    """Locks the experiment folder for this process, writes its checkpoints, and reads the one to resume from.

    Parameters
    ----------
    folder
        The experiment folder.
    ranks
        The processes that train together; the first one writes.
    """

    found: dict[str, Any] | None  # the checkpoint to resume from, until the training starts
    is_saved: bool  # whether the last checkpoint was written
    _folder: ExperimentFolder
    _ranks: Ranks
    _lock: ExperimentLock | None  # held by the first rank while it trains
    _stamp: tuple[int, int] | None  # identifies the checkpoint that was last read or written
    _max_bytes: int | None  # maximum size of a checkpoint
    _registered: dict[str, Stateful]  # objects registered by the user, by name
    _waiting: dict[str, Any]  # states in the checkpoint whose object is not registered yet
    _has_begun: bool  # whether the training has begun
    _has_warned: bool  # whether a registered state was found to differ between the processes

    def __init__(self, folder: ExperimentFolder, ranks: Ranks) -> None:
        self._folder, self._ranks = folder, ranks
        self.found, self.is_saved = None, True
        self._lock = self._stamp = self._max_bytes = None
        self._registered, self._waiting, self._has_begun = {}, {}, False
        self._has_warned = False

    @property
    def has_registered(self) -> bool:
        """Whether the user registered any object."""
        return bool(self._registered.keys() - {weights.STATE})

    def find(self, resume: str, max_bytes: int) -> dict[str, Any] | None:
        """Look for the checkpoint to resume from; all ranks call it.

        Parameters
        ----------
        resume
            As in :class:`~dwiml.training.settings.TrainerSettings`.
        max_bytes
            Maximum size of the checkpoint.

        Returns
        -------
        dict or None
            The checkpoint, also kept as :attr:`found`.

        Raises
        ------
        FileExistsError
            If the experiment exists and `resume` is ``"never"``.
        FileNotFoundError
            If there is no checkpoint and `resume` is ``"must"``.
        ValueError
            If the checkpoint is damaged.
        """
        folder, self._max_bytes = self._folder, max_bytes
        # The first rank looks on behalf of all: it may start writing before another rank gets here.
        if self._ranks.is_first:
            folder.refuse_foreign()
            if resume == "never":
                folder.refuse_used()
        found = self._ranks.broadcast(has_checkpoint(folder.checkpoint))
        if resume == "must" and not found:
            raise FileNotFoundError(f"No checkpoint in '{folder.checkpoint}': nothing to resume.")
        if not found:
            return None
        # The first rank also renames a damaged checkpoint before the others read.
        checkpoint = load_checkpoint(folder.checkpoint, max_bytes=max_bytes) if self._ranks.is_first else None
        self._ranks.broadcast(None)
        if checkpoint is None:
            checkpoint = load_checkpoint(folder.checkpoint, max_bytes=max_bytes)
        self._stamp = checkpoint_stamp(folder.checkpoint)
        fitting.check_all(checkpoint, {"parameters": fitting.check_parameters}, str(folder.path))
        self.found, self._waiting = checkpoint, dict(checkpoint.get(REGISTERED, {}))
        return checkpoint

    def register(self, name: str, thing: Stateful) -> None:
        """See :meth:`dwiml.training.trainer.DWIMLTrainer.register_state`."""
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ValueError(f"register_state: the name must be a printable string, got {shown(name)}.")
        if self._has_begun:
            raise RuntimeError(
                f"register_state('{name}', ...) came after the training had begun: call it before, for instance in "
                "__init__, so that a resumed training finds the state."
            )
        if name in self._registered:
            raise ValueError(f"register_state: '{name}' is already registered; give each object its own name.")
        lacking = [each for each in ("state_dict", "load_state_dict") if not callable(getattr(thing, each, None))]
        if lacking:
            raise TypeError(
                f"register_state: '{name}' is of type {type(thing).__name__}, which has no {' and no '.join(lacking)}."
            )
        as_saved(thing.state_dict(), f"The registered state '{name}'", max_bytes=self._max_bytes)
        if self._stamp is not None and name not in self._waiting:
            there = quoted([*self._registered, *self._waiting], limit=5)
            raise ValueError(
                f"The checkpoint of '{self._folder.path}' has no registered state '{name}' (it has: {there}): resume "
                "with the script that started the training, or start another experiment."
            )
        if name in self._waiting:
            try:
                thing.load_state_dict(self._waiting[name])
            except Exception as error:
                raise ValueError(
                    f"The checkpoint of '{self._folder.path}' does not fit: load_state_dict of the registered state "
                    f"'{name}' failed ({_reason(error)}). Resume with the script that started the training, or start "
                    "another experiment."
                ) from error
            del self._waiting[name]
        self._registered[name] = thing

    def lock_folder(self, stack: ExitStack, *, starting_over: bool) -> None:
        """Create the experiment folder and lock it until the stack is closed.

        If the training fails before it has any result, a new folder is removed.

        Parameters
        ----------
        stack
            Releases the lock when it is closed.
        starting_over
            Whether the training starts from scratch, so that no experiment may exist in the folder.

        Raises
        ------
        FileExistsError
            If the folder is not an experiment of dwiml, or `starting_over` and an experiment exists.
        ExperimentInUseError
            If another process trains there, or has trained there since the checkpoint was read.
        """
        folder = self._folder
        stack.enter_context(folder.removed_without_results())
        self._lock = stack.enter_context(ExperimentLock(folder.path))
        # Another training may have started and ended here since this trainer was created.
        folder.refuse_foreign()
        if starting_over:
            folder.refuse_used()
            # That of a training that had no result; a script writes none.
            folder.config.unlink(missing_ok=True)
        folder.make()
        if checkpoint_stamp(folder.checkpoint) != self._stamp:
            raise ExperimentInUseError(
                f"Another process has trained in '{folder.path}' since this trainer was created: create it again."
            )

    def begin(self, *, resuming: bool) -> dict[str, Any] | None:
        """Return the checkpoint to resume from, and release it.

        Parameters
        ----------
        resuming
            Whether this trainer has trained before (it was stopped, or has ended).

        Raises
        ------
        ValueError
            If the checkpoint has a registered state that the trainer does not have.
        """
        self._has_begun = True
        if self._waiting:
            raise ValueError(
                f"The checkpoint of '{self._folder.path}' has the registered state {quoted(self._waiting, limit=5)}, "
                "which this trainer does not have: call register_state as in the script that started the training."
            )
        checkpoint, self.found = self.found, None
        return load_checkpoint(self._folder.checkpoint) if checkpoint is None and resuming else checkpoint

    def refuse_if_taken_over(self) -> None:
        """Check that this process still holds the lock, before anything is written; only the first rank checks.

        Raises
        ------
        ExperimentInUseError
            If another process has taken over the experiment while this one was suspended.
        ExperimentGoneError
            If the folder no longer exists.
        """
        if self._lock is not None:
            self._lock.check()

    @property
    def is_ours(self) -> bool:
        """Whether this process still holds the lock of the experiment."""
        return self._lock is None or self._lock.is_ours

    def save(self, trainer: DWIMLTrainer, monitor: PhaseMonitor | None = None) -> bool:
        """Write the checkpoint; all ranks call it, the first one writes.

        Parameters
        ----------
        trainer
            The trainer, between two steps.
        monitor
            Monitor of the current phase, if any.

        Returns
        -------
        bool
            Whether it was written.
        """
        if monitor is not None:
            # Weights affected by a NaN are never saved.
            monitor.read()
        # The state holds the model's tensors without copying them, hence the context until it is written.
        with nullcontext() if trainer.averaged is None else trainer.averaged.restored():
            state = self._state(trainer, monitor)
            if not self._ranks.is_first:
                return True
            self.refuse_if_taken_over()
            # A checkpoint refers to the best model, which must be on disk first.
            begin = time.perf_counter()
            written = trainer.best_model.retry(trainer.model) and self._with_loggers(
                trainer,
                state,
                lambda content: save_or_warn(self._folder.checkpoint, content, max_bytes=self._max_bytes),
            )
            self._stamp = checkpoint_stamp(self._folder.checkpoint)
            self.is_saved = written
            note_checkpoint(trainer.events, trainer.position, written=written, seconds=time.perf_counter() - begin)
            return written

    def check_state(self, trainer: DWIMLTrainer) -> None:
        """Check that a checkpoint of the current state could be read again; all ranks call it.

        Raises
        ------
        ValueError
            If it could not, or the processes have registered different states.
        """
        for rank, names in enumerate(self._ranks.gather(list(self._registered))):
            if set(names) != set(self._registered):
                raise ValueError(
                    f"The {self._ranks.nb} processes have different registered states: {quoted(self._registered)} in "
                    f"process {self._ranks.rank}, {quoted(names)} in process {rank}. Call register_state with the same "
                    "names in all processes."
                )
        with nullcontext() if trainer.averaged is None else trainer.averaged.restored():
            state = self._state(trainer, None)
            if self._ranks.is_first:
                self._with_loggers(trainer, state, lambda content: readable(content, max_bytes=self._max_bytes))

    def require_saved(self, trainer: DWIMLTrainer) -> None:
        """At the end, retry to write results that could not be written; all ranks call it.

        Raises
        ------
        ResultsNotSavedError
            If some results are still missing on disk; the message names them.
        """
        if not self._ranks.broadcast(self.is_saved):
            self.save(trainer)
        if not self._ranks.is_first:
            return
        missing = []
        if trainer.best_model.pending:
            missing.append(f"the best model's weights ('{trainer.best_model.folder}')")
        if not self.is_saved:
            missing.append(f"the last checkpoint ('{self._folder.checkpoint}')")
        for each in trainer.loggers:
            if isinstance(each, LocalLogger) and not each.retry():
                missing.append(f"the last lines of the log ('{each.path}')")
        if missing:
            raise ResultsNotSavedError(
                f"The training has ended, but could not write {' nor '.join(missing)}: see the warnings above. Free "
                "disk space or check the permissions, and run the training again with resume='auto': it continues from "
                "the last checkpoint that was written."
            )

    def _with_loggers(self, trainer: DWIMLTrainer, state: dict[str, Any], use: Callable[[dict[str, Any]], T]) -> T:
        """Use a state; if it cannot be saved because of loggers, stop them, leave out their states, and use it again.

        Parameters
        ----------
        trainer
            The trainer, with its loggers.
        state
            The state of the training.
        use
            Function of the state, which raises ValueError if it cannot be saved.
        """
        try:
            return use(state)
        except ValueError:
            guests = [each for each in trainer.loggers if isinstance(each, (GuestLogger, CometLogger))]
            logged = state["loggers"]
            kept = {name: value for name, value in logged.items() if name not in {each.name for each in guests}}
            # If this fails too, the loggers are not the cause.
            readable(state | {"loggers": kept}, max_bytes=self._max_bytes)
            for each in guests:
                more = kept | {each.name: logged[each.name]}
                try:
                    readable(state | {"loggers": more}, max_bytes=self._max_bytes)
                    kept = more
                except ValueError as error:
                    each.stop(ValueError(f"no checkpoint can hold its state: {error.__cause__ or error}"))
            return use(state | {"loggers": kept})

    def _state(self, trainer: DWIMLTrainer, monitor: PhaseMonitor | None) -> dict[str, Any]:
        registered = {name: thing.state_dict() for name, thing in self._registered.items()}
        self._compare({name: state for name, state in registered.items() if name != weights.STATE})
        return {
            "parameters": trainer.parameters,
            "position": trainer.position.state_dict(),
            "model": trainer.model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "schedule": trainer.schedule.state_dict(),
            "scaler": trainer.updater.scaler.state_dict(),
            "averaged_weights": None if trainer.averaged is None else trainer.averaged.state_dict(),
            "best": trainer.best.state_dict(),
            "loggers": {each.name: each.state_dict() for each in trainer.loggers},
            "generators": self._ranks.gather(generators_state(trainer.device)),
            "monitors": None if monitor is None else monitor.state_dict(self._ranks.gather),
            **({REGISTERED: registered} if registered else {}),
        }

    def _compare(self, states: dict[str, Any]) -> None:
        """Warn, once, if states that the user registered are not the same in all processes; all ranks call it."""
        if not states or self._has_warned:
            return
        different = differing_states(self._ranks, states)
        self._has_warned = bool(different)
        if different and self._ranks.is_first:
            logger.warning(
                "The state registered as %s is not the same in the %d processes; checkpoints have that of the first: "
                "a resumed run would differ from an uninterrupted one. Compute it from values that are the same in all "
                "processes, such as the metrics of finish_epoch.",
                " and ".join(f"'{name}'" for name in different),
                self._ranks.nb,
            )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(".: ")
