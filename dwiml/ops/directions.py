"""Directions of streamlines: differences between consecutive points, with safe handling of repeated points."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from dwiml.arguments import shown
from dwiml.ops.sequences import TensorSequence

SHORTEST_STEP = 1e-8
"""In voxels: a shorter step is a repeated point. The spacing of float32 coordinates is hundreds of times larger."""


def normalize_directions(directions: Tensor) -> Tensor:
    """Scale directions to unit length; those shorter than :data:`SHORTEST_STEP` become zero.

    Repeated points therefore give a zero direction, not NaN, and a zero gradient. A NaN in the input is kept, so that
    it is noticed.

    Parameters
    ----------
    directions
        Shape (..., 3), floating-point: steps in voxels, along voxel axes.

    Returns
    -------
    Tensor
        Shape (..., 3), same dtype: unit vectors along voxel axes.
    """
    norms = torch.linalg.vector_norm(directions, dim=-1, keepdim=True)
    too_short = norms <= SHORTEST_STEP
    # The divisor is replaced before dividing: a where() after it alone would send NaN through the backward pass.
    unit = directions / torch.where(too_short, torch.ones_like(norms), norms)
    return torch.where(too_short, torch.zeros_like(unit), unit)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which torch computes in the dtype of its tensors, also inside ``torch.autocast``.

    Parameters
    ----------
    device
        Device of the tensors.
    """
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def pairwise_cosines(directions: Tensor, others: Tensor) -> Tensor:
    """Return the cosine of the angle between each direction and each of the others.

    They are computed in the dtype of `directions`, also inside ``torch.autocast``: in half precision, the nearest
    direction of a sphere would often be another one.

    Parameters
    ----------
    directions
        Shape (N, 3), unit length (or zero, for which the result is 0).
    others
        Shape (C, 3), unit length, along the same axes.

    Returns
    -------
    Tensor
        Shape (N, C), from -1 to 1 up to rounding.
    """
    with without_autocast(directions.device):
        return directions @ others.to(directions.dtype).T


def sphere_directions(name: str, requirement: str = "sphere must be") -> Tensor:
    """Return the directions of one of DIPY's spheres.

    Parameters
    ----------
    name
        Name of the sphere, for instance ``"repulsion724"``.
    requirement
        Beginning of the error message, for instance ``"dg_args: sphere must be"``.

    Returns
    -------
    Tensor
        Shape (C, 3), float32, unit length.

    Raises
    ------
    ValueError
        If DIPY has no sphere of this name.
    """
    # Imported when used: dipy takes long to load, and most models have no sphere.
    from dipy.data import DataError, get_sphere

    try:
        vertices = get_sphere(name=name).vertices
    except (DataError, TypeError) as error:
        raise ValueError(
            f"{requirement} the name of one of DIPY's spheres, such as 'repulsion724' or 'repulsion100', got "
            f"{shown(name)}."
        ) from error
    return normalize_directions(torch.from_numpy(vertices).to(torch.float32))


def streamline_directions(streamlines: TensorSequence, *, normalize: bool = True) -> TensorSequence:
    """Return the direction from each point to the next one.

    Parameters
    ----------
    streamlines
        Points, shape (N, 3), voxel space, any origin.
    normalize
        Whether directions have unit length (zero for repeated points) or are the steps themselves, in voxels.

    Returns
    -------
    TensorSequence
        Shape (sum(max(n_i - 1, 0)), 3), same dtype: one row fewer than points for each streamline.
    """
    steps = streamlines.diff()
    return steps.mapped(normalize_directions(steps.data)) if normalize else steps


def recovery_steps(streamlines: TensorSequence, seen: TensorSequence, nb_steps: float) -> TensorSequence:
    """Return the recovery target: steps that lead from displaced points back to the streamlines in several steps.

    From each displaced point, the target is the true step at that point plus ``1 / nb_steps`` of the displacement that
    remains to be corrected. (Aiming at a later point instead would cut the corners of a streamline that turns.) It is
    the target of training with correlated noise (:func:`dwiml.ops.augmentation.draw_correlated_noise`); the method is
    dwiml's own, in the spirit of imitation learning with noise injection (Laskey et al., "DART", 2017,
    arXiv:1703.09327).

    Parameters
    ----------
    streamlines
        Points of the true streamlines, shape (N, 3), voxel space, any origin.
    seen
        The displaced points, in the same space: one for each true point, or for each but the last of a streamline.
    nb_steps
        Number of steps to recover in, at least 1. With 1, the step leads to the next true point.

    Returns
    -------
    TensorSequence
        Shape (sum(max(n_i - 1, 0)), 3), in voxels.
    """
    own, there = streamlines.diff(), streamlines.trimmed_last()
    here = seen.data if seen.total_points == there.total_points else seen.trimmed_last().data
    return own.mapped(own.data + (there.data - here) / nb_steps)


def streamline_lengths_mm(streamlines: TensorSequence, voxel_sizes: Tensor) -> Tensor:
    """Return the length of each streamline along its points.

    Parameters
    ----------
    streamlines
        Points, shape (N, 3), voxel space, any origin.
    voxel_sizes
        Shape (3,), in mm, on the same device.

    Returns
    -------
    Tensor
        Shape (S,), in mm; 0 for a streamline of one point or none.
    """
    steps = streamlines.diff()
    norms = torch.linalg.vector_norm(steps.data * voxel_sizes, dim=1)
    lengths: Tensor = norms.new_zeros(len(streamlines)).index_add(0, steps.sequence_ids(), norms)
    return lengths


def previous_directions(streamlines: TensorSequence, nb_previous: int, *, normalize: bool = True) -> Tensor:
    """Return, at each point, the directions of the last steps that led to it.

    Parameters
    ----------
    streamlines
        Points, shape (N, 3), voxel space, any origin.
    nb_previous
        Number of previous steps.
    normalize
        As in :func:`streamline_directions`.

    Returns
    -------
    Tensor
        Shape (N, 3 * nb_previous), same dtype, along voxel axes, the most recent first: columns 0 to 2 hold the step
        that arrives at the point, columns 3 to 5 the one before it. Zeros before the start of the streamline; so all
        zeros at its first point.

    Raises
    ------
    ValueError
        If ``nb_previous`` is negative.
    """
    if nb_previous < 0:
        raise ValueError(f"The number of previous directions must be 0 or more, got {nb_previous}.")
    points = streamlines.data
    result = points.new_zeros(streamlines.total_points, 3 * nb_previous)
    if nb_previous == 0 or streamlines.total_points < 2:
        return result
    steps = points[1:] - points[:-1]
    if normalize:
        steps = normalize_directions(steps)
    position = streamlines.positions().unsqueeze(1)
    columns = []
    for back in range(nb_previous):
        # Row i of `shifted` is the step that ended `back` points before i, of whatever streamline; those that belong
        # to another streamline are the ones that start before position 0 of this one.
        shifted = torch.cat([points.new_zeros(min(back + 1, len(points)), 3), steps[: max(len(steps) - back, 0)]])
        columns.append(torch.where(position > back, shifted, torch.zeros_like(shifted)))
    return torch.cat(columns, dim=1)


def angle_degrees(first: Tensor, second: Tensor) -> Tensor:
    """Return the angle between directions, which need not have unit length.

    Kahan's formula, 2 atan2(|u - v|, |u + v|) with unit u and v ("How futile are mindless assessments of roundoff
    in floating-point computation?", 2006, section 12): also accurate near 0 and 180 degrees, where an
    arccosine loses half of its digits.

    Parameters
    ----------
    first, second
        Shape (..., 3), in the same space; in mm axes for angles in the brain, since voxels may be anisotropic.

    Returns
    -------
    Tensor
        Shape (...), in degrees, from 0 to 180; NaN where one of the two has no direction (a repeated point): average
        with ``nanmean``.
    """
    unit_first, unit_second = normalize_directions(first), normalize_directions(second)
    difference = torch.linalg.vector_norm(unit_first - unit_second, dim=-1)
    total = torch.linalg.vector_norm(unit_first + unit_second, dim=-1)
    angle = torch.rad2deg(2.0 * torch.atan2(difference, total))
    undefined = ~(unit_first.any(dim=-1) & unit_second.any(dim=-1))
    return angle.masked_fill(undefined, torch.nan)
