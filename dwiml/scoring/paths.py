"""Criteria for the path of a streamline that joins the two end regions of a bundle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.ops.ragged import first_rows, last_rows, sequence_ids

Volume = NDArray[np.bool_]
Limits = tuple[float, float]
AxisLimits = tuple[Limits | None, Limits | None, Limits | None]


@dataclass(frozen=True)
class PathLimits:
    """Limits of the shape of a streamline; a value that equals a limit is outside it, as in scilpy. None: no limit.

    Attributes
    ----------
    length
        Smallest and largest length, in mm.
    displacement
        For x, y and z of rasmm, smallest and largest distance between the two end points along this axis, in mm.
    travelled
        The same, for the distance covered along this axis, in mm: going back does not cancel it.
    angle
        Largest winding angle, in degrees: the angle that the streamline covers around its center, in the plane that
        fits it best (:func:`dipy.tracking.metrics.winding`). A straight line covers 180 degrees, a loop 360.
    """

    length: Limits | None = None
    displacement: AxisLimits = (None, None, None)
    travelled: AxisLimits = (None, None, None)
    angle: float | None = None

    def allow(self, points: NDArray[np.floating], lengths: NDArray[np.int64], affine: ArrayLike) -> NDArray[np.bool_]:
        """Return whether each streamline respects the limits.

        Parameters
        ----------
        points : (N, 3)
            Points of all streamlines, concatenated; voxel space, corner origin, in voxels.
        lengths : (S,) int64
            Number of points of each streamline, at least 2.
        affine : (4, 4)
            From voxel indices to rasmm.

        Returns
        -------
        (S,) bool
        """
        allowed = np.ones(len(lengths), dtype=bool)
        if not len(lengths) or self == NO_LIMITS:
            return allowed
        # Only differences and angles matter, so the origin is left out.
        mm = np.asarray(points, dtype=np.float64) @ np.asarray(affine, dtype=np.float64)[:3, :3].T
        line = sequence_ids(lengths)
        same = line[1:] == line[:-1]
        steps, of_step = np.diff(mm, axis=0)[same], line[1:][same]
        if self.length is not None:
            total = np.bincount(of_step, weights=np.linalg.norm(steps, axis=1), minlength=len(lengths))
            allowed &= _between(total, self.length)
        ends = np.abs(mm[last_rows(lengths)] - mm[first_rows(lengths)])
        for axis in range(3):
            allowed &= _between(ends[:, axis], self.displacement[axis])
            if self.travelled[axis] is not None:
                covered = np.bincount(of_step, weights=np.abs(steps[:, axis]), minlength=len(lengths))
                allowed &= _between(covered, self.travelled[axis])
        if self.angle is not None:
            # An angle that is not defined is no reason to reject a streamline.
            allowed &= ~(winding_angles(mm, lengths) >= self.angle)
        return allowed


NO_LIMITS = PathLimits()


@dataclass(frozen=True, eq=False)
class BundlePath:
    """A way for a streamline to belong to a bundle: it joins two end regions and meets the criteria.

    Attributes
    ----------
    name
        Name, for those of the regions.
    head, tail : (X, Y, Z) bool
        The two end regions.
    inside : (X, Y, Z) bool, optional
        Mask in which the streamline must lie; None for anywhere.
    crossed : (X, Y, Z) bool, optional
        Mask of which the streamline must cross a voxel.
    limits
        Limits of its length and its shape.
    order
        Position among all paths: the first path counts if a streamline meets the criteria of several, see
        `first_wins` of :meth:`~dwiml.scoring.ground_truth.GroundTruth.from_volumes`.
    """

    name: str
    head: Volume
    tail: Volume
    inside: Volume | None = None
    crossed: Volume | None = None
    limits: PathLimits = NO_LIMITS
    order: int = 0


def winding_angles(points: NDArray[np.float64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the winding angle of each streamline: the sum of the angles between successive points, from its center.

    The angles are measured at the mean of the points, in the plane of their first two principal axes. This is
    :func:`dipy.tracking.metrics.winding` for all streamlines at once.

    Parameters
    ----------
    points : (N, 3) float64
        Points of all streamlines, concatenated, in mm, any origin.
    lengths : (S,) int64
        Number of points of each streamline, at least 1.

    Returns
    -------
    (S,) float64
        In degrees; NaN if a point is exactly at the center, where no angle is defined.
    """
    line, start = sequence_ids(lengths), first_rows(lengths)
    centered = points - (np.add.reduceat(points, start) / lengths[:, None])[line]
    scatter = np.add.reduceat(centered[:, :, None] * centered[:, None, :], start)
    # In ascending order of the eigenvalues.
    plane = np.linalg.eigh(scatter)[1][:, :, 1:]
    flat = np.einsum("nc,nca->na", centered, plane[line])
    with np.errstate(invalid="ignore", divide="ignore"):
        flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    same = line[1:] == line[:-1]
    cosines = np.clip((flat[1:] * flat[:-1]).sum(axis=1)[same], -1, 1)
    angles = np.bincount(line[1:][same], weights=np.arccos(cosines), minlength=len(lengths))
    return np.degrees(np.asarray(angles, dtype=np.float64))


def _between(values: NDArray[np.number], limits: Limits | None) -> NDArray[np.bool_]:
    return np.ones(len(values), dtype=bool) if limits is None else (values > limits[0]) & (values < limits[1])
