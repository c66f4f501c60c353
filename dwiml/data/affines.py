"""Check the affine and the voxel sizes of a group of the HDF5 file."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from dwiml.arguments import shown
from dwiml.ops.spaces import voxel_sizes_of

if TYPE_CHECKING:
    import numpy.typing as npt

# Plausible range in mm, microscopy included. Other values mean a damaged file or another unit.
_MIN_VOXEL_SIZE, _MAX_VOXEL_SIZE = 1e-4, 1e3
# Relative; headers hold rounded sizes.
_SIZES_TOLERANCE = 1e-2

logger = logging.getLogger(__name__)


def checked_affine(value: Any, label: str) -> npt.NDArray[np.float64]:
    """Return the affine of a group, after checking it.

    Parameters
    ----------
    value
        The attribute of the HDF5 file.
    label
        Description of the group and its subject, used in error messages.

    Returns
    -------
    array of shape (4, 4), float64
        Voxel indices (origin at the center of the first voxel) to rasmm, in mm.

    Raises
    ------
    ValueError
        If it is not an invertible 4 x 4 matrix, its axes are not orthogonal, or its voxel sizes are implausible.
    """
    affine = np.asarray(value)
    if affine.shape != (4, 4) or affine.dtype.kind not in "fiu":
        fault = f"has shape {affine.shape} and dtype {affine.dtype}"
    elif not np.isfinite(affine).all():
        fault = "holds NaN or infinite values"
    elif np.linalg.matrix_rank(affine[:3, :3]) < 3:
        fault = "cannot be inverted"
    else:
        try:
            sizes = voxel_sizes_of(affine)
        except ValueError as error:
            raise ValueError(f"The affine of {label} is invalid: {error}") from error
        if sizes.min() >= _MIN_VOXEL_SIZE and sizes.max() <= _MAX_VOXEL_SIZE:
            return affine.astype(np.float64)
        fault = f"gives voxel sizes of {', '.join(f'{size:.3g}' for size in sizes)} mm"
    raise ValueError(
        f"The affine of {label} {fault}; it must be a 4 x 4 matrix from voxels to mm: recreate the HDF5 file."
    )


def warn_of_other_sizes(stored: Any, sizes: npt.NDArray[np.float32], label: str) -> None:
    """Warn if the stored voxel sizes of a group differ from those of its affine, which are used.

    Parameters
    ----------
    stored
        The attribute of the HDF5 file; None if it does not exist.
    sizes
        Shape (3,), mm: the voxel sizes of the affine.
    label
        Description of the group and its subject, used in the warning.
    """
    if stored is None:
        return
    given = np.asarray(stored)
    if given.shape == (3,) and given.dtype.kind in "fiu" and np.allclose(given, sizes, rtol=_SIZES_TOLERANCE, atol=0):
        return
    used = " x ".join(f"{size:.4g}" for size in sizes)
    logger.warning(
        "The voxel_sizes of the %s (%s) differ from those of its affine; those of the affine (%s mm) are used.",
        label,
        shown(stored),
        used,
    )
