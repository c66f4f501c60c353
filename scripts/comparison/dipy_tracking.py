"""dipy's LocalTracking, with many settings, so that it is judged by its best."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from dipy.data import default_sphere
from dipy.direction import DeterministicMaximumDirectionGetter, ProbabilisticDirectionGetter
from dipy.tracking.local_tracking import LocalTracking
from dipy.tracking.stopping_criterion import BinaryStoppingCriterion, ThresholdStoppingCriterion

FloatArray = npt.NDArray[np.floating[Any]]

ALGORITHMS = {"det": DeterministicMaximumDirectionGetter, "prob": ProbabilisticDirectionGetter}
ANGLES = (15.0, 20.0, 30.0, 45.0, 60.0)
STEPS_MM = (0.5, 1.0)
STOPS = ("trilinear", "nearest")


@dataclass(frozen=True)
class Settings:
    """One way to track.

    Attributes
    ----------
    algorithm
        ``"det"`` or ``"prob"``.
    sh_order
        Of the spherical deconvolution.
    max_angle
        Between two steps, in degrees.
    step_mm
        In mm.
    stop
        How the tracking mask is read between voxels: ``"trilinear"`` (inside from 0.5 on) or ``"nearest"``.
    """

    algorithm: str
    sh_order: int
    max_angle: float
    step_mm: float
    stop: str

    def __str__(self) -> str:
        return f"order {self.sh_order}, {self.max_angle:g} degrees, {self.step_mm:g} mm, {self.stop} mask"


def all_settings(
    sh_orders: Sequence[int], angles: Sequence[float] = ANGLES, steps_mm: Sequence[float] = STEPS_MM
) -> list[Settings]:
    """Return every combination."""
    return [Settings(*values) for values in itertools.product(ALGORITHMS, sh_orders, angles, steps_mm, STOPS)]


def stopping_criterion(mask: npt.NDArray[np.bool_], reading: str) -> Any:
    """Return where dipy stops: outside a mask (X, Y, Z), read ``"trilinear"`` (inside from 0.5 on) or ``"nearest"``."""
    if reading == "nearest":
        return BinaryStoppingCriterion(mask)
    return ThresholdStoppingCriterion(mask.astype(np.float64), 0.5)


def track(
    settings: Settings,
    fodf: FloatArray,
    mask: npt.NDArray[np.bool_],
    seeds: FloatArray,
    affine: FloatArray,
    *,
    min_length: float,
    max_length: float,
) -> list[npt.NDArray[np.float32]]:
    """Track both ways from each seed, in the direction of its largest peak.

    Parameters
    ----------
    settings
        How.
    fodf
        Shape (X, Y, Z, C): SH coefficients of the settings' order (``descoteaux07``, ``legacy=True``), in voxel axes.
    mask
        Shape (X, Y, Z): where streamlines may go.
    seeds
        Shape (N, 3), rasmm.
    affine
        Shape (4, 4), from voxel indices (center origin) to rasmm.
    min_length, max_length
        Of the streamlines that are kept, and of those that are tracked, in mm.

    Returns
    -------
    list of arrays
        Shape (n, 3) each, rasmm.
    """
    directions = ALGORITHMS[settings.algorithm].from_shcoeff(
        fodf, max_angle=settings.max_angle, sphere=default_sphere, sh_to_pmf=True
    )
    stop = stopping_criterion(mask, settings.stop)
    lines = LocalTracking(
        directions,
        stop,
        seeds,
        affine,
        step_size=settings.step_mm,
        max_cross=1,
        maxlen=int(max_length / settings.step_mm),
        return_all=True,
        random_seed=1,
    )
    shortest = 1 + round(min_length / settings.step_mm)
    return [line.astype(np.float32) for line in lines if len(line) >= max(shortest, 2)]
