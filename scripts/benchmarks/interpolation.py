"""Reading a volume under points, beside the usual ways: gathering rows one corner after the other, and grid_sample."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from measuring import Figure, compare, copy_bandwidth
from streamlines_file import GRID, random_streamlines
from torch import Tensor
from torch.nn import functional

from dwiml.models.allocator import keep_freed_memory
from dwiml.ops.interpolation import interpolate_at
from dwiml.ops.neighborhood import neighborhood_offsets

NB_FEATURES = 45


def by_gathering(volume: Tensor, coords: Tensor) -> Tensor:
    """Sum the 8 corner rows of each point, one corner after the other."""
    last = torch.tensor(volume.shape[:3], device=volume.device) - 1
    on_centers = torch.minimum((coords - 0.5).clamp(min=0), last.to(coords.dtype))
    base = on_centers.long()
    fraction = on_centers - base
    result = coords.new_zeros((len(coords), volume.shape[3]))
    for corner in torch.cartesian_prod(*[torch.arange(2, device=volume.device)] * 3):
        x, y, z = torch.minimum(base + corner, last).unbind(1)
        weight = torch.where(corner.bool(), fraction, 1 - fraction).prod(dim=1)
        result += weight[:, None] * volume[x, y, z]
    return result


@functools.lru_cache(maxsize=1)
def channels_first(volume: Tensor) -> Tensor:
    """Return the volume in the layout that grid_sample wants, made once."""
    return volume.permute(3, 0, 1, 2).unsqueeze(0).contiguous()


def by_grid_sample(volume: Tensor, coords: Tensor) -> Tensor:
    """Read a volume with torch's own interpolation."""
    from_minus_one_to_one = coords / torch.tensor(volume.shape[:3], device=coords.device) * 2 - 1
    grid = from_minus_one_to_one.flip(1).view(1, 1, 1, -1, 3)
    read = functional.grid_sample(channels_first(volume), grid, padding_mode="border", align_corners=False)
    return read[0, :, 0, 0].t()


def by_indexing(volume: Tensor, coords: Tensor) -> Tensor:
    """Read the voxel that holds each point."""
    x, y, z = coords.long().unbind(1)
    return volume[x, y, z]


BASELINES: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "gather": ("8 rows gathered, one after the other", by_gathering),
    "grid_sample": ("grid_sample", by_grid_sample),
    "index": ("volume[x, y, z]", by_indexing),
}


def random_points(nb_points: int) -> Tensor:
    """Points all over the volume, in no order (vox, corner)."""
    return (torch.rand(nb_points, 3) * torch.tensor(GRID)).clamp(max=torch.tensor(GRID) - 1e-3)


def points_of_streamlines(nb_points: int) -> Tensor:
    """Points in the order of a batch: streamline after streamline (vox, corner), inside the volume."""
    points, _ = random_streamlines(np.random.default_rng(0), nb_points // 20 + 1)
    return torch.from_numpy(points[:nb_points]).clamp(torch.zeros(3), torch.tensor(GRID) - 1e-3)


def measure_interpolation(
    name: str,
    *,
    quick: bool,
    device: torch.device,
    neighborhood: str | None = None,
    random: bool = False,
    mode: str = "trilinear",
    baseline: str | None = None,
    keeps_memory: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Figure:
    """Time 100 000 points of a volume of 96 x 114 x 96 x 45, on one thread of the CPU or on a GPU.

    Without a `baseline`, it is the gathering of rows on the CPU and grid_sample on a GPU. The baselines read a float32
    volume, and all neighbors at once.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if keeps_memory and device.type == "cpu":
        # As the trainer does.
        keep_freed_memory()
    nb_points, nb_features = (2_000, 8) if quick else (100_000, NB_FEATURES)
    coords = (random_points if random else points_of_streamlines)(nb_points).to(device)
    volume = torch.randn(*GRID, nb_features).to(device)
    stored = volume.to(dtype)
    offsets = neighborhood_offsets(neighborhood, None if neighborhood is None else 1).to(device)
    how, read = BASELINES[baseline or ("gather" if device.type == "cpu" else "grid_sample")]

    def interpolate() -> Tensor:
        return interpolate_at(stored, coords, offsets=offsets, mode=mode)

    def slowly() -> Tensor:
        return read(volume, (coords[:, None] + offsets).view(-1, 3)).reshape(nb_points, -1)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, slow_seconds, peak = compare(
        interpolate, slowly, repeats=5, baseline_repeats=2 if neighborhood == "grid" else 5, device=device
    )
    torch.testing.assert_close(interpolate(), slowly(), rtol=0, atol=1e-3 if dtype == torch.float32 else 1e-2)
    nb_rows = 8 if mode == "trilinear" else 1
    return Figure(
        name,
        nb_points / seconds,
        "points/s",
        nb_points / slow_seconds,
        how,
        peak,
        bytes_of_point(len(offsets), nb_rows, nb_features, stored.element_size()),
        copy_bandwidth(device, 2**22 if quick else 2**28),
    )


def bytes_of_point(nb_neighbors: int, nb_rows: int, nb_features: int, bytes_of_value: int) -> int:
    """Return the bytes that a point needs: its coordinates, the rows read and the one written for each neighbor."""
    return 3 * 4 + nb_neighbors * nb_features * (nb_rows * bytes_of_value + 4)
