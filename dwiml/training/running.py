"""The resources held during a training: the folder's lock, signals, loggers, workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from dwiml.models.allocator import keep_freed_memory
from dwiml.training.cluster.process import explained_failures
from dwiml.training.cluster.stopping import TrainingInterrupted
from dwiml.training.epoch import EpochRunner
from dwiml.training.experiment.folder import remove_trial
from dwiml.training.experiment.parameters import (
    VERSIONS,
    class_digests,
    class_paths,
    optional_methods,
    versions,
    write_parameters,
)
from dwiml.training.extending import check_attributes
from dwiml.training.generation.selection import check_selection, has_own_selection, selection_name
from dwiml.training.reporting.announcing import announce_start
from dwiml.training.reporting.loggers import build_loggers, check_services, give_figures, start_loggers
from dwiml.training.reporting.progress import announce
from dwiml.training.reproducibility import deterministic_algorithms, restore_generators, seed_generators
from dwiml.training.state import Position

if TYPE_CHECKING:
    from dwiml.training.trainer import DWIMLTrainer


@contextmanager
def running(trainer: DWIMLTrainer) -> Iterator[EpochRunner]:
    """Hold the resources of a training within the block: the folder's lock, signals, loggers and workers.

    Raises
    ------
    TypeError
        If a subclass has replaced an attribute of the trainer.
    ValueError
        If no epoch can have the metric that selects the best model.
    FileExistsError
        If the experiment folder holds something else, or an experiment that was created in the meantime.
    ExperimentInUseError
        If another process trains in this folder.
    """
    check_attributes(trainer, trainer._built)
    check_selection(trainer)
    with ExitStack() as stack:
        stack.enter_context(explained_failures(trainer))
        if trainer.settings.fast_dev_run:
            stack.callback(remove_trial, trainer.folder.path.parent)
        stack.enter_context(trainer.requests)
        stack.enter_context(deterministic_algorithms(trainer.settings.deterministic))
        if trainer.device.type == "cpu":
            keep_freed_memory()
        has_begun = trainer.position != Position()
        if not has_begun:
            check_services(trainer.settings)
        checkpoint = trainer.checkpointer.begin(resuming=has_begun)
        if trainer.ranks.is_first:
            starting_over = trainer.settings.resume == "never" and not has_begun
            trainer.checkpointer.lock_folder(stack, starting_over=starting_over)
            stack.enter_context(trainer.events.recording(TrainingInterrupted, lambda: trainer.checkpointer.is_ours))
            chosen_by = selection_name(trainer) if has_own_selection(trainer) else None
            groups_config = trainer.batch_sampler.dataset.groups_config
            classes, digests = class_paths(trainer), class_digests(trainer)
            write_parameters(
                *(trainer.folder, trainer.parameters, classes, groups_config, chosen_by),
                digests=digests,
                methods=optional_methods(trainer.model),
            )
            if trainer.config is not None and checkpoint is None and not trainer.settings.fast_dev_run:
                trainer.folder.write_config(trainer.config)
            settings, logged = trainer.settings, {} if checkpoint is None else checkpoint["loggers"]
            trainer.loggers[:] = build_loggers(
                trainer.folder.path,
                settings,
                # A trial calls none.
                dict(zip(trainer.logger_names, settings.loggers, strict=False)),
                verbose=trainer.verbose,
            )
            parameters = {**trainer.parameters, VERSIONS: versions()}
            start_loggers(trainer.loggers, parameters, logged, anew=checkpoint is None)
            stack.callback(_write_pending, trainer)
        if checkpoint is None:
            seed_generators(trainer.seed, trainer.ranks.rank)
        else:
            states = checkpoint["generators"]
            restore_generators(states, rank=trainer.ranks.rank, seed=trainer.seed, device=trainer.device)
        epochs = EpochRunner(trainer, None if checkpoint is None else checkpoint["monitors"])
        stack.callback(epochs.close)
        trainer.updater.check()
        trainer.checkpointer.check_state(trainer)
        trainer.requests.note_checkpoint()
        if trainer.ranks.is_first and not trainer.is_finished:
            announce_start(trainer, resumes=checkpoint is not None)
        yield epochs
        # Not reached if an error or a signal has ended the block.
        if trainer.ranks.is_first and trainer.checkpointer.is_ours:
            give_figures(trainer.loggers, trainer.folder.path)


def _write_pending(trainer: DWIMLTrainer) -> None:
    """Finish writing the best model and the logs, unless another process has taken over the experiment."""
    if not trainer.checkpointer.is_ours:
        return
    trainer.best_model.close()
    for each in trainer.loggers:
        sentence = each.close()
        if sentence and trainer.verbose:
            announce(sentence)
