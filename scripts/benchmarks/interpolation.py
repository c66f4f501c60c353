"""Time trilinear interpolation beside two usual ways to do it: gathering 8 corner rows, and torch's grid_sample.

    python scripts/benchmarks/interpolation.py [--nb_points 100000] [--nb_features 45] [--nb_threads 1]

The points are read in two orders: at random over the volume, the hardest for the memory, and along smooth
streamlines, as in a batch. Each time is the least of five.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from dwiml.ops.interpolation import interpolate_trilinear

SHAPE = (96, 114, 96)


def by_gathering(volume: Tensor, coords: Tensor) -> Tensor:
    """Sum the 8 corner rows of each point, one corner after the other."""
    last = torch.tensor(volume.shape[:3]) - 1
    on_centres = torch.minimum((coords - 0.5).clamp(min=0), last.to(coords.dtype))
    base = on_centres.long()
    fraction = on_centres - base
    result = coords.new_zeros((len(coords), volume.shape[3]))
    for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
        x, y, z = torch.minimum(base + corner, last).unbind(1)
        weight = torch.where(corner.bool(), fraction, 1 - fraction).prod(dim=1)
        result += weight[:, None] * volume[x, y, z]
    return result


def by_grid_sample(channels_first: Tensor, coords: Tensor) -> Tensor:
    """Read a volume (1, C, X, Y, Z), already in the layout that grid_sample wants."""
    from_minus_one_to_one = coords / torch.tensor(channels_first.shape[2:]) * 2 - 1
    grid = from_minus_one_to_one.flip(1).view(1, 1, 1, -1, 3)
    read = functional.grid_sample(channels_first, grid, padding_mode="border", align_corners=False)
    return read[0, :, 0, 0].t()


def random_points(nb_points: int) -> Tensor:
    """Points all over the volume, in no order (vox, corner)."""
    return torch.rand(nb_points, 3) * torch.tensor(SHAPE)


def points_of_streamlines(nb_points: int, points_each: int = 100) -> Tensor:
    """Points of smooth curves of about 0.5 voxel a step (vox, corner)."""
    nb = -(-nb_points // points_each)
    directions = functional.normalize(torch.randn(nb, 1, 3) + torch.randn(nb, points_each, 3).cumsum(1) * 0.05, dim=2)
    start = torch.rand(nb, 1, 3) * torch.tensor(SHAPE)
    return (start + 0.5 * directions.cumsum(1)).view(-1, 3)[:nb_points]


def least_seconds(work: Callable[[], Tensor], repeats: int = 5) -> float:
    """Time of the fastest of some repeats."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Check that the three agree, then print their times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nb_points", type=int, default=100_000, help="points to read (default: %(default)s)")
    parser.add_argument("--nb_features", type=int, default=45, help="features of the volume (default: %(default)s)")
    parser.add_argument("--nb_threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.nb_threads)
    torch.manual_seed(0)
    volume = torch.randn(*SHAPE, args.nb_features)
    channels_first = volume.permute(3, 0, 1, 2).unsqueeze(0).contiguous()
    print(
        f"{args.nb_points} points, volume {tuple(volume.shape)}, threads: {args.nb_threads}, torch {torch.__version__}"
    )
    for order, coords in (
        ("random points", random_points(args.nb_points)),
        ("streamlines", points_of_streamlines(args.nb_points)),
    ):
        ways: dict[str, Callable[[], Tensor]] = {
            "dwiml": lambda coords=coords: interpolate_trilinear(volume, coords),  # type: ignore[misc]
            "8-row gather": lambda coords=coords: by_gathering(volume, coords),  # type: ignore[misc]
            "grid_sample": lambda coords=coords: by_grid_sample(channels_first, coords),  # type: ignore[misc]
        }
        expected = ways["dwiml"]()
        seconds = {}
        for name, work in ways.items():
            torch.testing.assert_close(work(), expected, rtol=0, atol=1e-3)
            seconds[name] = least_seconds(work)
        for name, taken in seconds.items():
            speed, ratio = args.nb_points / taken / 1e6, taken / seconds["dwiml"]
            print(f"{order:14s} {name:13s} {taken * 1e3:8.1f} ms {speed:7.2f} M points/s   {ratio:5.1f} x dwiml's time")


if __name__ == "__main__":
    main()
