"""Conversion between the spaces in which streamlines are stored and that of dwiml: voxel space, corner origin.

Names of spaces: "vox" (voxel indices), "voxmm" (voxel axes, in mm) and "rasmm" (the scanner's right, anterior,
superior axes, in mm). Names of origins: "center" (coordinate 0 is the center of the first voxel; NIfTI) and "corner"
(coordinate 0 is its corner; TrackVis). See the page "Spaces" of the documentation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Between two axes. Rounded headers stay below 0.001; at 0.01, a distance in mm is wrong by up to half a percent.
_LARGEST_COSINE = 0.01
_SPACES = ("vox", "voxmm", "rasmm")
_ORIGINS = {"center": "center", "centre": "center", "nifti": "center", "corner": "corner", "trackvis": "corner"}


def parse_space(text: object) -> str:
    """Return the name of a space, given in any of its spellings.

    Parameters
    ----------
    text : str, bytes or dipy.io.stateful_tractogram.Space
        For example "vox", "VOX", "Space.VOX" or ``Space.VOX``.

    Returns
    -------
    str
        "vox", "voxmm" or "rasmm".

    Raises
    ------
    ValueError
        If the space is unknown.
    """
    space = _last_word(text)
    if space not in _SPACES:
        raise ValueError(f"Space {_shown(text)} is unknown; expected one of {', '.join(_SPACES)}.")
    return space


def parse_origin(text: object) -> str:
    """Return the name of an origin, given in any of its spellings.

    Parameters
    ----------
    text : str, bytes or dipy.io.stateful_tractogram.Origin
        For example "corner", "trackvis", "Origin.TRACKVIS" or "Origin.NIFTI".

    Returns
    -------
    str
        "center" or "corner".

    Raises
    ------
    ValueError
        If the origin is unknown.
    """
    origin = _ORIGINS.get(_last_word(text))
    if origin is None:
        raise ValueError(f"Origin {_shown(text)} is unknown; expected center (nifti) or corner (trackvis).")
    return origin


def voxel_sizes_of(affine: ArrayLike) -> NDArray[np.float64]:
    """Return the voxel sizes of an affine: the lengths of its columns.

    Parameters
    ----------
    affine : array of shape (4, 4)
        From voxel indices (center origin) to rasmm.

    Returns
    -------
    array of shape (3,)
        Voxel size along each voxel axis, in mm.

    Raises
    ------
    ValueError
        If the affine does not have shape (4, 4), is not finite or not invertible, or its axes are not orthogonal.
    """
    axes = _checked_affine(affine)[:3, :3]
    sizes: NDArray[np.float64] = np.linalg.norm(axes, axis=0)
    cosines = (axes / sizes).T @ (axes / sizes) - np.eye(3)
    largest = float(np.abs(cosines).max())
    if largest > _LARGEST_COSINE:
        raise ValueError(
            f"The axes of the affine are not orthogonal (it is sheared: the angle between two axes is "
            f"{np.degrees(np.arccos(min(largest, 1.0))):.2f} degrees), so voxel sizes do not give distances in "
            "mm; resample the image to a grid without shear."
        )
    return sizes


def voxel_order_of(affine: ArrayLike) -> str:
    """Return the anatomical directions of the voxel axes of an affine, (4, 4), for example ``RAS``."""
    from nibabel.orientations import aff2axcodes

    return "".join(aff2axcodes(np.asarray(affine)))


def obliquity_degrees(affine: ArrayLike) -> float:
    """Return the largest angle between a voxel axis of an affine, (4, 4), and the scanner axis nearest to it."""
    from nibabel.affines import obliquity

    return float(np.degrees(obliquity(np.asarray(affine)).max()))


# NaN and excessive coordinates become NaN or infinite; the caller reports them.
@np.errstate(invalid="ignore", over="ignore")
def to_vox_corner(
    points: ArrayLike, *, space: str, origin: str, affine: ArrayLike, voxel_sizes: ArrayLike
) -> NDArray[np.float32]:
    """Convert points to voxel space, corner origin.

    The meaning of the spaces and origins is that of dipy's StatefulTractogram: with the origin "corner", coordinates
    in mm are those of "center" shifted by half a voxel, so that 0 in vox and voxmm is the corner of the first voxel.

    Parameters
    ----------
    points : array of shape (N, 3)
        Points in `space` with `origin`; in voxels (vox) or mm (voxmm, rasmm).
    space : str
        "vox", "voxmm" or "rasmm", or another spelling that `parse_space` accepts.
    origin : str
        "center" or "corner", or another spelling that `parse_origin` accepts.
    affine : array of shape (4, 4)
        From voxel indices (center origin) to rasmm. Used for rasmm.
    voxel_sizes : array of shape (3,)
        Voxel size along each voxel axis, in mm. Used for voxmm.

    Returns
    -------
    array of shape (N, 3), float32
        Points in voxel space, corner origin, in voxels. Not a copy if `points` already has this form.

    Raises
    ------
    ValueError
        If a shape, a name, the affine or a voxel size is wrong.
    """
    space, origin = parse_space(space), parse_origin(origin)
    to_rasmm, sizes = _checked_affine(affine), _checked_voxel_sizes(voxel_sizes)
    stored: NDArray[np.floating] = np.asarray(points)
    if stored.ndim != 2 or stored.shape[1] != 3:
        raise ValueError(f"Points must have shape (N, 3), got {stored.shape}.")
    half_voxel = 0.5 if origin == "center" else 0.0
    if space == "vox":
        if origin == "corner":
            return stored.astype(np.float32, copy=False)
        return (stored + half_voxel).astype(np.float32)
    if space == "voxmm":
        return (stored / sizes + half_voxel).astype(np.float32)
    to_vox = np.linalg.inv(to_rasmm)
    vox: NDArray[np.float64] = stored @ to_vox[:3, :3].T + (to_vox[:3, 3] + half_voxel)
    return vox.astype(np.float32)


@np.errstate(invalid="ignore", over="ignore")
def from_vox_corner(
    points: ArrayLike, *, space: str, origin: str, affine: ArrayLike, voxel_sizes: ArrayLike
) -> NDArray[np.float32]:
    """Convert points from voxel space, corner origin: the inverse of :func:`to_vox_corner`.

    Parameters
    ----------
    points : array of shape (N, 3)
        Points in voxel space, corner origin, in voxels.
    space : str
        "vox", "voxmm" or "rasmm", or another spelling that `parse_space` accepts.
    origin : str
        "center" or "corner", or another spelling that `parse_origin` accepts.
    affine : array of shape (4, 4)
        From voxel indices (center origin) to rasmm. Used for rasmm.
    voxel_sizes : array of shape (3,)
        Voxel size along each voxel axis, in mm. Used for voxmm.

    Returns
    -------
    array of shape (N, 3), float32
        Points in `space` with `origin`; in voxels (vox) or mm (voxmm, rasmm). Not a copy if `points` already has this
        form.

    Raises
    ------
    ValueError
        If a shape, a name, the affine or a voxel size is wrong.
    """
    space, origin = parse_space(space), parse_origin(origin)
    to_rasmm, sizes = _checked_affine(affine), _checked_voxel_sizes(voxel_sizes)
    vox: NDArray[np.floating] = np.asarray(points)
    if vox.ndim != 2 or vox.shape[1] != 3:
        raise ValueError(f"Points must have shape (N, 3), got {vox.shape}.")
    half_voxel = 0.5 if origin == "center" else 0.0
    if space == "vox":
        return (vox - half_voxel).astype(np.float32) if half_voxel else vox.astype(np.float32, copy=False)
    if space == "voxmm":
        return ((vox - half_voxel) * sizes).astype(np.float32)
    rasmm: NDArray[np.float64] = (vox - np.float64(half_voxel)) @ to_rasmm[:3, :3].T + to_rasmm[:3, 3]
    return rasmm.astype(np.float32)


def _last_word(text: object) -> str:
    spelling = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return spelling.strip().rsplit(".", maxsplit=1)[-1].lower()


def _shown(text: object) -> str:
    return repr(text.decode(errors="replace") if isinstance(text, bytes) else str(text))


def _checked_affine(affine: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise ValueError(f"An affine must have shape (4, 4), got {matrix.shape}.")
    if not np.isfinite(matrix).all() or np.linalg.matrix_rank(matrix[:3, :3]) < 3:
        raise ValueError(f"The affine is not finite or not invertible: {matrix.tolist()}.")
    return matrix


def _checked_voxel_sizes(voxel_sizes: ArrayLike) -> NDArray[np.float64]:
    sizes = np.asarray(voxel_sizes, dtype=np.float64)
    if sizes.shape != (3,):
        raise ValueError(f"Voxel sizes must have shape (3,), got {sizes.shape}.")
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise ValueError(f"Voxel sizes must be positive, got {sizes.tolist()}.")
    return sizes
