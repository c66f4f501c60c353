"""Fit the maps that serve as input to a network, with DIPY: spherical harmonics and fractional anisotropy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from dipy.core.gradients import GradientTable
from dipy.core.sphere import HemiSphere
from dipy.reconst.dti import TensorModel
from dipy.reconst.shm import sf_to_sh

SH_ORDER = 6
_SH_SMOOTHING = 0.006


def fractional_anisotropy(
    dwi: npt.NDArray[np.int16], gtab: GradientTable, in_head: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Compute the fractional anisotropy of a tensor fitted by ordinary least squares.

    Parameters
    ----------
    dwi
        Shape (X, Y, Z, N), int16: the diffusion images.
    gtab
        Their N b-values (s/mm2) and gradient directions.
    in_head
        Shape (X, Y, Z), bool: mask of the head.

    Returns
    -------
    array
        Shape (X, Y, Z), float32: from 0 to 1; 0 outside the head.

    References
    ----------
    Basser and Pierpaoli (1996), Microstructural and physiological features of tissues elucidated by
    quantitative-diffusion-tensor MRI, doi:10.1006/jmrb.1996.0086.
    """
    volume = np.zeros(in_head.shape, dtype=np.float32)
    volume[in_head] = TensorModel(gtab, fit_method="OLS").fit(dwi[in_head]).fa
    return volume


def signal_harmonics(
    dwi: npt.NDArray[np.int16], gtab: GradientTable, in_head: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Fit spherical harmonics of order 6 to the signal divided by the mean b = 0 image.

    The basis is DIPY's ``descoteaux07`` with ``legacy=False``: real and symmetric, with 28 coefficients (l = 0, 2, 4, 6
    and m from -l to l), along the voxel axes. The fit has a Laplace-Beltrami regularization of 0.006.

    Parameters
    ----------
    dwi
        Shape (X, Y, Z, N), int16: the diffusion images.
    gtab
        Their N b-values (s/mm2) and gradient directions (unit vectors along the voxel axes).
    in_head
        Shape (X, Y, Z), bool: mask of the head.

    Returns
    -------
    array
        Shape (X, Y, Z, 28), float32: the coefficients; 0 outside the head.

    References
    ----------
    Descoteaux, Angelino, Fitzgibbons and Deriche (2007), Regularized, fast, and robust analytical Q-ball imaging,
    doi:10.1002/mrm.21277.
    """
    data = dwi[in_head].astype(np.float64)
    b0 = np.maximum(data[:, gtab.b0s_mask].mean(axis=1, keepdims=True), 1.0)
    attenuation = np.clip(data[:, ~gtab.b0s_mask] / b0, 0, 1)
    sphere = HemiSphere(xyz=gtab.bvecs[~gtab.b0s_mask])
    coefficients = sf_to_sh(
        attenuation, sphere, sh_order_max=SH_ORDER, basis_type="descoteaux07", legacy=False, smooth=_SH_SMOOTHING
    )
    volume = np.zeros((*in_head.shape, coefficients.shape[1]), dtype=np.float32)
    volume[in_head] = coefficients
    return volume
