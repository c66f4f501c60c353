"""Track, compare the result to reference peaks, cut the brain in two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from dipy.data import default_sphere
from dipy.tracking.stopping_criterion import ThresholdStoppingCriterion
from dipy.tracking.tracker import deterministic_tracking, probabilistic_tracking

from dwiml.ops.randomness import keyed_generator
from real_brain.progress import progress

FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]

STOP_FA = 0.15
STEP_MM = 1.0
MAX_ANGLE = 30.0
MIN_LENGTH_MM = 20.0
# Longer ones are taken for errors of the tracking; hardly a known bundle is that long.
MAX_LENGTH_MM = 250.0
_LONGEST_TRACKED_MM = 500.0
_ROUNDING_MM = 1e-3
_SEEDS_AT_ONCE = 2000
_ALGORITHMS = {"det": deterministic_tracking, "prob": probabilistic_tracking}


def draw_seeds(mask: BoolArray, affine: FloatArray, *, per_voxel: int, seed: int) -> npt.NDArray[np.float64]:
    """Draw points uniformly in the voxels of a mask, in random order (so that any first part is a fair sample).

    Parameters
    ----------
    mask : (X, Y, Z) array
        Where to seed.
    affine : (4, 4) array
        From voxel indices (origin: the center of the voxel) to RAS mm.
    per_voxel
        Points in each voxel.
    seed
        Same seed, same points.

    Returns
    -------
    (N, 3) array
        RAS mm.
    """
    rng = keyed_generator(seed, "seeds")
    voxels = rng.permutation(np.repeat(np.argwhere(mask), per_voxel, axis=0))
    jittered = voxels + rng.uniform(-0.5, 0.5, voxels.shape)
    points: npt.NDArray[np.float64] = jittered @ affine[:3, :3].T + affine[:3, 3]
    return points


def track(
    seeds: FloatArray,
    fodf: FloatArray,
    fa: FloatArray,
    affine: FloatArray,
    *,
    seed: int,
    label: str = "tracking",
    algorithm: str = "det",
) -> list[npt.NDArray[np.float32]]:
    """Follow the fODF both ways from each seed, on all cores.

    Parameters
    ----------
    seeds : (N, 3) array
        RAS mm.
    fodf : (X, Y, Z, C) array
        SH coefficients (``descoteaux07``, ``legacy=True``) in the voxel axes.
    fa : (X, Y, Z) array
        Tracking stops where it is below 0.15.
    affine : (4, 4) array
        From voxel indices (origin: the center of the voxel) to RAS mm.
    seed
        Given to dipy's tracker, so that a seed point always gives the same streamline.
    label
        What the progress is called.
    algorithm
        ``"det"`` follows the largest peak, ``"prob"`` draws each direction.

    Returns
    -------
    list of (n, 3) arrays
        RAS mm, a point every millimeter, in the order of the seeds; those under 20 mm or over 250 mm are left out.
    """
    stop = ThresholdStoppingCriterion(np.asarray(fa, dtype=np.float64), STOP_FA)
    streamlines = []
    for part in progress(np.array_split(seeds, max(1, len(seeds) // _SEEDS_AT_ONCE)), label):
        lines = _ALGORITHMS[algorithm](
            part,
            stop,
            affine,
            sh=fodf,
            sphere=default_sphere,
            basis_type="descoteaux07",
            legacy=True,
            step_size=STEP_MM,
            max_angle=MAX_ANGLE,
            min_len=MIN_LENGTH_MM,
            max_len=_LONGEST_TRACKED_MM,
            random_seed=seed,
        )
        streamlines += [line.astype(np.float32) for line in lines if has_plausible_length(line)]
    return streamlines


def has_plausible_length(line: FloatArray) -> bool:
    """Tell whether a streamline (n, 3), in mm, is 20 to 250 mm long."""
    length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
    return bool(MIN_LENGTH_MM - _ROUNDING_MM <= length <= MAX_LENGTH_MM + _ROUNDING_MM)


def median_angle_to_peaks(streamlines: Sequence[FloatArray], peaks: FloatArray, affine: FloatArray) -> float:
    """Return the median angle, in degrees, between streamlines' tangents and the closest peak of their voxel.

    Tangents are the segments; the voxel is that of a segment's middle. Directions have no sign here.

    Parameters
    ----------
    streamlines : sequence of (n, 3) arrays
        RAS mm.
    peaks : (X, Y, Z, 3 k) array
        k peaks in RAS axes, of any norm; zero or NaN where there is none.
    affine : (4, 4) array
        From voxel indices (origin: the center of the voxel) to RAS mm.

    Raises
    ------
    ValueError
        If no segment lies in a voxel that has a peak.
    """
    empty = np.zeros((0, 3))
    steps = np.concatenate([empty, *(np.diff(line, axis=0) for line in streamlines)])
    middles = np.concatenate([empty, *(line[:-1] for line in streamlines)]) + steps / 2
    inverse = np.linalg.inv(affine)
    voxels = np.rint(middles @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.int64)
    inside = ((voxels >= 0) & (voxels < peaks.shape[:3])).all(axis=1) & (np.abs(steps).max(axis=1, initial=0) > 0)
    steps, voxels = steps[inside], voxels[inside]
    unit = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    here = np.nan_to_num(peaks[tuple(voxels.T)]).reshape(len(voxels), peaks.shape[3] // 3, 3)
    norms = np.linalg.norm(here, axis=2)
    cosines = np.abs(np.einsum("nkc,nc->nk", here, unit)) / np.where(norms > 0, norms, 1)
    closest = cosines[(norms > 0).any(axis=1)].max(axis=1)
    if not len(closest):
        raise ValueError("No streamline passes through a voxel that has a reference peak.")
    return float(np.degrees(np.median(np.arccos(closest.clip(0, 1)))))


def check_orientation(angle: float, limit: float) -> None:
    """Refuse streamlines whose median angle to the reference peaks is above a limit (both in degrees).

    Raises
    ------
    ValueError
        If the angle is above the limit, or NaN.
    """
    if not angle <= limit:
        raise ValueError(
            f"The streamlines' median angle to the package's reference peaks is {angle:.1f} degrees, "
            f"expected at most {limit:g} (about 9 when all is well, about 30 when an axis is flipped): "
            "check the axes of the b-vectors."
        )


def find_midline(mask: BoolArray, affine: FloatArray) -> tuple[float, float]:
    """Find the sagittal plane about which a brain mask is most like its own mirror image.

    Planes are tried every half voxel: there, mirroring moves voxels onto voxels.

    Parameters
    ----------
    mask : (X, Y, Z) array
        Brain mask.
    affine : (4, 4) array
        To RAS mm. The first voxel axis must lie along the x axis.

    Returns
    -------
    x, overlap
        The plane's x in RAS mm, and the Dice overlap of the mask and its mirror image there (1: perfect).

    Raises
    ------
    ValueError
        If the mask is empty, or the first voxel axis is not left-right.
    """
    if not mask.any():
        raise ValueError("The brain mask is empty.")
    if max(np.abs(affine[0, 1:3]).max(), np.abs(affine[1:3, 0]).max()) > 1e-3 * abs(affine[0, 0]):
        raise ValueError("The first voxel axis must be left-right to cut the brain in two, but the affine is oblique.")
    last = mask.shape[0] - 1
    overlaps = []
    for twice in range(2 * last + 1):  # Twice the plane's index: voxel i goes to twice - i.
        index = np.arange(max(0, twice - last), min(last, twice) + 1)
        overlaps.append(np.count_nonzero(mask[index] & mask[twice - index]) / np.count_nonzero(mask))
    best = int(np.argmax(overlaps))
    return float(affine[0, 0] * best / 2 + affine[0, 3]), float(overlaps[best])


def hemisphere_masks(mask: BoolArray, affine: FloatArray, midline: float) -> tuple[BoolArray, BoolArray]:
    """Return the voxels of a mask (X, Y, Z) on the left and on the right of x = midline (RAS mm).

    A voxel that the plane cuts belongs to both: streamlines of both sides pass through it.
    """
    centers = affine[0, 0] * np.arange(mask.shape[0]) + affine[0, 3] - midline
    half = abs(affine[0, 0]) / 2 - 1e-6
    return mask & (centers < half)[:, None, None], mask & (centers > -half)[:, None, None]
