"""The anatomy of one subject: a smooth deformation of the template, a voxel grid and a noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from dwiml.phantom.geometry import Bundle, Floats, disk_random

FIELD_OF_VIEW_MM = (96.0, 104.0, 96.0)
HEAD_SEMI_AXES_MM = (44.0, 48.0, 46.0)

_NB_WAVES = 6
_MAX_AMPLITUDE_MM = 1.5
# The gradient of the displacement is at most 6 waves * 1.5 mm * 2 pi / 70 mm = 0.8 < 1, so the deformation never folds.
_WAVELENGTHS_MM = (70.0, 130.0)

# Streamlines stay away from the surface of the tube, where voxels are mostly outside of it, and end up to 2 mm before
# the end of the bundle.
_STREAMLINES_RADIUS = 0.9
_END_JITTER_MM = 2.0

SNR_RANGE = (25.0, 35.0)


@dataclass(frozen=True)
class Deformation:
    """Deformation from template space to the rasmm space of a subject.

    A point x is mapped to ``rotation @ (scales * (x + waves(x))) + translation``, where ``waves`` is a sum of W sine
    waves. All arrays are float64.

    Attributes
    ----------
    amplitudes
        Shape (W, 3): maximal displacement of each wave, mm, in template space.
    wave_vectors
        Shape (W, 3): 2 pi / wavelength in the direction of each wave, radians per mm, in template space.
    phases
        Shape (W,): radians.
    rotation
        Shape (3, 3): rotation of the head in the scanner.
    scales
        Shape (3,): scaling of the head along the axes of the template, without unit.
    translation
        Shape (3,): position of the center of the head, mm, rasmm.
    """

    amplitudes: Floats
    wave_vectors: Floats
    phases: Floats
    rotation: Floats
    scales: Floats
    translation: Floats

    def apply(self, points: Floats) -> Floats:
        """Transform points from template space to rasmm.

        Parameters
        ----------
        points
            Shape (..., 3), float64: template space, mm.

        Returns
        -------
        array
            Shape (..., 3), float64: rasmm.
        """
        waves = np.sin(points @ self.wave_vectors.T + self.phases) @ self.amplitudes
        return ((points + waves) * self.scales) @ self.rotation.T + self.translation


@dataclass(frozen=True)
class Subject:
    """The parameters of a simulated subject.

    Attributes
    ----------
    name
        ``sub-01``, ...
    deformation
        From template space to the rasmm space of the subject.
    affine
        Shape (4, 4), float64: from voxel space (center origin) to rasmm.
    shape
        Number of voxels along each axis.
    snr
        Signal-to-noise ratio: signal of white matter at b = 0, divided by the standard deviation of the noise.
    """

    name: str
    deformation: Deformation
    affine: Floats
    shape: tuple[int, int, int]
    snr: float

    @property
    def voxel_sizes(self) -> Floats:
        """Voxel sizes: shape (3,), float64, mm."""
        sizes: Floats = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return sizes

    def in_head(self) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Return the mask of the head, an ellipsoid that is rotated, scaled and translated with the subject.

        Returns
        -------
        array
            Shape (X, Y, Z), bool: whether the center of each voxel is in the head.
        """
        grid = np.moveaxis(np.indices(self.shape, dtype=np.float64), 0, -1)
        rasmm = grid @ self.affine[:3, :3].T + self.affine[:3, 3]
        head = ((rasmm - self.deformation.translation) @ self.deformation.rotation) / self.deformation.scales
        inside = ((head / np.array(HEAD_SEMI_AXES_MM)) ** 2).sum(axis=-1) <= 1.0
        return np.asarray(inside)


def draw_subject(
    index: int, voxel_size: float, rng: np.random.Generator, snr_range: tuple[float, float] = SNR_RANGE
) -> Subject:
    """Draw the parameters of a subject at random.

    Of every six subjects, the second has anisotropic voxels and the third has an oblique grid. The default data set
    thus has one of each among its training subjects. The first axis of every grid points to the left (the affine has
    a negative determinant), as in most images converted from scanners: see :func:`dwiml.phantom.simulate.to_fsl`.

    Parameters
    ----------
    index
        Index of the subject, from 0.
    voxel_size
        Mean voxel size, mm.
    rng
        Random generator, used for this subject only.
    snr_range
        Lowest and highest signal-to-noise ratio, without unit. Everything else is the same whatever the range.

    Returns
    -------
    Subject
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
    # The affine is written as float32: round it now, so that the streamlines and the volumes have exactly the same one.
    affine = affine.astype(np.float32).astype(np.float64)
    shape = (int(nb_voxels[0]), int(nb_voxels[1]), int(nb_voxels[2]))
    return Subject(f"sub-{index + 1:02d}", deformation, affine, shape, float(rng.uniform(*snr_range)))


def draw_streamlines(
    bundles: Sequence[Bundle], deformation: Deformation, nb_per_bundle: int, step_mm: float, rng: np.random.Generator
) -> list[list[Floats]]:
    """Draw the streamlines of each bundle at random.

    All streamlines of a bundle have the same orientation, from the start of the bundle to its end.

    Parameters
    ----------
    bundles
        Bundles of the template.
    deformation
        From template space to the rasmm space of the subject.
    nb_per_bundle
        Number of streamlines in each bundle.
    step_mm
        Distance between consecutive points along the curve, mm. It is adjusted so that a whole number of steps covers
        the length.
    rng
        Random generator for the position of each streamline in the tube and for its ends.

    Returns
    -------
    list of list of arrays
        For each bundle, its streamlines: shape (n, 3), float64, rasmm.
    """
    return [
        _streamlines_of(bundle, deformation, nb_per_bundle=nb_per_bundle, step_mm=step_mm, rng=rng)
        for bundle in bundles
    ]


def _streamlines_of(
    bundle: Bundle, deformation: Deformation, *, nb_per_bundle: int, step_mm: float, rng: np.random.Generator
) -> list[Floats]:
    disk = disk_random(nb_per_bundle, _STREAMLINES_RADIUS, rng)
    cut = rng.uniform(0, _END_JITTER_MM / bundle.length, size=(2, nb_per_bundle, 1))
    # Four times finer than the final points, so that distances along the polyline approximate those along the curve.
    fine = np.linspace(0, 1, int(4 * bundle.length / step_mm))
    curves = deformation.apply(bundle.fibers(disk, cut[0] + fine * (1 - cut[0] - cut[1])))
    return [_equal_steps(curve, step_mm) for curve in curves]


def _equal_steps(curve: Floats, step_mm: float) -> Floats:
    """Resample a polyline (T, 3) to points (n, 3) at equal distances, both ends included."""
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
