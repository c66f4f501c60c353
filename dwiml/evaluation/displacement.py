"""Measure how far the next point of a model is from that of a true streamline."""

from __future__ import annotations

from typing import Any

import torch

from dwiml.arguments import kind_shown
from dwiml.batching.model_batch import ModelBatch
from dwiml.batching.model_space import RASMM, space_of


def has_directions(model: Any) -> bool:
    """Return whether a model has tracking directions (``get_tracking_directions``), which not all models need."""
    return callable(getattr(model, "get_tracking_directions", None))


def displacements_mm(model: Any, batch: ModelBatch, outputs: Any, voxel_sizes: torch.Tensor) -> torch.Tensor:
    """Return the distance between the true next point and the point that the model would reach, for each step.

    The step of the model has the length of the true step, in mm, and the model's most likely direction. At an angle
    :math:`a` between them, the distance is :math:`2 l \\sin(a / 2)` for a true step of length :math:`l`.

    Parameters
    ----------
    model
        A model with ``get_tracking_directions``.
    batch
        Batch without augmentation, on the device of the model.
    outputs
        Outputs of the model for this batch.
    voxel_sizes
        Shape (3,), float32, mm: the voxel sizes of the subject of the batch.

    Returns
    -------
    Tensor
        Shape (number of steps,), float32, in mm. NaN where the model has no direction, and for a repeated point.

    Raises
    ------
    TypeError, ValueError
        If the model does not return one direction per row of its outputs.
    """
    steps = batch.targets.diff().data
    nb_rows = batch.targets.total_points if model.forward_uses_last_point else len(steps)
    directions = _directions(model, outputs, nb_rows)
    if model.forward_uses_last_point:
        # The last point has no next step.
        directions = directions[batch.targets.rows_but_last()]
    # A model that receives scanner space has its steps and its directions in mm already.
    to_mm = torch.ones(3) if space_of(model) == RASMM else voxel_sizes
    to_mm = to_mm.to(steps.device)
    true, along = steps * to_mm, directions.to(steps.dtype) * to_mm
    lengths = torch.linalg.vector_norm(true, dim=-1, keepdim=True)
    # 0 / 0 is NaN: there is no direction, or no step.
    step_of_model = along * (lengths / torch.linalg.vector_norm(along, dim=-1, keepdim=True))
    distances: torch.Tensor = torch.linalg.vector_norm(step_of_model - true, dim=-1)
    return distances.masked_fill(lengths[:, 0] == 0, torch.nan)


def _directions(model: Any, outputs: Any, nb_rows: int) -> torch.Tensor:
    """Return the model's most likely directions, (N, 3), of any length."""
    directions: torch.Tensor = model.get_tracking_directions(outputs, "det", None)
    expected = f"{type(model).__name__}.get_tracking_directions must return one direction per row of the outputs"
    if not isinstance(directions, torch.Tensor):
        raise TypeError(f"{expected}, as a tensor; it returned {kind_shown(directions)}.")
    if directions.shape != (nb_rows, 3):
        raise ValueError(f"{expected}, shape ({nb_rows}, 3); it returned shape {tuple(directions.shape)}.")
    return directions
