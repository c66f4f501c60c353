"""What is computed voxel by voxel: the network's input, FA, and the fiber orientations to track on.

All orientations are in the voxel axes of the image, as its b-vectors are (FSL's convention; with a negative determinant
of the affine, as here, nothing is flipped). They turn into RAS directions when streamlines are moved by the affine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from dipy.core.gradients import gradient_table
from dipy.core.sphere import Sphere
from dipy.io import read_bvals_bvecs
from dipy.reconst.csdeconv import ConstrainedSphericalDeconvModel, auto_response_ssst
from dipy.reconst.dti import TensorModel
from dipy.reconst.shm import sf_to_sh
from scipy.ndimage import binary_dilation

from dwiml.tractograms.grid import Grid
from real_brain.progress import progress

FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]

SH_ORDER = 6
SH_SMOOTHING = 0.006
_VOXELS_AT_ONCE = 4000


@dataclass(frozen=True)
class Acquisition:
    """A diffusion acquisition.

    Parameters
    ----------
    data : (X, Y, Z, G) array
        The signal of G volumes.
    gradients
        dipy's gradient table, directions in the voxel axes.
    affine : (4, 4) array
        From voxel indices (origin: the center of the voxel) to RAS mm.
    mask : (X, Y, Z) array
        The brain.
    """

    data: npt.NDArray[np.float32]
    gradients: Any
    affine: FloatArray
    mask: BoolArray


def read_acquisition(dwi: Path, bval: Path, bvec: Path, mask: Path) -> Acquisition:
    """Read a diffusion volume, its gradients and its brain mask.

    Raises
    ------
    ValueError
        If mask and volume have different grids.
    """
    image, mask_image = nib.load(dwi), nib.load(mask)
    grids = [Grid.from_header(each.affine, each.shape[:3], path) for each, path in ((mask_image, mask), (image, dwi))]
    if grids[0].difference(grids[1]):
        raise ValueError(f"The brain mask {mask} is not on the grid of {dwi}.")
    bvals, bvecs = read_bvals_bvecs(str(bval), str(bvec))
    return Acquisition(
        data=image.get_fdata(dtype=np.float32),
        gradients=gradient_table(bvals, bvecs=bvecs),
        affine=image.affine,
        mask=np.asarray(mask_image.dataobj) > 0,
    )


def fit_fa(acquisition: Acquisition) -> npt.NDArray[np.float32]:
    """Return the fractional anisotropy (X, Y, Z) of the diffusion tensor; 0 outside the brain."""
    fa = TensorModel(acquisition.gradients).fit(acquisition.data, mask=acquisition.mask).fa
    clean: npt.NDArray[np.float32] = np.where(acquisition.mask, np.nan_to_num(fa), 0).astype(np.float32)
    return clean


def fit_signal_sh(acquisition: Acquisition) -> npt.NDArray[np.float32]:
    """Return spherical harmonics of the attenuation, the signal divided by the mean b0; 0 outside the brain.

    Basis: dipy's ``descoteaux07`` with ``legacy=False`` (Descoteaux et al., 2007; real and symmetric, so even orders
    only), fitted with the Laplace-Beltrami regularisation of the same article (0.006). The attenuation is clipped to
    [0, 1], which noise alone makes it leave.

    Returns
    -------
    (X, Y, Z, 28) array
        Coefficients up to order 6, in the voxel axes of the image.
    """
    is_b0 = acquisition.gradients.b0s_mask
    signal = acquisition.data[acquisition.mask]
    b0 = signal[:, is_b0].mean(axis=1, keepdims=True)
    attenuation = np.divide(signal[:, ~is_b0], b0, out=np.zeros_like(signal[:, ~is_b0]), where=b0 > 0).clip(0, 1)
    coefficients = sf_to_sh(
        attenuation,
        Sphere(xyz=acquisition.gradients.bvecs[~is_b0]),
        sh_order_max=SH_ORDER,
        basis_type="descoteaux07",
        legacy=False,
        smooth=SH_SMOOTHING,
    )
    volume = np.zeros((*acquisition.mask.shape, coefficients.shape[1]), dtype=np.float32)
    volume[acquisition.mask] = coefficients
    return volume


def fit_fodf(
    acquisition: Acquisition, region: BoolArray, *, sh_order: int = SH_ORDER, roi_radius: int = 10
) -> npt.NDArray[np.float64]:
    """Return the fiber orientation distribution by constrained spherical deconvolution (Tournier et al., 2007).

    The response is that of voxels of FA > 0.7 in the middle of the volume (``auto_response_ssst``).

    Parameters
    ----------
    acquisition
        The acquisition.
    region : (X, Y, Z) array
        Where it is needed. One voxel more is fitted all around, since tracking interpolates.
    sh_order
        Largest order of the spherical harmonics.
    roi_radius
        How far from the middle of the volume the response's voxels may be, in voxels.

    Returns
    -------
    (X, Y, Z, C) array
        SH coefficients up to that order (28 for order 6) in dipy's ``descoteaux07`` basis with ``legacy=True`` (what
        dipy's model gives).
    """
    response, _ = auto_response_ssst(acquisition.gradients, acquisition.data, roi_radii=roi_radius, fa_thr=0.7)
    model = ConstrainedSphericalDeconvModel(acquisition.gradients, response, sh_order_max=sh_order)
    voxels = np.argwhere(binary_dilation(region, np.ones((3, 3, 3))) & acquisition.mask)
    parts = np.array_split(voxels, max(1, len(voxels) // _VOXELS_AT_ONCE))
    fodf = np.zeros((*acquisition.mask.shape, (sh_order + 1) * (sh_order + 2) // 2))
    for part in progress(parts, "spherical deconvolution"):
        where = tuple(part.T)
        fodf[where] = np.nan_to_num(model.fit(acquisition.data[where]).shm_coeff)
    return fodf
