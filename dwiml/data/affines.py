"""The affine of a group of a subject."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from dwiml.arguments import shown
from dwiml.ops.spaces import voxel_sizes_of

if TYPE_CHECKING:
    import numpy.typing as npt

# In mm; a microscope has a thousandth. What is far from that is damage, or another unit.
_SMALLEST_VOXEL, _LARGEST_VOXEL = 1e-4, 1e3
# Headers round.
_SIZES_TOLERANCE = 1e-2

logger = logging.getLogger(__name__)


def checked_affine(value: Any, label: str) -> npt.NDArray[np.float64]:
    """Return a group's affine, shape (4, 4), float64: voxel indices (origin at the first voxel's centre) to rasmm.

    Parameters
    ----------
    value
        The attribute of the HDF5 file.
    label
        The group and its subject, as a sentence names them.

    Raises
    ------
    ValueError
        When it is not an invertible 4 x 4 matrix, its axes are not at right angles, or its voxel sizes are implausible.
    """
    affine = np.asarray(value)
    if affine.shape != (4, 4) or affine.dtype.kind not in "fiu":
        wrong = f"has shape {affine.shape} and type {affine.dtype}"
    elif not np.isfinite(affine).all():
        wrong = "holds NaN or infinite values"
    elif np.linalg.matrix_rank(affine[:3, :3]) < 3:
        wrong = "cannot be inverted"
    else:
        try:
            sizes = voxel_sizes_of(affine)
        except ValueError as error:
            raise ValueError(f"The affine of {label} cannot be used: {error}") from error
        if sizes.min() >= _SMALLEST_VOXEL and sizes.max() <= _LARGEST_VOXEL:
            return affine.astype(np.float64)
        wrong = f"gives voxel sizes of {', '.join(f'{size:.3g}' for size in sizes)} mm"
    raise ValueError(
        f"The affine of {label} {wrong}; it must be a 4 x 4 matrix from voxels to mm: recreate the HDF5 file."
    )


def warn_of_other_sizes(stored: Any, sizes: npt.NDArray[np.float32], label: str) -> None:
    """Warn when the voxel sizes that a group states are not those of its affine, which are used.

    Parameters
    ----------
    stored
        The attribute of the HDF5 file; None where it has none.
    sizes
        Shape (3,), mm: those of the affine.
    label
        The group and its subject, as a sentence names them.
    """
    if stored is None:
        return
    given = np.asarray(stored)
    if given.shape == (3,) and given.dtype.kind in "fiu" and np.allclose(given, sizes, rtol=_SIZES_TOLERANCE, atol=0):
        return
    used = " x ".join(f"{size:.4g}" for size in sizes)
    logger.warning(
        "The voxel_sizes of the %s (%s) are not those of its affine: %s mm are used.", label, shown(stored), used
    )
