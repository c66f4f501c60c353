"""Measure the angles between the directions of a model and those of true streamlines, and the distances in mm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dwiml.arguments import kind_shown
from dwiml.batching.fetcher import BatchSlices
from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.batching.model_batch import ModelBatch
from dwiml.batching.model_space import RASMM, space_of
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.evaluation.evaluation_mode import evaluation_mode
from dwiml.models.protocols import DirectionModel
from dwiml.ops.directions import angle_degrees
from dwiml.ops.sequences import TensorSequence
from dwiml.training.reporting.monitors import MeanMonitor


@dataclass(frozen=True)
class DirectionError:
    """Means over the points of a subset; angles in degrees, between vectors in mm.

    Attributes
    ----------
    loss
        Mean loss of the model.
    angle
        Mean angle between the model's direction and the next step of the streamline, at all points with a next step.
    angle_after_first
        The same, without the first point of each streamline.
    straight_on_angle
        Mean angle between the previous step and the next step, at the points of `angle_after_first`: the error of a
        baseline that continues straight on.
    nb_points
        Number of points with a next step.
    """

    loss: float
    angle: float
    angle_after_first: float
    straight_on_angle: float
    nb_points: int


def evaluate_directions(
    model: DirectionModel,
    batch_sampler: DWIMLBatchIDSampler,
    batch_loader: DWIMLStreamlinesBatchLoader,
    *,
    phase: str = "validation",
    max_batches: int | None = None,
) -> DirectionError:
    """Measure the direction error of a model on a subset, at each point of the true streamlines.

    Parameters
    ----------
    model
        A model with a direction getter, evaluated on its current device.
    batch_sampler, batch_loader
        Sampler and loader of the experiment, with the data of the subset.
    phase
        Subset: ``"training"``, ``"validation"`` or ``"testing"``. Streamlines are never augmented.
    max_batches
        Maximum number of batches; None for all.

    Returns
    -------
    DirectionError
        Mean loss and mean angles (degrees).

    Raises
    ------
    ValueError
        If no streamline of the subset has three points or more.
    FloatingPointError
        If a loss or an angle is NaN or infinite.
    """
    names = ("loss", "angle", "angle_after_first", "straight_on_angle")
    means = {name: MeanMonitor(name, f"the {phase} set") for name in names}
    batch_sampler.set_position(phase, 0, max_batches=max_batches)
    fetcher = batch_loader.fetcher(phase, augment=False)
    with evaluation_mode(model):
        for batch_ids in batch_sampler:
            targets, ids_per_subj = fetcher[batch_ids]
            targets = targets.to(model.device)
            batch = batch_loader.model_batch(targets, ids_per_subj)
            outputs = batch.run(model)
            loss, n = batch.loss(model, outputs)
            means["loss"].update(loss, n, ids_per_subj.key.batch_index)
            steps = _steps_mm(model, batch, outputs, _voxel_sizes(batch_loader, targets, ids_per_subj))
            for name, angles in _angles(batch.targets.diff().is_first(), *steps).items():
                mean = angles.mean() if len(angles) else angles.sum()
                means[name].update(mean, len(angles), ids_per_subj.key.batch_index)
            for mean_monitor in means.values():
                mean_monitor.check()
    nb_points = means["angle"].nb
    values = {name: mean.mean() for name, mean in means.items()}
    if any(value is None for value in values.values()):
        raise ValueError(f"The {phase} set has no streamline with three points or more; choose another subset.")
    return DirectionError(nb_points=nb_points, **values)  # type: ignore[arg-type]


def _voxel_sizes(
    batch_loader: DWIMLStreamlinesBatchLoader, targets: TensorSequence, ids_per_subj: BatchSlices
) -> torch.Tensor:
    """Return the voxel size (mm) along each axis, for each step of the targets: (number of steps, 3)."""
    steps = (targets.lengths - 1).clamp(min=0)
    subset = batch_loader.dataset.subset(ids_per_subj.key.phase)
    group = batch_loader.streamline_group_name
    sizes = [
        torch.from_numpy(subset.data_of(subject).streamlines[group].voxel_sizes).expand(int(steps[rows].sum()), 3)
        for subject, rows in ids_per_subj.items()
    ]
    return torch.cat(sizes).to(targets.device)


def _angles(is_first: torch.Tensor, true: torch.Tensor, directions: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return {measure: angles in degrees, one per point}; points whose next step has no length are left out.

    `true` and `directions`, shape (N, 3), are the steps and the directions of the model, in mm; `is_first`, shape (N,),
    marks the first step of each streamline.
    """
    model_angles = angle_degrees(directions, true)
    before = true.roll(1, dims=0)
    moves = true.norm(dim=1) > 0
    inner = moves & ~is_first & (before.norm(dim=1) > 0)
    return {
        "angle": model_angles[moves],
        "angle_after_first": model_angles[inner],
        "straight_on_angle": angle_degrees(before, true)[inner],
    }


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
    true, along = _steps_mm(model, batch, outputs, voxel_sizes)
    lengths = torch.linalg.vector_norm(true, dim=-1, keepdim=True)
    # 0 / 0 is NaN: there is no direction, or no step.
    step_of_model = along * (lengths / torch.linalg.vector_norm(along, dim=-1, keepdim=True))
    distances: torch.Tensor = torch.linalg.vector_norm(step_of_model - true, dim=-1)
    return distances.masked_fill(lengths[:, 0] == 0, torch.nan)


def _steps_mm(
    model: Any, batch: ModelBatch, outputs: Any, voxel_sizes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the true steps and the directions of the model, (number of steps, 3) each, in mm along the same axes.

    `voxel_sizes`, shape (3,) or (number of steps, 3), is in mm.
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
    return steps * to_mm, directions.to(steps.dtype) * to_mm


def _directions(model: Any, outputs: Any, nb_rows: int) -> torch.Tensor:
    """Return the model's most likely directions, (N, 3), of any length."""
    directions: torch.Tensor = model.get_tracking_directions(outputs, "det", None)
    expected = f"{type(model).__name__}.get_tracking_directions must return one direction per row of the outputs"
    if not isinstance(directions, torch.Tensor):
        raise TypeError(f"{expected}, as a tensor; it returned {kind_shown(directions)}.")
    if directions.shape != (nb_rows, 3):
        raise ValueError(f"{expected}, shape ({nb_rows}, 3); it returned shape {tuple(directions.shape)}.")
    return directions
