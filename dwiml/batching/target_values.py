"""The data per streamline that a model learns: checked before the training, then given to its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dwiml.arguments import quoted
from dwiml.data.dataset import SUBSETS, MultiSubjectDataset

if TYPE_CHECKING:
    from dwiml.batching.fetcher import BatchSlices


def check_target_values(dataset: MultiSubjectDataset, model: Any, streamline_group: str) -> None:
    """Check that all streamlines have the values that a model learns.

    Parameters
    ----------
    dataset
        Dataset with its data loaded.
    model
        Model; its ``target_key`` names the data per streamline, and its ``target_range``, if it is not None, gives the
        smallest and the largest value. A model without ``target_key``, or with None, learns none.
    streamline_group
        The streamlines group.

    Raises
    ------
    ValueError
        If a subject with streamlines does not have these data, or a value is NaN, infinite or out of range. The message
        names the subject.
    """
    key = getattr(model, "target_key", None)
    if key is None:
        return
    limits = getattr(model, "target_range", None)
    low, high = (-np.inf, np.inf) if limits is None else limits
    for subset in map(dataset.subset, SUBSETS):
        for subject in subset:
            streamlines = subject.streamlines[streamline_group]
            if not len(streamlines):
                continue
            if key not in streamlines.data_per_streamline:
                raise ValueError(
                    f"{type(model).__name__} learns '{key}' (target_key), but the {streamlines.label} has no such "
                    f"data_per_streamline; it has: {quoted(streamlines.data_per_streamline)}."
                )
            values = streamlines.gather_data_per_streamline(key)
            wrong = ~np.isfinite(values) | (values < low) | (values > high)
            if wrong.any():
                number = int(wrong.any(axis=1).argmax())
                expected = "a finite number" if limits is None else f"from {low:g} to {high:g}"
                raise ValueError(
                    f"{type(model).__name__} learns '{key}' (target_key), which must be {expected}, but it is "
                    f"{values[number][wrong[number]][0]:g} for streamline {number} of the {streamlines.label}."
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
