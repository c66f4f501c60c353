"""Checks that the model, sampler and loader of a training fit together, and that there are data to train on."""

from __future__ import annotations

import warnings
from typing import Any

from dwiml.arguments import kind_shown
from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.data.dataset import MultisubjectSubset
from dwiml.models.base import MainModelAbstract
from dwiml.overriding import check_overrides, hidden_methods


def check_objects(model: Any, sampler: DWIMLBatchIDSampler, loader: DWIMLStreamlinesBatchLoader) -> None:
    """Check that the model, sampler and loader fit together, and that there is a streamline to train on.

    Raises
    ------
    TypeError
        If the model is not an instance of a subclass of ``MainModelAbstract``, or a class of the user replaces a method
        or a property by a value.
    ValueError
        If the objects do not fit together, the training set is not loaded, or it has no usable streamline.
    """
    if not isinstance(model, MainModelAbstract):
        raise TypeError(f"The model must be an instance of a subclass of MainModelAbstract, got {kind_shown(model)}.")
    for thing in (model, sampler, loader):
        check_overrides(thing)
        for name in hidden_methods(thing):
            raise TypeError(
                f"{type(thing).__name__} sets its own '{name}', which hides its method: choose another name."
            )
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
            f"'{sampler.dataset.files_shown}' (training subjects: {', '.join(training.subjects) or 'none'})."
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
