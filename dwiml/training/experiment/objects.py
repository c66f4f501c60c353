"""Checks that the model, sampler and loader of a training fit together, and that there are data to train on."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

from dwiml.arguments import RENAMED_METHODS, kind_shown
from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.data.dataset import MultisubjectSubset
from dwiml.models.base import MainModelAbstract


def check_objects(model: Any, sampler: DWIMLBatchIDSampler, loader: DWIMLStreamlinesBatchLoader) -> None:
    """Check that the model, sampler and loader fit together, and that there is a streamline to train on.

    Raises
    ------
    TypeError
        If the model is not an instance of a subclass of ``MainModelAbstract``.
    ValueError
        If the objects do not fit together, the training set is not loaded, or it has no usable streamline.
    """
    if not isinstance(model, MainModelAbstract):
        raise TypeError(f"The model must be an instance of a subclass of MainModelAbstract, got {kind_shown(model)}.")
    if loader.model is not model:
        raise ValueError("The batch loader must have the same model as the trainer.")
    if sampler.dataset is not loader.dataset or sampler.streamline_group_name != loader.streamline_group_name:
        raise ValueError("The batch sampler and the batch loader must have the same dataset and streamlines group.")
    training = sampler.dataset.training_set
    if not training.loaded:
        raise ValueError("The training set is not loaded: call dataset.load_data() first.")
    if not _has_streamlines(training, sampler.streamline_group_name):
        raise ValueError(
            f"There is no training streamline of two points or more, and longer than 0 mm, in "
            f"'{sampler.dataset.hdf5_file}' (training subjects: {', '.join(training.subjects) or 'none'})."
        )


def check_names(trainer: Any, loader: Any, own: Collection[str]) -> None:
    """Check that no subclass defines a method by its old name, or an attribute that the trainer is about to set.

    Parameters
    ----------
    trainer
        The trainer, before it sets its attributes.
    loader
        The batch loader.
    own
        Names of the attributes of the trainer.

    Raises
    ------
    TypeError
        If a name is an old one, or is already used.
    """
    for thing, kind in ((trainer, "trainer"), (loader, "loader")):
        for old, new in RENAMED_METHODS[kind].items():
            if hasattr(type(thing), old):
                raise TypeError(f"{type(thing).__name__} defines {old!r}, which is no longer used: it is now {new!r}.")
    # Many scripts set the arguments themselves, which changes nothing.
    for name in set(own) - trainer._not_params:
        users = [each for each in type(trainer).__mro__ if not each.__module__.startswith("dwiml.")]
        if name in vars(trainer) or any(name in vars(each) for each in users):
            raise TypeError(_taken(trainer, name))
    _check_methods(trainer)


def check_attributes(trainer: Any, built: Mapping[str, Any]) -> None:
    """Check that a subclass has not replaced an attribute of its trainer.

    Parameters
    ----------
    trainer
        The trainer, before its training starts.
    built
        Its attributes, as the constructor set them.

    Raises
    ------
    TypeError
        If an object is another one, or a plain value has another type.
    """
    for name, value in built.items():
        now = vars(trainer).get(name)
        is_plain = isinstance(value, (bool, int, str)) or name == "config"
        if now is not value and not (is_plain and isinstance(now, (type(value), str))):
            raise TypeError(_taken(trainer, name))
    _check_methods(trainer)


def _check_methods(trainer: Any) -> None:
    """Check that no value hides a method, such as ``self.log = []``."""
    for name, value in vars(trainer).items():
        if callable(getattr(type(trainer), name, None)) and not callable(value):
            raise TypeError(_taken(trainer, name))


def _taken(trainer: Any, name: str) -> str:
    return (
        f"{type(trainer).__name__} has its own '{name}', which is an attribute or a method of the trainer itself: "
        "choose another name (or give the object to the trainer's constructor, if it is one of its parameters)."
    )


def has_validation_set(sampler: DWIMLBatchIDSampler) -> bool:
    """Return whether there is a validation streamline; warn if there is none."""
    if _has_streamlines(sampler.dataset.validation_set, sampler.streamline_group_name):
        return True
    warnings.warn(
        "There is no validation streamline: the best model and early stopping use the training loss.", stacklevel=4
    )
    return False


def _has_streamlines(subset: MultisubjectSubset, group: str) -> bool:
    streamlines = (subject.streamlines[group] for subject in subset if group in subject.streamlines)
    # A streamline of length 0 has no direction, and its loss is 0 for any model.
    return any(((each.lengths >= 2) & (each.lengths_mm > 0)).any() for each in streamlines)
