"""The diffusion acquisition of a subject, with the signals of ``dipy.sims.voxel``.

One shell: 5 images at b = 0 and 50 directions at b = 1500 s/mm2. The directions are given in the image's voxel axes
(mm along i, j, k) and are the same for all subjects, as a scanner's protocol is.

A voxel's signal is that of its compartments, which do not exchange: each piece of fibre is a tensor of diffusivities
1.7, 0.3 and 0.3 um2/ms along and across it, the space between is isotropic at 0.8 um2/ms. Then Rician noise.
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
from dwiml.phantom.voxelize import FibreMap

NB_B0 = 5
B_VALUE = 1500.0
FIBRE_DIFFUSIVITIES = (1.7e-3, 0.3e-3, 0.3e-3)
ISOTROPIC_DIFFUSIVITIES = (0.8e-3, 0.8e-3, 0.8e-3)
S0_FIBRES = 800.0
S0_ISOTROPIC = 1000.0


@dataclass(frozen=True)
class Protocol:
    """The acquisition scheme and the signals that it measures.

    Attributes
    ----------
    gtab
        b-values (N,) in s/mm2 and gradient directions (N, 3) in voxel axes.
    directions : (D, 3)
        Directions that a piece of fibre may have, in voxel axes, about 2 degrees apart.
    fibres : (D, N)
        Signal of a voxel full of fibres of each direction.
    isotropic : (N,)
        Signal of a voxel without fibres.
    """

    gtab: GradientTable
    directions: Floats
    fibres: Floats
    isotropic: Floats


def make_protocol() -> Protocol:
    """Compute the scheme and its response matrix.

    DIPY simulates one voxel a call, in Python. But a fibre's tensor is symmetric about its axis, so its signal depends
    only on the b-value and on the angle between fibre and gradient; and a voxel's signal is linear in its compartments.
    DIPY is therefore asked once for a fibre along z under 1001 gradient angles; read at |cos angle|, that profile gives
    the matrix ``fibres``, and the voxels of a subject are the rows of ``orientations (V, D) @ fibres (D, N)``.
    """
    gradients = HemiSphere.from_sphere(get_sphere(name="repulsion100")).vertices
    bvals = np.concatenate([np.zeros(NB_B0), np.full(len(gradients), B_VALUE)])
    gtab = gradient_table(bvals, bvecs=np.concatenate([np.zeros((NB_B0, 3)), gradients]))
    directions = HemiSphere.from_sphere(get_sphere(name="repulsion724").subdivide(n=2)).vertices

    cosines = np.linspace(0, 1, 1001)
    fan = np.stack([np.sqrt(1 - cosines**2), np.zeros_like(cosines), cosines], axis=1)
    # The first eigenvalue, along the fibre, belongs to the first column of `evecs`: z.
    profile = single_tensor(
        gradient_table(np.full(len(cosines), B_VALUE), bvecs=fan),
        S0_FIBRES,
        evals=FIBRE_DIFFUSIVITIES,
        evecs=np.eye(3)[:, ::-1],
    )
    fibres = np.interp(np.abs(directions @ gtab.bvecs.T), cosines, profile)
    fibres[:, gtab.b0s_mask] = S0_FIBRES
    isotropic = single_tensor(gtab, S0_ISOTROPIC, evals=ISOTROPIC_DIFFUSIVITIES)
    return Protocol(gtab, directions, fibres, isotropic)


def simulate_dwi(
    protocol: Protocol,
    fibre_map: FibreMap,
    in_head: npt.NDArray[np.bool_],
    *,
    snr: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.int16]:
    """Simulate the images (X, Y, Z, N) of a subject.

    Parameters
    ----------
    protocol
        The scheme and its signals.
    fibre_map
        The fibres in each voxel.
    in_head : (X, Y, Z)
        Where there is tissue. Outside there is noise only.
    snr
        ``S0_FIBRES`` divided by the standard deviation of the noise (real and imaginary parts).
    rng
        Draws the noise.
    """
    signal = np.outer(in_head.ravel(), protocol.isotropic)
    rest = 1 - fibre_map.fractions.sum(axis=1)
    signal[fibre_map.voxels] = fibre_map.orientations @ protocol.fibres + rest[:, None] * protocol.isotropic
    noisy = add_noise(signal, snr, S0_FIBRES, noise_type="rician", rng=rng)
    # Integers, as a scanner writes them; rounding is far below the noise.
    images: npt.NDArray[np.int16] = np.round(noisy).astype(np.int16).reshape(*fibre_map.shape, -1)
    return images


def to_fsl(directions: Floats, affine: Floats) -> Floats:
    """Convert directions (N, 3) from voxel axes to FSL's convention for this affine (4, 4), or back: it is symmetric.

    FSL's bvecs are in voxel axes, except that x is mirrored when the determinant of the affine is positive. Many
    readers, DIPY's among them, skip that rule and take the numbers as voxel axes. The phantom's images all have a
    negative determinant, for which both readings agree; the rule is applied all the same.

    Source: FSL's FDT documentation, on the conventions of bvecs files.
    """
    sign = -1.0 if np.linalg.det(affine[:3, :3]) > 0 else 1.0
    converted: Floats = directions * np.array([sign, 1.0, 1.0])
    return converted
