"""The affine of a group of a subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


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
        When its shape is another, or voxels cannot be found back from mm.
    """
    affine = np.asarray(value)
    if affine.shape != (4, 4) or affine.dtype.kind not in "fiu":
        wrong = f"has shape {affine.shape} and type {affine.dtype}"
    elif not np.isfinite(affine).all():
        wrong = "holds NaN or infinite values"
    elif np.linalg.matrix_rank(affine[:3, :3]) < 3:
        wrong = "cannot be inverted"
    else:
        return affine.astype(np.float64)
    raise ValueError(f"The affine of {label} {wrong}; it must be 4 x 4 numbers from voxels to mm: make the HDF5 again.")
