"""Interpolation of a volume at points.

All coordinates are in voxel space, corner origin: voxel i of an axis covers [i, i + 1) and its center is at i + 0.5.
The values of a volume are at the voxel centers, so coordinate c is at c - 0.5 on the grid of centers. Volumes are
channels-last, (X, Y, Z, C), so that the features of a voxel are contiguous in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

HALF_PRECISIONS = (torch.float16, torch.bfloat16)

# Temporaries of one read (a point, or a neighbor of a point): 8 indices and 8 weights, held twice while they are
# stacked, and the shifted coordinates.
_BYTES_PER_READ = 256
# What a slab may take by default. On a CPU it is small, so that the memory of one slab serves the next: memory that is
# new to the process costs more than the interpolation itself. A GPU needs large slabs to have enough to do.
_SLAB_BYTES_CPU = 32 * 2**20
_SLAB_BYTES_GPU = 256 * 2**20


def interpolate_trilinear(volume: Tensor, coords: Tensor) -> Tensor:
    """Interpolate a volume at points, linearly between the eight nearest voxel centers.

    Trilinear interpolation as in ``scipy.ndimage.map_coordinates(volume, coords.T - 0.5, order=1, mode="nearest")``,
    feature by feature. It is differentiable (once) in the volume's values and in the coordinates. Each point is one row
    of ``torch.nn.functional.embedding_bag``: a weighted sum of 8 rows of the volume. Of a volume in half precision,
    only the rows that are read are converted: weights and sums are in float32.

    Parameters
    ----------
    volume : Tensor of shape (X, Y, Z, C)
        Floating-point features of each voxel. Any strides; a volume that is not contiguous is copied at each call.
    coords : Tensor of shape (N, 3)
        Points, voxel space, corner origin, in voxels, on the volume's device.

    Returns
    -------
    Tensor of shape (N, C)
        Features at each point, in the volume's dtype, or in float32 for a volume in half precision. A point outside
        the volume, or at an infinite coordinate, has the value of the nearest point between the outermost voxel
        centers. A point with a NaN coordinate gives a row of NaN.

    Raises
    ------
    ValueError
        If a shape, a dtype or a device is wrong.
    """
    _check_volume(volume)
    _check_coords(volume, coords)
    if not volume.is_floating_point():
        raise ValueError(
            f"Trilinear interpolation needs a floating-point volume, got {volume.dtype}; "
            "convert it, or use the mode 'nearest' for labels."
        )
    # Half precision cannot tell neighboring voxels of a large volume apart.
    coords = coords.to(torch.promote_types(coords.dtype, torch.float32))
    size_x, size_y, size_z, nb_features = volume.shape
    base_x, frac_x = _split_axis(coords[:, 0], size_x)
    base_y, frac_y = _split_axis(coords[:, 1], size_y)
    base_z, frac_z = _split_axis(coords[:, 2], size_z)
    first_corner = base_x * (size_y * size_z) + base_y * size_z + base_z
    corners = first_corner[:, None] + _corner_steps(volume)
    weights = _corner_weights(frac_x, frac_y, frac_z).to(_dtype_read(volume))
    rows = volume.contiguous().view(-1, nb_features)
    if volume.dtype in HALF_PRECISIONS:
        # embedding_bag would round the weights to half precision too.
        read = rows.index_select(0, corners.view(-1)).to(weights.dtype).view(-1, 8, nb_features)
        with torch.autocast(volume.device.type, enabled=False):
            return torch.bmm(weights[:, None], read)[:, 0]
    return functional.embedding_bag(corners, rows, per_sample_weights=weights, mode="sum")


def interpolate_nearest(volume: Tensor, coords: Tensor) -> Tensor:
    """Read a volume at points: the features of the voxel that contains each point (nearest-neighbor interpolation).

    Parameters
    ----------
    volume : Tensor of shape (X, Y, Z, C)
        Features of each voxel, any dtype.
    coords : Tensor of shape (N, 3)
        Points, voxel space, corner origin, in voxels, on the volume's device.

    Returns
    -------
    Tensor of shape (N, C)
        Features at each point, in the volume's dtype. A point outside the volume has the features of the nearest voxel.
        A point with a NaN coordinate gives a row of NaN; in an integer volume, which has no NaN, that coordinate is
        read as 0.

    Raises
    ------
    ValueError
        If a shape, a dtype or a device does not fit.
    """
    _check_volume(volume)
    _check_coords(volume, coords)
    size_x, size_y, size_z, nb_features = volume.shape
    voxel_x = _voxel_of(coords[:, 0], size_x)
    voxel_y = _voxel_of(coords[:, 1], size_y)
    voxel_z = _voxel_of(coords[:, 2], size_z)
    voxels = voxel_x * (size_y * size_z) + voxel_y * size_z + voxel_z
    features = volume.contiguous().view(-1, nb_features).index_select(0, voxels)
    if not volume.is_floating_point():
        return features
    return features.masked_fill_(coords.isnan().any(dim=1, keepdim=True), torch.nan)


_INTERPOLATIONS = {"trilinear": interpolate_trilinear, "nearest": interpolate_nearest}


def interpolate_at(
    volume: Tensor,
    coords: Tensor,
    *,
    offsets: Tensor | None = None,
    mode: str = "trilinear",
    max_bytes: int | None = None,
) -> Tensor:
    """Interpolate a volume at points, or in a neighborhood of each point, in slabs of bounded memory.

    Parameters
    ----------
    volume : Tensor of shape (X, Y, Z, C)
        Features of each voxel.
    coords : Tensor of shape (N, 3)
        Points, voxel space, corner origin, in voxels, on the volume's device.
    offsets : Tensor of shape (P, 3), optional
        Offsets from a point to each point of its neighborhood, in voxels (see
        :func:`dwiml.ops.neighborhood.neighborhood_offsets`). None: the points themselves.
    mode : str
        "trilinear" or "nearest".
    max_bytes : int, optional
        Limit for the temporary tensors of a slab, the result not included. With gradients, torch keeps the indices and
        weights of every slab until the backward pass. Default: 32 MiB on a CPU, 256 MiB on a GPU.

    Returns
    -------
    Tensor of shape (N, P * C)
        The features of neighbor p are the columns ``p * C`` to ``(p + 1) * C``; the dtype is that
        of :func:`interpolate_trilinear` or :func:`interpolate_nearest`.

    Raises
    ------
    ValueError
        If the mode is unknown, `max_bytes` is not positive, or a shape, a dtype or a device is wrong.
    """
    if mode not in _INTERPOLATIONS:
        raise ValueError(f"Interpolation mode {mode!r} is unknown; choose one of {', '.join(_INTERPOLATIONS)}.")
    if max_bytes is None:
        max_bytes = _SLAB_BYTES_CPU if volume.device.type == "cpu" else _SLAB_BYTES_GPU
    if max_bytes <= 0:
        raise ValueError(f"max_bytes must be positive, got {max_bytes}.")
    _check_volume(volume)
    _check_coords(volume, coords)
    interpolate = _INTERPOLATIONS[mode]
    volume = volume.contiguous()
    if offsets is None:
        offsets = coords.new_zeros((1, 3))
    if offsets.ndim != 2 or offsets.shape[1] != 3 or len(offsets) == 0:
        raise ValueError(f"offsets must have shape (P, 3) with P at least 1, got {tuple(offsets.shape)}.")
    offsets = offsets.to(coords)
    nb_columns = len(offsets) * volume.shape[3]

    def read(some_coords: Tensor) -> Tensor:
        neighbors = (some_coords[:, None, :] + offsets).view(-1, 3)
        return interpolate(volume, neighbors).view(-1, nb_columns)

    slab = max(max_bytes // (len(offsets) * _bytes_per_read(volume)), 1)
    if len(coords) <= slab:
        return read(coords)
    if torch.is_grad_enabled() and (volume.requires_grad or coords.requires_grad):
        # Slabs written into one tensor would each have the whole gradient copied in the backward pass.
        return torch.cat([read(slab_coords) for slab_coords in torch.split(coords, slab)])
    dtype = _dtype_read(volume) if mode == "trilinear" else volume.dtype
    features = volume.new_empty((len(coords), nb_columns), dtype=dtype)
    for start in range(0, len(coords), slab):
        features[start : start + slab] = read(coords[start : start + slab])
    return features


def _dtype_read(volume: Tensor) -> torch.dtype:
    return torch.float32 if volume.dtype in HALF_PRECISIONS else volume.dtype


def _bytes_per_read(volume: Tensor) -> int:
    """Memory that one read needs for a while: its indices, its weights and its row of features."""
    nb_features = volume.shape[3]
    # The eight rows, as they are and converted.
    rows = 8 * nb_features * (2 + 4) if volume.dtype in HALF_PRECISIONS else 0
    return _BYTES_PER_READ + rows + nb_features * max(volume.element_size(), 4)


def _split_axis(coords: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the lower corner (N,) int64 on the grid of centers, and the fraction (N,) towards the upper one."""
    on_centers = (coords - 0.5).clamp(0, size - 1)
    # What a NaN becomes as an integer is undefined: the second clamp keeps it inside. It also keeps the upper corner,
    # base + 1, inside for a point on the last center.
    base = on_centers.detach().long().clamp_(0, max(size - 2, 0))
    return base, on_centers - base


def _voxel_of(coords: Tensor, size: int) -> Tensor:
    """Index (N,) int64 of the voxel that holds each coordinate; clamped again as integers because of NaN."""
    return coords.detach().clamp(0, size - 1).long().clamp_(0, size - 1)


def _corner_steps(volume: Tensor) -> Tensor:
    """Rows (8,) from the lower corner to each corner; z runs fastest. An axis of size 1 has no upper corner."""
    size_x, size_y, size_z, _ = volume.shape
    # Computed on the device: a tensor made from a list would be copied to it, which waits for the GPU.
    corner = torch.arange(8, device=volume.device)
    step_x = size_y * size_z if size_x > 1 else 0
    step_y = size_z if size_y > 1 else 0
    step_z = 1 if size_z > 1 else 0
    return (corner >> 2) * step_x + ((corner >> 1) & 1) * step_y + (corner & 1) * step_z


def _corner_weights(frac_x: Tensor, frac_y: Tensor, frac_z: Tensor) -> Tensor:
    """Weight (N, 8) of each corner, in the order of `_corner_steps`."""
    rest_x, rest_y, rest_z = 1 - frac_x, 1 - frac_y, 1 - frac_z
    edges = (rest_x * rest_y, rest_x * frac_y, frac_x * rest_y, frac_x * frac_y)
    return torch.stack([edge * along_z for edge in edges for along_z in (rest_z, frac_z)], dim=1)


def _check_volume(volume: Tensor) -> None:
    if volume.ndim != 4:
        raise ValueError(
            f"The volume must have shape (X, Y, Z, C), got {tuple(volume.shape)}; "
            "a volume of one feature needs a last axis, volume[..., None]."
        )
    if 0 in volume.shape:
        raise ValueError(f"The volume is empty: its shape is {tuple(volume.shape)}.")


def _check_coords(volume: Tensor, coords: Tensor) -> None:
    if coords.ndim != 2 or coords.shape[1] != 3:
        raise ValueError(f"Coordinates must have shape (N, 3), got {tuple(coords.shape)}.")
    if not coords.is_floating_point():
        raise ValueError(f"Coordinates must be floating-point, got {coords.dtype}.")
    if coords.device != volume.device:
        raise ValueError(f"The volume is on {volume.device} and the coordinates on {coords.device}; move one of them.")
