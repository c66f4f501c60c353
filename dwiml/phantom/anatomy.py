"""One subject: its own head (a smooth deformation of the template), its own voxel grid, its own noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from dwiml.phantom.geometry import Bundle, Floats, disc_random

FIELD_OF_VIEW_MM = (96.0, 104.0, 96.0)
HEAD_SEMI_AXES_MM = (44.0, 48.0, 46.0)

_NB_WAVES = 6
_MAX_AMPLITUDE_MM = 1.5
# 6 waves * 1.5 mm * 2 pi / 70 mm = 0.8 < 1: the displacement is a contraction, so the deformation never folds.
_WAVELENGTHS_MM = (70.0, 130.0)

# Streamlines stay off the tube's skin, whose voxels are mostly outside, and end up to 2 mm before the bundle's end.
_STREAMLINES_RADIUS = 0.9
_END_JITTER_MM = 2.0


@dataclass(frozen=True)
class Deformation:
    """From template mm to the subject's rasmm: ``rotation @ (scales * (x + waves(x))) + translation``.

    Attributes
    ----------
    amplitudes : (W, 3)
        Displacement of each sine wave at its crest, in mm.
    wave_vectors : (W, 3)
        2 pi / wavelength along the wave's direction, in radians per mm.
    phases : (W,)
        Radians.
    rotation, scales, translation : (3, 3), (3,), (3,)
        How the head lies in the scanner; the translation is in mm.
    """

    amplitudes: Floats
    wave_vectors: Floats
    phases: Floats
    rotation: Floats
    scales: Floats
    translation: Floats

    def apply(self, points: Floats) -> Floats:
        """Move points (..., 3) from template mm to rasmm."""
        waves = np.sin(points @ self.wave_vectors.T + self.phases) @ self.amplitudes
        return ((points + waves) * self.scales) @ self.rotation.T + self.translation


@dataclass(frozen=True)
class Subject:
    """All that distinguishes a subject, apart from the noise itself.

    Attributes
    ----------
    name
        ``sub-01``, ...
    deformation
        From the template to the subject.
    affine : (4, 4)
        From voxels (origin at the centre of the first voxel) to rasmm.
    shape
        Number of voxels along each axis.
    snr
        Signal of white matter without diffusion weighting, divided by the noise's standard deviation.
    """

    name: str
    deformation: Deformation
    affine: Floats
    shape: tuple[int, int, int]
    snr: float

    @property
    def voxel_sizes(self) -> Floats:
        """Voxel sizes (3,), in mm."""
        sizes: Floats = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return sizes

    def in_head(self) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Tell which voxels (X, Y, Z) are in the head, an ellipsoid that turns and grows with the subject."""
        grid = np.moveaxis(np.indices(self.shape, dtype=np.float64), 0, -1)
        rasmm = grid @ self.affine[:3, :3].T + self.affine[:3, 3]
        head = ((rasmm - self.deformation.translation) @ self.deformation.rotation) / self.deformation.scales
        inside = ((head / np.array(HEAD_SEMI_AXES_MM)) ** 2).sum(axis=-1) <= 1.0
        return np.asarray(inside)


def draw_subject(index: int, voxel_size: float, rng: np.random.Generator) -> Subject:
    """Draw the subject of this index (from 0) from the generator, which should be its own.

    Of every six subjects the second has anisotropic voxels and the third an oblique grid, so the default data set has
    one of each among its training subjects. All grids have their first axis to the left (a negative determinant), as
    scanners' images have after conversion: see :func:`dwiml.phantom.simulate.to_fsl`.
    """
    deformation = _draw_deformation(rng)
    anisotropy = np.array([0.9, 1.0, 1.2]) if index % 6 == 1 else np.ones(3)
    angles = (14.0, -9.0, 17.0) if index % 6 == 2 else (0.0, 0.0, 0.0)
    voxel_sizes = voxel_size * anisotropy
    nb_voxels = np.round(np.array(FIELD_OF_VIEW_MM) / voxel_sizes).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(
        [-1.0, 1.0, 1.0] * voxel_sizes
    )
    affine[:3, 3] = deformation.translation - affine[:3, :3] @ ((nb_voxels - 1) / 2)
    # What is written in the files is float32; the streamlines and the volumes must agree on the very same numbers.
    affine = affine.astype(np.float32).astype(np.float64)
    shape = (int(nb_voxels[0]), int(nb_voxels[1]), int(nb_voxels[2]))
    return Subject(f"sub-{index + 1:02d}", deformation, affine, shape, float(rng.uniform(25, 35)))


def draw_streamlines(
    bundles: Sequence[Bundle], deformation: Deformation, nb_per_bundle: int, step_mm: float, rng: np.random.Generator
) -> list[list[Floats]]:
    """Draw the streamlines of each bundle.

    All streamlines of a bundle run the same way, from the bundle's start to its end.

    Parameters
    ----------
    bundles, deformation
        The template, and what makes it this subject's.
    nb_per_bundle
        Number of streamlines in each bundle.
    step_mm
        Distance between two points along the curve, to the nearest that divides the length.
    rng
        Where in the tube each streamline runs, and where it ends.

    Returns
    -------
    list of list of (n, 3) arrays
        For each bundle, points in rasmm.
    """
    return [
        _streamlines_of(bundle, deformation, nb_per_bundle=nb_per_bundle, step_mm=step_mm, rng=rng)
        for bundle in bundles
    ]


def _streamlines_of(
    bundle: Bundle, deformation: Deformation, *, nb_per_bundle: int, step_mm: float, rng: np.random.Generator
) -> list[Floats]:
    disc = disc_random(nb_per_bundle, _STREAMLINES_RADIUS, rng)
    cut = rng.uniform(0, _END_JITTER_MM / bundle.length, size=(2, nb_per_bundle, 1))
    # Four times finer than the final points, so that equal steps along the polyline are equal steps along the curve.
    fine = np.linspace(0, 1, int(4 * bundle.length / step_mm))
    curves = deformation.apply(bundle.fibres(disc, cut[0] + fine * (1 - cut[0] - cut[1])))
    return [_equal_steps(curve, step_mm) for curve in curves]


def _equal_steps(curve: Floats, step_mm: float) -> Floats:
    """Place points (n, 3) at equal steps along a polyline (T, 3), both ends kept."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    targets = np.linspace(0, along[-1], max(round(along[-1] / step_mm), 1) + 1)
    return np.stack([np.interp(targets, along, curve[:, axis]) for axis in range(3)], axis=1)


def _draw_deformation(rng: np.random.Generator) -> Deformation:
    directions = rng.normal(size=(2, _NB_WAVES, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    amplitudes = rng.uniform(0.5, _MAX_AMPLITUDE_MM, size=(_NB_WAVES, 1)) * directions[0]
    wave_vectors = 2 * np.pi / rng.uniform(*_WAVELENGTHS_MM, size=(_NB_WAVES, 1)) * directions[1]
    return Deformation(
        amplitudes=amplitudes,
        wave_vectors=wave_vectors,
        phases=rng.uniform(0, 2 * np.pi, size=_NB_WAVES),
        rotation=Rotation.from_euler("xyz", rng.uniform(-4, 4, size=3), degrees=True).as_matrix(),
        scales=rng.uniform(0.94, 1.04, size=3),
        translation=rng.uniform(-10, 10, size=3),
    )
