"""Draw the streamlines of a bundle that are kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dwiml.ops.ragged import offsets, run_rows, sequence_ids
from dwiml.scoring.voxels import chunks, crossed_voxels
from dwiml.tractograms.grid import Grid


@dataclass(frozen=True, eq=False)
class VoxelsCrossed:
    """The voxels that S streamlines cross.

    Attributes
    ----------
    voxels : (M,) int64
        Flat indices (C order) of the voxels that each streamline crosses, concatenated; each once per streamline.
    nb : (S,) int64
        Number of voxels of each streamline.
    """

    voxels: NDArray[np.int64]
    nb: NDArray[np.int64]

    @classmethod
    def of(cls, points: NDArray[np.floating], lengths: NDArray[np.int64], grid: Grid) -> VoxelsCrossed:
        """Find the voxels that streamlines cross, see :func:`dwiml.scoring.voxels.crossed_voxels`.

        Parameters
        ----------
        points : (N, 3)
            Points of all streamlines, concatenated; voxel space of the grid, corner origin, in voxels.
        lengths : (S,) int64
            Number of points of each streamline.
        grid
            The voxel grid; voxels outside its volume are left out.
        """
        voxels, nb = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for lines, rows in chunks(lengths):
            crossings = crossed_voxels(points[rows], lengths[lines], grid.shape, grid.voxel_sizes).mm
            voxels.append(crossings.indices.astype(np.int64))
            nb.append(np.diff(crossings.indptr).astype(np.int64))
        return cls(np.concatenate(voxels), np.concatenate(nb))

    def select(self, ids: NDArray[np.int64]) -> VoxelsCrossed:
        """Return those of some streamlines, (K,) int64."""
        nb = self.nb[ids]
        return VoxelsCrossed(self.voxels[run_rows(offsets(self.nb)[ids], nb)], nb)

    def distinct(self) -> NDArray[np.int64]:
        """Return the flat indices of the voxels that any of them crosses, in ascending order."""
        return np.unique(self.voxels)


def coverage_weights(crossed: VoxelsCrossed) -> NDArray[np.float64]:
    """Return weights that favor streamlines in voxels that few streamlines cross.

    Parameters
    ----------
    crossed
        The voxels that the S streamlines of a bundle cross.

    Returns
    -------
    (S,) float64
        The mean, over the voxels that a streamline crosses, of 1 / number of streamlines that cross the voxel: from
        1 / S to 1; 0 for a streamline outside the volume.
    """
    _, voxel, counts = np.unique(crossed.voxels, return_inverse=True, return_counts=True)
    rarity = 1 / counts[voxel.reshape(-1)]
    total = np.bincount(sequence_ids(crossed.nb), weights=rarity, minlength=len(crossed.nb))
    return total / np.maximum(crossed.nb, 1)


def draw(
    weights: NDArray[np.floating],
    mm: NDArray[np.floating],
    *,
    rng: np.random.Generator,
    max_streamlines: int | None = None,
    max_mm: float | None = None,
    min_streamlines: int | None = None,
) -> NDArray[np.int64]:
    """Draw streamlines without replacement, until a limit; if there are too few, repeat them in the order of the draw.

    The order of the draw is that of keys E / weight, with E from the standard exponential distribution: each next
    streamline is drawn with probabilities proportional to the weights of those that are left (Efraimidis and Spirakis,
    2006, "Weighted random sampling with a reservoir", doi:10.1016/j.ipl.2005.11.003).

    Parameters
    ----------
    weights : (S,)
        Weights, 0 or more, in any unit. Streamlines of weight 0 come last.
    mm : (S,)
        Length of each streamline, in mm.
    rng
        Draws the keys.
    max_streamlines
        Largest number of streamlines.
    max_mm
        Largest sum of their lengths, in mm. The draw ends before the first streamline that would exceed it, but at
        least one streamline is drawn.
    min_streamlines
        Smallest number of streamlines, within `max_mm`; if there are fewer, each is repeated floor(min_streamlines / S)
        times, and the first ones of the draw once more.

    Returns
    -------
    (K,) int64
        Ids of the streamlines, from 0 to S - 1, in ascending order; repeated ones are in it several times.
    """
    nb = len(weights)
    if not nb:
        return np.zeros(0, dtype=np.int64)
    keys = np.full(nb, np.inf)
    np.divide(rng.standard_exponential(nb), weights, out=keys, where=np.asarray(weights) > 0)
    order = np.argsort(keys, kind="stable")
    wanted = max(nb if max_streamlines is None else min(nb, max_streamlines), min_streamlines or 0)
    drawn = np.resize(order, wanted)
    if max_mm is not None:
        total = np.cumsum(np.asarray(mm, dtype=np.float64)[drawn])
        # Tolerance for accumulated rounding: a sum equal to the limit must fit.
        drawn = drawn[: max(int(np.searchsorted(total, max_mm * (1 + 1e-9), side="right")), 1)]
    return np.sort(drawn)
