"""Split a volume with both ends of a bundle into its head and its tail."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.ndimage import generate_binary_structure
from scipy.ndimage import label as connected_components

from dwiml.ops.masks import as_mask
from dwiml.scoring.paths import Volume

logger = logging.getLogger(__name__)

_MAX_ITERATIONS = 300


def split_endpoints(values: NDArray[Any], name: str) -> tuple[Volume, Volume]:
    """Split the end regions of a bundle, given as a single volume.

    - Two labels: each label is a region.
    - A mask with two connected components (voxels that share a face, an edge or a corner): each one is a region.
    - Another mask: two clusters of voxels by k-means, as in scilpy, with a warning. The initial centers are the two
      voxels that are the furthest apart along the first principal axis, so the result is always the same.

    Parameters
    ----------
    values : (X, Y, Z)
        The volume: two labels, or a mask (see :func:`dwiml.ops.masks.as_mask`).
    name
        Start of messages, for instance ``"The endpoints of bundle 'arch': 'ends.nii.gz'"``.

    Returns
    -------
    head, tail : (X, Y, Z) bool

    Raises
    ------
    ValueError
        If the volume has fewer than two voxels, or is neither labels nor a mask.

    References
    ----------
    Lloyd (1982), "Least squares quantization in PCM", doi:10.1109/TIT.1982.1056489 (k-means).
    """
    present = np.unique(values[values != 0])
    if len(present) == 2 and np.array_equal(present, np.round(present)) and present[0] > 0:
        return values == present[0], values == present[1]
    mask = as_mask(values, name).inside
    if np.count_nonzero(mask) < 2:
        raise ValueError(f"{name} has {np.count_nonzero(mask)} voxels, but a head and a tail have at least one each.")
    components, count = connected_components(mask, generate_binary_structure(3, 3))
    if count == 2:
        return components == 1, components == 2
    logger.warning(
        "%s has %d connected components instead of 2: the voxels were split in two by k-means; check the result, or "
        'give "head" and "tail".',
        name,
        count,
    )
    return _clusters(mask)


def _clusters(mask: Volume) -> tuple[Volume, Volume]:
    voxels = np.argwhere(mask).astype(np.float64)
    centered = voxels - voxels.mean(axis=0)
    along = centered @ np.linalg.svd(centered, full_matrices=False)[2][0]
    centers = voxels[[along.argmin(), along.argmax()]]
    _, cluster = kmeans2(voxels, centers, iter=_MAX_ITERATIONS, minit="matrix")
    head, tail = np.zeros((2, *mask.shape), dtype=bool)
    head[mask], tail[mask] = cluster == 0, cluster == 1
    return head, tail
