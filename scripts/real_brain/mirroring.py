"""The mirror image of a brain about its midline, and positions in it, so that one hemisphere can teach the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from dipy.core.gradients import gradient_table

from real_brain.diffusion import Acquisition

FloatArray = npt.NDArray[np.floating[Any]]


def mirrored(acquisition: Acquisition, midline: float) -> Acquisition:
    """Return the acquisition of the brain mirrored about the sagittal plane x = midline.

    The order of the voxels is reversed along the first axis, which must be left-right, and so is that component of the
    gradient directions. The affine is that of the mirrored brain, with voxels in the same order (left or right first)
    as before.

    Parameters
    ----------
    acquisition
        The acquisition.
    midline
        The plane's x in RAS mm.
    """
    directions = np.array(acquisition.gradients.bvecs)
    directions[:, 0] *= -1
    return dataclasses.replace(
        acquisition,
        data=mirrored_volume(acquisition.data),
        gradients=gradient_table(acquisition.gradients.bvals, bvecs=directions),
        affine=mirrored_affine(acquisition.affine, acquisition.data.shape[0], midline),
        mask=mirrored_volume(acquisition.mask),
    )


def mirrored_volume(volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a volume (X, Y, Z, ...) with the order of its voxels reversed along the first axis."""
    return np.ascontiguousarray(volume[::-1])


def mirrored_affine(affine: FloatArray, nb_voxels: int, midline: float) -> npt.NDArray[np.float64]:
    """Return the affine of a volume that is mirrored about x = midline.

    Parameters
    ----------
    affine : (4, 4) array
        From voxel indices (center origin) to RAS mm; the first voxel axis must be left-right.
    nb_voxels
        Number of voxels along the first axis.
    midline
        The plane's x in RAS mm.
    """
    result = np.array(affine, dtype=np.float64)
    # Voxel i is where voxel n - 1 - i was, mirrored.
    result[0, 3] = 2 * midline - affine[0, 0] * (nb_voxels - 1) - affine[0, 3]
    return result


def mirrored_streamlines(
    streamlines: Sequence[npt.NDArray[np.float32]], midline: float
) -> list[npt.NDArray[np.float32]]:
    """Return streamlines (RAS mm), each of shape (n, 3), mirrored about x = midline."""
    return [np.stack([2 * midline - line[:, 0], line[:, 1], line[:, 2]], axis=1) for line in streamlines]


def positions(shape: Sequence[int], affine: FloatArray) -> npt.NDArray[np.float32]:
    """Return the position of each voxel's center, shape (X, Y, Z, 3), in RAS mm."""
    indices = np.stack(np.meshgrid(*map(np.arange, shape[:3]), indexing="ij"), axis=-1)
    points: npt.NDArray[np.float32] = (indices @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)
    return points
