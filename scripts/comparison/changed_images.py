"""Changed versions of the diffusion images of a subject: noise, fewer directions, another grid, another mask."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]

# Oblique to the axes of the grid.
ROTATION_AXIS = (1.0, 2.0, 3.0)
B0_THRESHOLD = 50.0


@dataclass(frozen=True, eq=False)
class Images:
    """The diffusion images and the masks of a subject.

    Attributes
    ----------
    dwi
        Shape (X, Y, Z, N), int16: the images, 0 or more.
    bvals
        Shape (N,), float64: b-values, s/mm2.
    directions
        Shape (N, 3), float64: gradient directions, unit vectors along the voxel axes (zeros for b = 0).
    affine
        Shape (4, 4), float64: from voxel indices (center origin) to rasmm.
    mask
        Shape (X, Y, Z), bool: the white matter, where streamlines start and may go.
    in_head
        Shape (X, Y, Z), bool: where the maps are computed.
    """

    dwi: NDArray[np.int16]
    bvals: FloatArray
    directions: FloatArray
    affine: FloatArray
    mask: BoolArray
    in_head: BoolArray

    @property
    def is_b0(self) -> BoolArray:
        """Which images are not diffusion-weighted; shape (N,)."""
        return self.bvals <= B0_THRESHOLD

    @property
    def voxel_sizes(self) -> FloatArray:
        """Voxel sizes, mm; shape (3,)."""
        sizes: FloatArray = np.linalg.norm(self.affine[:3, :3], axis=0)
        return sizes


def signal_to_noise(images: Images) -> float:
    """Return the signal-to-noise ratio of the b = 0 images in the white matter.

    It is the mean of the images divided by the standard deviation of the noise, which is the root mean square, over
    voxels, of the standard deviation of the repeated images of a voxel.

    Raises
    ------
    ValueError
        If there are fewer than two b = 0 images.
    """
    repeated = images.dwi[images.mask][:, images.is_b0].astype(np.float64)
    if repeated.shape[1] < 2:
        raise ValueError(f"The noise is measured from two or more images at b = 0, got {repeated.shape[1]}.")
    return float(repeated.mean() / np.sqrt(repeated.var(axis=1, ddof=1).mean()))


def with_noise(images: Images, snr: float, rng: np.random.Generator) -> Images:
    """Add noise until the signal-to-noise ratio is `snr`.

    The value of a voxel becomes the absolute value of a complex number with this real part, plus Gaussian noise in both
    parts (Gudbjartsson and Patz, 1995, doi:10.1002/mrm.1910340618). Its variance is what the noise of the images lacks.

    Parameters
    ----------
    images
        The images; two or more at b = 0.
    snr
        The ratio, as :func:`signal_to_noise` measures it.
    rng
        Random generator.

    Raises
    ------
    ValueError
        If the images have more noise already.
    """
    own = signal_to_noise(images)
    if not 0 < snr < own:
        raise ValueError(f"The images have a signal-to-noise ratio of {own:.3g}: noise cannot change it to {snr:g}.")
    signal = images.dwi[images.mask][:, images.is_b0].mean()
    sigma = signal * np.sqrt(1 / snr**2 - 1 / own**2)
    real = images.dwi + rng.normal(scale=sigma, size=images.dwi.shape)
    noisy = np.hypot(real, rng.normal(scale=sigma, size=images.dwi.shape))
    return dataclasses.replace(images, dwi=as_stored(noisy))


def with_fewer_directions(images: Images, share: float) -> Images:
    """Keep all images at b = 0 and a share (0 to 1) of the others, spread evenly over the directions.

    The first direction is kept; each next one is the one farthest from those that are kept (a direction and its
    opposite are the same).

    Raises
    ------
    ValueError
        If the share is not between 0 and 1, or less than one direction is left.
    """
    weighted = np.flatnonzero(~images.is_b0)
    nb = round(share * len(weighted))
    if not 0 < share <= 1 or nb < 1:
        raise ValueError(f"The share of the {len(weighted)} directions must be between 0 and 1, got {share:g}.")
    units = images.directions[weighted]
    cosines = np.abs(units @ units.T)
    kept = [0]
    while len(kept) < nb:
        nearest = cosines[kept].max(axis=0)
        nearest[kept] = np.inf
        kept.append(int(nearest.argmin()))
    chosen = np.sort(np.concatenate([np.flatnonzero(images.is_b0), weighted[kept]]))
    return dataclasses.replace(
        images, dwi=images.dwi[..., chosen], bvals=images.bvals[chosen], directions=images.directions[chosen]
    )


def rotated(images: Images, degrees: float) -> Images:
    """Resample in a grid that is rotated about the middle of the volume, as if the head were rotated in the scanner.

    The axis of the rotation is :data:`ROTATION_AXIS` in rasmm. The volume is enlarged so that it contains the old one.
    """
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array(ROTATION_AXIS) / np.linalg.norm(ROTATION_AXIS))
    return _in_grid(images, turn.as_matrix() @ images.affine[:3, :3])


def with_voxel_size(images: Images, size: float) -> Images:
    """Resample to isotropic voxels of this size (mm), along the same axes."""
    if not size > 0:
        raise ValueError(f"The voxel size must be above 0 mm, got {size:g}.")
    return _in_grid(images, images.affine[:3, :3] / images.voxel_sizes * size)


def with_mask_of_fa(images: Images, fa: FloatArray, threshold: float) -> Images:
    """Use the voxels of the head with an FA, shape (X, Y, Z), of at least a threshold as the white matter.

    Raises
    ------
    ValueError
        If there are none.
    """
    mask = images.in_head & (fa >= threshold)
    if not mask.any():
        raise ValueError(
            f"No voxel has an FA of {threshold:g} or more (the largest is {fa[images.in_head].max():.2g})."
        )
    return dataclasses.replace(images, mask=mask)


def as_stored(values: FloatArray) -> NDArray[np.int16]:
    """Round images to integers, as they come from a scanner; negative values become 0."""
    return np.round(np.clip(values, 0, np.iinfo(np.int16).max)).astype(np.int16)


def _in_grid(images: Images, axes: FloatArray) -> Images:
    """Resample to the grid whose axes (3, 3) are steps of a voxel in rasmm, around the middle of the volume.

    Images are interpolated with cubic splines, and the masks linearly, with a threshold of 0.5. The gradients do not
    change in the scanner: only the axes along which they are expressed change.
    """
    shape = np.array(images.mask.shape)
    own_axes = images.affine[:3, :3]
    # From indices in the new grid to indices in the old one, relative to the two middles.
    matrix = np.linalg.inv(own_axes) @ axes
    corners = np.stack(np.meshgrid(*[(-0.5, 0.5)] * 3), axis=-1).reshape(-1, 3) * shape
    new_shape = np.ceil(np.ptp(corners @ np.linalg.inv(matrix).T, axis=0) - 1e-6).astype(int)
    middle, new_middle = (shape - 1) / 2, (new_shape - 1) / 2
    offset = middle - matrix @ new_middle

    def resampled(volume: NDArray[Any], order: int) -> FloatArray:
        options = {"output_shape": tuple(new_shape), "mode": "constant", "cval": 0.0}
        found: FloatArray = affine_transform(volume.astype(np.float32), matrix, offset, order=order, **options)
        return found

    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = images.affine[:3, :3] @ middle + images.affine[:3, 3] - axes @ new_middle
    units, own_units = (each / np.linalg.norm(each, axis=0) for each in (axes, own_axes))
    return Images(
        dwi=np.stack([as_stored(resampled(volume, 3)) for volume in np.moveaxis(images.dwi, -1, 0)], axis=-1),
        bvals=images.bvals,
        directions=images.directions @ own_units.T @ units,
        affine=affine,
        mask=resampled(images.mask, 1) >= 0.5,
        in_head=resampled(images.in_head, 1) >= 0.5,
    )
