"""Simulate the diffusion images of a subject, with the signal model of ``dipy.sims.voxel``.

The acquisition has one shell: 5 images at b = 0 and 50 directions at b = 1500 s/mm2. The directions are expressed along
the voxel axes of the image and are the same for all subjects.

The signal of a voxel is the sum of the signals of its compartments, without exchange. Each piece of fiber is a
diffusion tensor with a diffusivity of 1.7 um2/ms along the fiber and 0.3 um2/ms across it; the space between fibers is
isotropic, with 0.8 um2/ms. Rician noise is then added.

References
----------
Basser, Mattiello and LeBihan (1994), MR diffusion tensor spectroscopy and imaging, doi:10.1016/S0006-3495(94)80775-1.
Gudbjartsson and Patz (1995), The Rician distribution of noisy MRI data, doi:10.1002/mrm.1910340618.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from dipy.core.gradients import GradientTable, gradient_table
from dipy.core.sphere import HemiSphere
from dipy.data import get_sphere
from dipy.sims.voxel import add_noise, single_tensor

from dwiml.phantom.geometry import Floats
from dwiml.phantom.voxelize import FiberMap

NB_B0 = 5
B_VALUE = 1500.0
FIBER_DIFFUSIVITIES = (1.7e-3, 0.3e-3, 0.3e-3)
ISOTROPIC_DIFFUSIVITIES = (0.8e-3, 0.8e-3, 0.8e-3)
S0_FIBERS = 800.0
S0_ISOTROPIC = 1000.0


@dataclass(frozen=True)
class Protocol:
    """The acquisition scheme and the response of each compartment.

    Attributes
    ----------
    gtab
        b-values, shape (N,), s/mm2, and gradient directions, shape (N, 3), unit vectors along the voxel axes.
    directions
        Shape (D, 3), float64: the possible directions of a piece of fiber, unit vectors along the voxel axes, about 2
        degrees apart.
    fibers
        Shape (D, N), float64: signal of a voxel full of fibers of each direction.
    isotropic
        Shape (N,), float64: signal of a voxel without fibers.
    """

    gtab: GradientTable
    directions: Floats
    fibers: Floats
    isotropic: Floats


def make_protocol() -> Protocol:
    """Compute the acquisition scheme and its response matrix.

    DIPY simulates one voxel per call, which is slow for a whole volume. The tensor of a fiber is symmetric about its
    axis, so its signal depends only on the b-value and on the angle between the fiber and the gradient; and the signal
    of a voxel is a linear combination of those of its compartments. DIPY is therefore called once, for a fiber along z
    and 1001 gradient angles. Interpolating this profile at ``abs(cos(angle))`` gives the matrix ``fibers``, and the
    signals of the V voxels of a subject are ``orientations (V, D) @ fibers (D, N)``.

    Returns
    -------
    Protocol
    """
    gradients = HemiSphere.from_sphere(get_sphere(name="repulsion100")).vertices
    bvals = np.concatenate([np.zeros(NB_B0), np.full(len(gradients), B_VALUE)])
    gtab = gradient_table(bvals, bvecs=np.concatenate([np.zeros((NB_B0, 3)), gradients]))
    directions = HemiSphere.from_sphere(get_sphere(name="repulsion724").subdivide(n=2)).vertices

    cosines = np.linspace(0, 1, 1001)
    fan = np.stack([np.sqrt(1 - cosines**2), np.zeros_like(cosines), cosines], axis=1)
    # The first eigenvalue, along the fiber, corresponds to the first column of `evecs`: z.
    profile = single_tensor(
        gradient_table(np.full(len(cosines), B_VALUE), bvecs=fan),
        S0_FIBERS,
        evals=FIBER_DIFFUSIVITIES,
        evecs=np.eye(3)[:, ::-1],
    )
    fibers = np.interp(np.abs(directions @ gtab.bvecs.T), cosines, profile)
    fibers[:, gtab.b0s_mask] = S0_FIBERS
    isotropic = single_tensor(gtab, S0_ISOTROPIC, evals=ISOTROPIC_DIFFUSIVITIES)
    return Protocol(gtab, directions, fibers, isotropic)


def simulate_dwi(
    protocol: Protocol,
    fiber_map: FiberMap,
    in_head: npt.NDArray[np.bool_],
    *,
    snr: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.int16]:
    """Simulate the diffusion images of a subject.

    Parameters
    ----------
    protocol
        The acquisition scheme and the response of each compartment.
    fiber_map
        The fibers in each voxel.
    in_head
        Shape (X, Y, Z), bool: mask of the head. The images contain only noise elsewhere.
    snr
        ``S0_FIBERS`` divided by the standard deviation of the noise in the real and imaginary parts.
    rng
        Random generator for the noise.

    Returns
    -------
    array
        Shape (X, Y, Z, N), int16: the images.
    """
    signal = np.outer(in_head.ravel(), protocol.isotropic)
    rest = 1 - fiber_map.fractions.sum(axis=1)
    signal[fiber_map.voxels] = fiber_map.orientations @ protocol.fibers + rest[:, None] * protocol.isotropic
    noisy = add_noise(signal, snr, S0_FIBERS, noise_type="rician", rng=rng)
    # Integers, as in images from a scanner. The rounding error is far below the noise.
    images: npt.NDArray[np.int16] = np.round(noisy).astype(np.int16).reshape(*fiber_map.shape, -1)
    return images


def to_fsl(directions: Floats, affine: Floats) -> Floats:
    """Convert directions from voxel axes to the FSL bvecs convention, or back (the conversion is its own inverse).

    FSL bvecs are expressed along the voxel axes, but x is mirrored when the determinant of the affine is positive. Many
    readers, including DIPY's, ignore this rule and read the numbers along the voxel axes. All images of the phantom
    have a negative determinant, for which both interpretations agree.

    Parameters
    ----------
    directions
        Shape (N, 3), float64: unit vectors along the voxel axes, or in the FSL convention.
    affine
        Shape (4, 4), float64: from voxel space to rasmm.

    Returns
    -------
    array
        Shape (N, 3), float64.

    References
    ----------
    FSL documentation, FDT user guide, "What conventions do the bvecs use?".
    """
    sign = -1.0 if np.linalg.det(affine[:3, :3]) > 0 else 1.0
    converted: Floats = directions * np.array([sign, 1.0, 1.0])
    return converted
