"""Convert directional features to voxel axes, and from one basis of spherical harmonics to another."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.ops.axes.conventions import TENSOR_ORDERS, Directions, sh_order
from dwiml.ops.spaces import voxel_sizes_of

Matrix = NDArray[np.float64]

# Entries of a conversion that are only rounding, so that a flip of an axis changes signs and nothing else.
_ROUNDING = 1e-12
_PAIRS = ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2))


def axes_matrix(axes: str, affine: ArrayLike) -> Matrix:
    """Return the matrix that expresses a direction along voxel axes in other axes.

    Parameters
    ----------
    axes
        ``voxel``, ``rasmm`` or ``fsl``; see :mod:`dwiml.ops.axes.conventions`.
    affine
        Shape (4, 4): from voxel indices to rasmm, in mm.

    Returns
    -------
    array of shape (3, 3), float64
        Orthogonal: a rotation, or a rotation and a reflection. A direction along voxel axes, as a column, times this
        matrix is the same direction in `axes`; its transpose is the inverse. For ``rasmm``, it is the orthogonal matrix
        that is nearest to the columns of the affine divided by the voxel sizes.

    Raises
    ------
    ValueError
        If the affine is invalid, or its axes are not orthogonal.
    """
    columns = np.asarray(affine, dtype=np.float64)[:3, :3] / voxel_sizes_of(affine)
    if axes == "rasmm":
        left, _, right = np.linalg.svd(columns)
        nearest: Matrix = left @ right
        return nearest
    mirrored = axes == "fsl" and np.linalg.det(columns) > 0
    return np.diag([-1.0 if mirrored else 1.0, 1.0, 1.0])


def sh_matrix(
    directions: NDArray[np.floating], order: int, *, basis: str, legacy: bool, full_basis: bool = False
) -> Matrix:
    """Return the values of the spherical harmonics of a basis, as DIPY defines them.

    Parameters
    ----------
    directions
        Shape (N, 3), in the axes of the coefficients; of any length but zero.
    order
        Largest degree.
    basis, legacy, full_basis
        As in :class:`dwiml.ops.axes.conventions.Directions`.

    Returns
    -------
    array of shape (N, C), float64
        C coefficients per function: the amplitude of a function is this matrix times its coefficients.
    """
    from dipy.core.geometry import cart2sphere
    from dipy.reconst.shm import sph_harm_lookup

    _, theta, phi = cart2sphere(*np.asarray(directions, dtype=np.float64).T)
    with warnings.catch_warnings():
        # DIPY warns of each use of its former bases.
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        values: Matrix = sph_harm_lookup[basis](order, theta, phi, full_basis=full_basis, legacy=legacy)[0]
    return values


def conversion_matrix(read: Directions, nb_features: int, rotation: Matrix) -> Matrix:
    """Return the matrix that converts the features of a voxel to the stored convention.

    Parameters
    ----------
    read
        The convention of the features.
    nb_features
        Number of features F.
    rotation
        Shape (3, 3), orthogonal: expresses a direction along voxel axes in the axes of the features.

    Returns
    -------
    array of shape (F, F), float64
        The converted features, as a column, are this matrix times the features. Spherical harmonics are converted by
        least squares over a sphere with many more directions than coefficients, which is exact for functions of a
        limited degree: a rotation does not change the degree.
    """
    if read.kind == "none":
        return np.eye(nb_features)
    if read.kind == "peaks":
        blocks: Matrix = np.kron(np.eye(nb_features // 3), rotation.T).astype(np.float64)
        return blocks
    if read.kind == "tensor":
        return _tensor_conversion(TENSOR_ORDERS[read.order], rotation)
    order = sh_order(nb_features, full_basis=read.full_basis)
    assert order is not None
    sphere = _sphere(order)
    target = read.stored
    values = sh_matrix(sphere @ rotation.T, order, basis=read.basis, legacy=read.legacy, full_basis=read.full_basis)
    matrix = _fit(order, target.basis, target.legacy, target.full_basis) @ values
    matrix[np.abs(matrix) < _ROUNDING] = 0
    return matrix


@lru_cache(maxsize=8)
def _fit(order: int, basis: str, legacy: bool, full_basis: bool) -> Matrix:
    """Return the matrix (C, N) that turns amplitudes over the sphere into coefficients, by least squares."""
    inverse = np.linalg.pinv(sh_matrix(_sphere(order), order, basis=basis, legacy=legacy, full_basis=full_basis))
    return inverse.astype(np.float64)


def _tensor_conversion(order: tuple[int, ...], rotation: Matrix) -> Matrix:
    """Return the (6, 6) matrix of ``R.T D R``, from the given order of the coefficients to DIPY's."""
    matrix = np.zeros((6, 6))
    for column, (i, j) in zip(order, _PAIRS, strict=True):
        tensor = np.zeros((3, 3))
        tensor[i, j] = tensor[j, i] = 1
        converted = rotation.T @ tensor @ rotation
        matrix[:, column] = [converted[pair] for pair in _PAIRS]
    return matrix


def _sphere(order: int) -> Matrix:
    """Return three times as many directions as a full basis of this degree has functions."""
    return sphere_directions(3 * (order + 1) ** 2)


@lru_cache(maxsize=8)
def sphere_directions(nb: int) -> Matrix:
    """Return directions that cover the sphere evenly, shape (N, 3).

    They lie on a spiral: equally spaced in z, each turned from the one before by the golden angle (Gonzalez 2010).
    """
    z = 1 - (2 * np.arange(nb) + 1) / nb
    angles = np.arange(nb) * np.pi * (3 - np.sqrt(5))
    directions: Matrix = np.stack([np.sqrt(1 - z**2) * np.cos(angles), np.sqrt(1 - z**2) * np.sin(angles), z], axis=1)
    return directions


def converts(read: Directions, rotation: Matrix) -> bool:
    """Return whether features of this convention and axes differ from the stored ones."""
    if read.kind == "none":
        return False
    return read.stored != replace(read, axes="voxel") or not np.array_equal(rotation, np.eye(3))


def convert_features(data: NDArray[Any], read: Directions, affine: ArrayLike) -> bool:
    """Convert features to the stored convention, in place.

    Parameters
    ----------
    data
        Shape (..., F), floating-point: the features of an image.
    read
        Their convention.
    affine
        Shape (4, 4): from voxel indices to rasmm, in mm.

    Returns
    -------
    bool
        Whether anything was to be converted; otherwise, `data` is unchanged.

    Raises
    ------
    ValueError
        If the affine is invalid.
    """
    rotation = axes_matrix(read.axes, affine)
    if not converts(read, rotation):
        return False
    matrix = conversion_matrix(read, data.shape[-1], rotation).T
    # A view of a part of the features cannot be reshaped in place.
    for slab in data if data.ndim > 2 else [data]:
        slab[...] = slab.astype(np.float64) @ matrix
    return True
