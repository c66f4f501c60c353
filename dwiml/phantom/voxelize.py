"""Compute the fibers in each voxel: volume fractions, directions and endpoint labels.

Each bundle is filled densely with fibers, so that every subvoxel in its tube (a voxel has 3 x 3 x 3 of them) contains
at least one point. The fibers are first deformed into the space of the subject: the inverse of the deformation is not
needed, and the volumes agree with the streamlines, which come from the same tubes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.spatial import KDTree

from dwiml.phantom.anatomy import Subject
from dwiml.phantom.geometry import Bundle, Floats, disk_grid

_SUBVOXELS = 3
# Fibers and their points are closer to each other than the side of a subvoxel, so that no subvoxel remains empty where
# the deformation stretches the tube.
_SPACING_IN_SUBVOXELS = 0.7
# Streamlines end up to 2 mm before the end of the bundle, and tracking may stop one step late.
_LABEL_INSIDE_MM = 3.5
_LABEL_OUTSIDE_MM = 2.0


@dataclass(frozen=True)
class FiberMap:
    """The true fibers of the V voxels that contain some.

    Attributes
    ----------
    shape
        Number of voxels along each axis of the volume.
    voxels
        Shape (V,), int64: flat indices (C order) of the voxels that contain fibers.
    fractions
        Shape (V, B), float64: fraction of the volume of each voxel occupied by each bundle. The rest of the voxel
        contains no fiber.
    orientations
        Shape (V, D), float64, sparse: fraction of the volume of each voxel occupied by fibers of each direction. Each
        row has the same sum as in ``fractions``.
    labels
        Shape (X, Y, Z), int16: 2k + 1 at the start of bundle k, 2k + 2 at its end, 0 elsewhere.
    """

    shape: tuple[int, int, int]
    voxels: npt.NDArray[np.int64]
    fractions: Floats
    orientations: sparse.csr_array
    labels: npt.NDArray[np.int16]


def map_fibers(subject: Subject, bundles: Sequence[Bundle], directions: Floats) -> FiberMap:
    """Fill the bundles with fibers, deform them into the subject and assign them to its voxels.

    Parameters
    ----------
    subject
        Deformation and voxel grid.
    bundles
        Bundles of the template.
    directions
        Shape (D, 3), float64: unit vectors along the voxel axes (in mm, not in voxels), one of each antipodal pair.
        Each piece of fiber is assigned to the nearest one.

    Returns
    -------
    FiberMap
    """
    to_voxels = np.linalg.inv(subject.affine)
    nearest = KDTree(np.concatenate([directions, -directions]))
    spacing = _SPACING_IN_SUBVOXELS * subject.voxel_sizes.min() / _SUBVOXELS
    voxel_ids, subvoxel_ids, direction_ids, bundle_ids = [], [], [], []
    votes = _LabelVotes(subject.shape)
    for b, bundle in enumerate(bundles):
        fibers = _fill(bundle, subject, spacing) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        steps = np.gradient(fibers, axis=1) * subject.voxel_sizes
        points = fibers.reshape(-1, 3)
        voxel_ids.append(_flat_index(points, subject.shape, 1))
        subvoxel_ids.append(_flat_index(points, subject.shape, _SUBVOXELS))
        tangents = steps.reshape(-1, 3) / np.linalg.norm(steps.reshape(-1, 3), axis=1, keepdims=True)
        direction_ids.append(nearest.query(tangents)[1] % len(directions))
        bundle_ids.append(np.full(len(points), b))
        votes.add(2 * b + 1, _end_points(fibers, subject.voxel_sizes))
        votes.add(2 * b + 2, _end_points(fibers[:, ::-1], subject.voxel_sizes))

    voxels, rows = np.unique(np.concatenate(voxel_ids), return_inverse=True)
    bundle_of = np.concatenate(bundle_ids)
    fractions = _fractions(rows, np.concatenate(subvoxel_ids), bundle_of, (len(voxels), len(bundles)))
    counts = np.zeros_like(fractions)
    np.add.at(counts, (rows, bundle_of), 1)
    weights = (fractions / np.maximum(counts, 1))[rows, bundle_of]
    orientations = sparse.csr_array(
        (weights, (rows, np.concatenate(direction_ids))), shape=(len(voxels), len(directions))
    )
    return FiberMap(subject.shape, voxels, fractions, orientations, votes.winners)


def _fill(bundle: Bundle, subject: Subject, spacing: float) -> Floats:
    """Return fibers (F, T, 3), rasmm, that fill a bundle; they and their points are about `spacing` mm apart."""
    nb_u, nb_v = np.ceil(2 * bundle.half_widths.max(axis=0) / spacing).astype(int)
    disk = disk_grid(int(nb_u), int(nb_v))
    progress = np.linspace(0, 1, int(np.ceil(bundle.length / spacing)) + 1)
    return subject.deformation.apply(bundle.fibers(disk, progress))


def _flat_index(points: Floats, shape: tuple[int, int, int], parts: int) -> npt.NDArray[np.int64]:
    """Return the flat index of the voxel around each point (N, 3), in voxel space with center origin.

    With ``parts`` above 1, return the index of the subvoxel instead, where each axis of a voxel has that many.
    """
    index = np.floor((points + 0.5) * parts).astype(np.int64)
    flat: npt.NDArray[np.int64] = np.ravel_multi_index(tuple(index.T), tuple(parts * size for size in shape))
    return flat


def _fractions(
    rows: npt.NDArray[np.int64],
    subvoxels: npt.NDArray[np.int64],
    bundle_of: npt.NDArray[np.int64],
    shape: tuple[int, int],
) -> Floats:
    """Return the volume fraction (V, B) of each bundle; bundles in the same subvoxel share it equally."""
    nb_bundles = shape[1]
    occupied, first = np.unique(subvoxels * nb_bundles + bundle_of, return_index=True)
    _, which, nb_sharing = np.unique(occupied // nb_bundles, return_inverse=True, return_counts=True)
    fractions = np.zeros(shape)
    np.add.at(fractions, (rows[first], bundle_of[first]), 1 / (nb_sharing[which] * _SUBVOXELS**3))
    return fractions


def _end_points(fibers: Floats, voxel_sizes: Floats) -> Floats:
    """Return points (N, 3) on the first millimeters of the fibers and on their straight extrapolation."""
    steps = np.linalg.norm(np.diff(fibers, axis=1) * voxel_sizes, axis=2)
    along = np.concatenate([np.zeros((len(fibers), 1)), np.cumsum(steps, axis=1)], axis=1)
    backwards = (fibers[:, 0] - fibers[:, 1]) / steps[:, :1]
    reach = np.linspace(0, _LABEL_OUTSIDE_MM, 8)
    before = fibers[:, :1] + reach[None, :, None] * backwards[:, None]
    return np.concatenate([fibers[along <= _LABEL_INSIDE_MM], before.reshape(-1, 3)])


class _LabelVotes:
    """A label volume, where each voxel has the label with the most points in it."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.winners = np.zeros(shape, dtype=np.int16)
        self._most = np.zeros(shape, dtype=np.int64)

    def add(self, label: int, points: Floats) -> None:
        """Count the points (N, 3) of a label, in voxel space with center origin; points outside are ignored."""
        inside = np.all((points >= -0.5) & (points < np.array(self.winners.shape) - 0.5), axis=1)
        shape = self.winners.shape
        flat = _flat_index(points[inside], (shape[0], shape[1], shape[2]), 1)
        voxels, counts = np.unique(flat, return_counts=True)
        wins = counts > self._most.flat[voxels]
        self._most.flat[voxels[wins]] = counts[wins]
        self.winners.flat[voxels[wins]] = label
