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


def steps_back(streamlines: TensorSequence, seen: TensorSequence, look_ahead: int) -> TensorSequence:
    """Return the steps that lead from points beside streamlines back to them.

    From each point that was seen, it is the way to the streamline's point `look_ahead` points later, divided by
    `look_ahead`. Beyond its last point a streamline goes straight on, as its last step does.

    Parameters
    ----------
    streamlines
        The points of the true streamlines, shape (N, 3), voxel space.
    seen
        A point for each of theirs, or for each but the last ones.
    look_ahead
        At least 1. With 1 and the true points, the result is that of :meth:`TensorSequence.diff`.

    Returns
    -------
    TensorSequence
        Shape (sum(max(n_i - 1, 0)), 3), voxels.
    """
    points, lengths = streamlines.data, streamlines.lengths
    counts = (lengths - 1).clamp(min=0)
    last = torch.repeat_interleave(torch.cumsum(lengths, 0) - 1, counts)
    rows = torch.arange(len(last)) + torch.repeat_interleave(torch.cumsum((lengths > 0).long(), 0) - 1, counts)
    ahead = torch.minimum(rows + look_ahead, last)
    beyond = (rows + look_ahead - ahead)[:, None]
    if seen.total_points != len(rows):
        seen = seen.trimmed_last()
    rows, last, ahead, beyond = (each.to(points.device, non_blocking=True) for each in (rows, last, ahead, beyond))
    aims = points[ahead] + beyond * (points[last] - points[last - 1])
    return TensorSequence((aims - seen.data) / look_ahead, counts)


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
    position = _positions(streamlines).unsqueeze(1)
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


def _positions(streamlines: TensorSequence) -> Tensor:
    """Shape (N,), int64, on the points' device: the index of each point in its own streamline."""
    starts = torch.repeat_interleave(streamlines.offsets, streamlines.lengths)
    position = torch.arange(streamlines.total_points) - starts
    return position.to(streamlines.device, non_blocking=True)
