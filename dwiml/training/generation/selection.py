"""The value that selects the best model."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dwiml.arguments import did_you_mean, quoted, similar_names
from dwiml.overriding import is_of_user
from dwiml.training.reporting.metrics import (
    DIFFERENCE_FROM_BEST,
    GRAD_NORM_CLIPPED,
    PHASE_METRICS,
    SELECTION_VALUE,
    TRAINING_METRICS,
    is_comparable,
)
from dwiml.training.reporting.user_metrics import PREFIXES, is_metric_name

if TYPE_CHECKING:
    from dwiml.training.trainer import DWIMLTrainer

# Methods in which a subclass may call log().
_LOGGING = ("run_one_batch", "model_batch", "run_model", "compute_loss")
# {beginning of the name of a metric in other libraries: in dwiml}.
_USUAL_PREFIXES = {"val_": "valid_", "validation_": "valid_", "training_": "train_"}

logger = logging.getLogger(__name__)


def has_own_selection(trainer: DWIMLTrainer) -> bool:
    """Return whether the user defines what selects the best model, in a class or on the trainer itself."""
    return _is_own(trainer, "selection_metric", "selection_value")


def _is_own(trainer: DWIMLTrainer, *names: str) -> bool:
    """Return whether the user defines one of these methods or properties."""
    owners = [each for name in names for each in [_owner(type(trainer), name)] if each is not None]
    return any(name in vars(trainer) for name in names) or any(map(is_of_user, owners))


def _owner(cls: type[Any], name: str) -> type[Any] | None:
    return next((each for each in cls.__mro__ if name in vars(each)), None)


def check_selection(trainer: DWIMLTrainer) -> None:
    """Check, before the training, that its epochs can have the metric that selects the best model.

    Metrics that the user logs are not known yet; :func:`metric_of` raises an error at the end of the first epoch.

    Raises
    ------
    TypeError
        If ``selection_metric`` is neither a string nor None.
    ValueError
        If no epoch can have this metric.
    """
    selection_name(trainer)
    metric = trainer.selection_metric
    adding = ("finish_epoch", "run_tracking_phase", "tracking_phase_sums")
    if metric is None or _is_own(trainer, "selection_value", *adding):
        return
    prefixes = PREFIXES if trainer.has_validation else PREFIXES[:1]
    known = _trainer_metrics(trainer, prefixes)
    logs = _is_own(trainer, *_LOGGING) or any(is_of_user(type(each)) for each in (trainer.model, trainer.batch_loader))
    prefix = next((each for each in prefixes if metric.startswith(each)), "")
    if metric in known or (logs and prefix and is_metric_name(metric.removeprefix(prefix))):
        return
    similar = _similar(metric, known, prefixes, logs=logs)
    lacking = "" if trainer.has_validation else " (there is no validation)"
    raise ValueError(
        f"{type(trainer).__name__}.selection_metric is '{metric}', and no epoch will have this metric{lacking}; "
        f"{_meant(similar)}the metrics of the trainer are {quoted(known)}, and those of self.log, which works "
        f"in run_one_batch and the methods that it calls, start with {' or '.join(prefixes)}."
    )


def _similar(metric: str, known: Sequence[str], prefixes: Sequence[str], *, logs: bool) -> list[str]:
    """Return the names that may be meant by a metric that no epoch will have.

    Parameters
    ----------
    metric
        The metric.
    known, prefixes
        Metrics of the trainer, and beginnings of the names of those of ``self.log``.
    logs
        Whether a class of the user may log metrics.
    """
    beginnings = {**dict.fromkeys(PREFIXES, ""), **_USUAL_PREFIXES}
    found = next((each for each in beginnings if metric.startswith(each)), "")
    name, wanted = metric.removeprefix(found), beginnings.get(found, "")
    meant = [each for each in reversed(prefixes) if each == wanted] or list(reversed(prefixes))
    own = [each for each in known if each in [f"{prefix}{name}" for prefix in meant]]
    own = own or [each for each in known if each.endswith(f"_{name}")]
    return own or [f"{each}{name}" for each in meant if logs and is_metric_name(name)] or similar_names(metric, known)


def _trainer_metrics(trainer: DWIMLTrainer, prefixes: Sequence[str]) -> list[str]:
    """Return the names of the metrics that the trainer may compute itself."""
    names = [f"{prefix}{each}" for prefix in reversed(prefixes) for each in PHASE_METRICS]
    names += [each for each in TRAINING_METRICS if each != GRAD_NORM_CLIPPED or trainer.settings.clip_grad is not None]
    if hasattr(trainer, "tracking_phase"):
        names += [each for each in DIFFERENCE_FROM_BEST if each.startswith("gv_")]
    return names


def _meant(names: Sequence[str]) -> str:
    return f"{did_you_mean(names)} Otherwise: " if names else ""


def selection_name(trainer: DWIMLTrainer) -> str | None:
    """Return the name of the metric that selects the best model, for messages; None for the loss.

    Raises
    ------
    TypeError
        If ``selection_metric`` is neither a string nor None.
    """
    metric: Any = trainer.selection_metric
    if metric is not None and not isinstance(metric, str):
        kind = type(trainer).__name__
        raise TypeError(f"{kind}.selection_metric must be the name of a metric (a string) or None, got {metric!r}.")
    return SELECTION_VALUE if metric is None and has_own_selection(trainer) else metric


def select(trainer: DWIMLTrainer, metrics: dict[str, float]) -> tuple[float | None, dict[str, float]]:
    """Return the value that selects the best model, and the metrics to log.

    Parameters
    ----------
    trainer
        The trainer, at the end of an epoch.
    metrics
        Metrics of the epoch, by name.

    Returns
    -------
    value
        The value, lower is better; None if the epoch does not count.
    metrics
        The metrics, with :data:`SELECTION_VALUE` if a user's trainer has its own selection.

    Raises
    ------
    ValueError
        If the trainer's ``selection_value`` is not a finite number.
    """
    if not is_comparable(trainer.selection_metric, metrics):
        return None, metrics
    value: Any = trainer.selection_value(dict(metrics))
    if not has_own_selection(trainer):
        return value, metrics
    # A checkpoint cannot hold values of numpy and torch.
    value = value.item() if hasattr(value, "item") and math.prod(value.shape) == 1 else value
    # All processes must stop in the same epoch.
    value = trainer.ranks.broadcast(value)
    if value is None:
        if trainer.position.epoch == 0 and trainer.ranks.is_first:
            logger.warning(
                "%s.selection_value returned None in epoch 0: there is no best model until an epoch has a value.",
                type(trainer).__name__,
            )
        return None, metrics
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(
            f"{type(trainer).__name__}.selection_value must return a finite number (lower is better), or None for an "
            f"epoch that does not count, got {value!r}."
        )
    return float(value), {**metrics, SELECTION_VALUE: float(value)}


def metric_of(metrics: Mapping[str, float], metric: str, epoch: int) -> float:
    """Return the metric that selects the best model.

    Raises
    ------
    ValueError
        If the epoch has no such metric.
    """
    if metric not in metrics:
        similar = similar_names(metric, metrics)
        meant = f"{did_you_mean(similar)} It" if similar else "it"
        raise ValueError(
            f"Epoch {epoch} has no metric '{metric}', which selects the best model (selection_metric); {meant} has: "
            f"{', '.join(metrics)}. For a metric that is not computed in each epoch, override selection_value and "
            "return None in the others."
        )
    return metrics[metric]
