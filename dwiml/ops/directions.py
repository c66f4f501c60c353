"""Directions of streamlines: differences of consecutive points, made safe where points repeat."""

from __future__ import annotations

import torch
from torch import Tensor

from dwiml.ops.sequences import TensorSequence

SHORTEST = 1e-8
"""Voxels. A step shorter than this is a repeated point: float32 coordinates are hundreds of times coarser."""


def normalize_directions(directions: Tensor) -> Tensor:
    """Scale directions to unit length; those shorter than :data:`SHORTEST` become zero.

    Repeated points therefore give a zero direction, never NaN, and a zero gradient. A NaN that was in the input
    stays, so that it can be named.

    Parameters
    ----------
    directions
        Shape (..., 3), voxel space.

    Returns
    -------
    Tensor
        Shape (..., 3), no unit.
    """
    norms = torch.linalg.vector_norm(directions, dim=-1, keepdim=True)
    too_short = norms <= SHORTEST
    # The divisor is replaced before dividing: a where() after it alone would send NaN through the backward pass.
    unit = directions / torch.where(too_short, torch.ones_like(norms), norms)
    return torch.where(too_short, torch.zeros_like(unit), unit)


def streamline_directions(streamlines: TensorSequence, *, normalize: bool = True) -> TensorSequence:
    """Return the direction from each point to the next one.

    Parameters
    ----------
    streamlines
        Points, shape (N, 3), voxel space.
    normalize
        Whether directions have unit length (zero for repeated points) or are the steps themselves, in voxels.

    Returns
    -------
    TensorSequence
        Shape (sum(max(n_i - 1, 0)), 3): one row less than points a streamline.
    """
    steps = streamlines.diff()
    return steps.mapped(normalize_directions(steps.data)) if normalize else steps


def recovery_steps(streamlines: TensorSequence, seen: TensorSequence, nb_steps: float) -> TensorSequence:
    """Return the steps that lead from points beside streamlines back to them, in some steps.

    From each point that was seen, it is the streamline's own step there, and of the way to the streamline's point the
    `nb_steps`-th part. (The way to a point further on would cut the corners of a streamline that turns.)

    Parameters
    ----------
    streamlines
        The points of the true streamlines, shape (N, 3), voxel space.
    seen
        A point for each of theirs, or for each but the last ones.
    nb_steps
        At least 1: with 1, the step leads to the streamline's next point.

    Returns
    -------
    TensorSequence
        Shape (sum(max(n_i - 1, 0)), 3), voxels.
    """
    own, there = streamlines.diff(), streamlines.trimmed_last()
    here = seen.data if seen.total_points == there.total_points else seen.trimmed_last().data
    return own.mapped(own.data + (there.data - here) / nb_steps)


def streamline_lengths_mm(streamlines: TensorSequence, voxel_sizes: Tensor) -> Tensor:
    """Return the length of each streamline along its points, shape (S,), mm.

    Parameters
    ----------
    streamlines
        Points, shape (N, 3), voxel space.
    voxel_sizes
        Shape (3,), mm, on the same device.
    """
    steps = streamlines.diff()
    norms = torch.linalg.vector_norm(steps.data * voxel_sizes, dim=1)
    lengths: Tensor = norms.new_zeros(len(streamlines)).index_add(0, steps.sequence_ids(), norms)
    return lengths


def previous_directions(streamlines: TensorSequence, nb_previous: int, *, normalize: bool = True) -> Tensor:
    """Return, under each point, the directions of the last steps that led to it.

    Parameters
    ----------
    streamlines
        Points, shape (N, 3), voxel space.
    nb_previous
        How many steps back.
    normalize
        As in :func:`streamline_directions`.

    Returns
    -------
    Tensor
        Shape (N, 3 * nb_previous). The most recent first: columns 0 to 2 hold the step that arrives at the point,
        columns 3 to 5 the one before it. Zeros where the streamline had not started yet; so all zeros at its first
        point.

    Raises
    ------
    ValueError
        When ``nb_previous`` is negative.
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
    in floating-point computation?", 2006, section 12): exact to rounding near 0 and 180 degrees too, where an
    arccosine loses half of its digits.

    Parameters
    ----------
    first, second
        Shape (..., 3), same space.

    Returns
    -------
    Tensor
        Shape (...), degrees from 0 to 180; NaN where one of the two has no direction (a repeated point), since any
        number would be invented: average with ``nanmean``.
    """
    unit_first, unit_second = normalize_directions(first), normalize_directions(second)
    difference = torch.linalg.vector_norm(unit_first - unit_second, dim=-1)
    total = torch.linalg.vector_norm(unit_first + unit_second, dim=-1)
    angle = torch.rad2deg(2.0 * torch.atan2(difference, total))
    undefined = ~(unit_first.any(dim=-1) & unit_second.any(dim=-1))
    return angle.masked_fill(undefined, torch.nan)
