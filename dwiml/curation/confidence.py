"""Find the outliers of a bundle: streamlines that few others support."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.curation.settings import MAX_MDF_MM, POWER
from dwiml.ops.ragged import offsets

NB_POINTS = 12
# Beyond it, the confidence is relative to a random sample, so that the work is linear in the number of streamlines.
MAX_SAMPLE = 1000
# Closer streamlines are copies (their distance is that of rounding), and the inverse of the distance would be huge.
_COPY_MM = 1e-3
# Rows of the matrix of distances at once.
_CHUNK = 2000


def cluster_confidence(
    points: NDArray[np.floating],
    lengths: NDArray[np.int64],
    voxel_sizes: ArrayLike,
    *,
    rng: np.random.Generator,
    max_mdf: float = MAX_MDF_MM,
    power: float = POWER,
    on_progress: Callable[[int], None] | None = None,
) -> NDArray[np.float64]:
    """Compute the cluster confidence index of each streamline of a bundle (Jordan et al., 2018).

    It is the sum, over the other streamlines whose distance d is at most `max_mdf`, of 1 / d**power. The distance is
    the minimum average direct-flip distance (Garyfallidis et al., 2012, doi:10.3389/fnins.2012.00175) of the
    streamlines, resampled to 12 points. In a bundle of more than :data:`MAX_SAMPLE` streamlines, the others are a
    random sample of this number. Copies of a streamline do not support it.

    Parameters
    ----------
    points : (N, 3)
        Points of all streamlines of the bundle, concatenated; voxel space, any origin, in voxels.
    lengths : (S,) int64
        Number of points of each streamline, at least 2.
    voxel_sizes : (3,)
        Size of the voxels along each axis, in mm.
    rng
        Draws the sample.
    max_mdf
        Largest distance of a streamline that counts, in mm.
    power
        Power of the distance.
    on_progress
        Called after each chunk with its number of streamlines, for a progress bar.

    Returns
    -------
    (S,) float64
        Confidence of each streamline, 0 or more; in mm**-power.

    References
    ----------
    Jordan, Amirbekian, Keshavan and Henry (2018), "Cluster Confidence Index: a streamline-wise pathway reproducibility
    metric for diffusion-weighted MRI tractography", Journal of Neuroimaging 28, doi:10.1111/jon.12467.
    """
    # Imported when used: dipy takes long to load.
    from dipy.tracking.distances import bundles_distances_mdf
    from dipy.tracking.streamline import set_number_of_points

    nb = len(lengths)
    confidence = np.zeros(nb)
    if nb < 2:
        return confidence
    mm = (np.asarray(points) * np.asarray(voxel_sizes, dtype=np.float64)).astype(np.float32)
    resampled = list(set_number_of_points(np.split(mm, offsets(lengths)[1:]), nb_points=NB_POINTS))
    sample = np.arange(nb) if nb <= MAX_SAMPLE else np.sort(rng.choice(nb, MAX_SAMPLE, replace=False))
    others = [resampled[i] for i in sample]
    for start in range(0, nb, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, nb))
        distances = np.asarray(bundles_distances_mdf([resampled[i] for i in rows], others), dtype=np.float64)
        counts = (distances > _COPY_MM) & (distances <= max_mdf) & (rows[:, None] != sample)
        support = np.power(distances, -power, out=np.zeros_like(distances), where=counts)
        confidence[rows] = support.sum(axis=1)
        if on_progress is not None:
            on_progress(len(rows))
    return confidence
