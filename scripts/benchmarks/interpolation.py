"""Trilinear interpolation, beside two usual ways to do it: gathering 8 corner rows, and torch's grid_sample."""

from __future__ import annotations

import functools

import numpy as np
import torch
from measuring import Figure, compare, copy_bandwidth, synchronize
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
    on_centres = torch.minimum((coords - 0.5).clamp(min=0), last.to(coords.dtype))
    base = on_centres.long()
    fraction = on_centres - base
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


def random_points(nb_points: int) -> Tensor:
    """Points all over the volume, in no order (vox, corner)."""
    return torch.rand(nb_points, 3) * torch.tensor(GRID)


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
    baseline: str = "gather",
    keeps_memory: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Figure:
    """Time 100 000 points of a volume of 96 x 114 x 96 x 45, on one thread of the CPU or on a GPU."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if keeps_memory and device.type == "cpu":
        # As the trainer does.
        keep_freed_memory()
    nb_points = 2_000 if quick else 100_000
    coords = (random_points if random else points_of_streamlines)(nb_points).to(device)
    volume = torch.randn(*GRID, NB_FEATURES).to(device)
    stored = volume.to(dtype)
    offsets = neighborhood_offsets(neighborhood, None if neighborhood is None else 1).to(device)

    def interpolate() -> Tensor:
        return interpolate_at(stored, coords, offsets=offsets)

    def slowly() -> Tensor:
        neighbours = (coords[:, None] + offsets).view(-1, 3)
        read = by_gathering(volume, neighbours) if baseline == "gather" else by_grid_sample(volume, neighbours)
        return read.reshape(nb_points, -1)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, slow_seconds, peak = compare(
        interpolate, slowly, repeats=5, baseline_repeats=1 if neighborhood == "grid" else 5, device=device
    )
    torch.testing.assert_close(interpolate(), slowly(), rtol=0, atol=1e-3 if dtype == torch.float32 else 1e-2)
    synchronize(device)
    names = {"gather": "8 rows gathered, one after the other", "grid_sample": "grid_sample"}
    bandwidth = copy_bandwidth(device, 2**22 if quick else 2**28)
    share = nb_points * bytes_of_point(len(offsets), stored.element_size()) / seconds / bandwidth
    return Figure(name, nb_points / seconds, "points/s", nb_points / slow_seconds, names[baseline], peak, share)


def bytes_of_point(nb_neighbours: int, bytes_of_value: int) -> int:
    """Return the bytes that a point needs: its coordinates, 8 rows read and one written for each neighbour."""
    return 3 * 4 + nb_neighbours * NB_FEATURES * (8 * bytes_of_value + 4)
