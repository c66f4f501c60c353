"""What a network reads: spherical harmonics of the signal and fractional anisotropy, fitted with DIPY."""

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
    """Fit a tensor by ordinary least squares, quick and enough at this noise.

    Returns
    -------
    (X, Y, Z)
        Between 0 and 1; 0 outside the head.
    """
    volume = np.zeros(in_head.shape, dtype=np.float32)
    volume[in_head] = TensorModel(gtab, fit_method="OLS").fit(dwi[in_head]).fa
    return volume


def signal_harmonics(
    dwi: npt.NDArray[np.int16], gtab: GradientTable, in_head: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Fit spherical harmonics of order 6 to the signal divided by the mean b = 0 image.

    Basis: DIPY's ``descoteaux07`` with ``legacy=False`` (real, symmetric, 28 coefficients, l = 0, 2, 4, 6 and m from
    -l to l), in voxel axes, Laplace-Beltrami smoothing 0.006 (Descoteaux et al. 2007).

    Returns
    -------
    (X, Y, Z, 28)
        0 outside the head.
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
