"""How far a model's directions are from those of the streamlines, beside what needs no model at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dwiml.batching.fetcher import BatchSlices
from dwiml.batching.loader import DWIMLBatchLoaderOneInput
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.models.protocols import EvaluatedModel
from dwiml.ops.directions import angle_degrees
from dwiml.ops.sequences import TensorSequence
from dwiml.training.reporting.monitors import MeanMonitor


@dataclass(frozen=True)
class DirectionError:
    """Means over the points of a subset; angles in degrees, measured in mm (not in voxels).

    Attributes
    ----------
    loss
        The model's own.
    angle
        Between the model's direction and the streamline's next step, at all points.
    angle_after_first
        The same, without the first point of each streamline: where going straight on is defined.
    straight_on_angle
        Between the last step and the next one, at the points of ``angle_after_first``.
    nb_points
        The number of points with a next step.
    """

    loss: float
    angle: float
    angle_after_first: float
    straight_on_angle: float
    nb_points: int


def evaluate_directions(
    model: EvaluatedModel,
    batch_sampler: DWIMLBatchIDSampler,
    batch_loader: DWIMLBatchLoaderOneInput,
    *,
    phase: str = "validation",
    max_batches: int | None = None,
) -> DirectionError:
    """Measure a model's direction error on a subset, point by point along the true streamlines.

    Parameters
    ----------
    model
        A model with a direction getter; it stays on its device.
    batch_sampler, batch_loader
        Those of the experiment, with the subset loaded.
    phase
        ``"training"``, ``"validation"`` or ``"testing"``; nothing is augmented.
    max_batches
        Evaluate at most this many batches; None for all.

    Raises
    ------
    ValueError
        When the subset has no streamline of three points.
    FloatingPointError
        When the model gives no direction at some point.
    """
    names = ("loss", "angle", "angle_after_first", "straight_on_angle")
    means = {name: MeanMonitor(name, f"the {phase} set") for name in names}
    was_training = model.training
    model.eval()
    batch_sampler.set_position(phase, 0, max_batches=max_batches)
    fetcher = batch_loader.fetcher(phase, augment=False)
    with torch.no_grad():
        for batch_ids in batch_sampler:
            targets, ids_per_subj = fetcher[batch_ids]
            targets = targets.to(model.device)
            batch = batch_loader.model_batch(targets, ids_per_subj)
            outputs = batch.run(model)
            loss, n = batch.loss(model, outputs)
            means["loss"].update(loss, n, ids_per_subj.key.batch_index)
            to_mm = _voxel_sizes(batch_loader, targets, ids_per_subj)
            directions = model.get_tracking_directions(outputs, "det", None)
            if model.forward_uses_last_point:
                # No direction leaves from a last point.
                directions = targets.mapped(directions).trimmed_last().data
            for name, angles in _angles(directions, targets, to_mm).items():
                mean = angles.mean() if len(angles) else angles.sum()
                means[name].update(mean, len(angles), ids_per_subj.key.batch_index)
            for measured in means.values():
                measured.check()
    model.train(was_training)
    nb_points = means["angle"].nb
    values = {name: mean.mean() for name, mean in means.items()}
    if any(value is None for value in values.values()):
        raise ValueError(f"The {phase} set has no streamline of three points or more: there is nothing to measure.")
    return DirectionError(nb_points=nb_points, **values)  # type: ignore[arg-type]


def _voxel_sizes(
    batch_loader: DWIMLBatchLoaderOneInput, targets: TensorSequence, ids_per_subj: BatchSlices
) -> torch.Tensor:
    """Return the voxel size (mm) that belongs to each step of the targets, shape (steps, 3)."""
    steps = (targets.lengths - 1).clamp(min=0)
    subset = batch_loader.dataset.subset(ids_per_subj.key.phase)
    sizes = [
        torch.from_numpy(subset[subject].volumes[batch_loader.input_group_name].voxel_sizes).expand(
            int(steps[own].sum()), 3
        )
        for subject, own in ids_per_subj.items()
    ]
    return torch.cat(sizes).to(targets.device)


def _angles(directions: torch.Tensor, targets: TensorSequence, to_mm: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the angles (degrees) of each measure; steps of no length are left out."""
    steps = targets.diff()
    true = steps.data * to_mm
    model_angles = angle_degrees(directions * to_mm, true)
    before = true.roll(1, dims=0)
    moves = true.norm(dim=1) > 0
    inner = moves & ~steps.is_first() & (before.norm(dim=1) > 0)
    return {
        "angle": model_angles[moves],
        "angle_after_first": model_angles[inner],
        "straight_on_angle": angle_degrees(before, true)[inner],
    }
