"""Restoring the state of a training from a checkpoint, after checking that it fits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dwiml.files import read_json
from dwiml.models.saving import load_state
from dwiml.seeding import SEEDS_SECTION
from dwiml.training.experiment import fitting
from dwiml.training.experiment.best_model import warn_of_lost_model
from dwiml.training.experiment.parameters import (
    SELECTION_METRIC,
    data_has_changed,
    names_of_loggers,
    objects_of,
    recorded_source,
    refuse_differences,
)
from dwiml.training.experiment.plain import check_like
from dwiml.training.generation.selection import has_own_selection, selection_name
from dwiml.training.optimization.optimizers import load_optimizer_state
from dwiml.training.reporting.loggers import check_logger_states
from dwiml.training.reporting.monitors import PhaseMonitor
from dwiml.training.state import Position
from dwiml.user_classes.source import warn_of_other_source

if TYPE_CHECKING:
    from dwiml.training.trainer import DWIMLTrainer


def restore(trainer: DWIMLTrainer, checkpoint: Mapping[str, Any]) -> list[str]:
    """Restore the state of a checkpoint, after checking that it belongs to this run.

    Returns
    -------
    list of str
        Sentences for the user.

    Raises
    ------
    ValueError
        If the checkpoint does not fit this run; nothing is changed then.
    """
    recorded, name = checkpoint["parameters"], str(trainer.folder.path)
    sampler, loader, settings = trainer.batch_sampler, trainer.batch_loader, trainer.settings
    for thing, section in ((trainer, "trainer"), (sampler, "sampler"), (loader, "loader")):
        if not thing.seed_was_given:
            thing.set_seed(recorded[section]["seed"])
    current, written = trainer.describe(), _written(trainer)
    chosen = {name: section for name, section in recorded.items() if name != SEEDS_SECTION}
    notes = []
    if (policy := chosen["trainer"].get("nan_policy")) != settings.nan_policy:
        notes.append(f"nan_policy was '{policy}' and is now '{settings.nan_policy}'.")
    refuse_differences(chosen, current, name, allow_changed_data=settings.allow_changed_data)
    fitting.check_all(checkpoint, _checks(trainer, checkpoint), name)
    if checkpoint["best"]["best_value"] is not None:
        _check_same_selection(trainer, written)
    if not data_has_changed(recorded, current):
        limits: dict[str, Any] = {"same_batches": settings.overfit_batches is not None, "limit": settings.max_batches}
        of_phase = {"position": lambda state: fitting.check_batches(state, sampler, **limits)}
        fitting.check_all(checkpoint, of_phase, name)
    evolving: dict[str, Callable[[Any], object]] = {
        "model": lambda state: load_state(trainer.model, state),
        "optimizer": lambda state: load_optimizer_state(trainer.optimizer, state),
        "schedule": trainer.schedule.load_state_dict,
        "scaler": trainer.updater.scaler.load_state_dict,
        "best": trainer.best.load_state_dict,
        "position": trainer.position.load_state_dict,
    }
    if trainer.averaged is not None:
        evolving["averaged_weights"] = trainer.averaged.load_state_dict
    fitting.check_all(checkpoint, evolving, name)
    if trainer.position.is_inside and data_has_changed(recorded, current):
        warnings.warn(
            f"The data have changed: epoch {trainer.position.epoch} starts over, with the current weights.",
            stacklevel=4,
        )
        trainer.position = Position(trainer.position.epoch)
    if trainer.best.best_value is not None:
        warn_of_lost_model(trainer.folder.best_model)
    if trainer.ranks.is_first:
        for section, thing in objects_of(trainer).items():
            source, part = recorded_source(written, section), "batch loader" if section == "loader" else section
            warn_of_other_source(type(thing), *source, f"The {part} of '{trainer.folder.path}'")
    return notes


def _written(trainer: DWIMLTrainer) -> dict[str, Any]:
    """Return the content of ``parameters.json`` of the previous run; empty if it cannot be read."""
    try:
        recorded = read_json(trainer.folder.parameters, "The experiment's file")
    except (OSError, ValueError):
        # A damaged file is written again; the checkpoint has its own parameters.
        return {}
    return recorded if isinstance(recorded, dict) else {}


def _check_same_selection(trainer: DWIMLTrainer, written: Mapping[str, Any]) -> None:
    """Raise ValueError if another metric than in the previous run selects the best model: values would be mixed."""
    before = written.get(SELECTION_METRIC)
    now = selection_name(trainer) if has_own_selection(trainer) else None
    if before != now:
        shown_before, shown_now = (repr(each) if each else "the trainer's own metric" for each in (before, now))
        raise ValueError(
            f"The best model of experiment '{trainer.folder.path}' was selected by {shown_before}, but now it would be "
            f"selected by {shown_now}: their values cannot be compared; use the same metric, or choose another "
            "experiment_name."
        )


def _checks(trainer: DWIMLTrainer, checkpoint: Mapping[str, Any]) -> dict[str, Callable[[Any], object]]:
    """Return, for each part of a checkpoint, a function that raises ValueError if it does not fit this run."""
    section = checkpoint["parameters"]["trainer"]
    return {
        "position": fitting.check_position,
        "model": lambda state: fitting.check_weights(trainer.model, state),
        "optimizer": lambda state: fitting.check_optimizer(trainer.optimizer, state),
        "schedule": trainer.schedule.check_state,
        "scaler": lambda state: check_like("its state", state, trainer.updater.scaler.state_dict()),
        "averaged_weights": lambda state: fitting.check_averaged(trainer.averaged, state),
        "best": lambda state: fitting.check_best(state, trainer.best.state_dict(), checkpoint["position"]["epoch"]),
        "loggers": lambda states: check_logger_states(states, names_of_loggers(section)),
        "generators": fitting.check_generators,
        "monitors": lambda state: fitting.check_monitors(
            state, PhaseMonitor("training", 0).state_dict(lambda own: [own]), checkpoint["position"]["batch"]
        ),
    }
