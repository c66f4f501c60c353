"""Lines and true bundles for the tests of scores, and what a plain loop over samples says of them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

SHAPE = (12, 10, 4)
UNIT = np.eye(4)
ANISOTROPIC = np.diag([1.0, 2.0, 3.0, 1.0])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix() @ np.diag([-1.5, 2.0, 2.5])
OBLIQUE[:3, 3] = [11.0, -4.0, 7.0]
AFFINES = {"unit": UNIT, "anisotropic": ANISOTROPIC, "oblique": OBLIQUE}


def joined(lines: Sequence[np.ndarray | list]) -> tuple[np.ndarray, np.ndarray]:
    """Return points (N, 3) and lengths (S,) of lines, each (n, 3)."""
    arrays = [np.asarray(line, dtype=np.float32).reshape(-1, 3) for line in lines]
    lengths = np.array([len(line) for line in arrays], dtype=np.int64)
    return np.concatenate([np.zeros((0, 3), dtype=np.float32), *arrays]), lengths


def box(x: tuple[int, int], y: tuple[int, int], z: tuple[int, int] = (1, 3)) -> np.ndarray:
    """Return the voxels of a box, ends left out."""
    volume = np.zeros(SHAPE, dtype=bool)
    volume[slice(*x), slice(*y), slice(*z)] = True
    return volume


# Two straight bundles along x, at y = 2 and y = 7.
LOWER = {"mask": box((0, 12), (2, 3)), "head": box((0, 2), (2, 3)), "tail": box((10, 12), (2, 3))}
UPPER = {"mask": box((0, 12), (7, 8)), "head": box((0, 2), (7, 8)), "tail": box((10, 12), (7, 8))}


def along_x(y: float, first: float = 0.5, last: float = 11.5, z: float = 1.5) -> np.ndarray:
    """Return a line (3, 3) parallel to x."""
    return np.array([[first, y, z], [(first + last) / 2, y, z], [last, y, z]])


def random_lines(
    rng: np.random.Generator, nb: int, shape: tuple[int, int, int] = SHAPE, reach: float = 1.0
) -> list[np.ndarray]:
    """Return random walks of 2 to 8 points, some beyond the volume by up to `reach` voxels.

    Coordinates are odd eighths: no point is on a plane between voxels, and pieces of a segment are either nothing or
    long enough that samples cannot miss them.
    """
    lines = []
    for _ in range(nb):
        steps = rng.integers(-8, 9, size=(rng.integers(2, 9), 3)) / 4
        line = (rng.integers(0, 4 * np.array(shape)) * 2 + 1) / 8 + np.cumsum(steps, axis=0)
        lines.append(np.clip(line, -reach + 1 / 8, np.array(shape) + reach - 1 / 8))
    return lines


def sampled_voxels(line: np.ndarray, sizes: np.ndarray, nb_samples: int = 1000) -> dict[tuple[int, ...], float]:
    """Return {voxel, outside the volume too: mm of a line (n, 3) in it} from many samples of each segment."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    # An irrational shift: no sample falls on a plane between voxels.
    t = (np.arange(nb_samples)[:, None] + np.sqrt(2) - 1) / nb_samples
    for start, end in itertools.pairwise(line):
        mm = np.linalg.norm((end - start) * sizes)
        if mm:
            voxels, counts = np.unique(np.floor(start + t * (end - start)), axis=0, return_counts=True)
            for voxel, count in zip(voxels.astype(int).tolist(), counts.tolist(), strict=True):
                found[tuple(voxel)] += mm * count / nb_samples
    return dict(found)


def save_volume(path: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume; booleans as uint8."""
    values = volume.astype(np.uint8) if volume.dtype == bool else volume
    nib.save(nib.Nifti1Image(values, affine), path)


def save_lines(path: Path, lines: Sequence[np.ndarray], affine: np.ndarray, shape: tuple[int, ...] = SHAPE) -> None:
    """Write lines (voxel space of the affine, corner origin) as .trk or .tck."""
    mm = [(np.asarray(line) - 0.5) @ affine[:3, :3].T + affine[:3, 3] for line in lines]
    tractogram = nib.streamlines.Tractogram([each.astype(np.float32) for each in mm], affine_to_rasmm=np.eye(4))
    header = {
        "voxel_to_rasmm": affine.astype(np.float32),
        "voxel_sizes": nib.affines.voxel_sizes(affine).astype(np.float32),
        "dimensions": np.array(shape, dtype=np.int16),
        "voxel_order": "".join(nib.aff2axcodes(affine)),
    }
    nib.streamlines.save(tractogram, str(path), header=header if path.suffix == ".trk" else None)
