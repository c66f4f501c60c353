"""Several experiments whose models track together."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dwiml.arguments import shown
from dwiml.hdf5.schema import DIRECTIONS, FILES_FOUND, NB_FEATURES
from dwiml.models.protocols import TrackingModel
from dwiml.ops.axes.conventions import parse_directions
from dwiml.tracking.ensemble import TrackingEnsemble
from dwiml.trained.experiment import TrainedExperiment, load_experiment
from dwiml.trained.tracking_data import input_group_of, warn_of_own_inputs
from dwiml.training.experiment.parameters import GROUPS_CONFIG

logger = logging.getLogger(__name__)


def load_models(given: Any, model_class: str | type[Any] | None = None) -> list[Any]:
    """Return what :func:`dwiml.track` tracks with: loaded experiments, or models alone.

    Parameters
    ----------
    given
        An experiment folder, a loaded experiment or a tracking model; or a list of them.
    model_class
        The class of the models of experiment folders; see :func:`dwiml.load_experiment`.

    Returns
    -------
    list
        All of type :class:`~dwiml.trained.experiment.TrainedExperiment`, or none.

    Raises
    ------
    FileNotFoundError, ValueError
        If an experiment cannot be loaded, or there is none.
    TypeError
        If experiments and models alone are mixed, or `model_class` is given without an experiment folder.
    """
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    if not several:
        raise ValueError("There is no model to track with: the list of experiments is empty.")
    are_folders = [isinstance(each, (str, os.PathLike)) for each in several]
    if model_class is not None and not any(are_folders):
        raise TypeError("model_class is for an experiment folder, but model is loaded already; leave out model_class.")
    loaded = [
        load_experiment(each, model_class) if is_folder else each
        for each, is_folder in zip(several, are_folders, strict=True)
    ]
    if len({isinstance(each, TrainedExperiment) for each in loaded}) > 1:
        raise TypeError("Experiments and models alone cannot be mixed in an ensemble; give all as experiments.")
    return loaded


def load_classifier(given: Any) -> Any:
    """Return a classifier as :func:`dwiml.track` receives it: a loaded experiment, or a model alone.

    Parameters
    ----------
    given
        An experiment folder, a loaded experiment, a model, or None.

    Raises
    ------
    FileNotFoundError, ValueError
        If the experiment cannot be loaded.
    TypeError
        If several are given.
    """
    if isinstance(given, (list, tuple)):
        raise TypeError(f"classifier must be one experiment or model, got a list of {len(given)}.")
    return load_experiment(given) if isinstance(given, (str, os.PathLike)) else given


def combined(models: Sequence[TrackingModel], *, antipodal: bool = False) -> TrackingModel:
    """Return the model, if it is only one, or an ensemble.

    Parameters
    ----------
    models, antipodal
        As in :class:`~dwiml.tracking.ensemble.TrackingEnsemble`.

    Raises
    ------
    ValueError
        If the models cannot form an ensemble.
    """
    return models[0] if len(models) == 1 else TrackingEnsemble(models, antipodal=antipodal)


def check_same_inputs(recorded: Sequence[Mapping[str, Any]], experiments: Sequence[str | Path]) -> None:
    """Check that the models of experiments can read the same data, and warn of own batch loaders.

    Parameters
    ----------
    recorded
        Content of the ``parameters.json`` of each experiment.
    experiments
        The experiment folders; may be empty.

    Raises
    ------
    ValueError
        If a model was trained without a volume, or the input groups differ in their name, standardization, numbers of
        features or directional features. Other files, or another mask of the standardization, cause a warning.
    """
    if not experiments:
        return
    groups = [input_group_of(each, experiment) for each, experiment in zip(recorded, experiments, strict=True)]
    first, group = experiments[0], groups[0]
    ours = _entry_of(recorded[0], group)
    for each, experiment, other in zip(recorded[1:], experiments[1:], groups[1:], strict=True):
        if other != group:
            raise ValueError(
                f"Models that are used together must read the same input: that of '{first}' was trained on group "
                f"'{group}', that of '{experiment}' on '{other}'."
            )
        theirs = _entry_of(each, group)
        makings = _making_of(ours, group), _making_of(theirs, group)
        for what in [name for name in makings[0] if name in makings[1]]:
            if makings[0][what] != makings[1][what]:
                raise ValueError(
                    f"Models that are used together must read the same input: the {what} of group '{group}' of "
                    f"'{first}' is {shown(makings[0][what])}, that of '{experiment}' is {shown(makings[1][what])}."
                )
        for key in ("files", "std_mask"):
            if ours and theirs and ours.get(key) != theirs.get(key):
                logger.warning(
                    "Group '%s' of '%s' differs from that of '%s': its '%s' is %r instead of %r.",
                    *(group, experiment, first, key, theirs.get(key), ours.get(key)),
                )
        warn_of_own_inputs(each, experiment)


def _entry_of(recorded: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return the entry of a group in the recorded groups config; empty if it is not recorded."""
    config = recorded.get(GROUPS_CONFIG)
    entry = config.get(group) if isinstance(config, dict) else None
    return entry if isinstance(entry, dict) else {}


def _making_of(entry: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return how a group was created, as far as it is recorded."""
    if not entry:
        return {}
    recorded = entry.get(FILES_FOUND)
    found = recorded if isinstance(recorded, list) and all(isinstance(each, dict) for each in recorded) else []
    making: dict[str, Any] = {"standardization": entry.get("standardization", "none")}
    if found and all(NB_FEATURES in each for each in found):
        making["number of features of each file"] = [each[NB_FEATURES] for each in found]
    if found and all(DIRECTIONS in each for each in found):
        # Converted features have the same convention, whatever that of the files was.
        stored = [parse_directions(each[DIRECTIONS], f"Group '{group}'").stored.as_dict() for each in found]
        making["convention of the directional features"] = stored
    return making
