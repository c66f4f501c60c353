"""dipy's deterministic, probabilistic and parallel transport trackers on spherical harmonics, in one core."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from dipy.data import default_sphere
from dipy.tracking.tracker import deterministic_tracking, probabilistic_tracking, ptt_tracking

from comparison.dipy_tracking import stopping_criterion

FloatArray = npt.NDArray[np.floating[Any]]

ALGORITHMS = {"det": deterministic_tracking, "prob": probabilistic_tracking, "ptt": ptt_tracking}
_ROUNDING_MM = 1e-3


@dataclass(frozen=True)
class DipySettings:
    """One way to track with dipy.

    Attributes
    ----------
    sh_order
        Of the spherical deconvolution.
    theta
        Largest angle between two steps, in degrees.
    mask
        How the tracking mask is read between voxels: ``"trilinear"`` (inside from 0.5 on) or ``"nearest"``.
    """

    sh_order: int
    theta: float
    mask: str

    def __str__(self) -> str:
        return f"order {self.sh_order}, {self.theta:g} degrees, {self.mask} mask"


def dipy_settings(sh_orders: Sequence[int], thetas: Sequence[float], masks: Sequence[str]) -> list[DipySettings]:
    """Return every combination."""
    return [DipySettings(*values) for values in itertools.product(sh_orders, thetas, masks)]


def track_with_dipy(
    algorithm: str,
    settings: DipySettings,
    fodf: FloatArray,
    mask: npt.NDArray[np.bool_],
    seeds: FloatArray,
    affine: FloatArray,
    *,
    step_size: float,
    min_length: float,
    max_length: float,
    seed: int,
) -> list[npt.NDArray[np.float32]]:
    """Track both ways from each seed, in the direction of its largest peak.

    Parameters
    ----------
    algorithm
        A key of :data:`ALGORITHMS`.
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
    step_size, min_length, max_length
        In mm.
    seed
        Seed of the drawn directions.

    Returns
    -------
    list of arrays
        Shape (n, 3) each, rasmm: the streamlines of at least `min_length` and at most `max_length`.
    """
    stop = stopping_criterion(mask, settings.mask)
    lines = ALGORITHMS[algorithm](
        seeds,
        stop,
        affine,
        sh=fodf,
        sphere=default_sphere,
        basis_type="descoteaux07",
        legacy=True,
        step_size=step_size,
        max_angle=settings.theta,
        min_len=min_length,
        max_len=max_length,
        random_seed=seed,
        nbr_threads=1,
    )
    kept = [np.asarray(line, dtype=np.float32) for line in lines if len(line) > 1]
    lengths = [np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in kept]
    return [
        line
        for line, mm in zip(kept, lengths, strict=True)
        if min_length - _ROUNDING_MM <= mm <= max_length + _ROUNDING_MM
    ]
