"""Check that a model, which may be the user's own, computes one loss per element, not only their mean."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from dwiml.arguments import kind_shown

_OPTION = "average_results"


def check_has_losses_by_element(model: Any) -> None:
    """Check that ``compute_loss`` of a model has the parameter ``average_results``, which training does not need.

    Raises
    ------
    TypeError
        If it has not.
    """
    parameters = inspect.signature(model.compute_loss).parameters
    if _OPTION not in parameters and all(each.kind is not each.VAR_KEYWORD for each in parameters.values()):
        raise TypeError(
            f"{type(model).__name__}.compute_loss has no parameter {_OPTION}: add {_OPTION}=True to it, and if it is "
            "False, return one loss per point instead of their mean."
        )


def losses_by_element(model: Any, result: Any, nb: int) -> torch.Tensor:
    """Return the losses of a result of ``compute_loss(..., average_results=False)``.

    Parameters
    ----------
    model
        The model, for the error message.
    result
        What its ``compute_loss`` returned.
    nb
        Number N of elements of the batch: steps, or points.

    Returns
    -------
    Tensor
        Shape (N,).

    Raises
    ------
    TypeError
        If the result is not a tensor and a number.
    ValueError
        If the tensor has another shape, for instance that of a classifier of whole streamlines.
    """
    expected = f"{type(model).__name__}.compute_loss({_OPTION}=False) must return one loss per point"
    if not (isinstance(result, (tuple, list)) and len(result) == 2 and isinstance(result[0], torch.Tensor)):
        raise TypeError(f"{expected} and their number, as a pair (losses, n); it returned {kind_shown(result)}.")
    losses: torch.Tensor = result[0]
    if losses.shape != (nb,) and hasattr(model, "plausibility"):
        raise ValueError(
            f"{type(model).__name__} has one loss per streamline, and none per point; 'dwiml filter_plausible' writes "
            "the probability of each streamline."
        )
    if losses.shape != (nb,):
        raise ValueError(f"{expected}, shape ({nb},); it returned shape {tuple(losses.shape)}.")
    return losses
