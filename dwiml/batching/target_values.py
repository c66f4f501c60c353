"""The data per streamline that a model learns: checked before the training, then given to its loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dwiml.arguments import counted, quoted
from dwiml.data.dataset import MultiSubjectDataset
from dwiml.data.streamlines import SubjectStreamlines

if TYPE_CHECKING:
    from dwiml.batching.fetcher import BatchSlices


def check_target_values(dataset: MultiSubjectDataset, model: Any, streamline_group: str) -> None:
    """Check that all streamlines for training and validation have the values that a model learns.

    Parameters
    ----------
    dataset
        Dataset with its data loaded.
    model
        Model; its ``target_key`` names the data per streamline. If they are not None, its ``target_size`` is the number
        of values of a streamline, and its ``target_range`` gives the smallest and the largest value. A model without
        ``target_key``, or with None, learns none.
    streamline_group
        The streamlines group.

    Raises
    ------
    ValueError
        If a subject with streamlines does not have these data, their size is not that of the model or of the other
        subjects, or a value is NaN, infinite or out of range. The message names the subject.
    """
    key = getattr(model, "target_key", None)
    if key is None:
        return
    limits, size, first = getattr(model, "target_range", None), getattr(model, "target_size", None), "the model"
    for streamlines in _learned(dataset, streamline_group):
        learns = f"{type(model).__name__} learns '{key}' (target_key)"
        if key not in streamlines.data_per_streamline:
            raise ValueError(
                f"{learns}, but the {streamlines.label} has no such data_per_streamline; it has: "
                f"{quoted(streamlines.data_per_streamline)}."
            )
        found = streamlines.data_per_streamline_size(key)
        if size not in (None, found):
            raise ValueError(
                f"{learns}, which has {counted(found, 'value')} per streamline in the {streamlines.label}, but "
                f"{size} according to {first}."
            )
        if size is None:
            size, first = found, f"the {streamlines.label}"
        _check_range(streamlines, key, limits, learns)


def _learned(dataset: MultiSubjectDataset, streamline_group: str) -> Iterator[SubjectStreamlines]:
    """Yield the streamlines of the subjects for training and validation that have any."""
    for subset in (dataset.training_set, dataset.validation_set):
        for subject in subset:
            if len(subject.streamlines[streamline_group]):
                yield subject.streamlines[streamline_group]


def _check_range(streamlines: SubjectStreamlines, key: str, limits: tuple[float, float] | None, learns: str) -> None:
    values = streamlines.gather_data_per_streamline(key)
    low, high = (-np.inf, np.inf) if limits is None else limits
    wrong = ~np.isfinite(values) | (values < low) | (values > high)
    if wrong.any():
        number = int(wrong.any(axis=1).argmax())
        expected = "a finite number" if limits is None else f"from {low:g} to {high:g}"
        raise ValueError(
            f"{learns}, which must be {expected}, but it is {values[number][wrong[number]][0]:g} for streamline "
            f"{number} of the {streamlines.label}."
        )


def target_values(model: Any, ids_per_subj: BatchSlices) -> dict[str, torch.Tensor]:
    """Return the keyword ``values`` of a model's ``compute_loss``; empty if the model has no ``target_key``.

    Parameters
    ----------
    model
        The model.
    ids_per_subj
        Slices of the batch, with its data per streamline.

    Raises
    ------
    ValueError
        If the batch does not have the data per streamline that the model learns.
    """
    key = getattr(model, "target_key", None)
    if key is None:
        return {}
    found = ids_per_subj.data_per_streamline
    if key not in found:
        raise ValueError(
            f"{type(model).__name__} learns '{key}' (target_key), but the batch has no such data_per_streamline; it "
            f"has: {quoted(found)}."
        )
    return {"values": found[key]}
