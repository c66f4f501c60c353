"""Neighborhoods: the points around a point at which a volume is read."""

from __future__ import annotations

import itertools
import math
import operator

import torch
from torch import Tensor

MAX_RADIUS = {"axes": 1000, "grid": 10}
"""The largest radius of each type: 6001 and 9261 points, each with all features of the volume."""


def neighborhood_offsets(kind: str | None, radius: int | None = None, resolution: float | None = None) -> Tensor:
    """Return the offsets from a point to each point of its neighborhood.

    Parameters
    ----------
    kind : {"axes", "grid"} or None
        "axes": the point, and `radius` points on both sides along x, y and z.
        "grid": the cube of ``(2 * radius + 1) ** 3`` points.
        None: the point alone.
    radius : int, optional
        Number of neighbors on each side, from 1 to :data:`MAX_RADIUS`. Required with a kind.
    resolution : float, optional
        Distance between neighbors, in voxels of each axis. Default: 1.

    Returns
    -------
    Tensor of shape (P, 3), float32
        Offsets in voxel space, in voxels. P is 1 (None), ``6 * radius + 1`` (axes) or ``(2 * radius + 1) ** 3`` (grid).
        The first row is the point itself, zeros. Then for "axes", from the nearest points to the farthest: +x, -x, +y,
        -y, +z, -z. For "grid": in C order (z changes first), without the center.

    Raises
    ------
    ValueError
        If the kind is unknown, the radius is missing, not a positive integer or too large, the resolution is not
        positive, or a radius or resolution comes without a kind.
    """
    if kind is None:
        if radius is not None or resolution is not None:
            raise ValueError(
                f"A neighborhood radius ({radius}) or resolution ({resolution}) needs a type: 'axes' or 'grid'."
            )
        return torch.zeros((1, 3))
    if kind not in ("axes", "grid"):
        raise ValueError(f"Neighborhood type {kind!r} is unknown; choose 'axes', 'grid' or None.")
    nb_rings = _checked_radius(kind, radius)
    spacing = 1.0 if resolution is None else float(resolution)
    if not (spacing > 0 and math.isfinite(spacing)):
        raise ValueError(f"The neighborhood resolution must be a positive number of voxels, got {resolution}.")
    steps = _axes_steps(nb_rings) if kind == "axes" else _grid_steps(nb_rings)
    return torch.tensor(steps, dtype=torch.float32) * spacing


def nb_points_read(offsets: Tensor | None) -> int:
    """Return P, the number of points at which a volume is read for each point; 1 without a neighborhood (None)."""
    return 1 if offsets is None else len(offsets)


def grid_size(kind: str | None, radius: int | None) -> int | None:
    """Return the number of points of a neighborhood along each axis, ``2 * radius + 1``; None if it is not a "grid"."""
    return None if kind != "grid" or radius is None else 2 * int(radius) + 1


def features_on_grid(features: Tensor, size: int) -> Tensor:
    """Arrange the features of a "grid" neighborhood as 3D images.

    Parameters
    ----------
    features : Tensor of shape (N, size ** 3 * F)
        Features of the neighbors, in the order of :func:`neighborhood_offsets`: those of neighbor p are the columns
        ``p * F`` to ``(p + 1) * F``.
    size : int
        Number of points along each axis, odd.

    Returns
    -------
    Tensor of shape (N, F, size, size, size)
        ``[n, f, i, j, k]`` is feature f of point n at the offset ``(i, j, k) - size // 2`` along the voxel axes x, y
        and z, in steps of the resolution. In memory, the features of a neighbor are side by side (torch's
        ``channels_last_3d``).
    """
    nb_features = features.shape[1] // size**3
    # The point itself is the first neighbor, and the middle of the cube.
    others = features[:, nb_features:]
    middle = nb_features * (size**3 // 2)
    cube = torch.cat([others[:, :middle], features[:, :nb_features], others[:, middle:]], dim=1)
    return cube.view(len(features), size, size, size, nb_features).movedim(-1, 1)


def _checked_radius(kind: str, radius: int | None) -> int:
    if radius is None:
        raise ValueError(f"A neighborhood of type {kind!r} needs a radius: the number of neighbors on each side.")
    try:
        nb_rings = operator.index(radius)
    except TypeError:
        nb_rings = 0
    if nb_rings < 1:
        raise ValueError(f"The neighborhood radius must be a positive integer, got {radius}.")
    limit = MAX_RADIUS[kind]
    if nb_rings > limit:
        raise ValueError(f"The radius of a neighborhood of type {kind!r} must be at most {limit}, got {radius}.")
    return nb_rings


def _axes_steps(nb_rings: int) -> list[tuple[int, int, int]]:
    steps = [(0, 0, 0)]
    for ring in range(1, nb_rings + 1):
        steps += [(ring, 0, 0), (-ring, 0, 0), (0, ring, 0), (0, -ring, 0), (0, 0, ring), (0, 0, -ring)]
    return steps


def _grid_steps(nb_rings: int) -> list[tuple[int, int, int]]:
    one_axis = range(-nb_rings, nb_rings + 1)
    cube = list(itertools.product(one_axis, one_axis, one_axis))
    return [(0, 0, 0)] + [step for step in cube if step != (0, 0, 0)]
