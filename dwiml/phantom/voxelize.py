"""Which fibres are in which voxel: fractions, directions, endpoint labels.

Each bundle is filled with fibres so close that every subvoxel (a third of a voxel a side) of its tube holds a point.
The fibres are bent into the subject first, so no inverse of the deformation is needed and all volumes agree with the
streamlines, which are drawn from the same tubes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.spatial import KDTree

from dwiml.phantom.anatomy import Subject
from dwiml.phantom.geometry import Bundle, Floats, disc_grid

_SUBVOXELS = 3
# Fibres and their points lie closer than a subvoxel's side, for stretching must leave no subvoxel empty.
_SPACING_IN_SUBVOXELS = 0.7
# Streamlines end up to 2 mm inside the bundle's end; a tracker may stop a step too late.
_LABEL_INSIDE_MM = 3.5
_LABEL_OUTSIDE_MM = 2.0


@dataclass(frozen=True)
class FibreMap:
    """The truth in every voxel that holds fibres.

    Attributes
    ----------
    shape
        Number of voxels along each axis of the volume.
    voxels : (V,) int64
        Flat indices (C order) of the voxels that hold fibres.
    fractions : (V, B) float64
        Part of the voxel that each bundle fills; the rest of the voxel holds no fibre.
    orientations : (V, D) sparse
        Part of the voxel whose fibres have each of the D directions; a row sums to the row of ``fractions``.
    labels : (X, Y, Z) int16
        2k + 1 at the start of bundle k, 2k + 2 at its end, 0 elsewhere.
    """

    shape: tuple[int, int, int]
    voxels: npt.NDArray[np.int64]
    fractions: Floats
    orientations: sparse.csr_array
    labels: npt.NDArray[np.int16]


def map_fibres(subject: Subject, bundles: Sequence[Bundle], directions: Floats) -> FibreMap:
    """Fill the bundles with fibres, bend them into the subject and sort them into its voxels.

    Parameters
    ----------
    subject
        Deformation and voxel grid.
    bundles
        Bundles of the template.
    directions : (D, 3)
        Unit vectors in voxel axes (mm along i, j, k: not divided by the voxel sizes), one of each antipodal pair.
        Each piece of fibre is given the nearest one.
    """
    to_voxels = np.linalg.inv(subject.affine)
    nearest = KDTree(np.concatenate([directions, -directions]))
    spacing = _SPACING_IN_SUBVOXELS * subject.voxel_sizes.min() / _SUBVOXELS
    voxel_ids, subvoxel_ids, direction_ids, bundle_ids = [], [], [], []
    votes = _LabelVotes(subject.shape)
    for b, bundle in enumerate(bundles):
        fibres = _fill(bundle, subject, spacing) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        steps = np.gradient(fibres, axis=1) * subject.voxel_sizes
        points = fibres.reshape(-1, 3)
        voxel_ids.append(_flat_index(points, subject.shape, 1))
        subvoxel_ids.append(_flat_index(points, subject.shape, _SUBVOXELS))
        tangents = steps.reshape(-1, 3) / np.linalg.norm(steps.reshape(-1, 3), axis=1, keepdims=True)
        direction_ids.append(nearest.query(tangents)[1] % len(directions))
        bundle_ids.append(np.full(len(points), b))
        votes.add(2 * b + 1, _end_points(fibres, subject.voxel_sizes))
        votes.add(2 * b + 2, _end_points(fibres[:, ::-1], subject.voxel_sizes))

    voxels, rows = np.unique(np.concatenate(voxel_ids), return_inverse=True)
    bundle_of = np.concatenate(bundle_ids)
    fractions = _fractions(rows, np.concatenate(subvoxel_ids), bundle_of, (len(voxels), len(bundles)))
    counts = np.zeros_like(fractions)
    np.add.at(counts, (rows, bundle_of), 1)
    weights = (fractions / np.maximum(counts, 1))[rows, bundle_of]
    orientations = sparse.csr_array(
        (weights, (rows, np.concatenate(direction_ids))), shape=(len(voxels), len(directions))
    )
    return FibreMap(subject.shape, voxels, fractions, orientations, votes.winners)


def _fill(bundle: Bundle, subject: Subject, spacing: float) -> Floats:
    """Fill a bundle with fibres (F, T, 3) in rasmm, about `spacing` mm apart in both directions."""
    nb_u, nb_v = np.ceil(2 * bundle.half_widths.max(axis=0) / spacing).astype(int)
    disc = disc_grid(int(nb_u), int(nb_v))
    progress = np.linspace(0, 1, int(np.ceil(bundle.length / spacing)) + 1)
    return subject.deformation.apply(bundle.fibres(disc, progress))


def _flat_index(points: Floats, shape: tuple[int, int, int], parts: int) -> npt.NDArray[np.int64]:
    """Flat index of the voxel (or of the 1/parts subvoxel) around each point (N, 3), voxel space, centre origin."""
    index = np.floor((points + 0.5) * parts).astype(np.int64)
    flat: npt.NDArray[np.int64] = np.ravel_multi_index(tuple(index.T), tuple(parts * size for size in shape))
    return flat


def _fractions(
    rows: npt.NDArray[np.int64],
    subvoxels: npt.NDArray[np.int64],
    bundle_of: npt.NDArray[np.int64],
    shape: tuple[int, int],
) -> Floats:
    """Volume fraction (V, B) of each bundle: the part of the subvoxels it is in, shared with the others in there."""
    nb_bundles = shape[1]
    tenants, first = np.unique(subvoxels * nb_bundles + bundle_of, return_index=True)
    _, which, nb_tenants = np.unique(tenants // nb_bundles, return_inverse=True, return_counts=True)
    fractions = np.zeros(shape)
    np.add.at(fractions, (rows[first], bundle_of[first]), 1 / (nb_tenants[which] * _SUBVOXELS**3))
    return fractions


def _end_points(fibres: Floats, voxel_sizes: Floats) -> Floats:
    """Points (N, 3) of the fibres' first millimetres, and of their straight continuation before the first point."""
    steps = np.linalg.norm(np.diff(fibres, axis=1) * voxel_sizes, axis=2)
    along = np.concatenate([np.zeros((len(fibres), 1)), np.cumsum(steps, axis=1)], axis=1)
    backwards = (fibres[:, 0] - fibres[:, 1]) / steps[:, :1]
    reach = np.linspace(0, _LABEL_OUTSIDE_MM, 8)
    before = fibres[:, :1] + reach[None, :, None] * backwards[:, None]
    return np.concatenate([fibres[along <= _LABEL_INSIDE_MM], before.reshape(-1, 3)])


class _LabelVotes:
    """A label volume in which each voxel goes to the label with the most points in it."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.winners = np.zeros(shape, dtype=np.int16)
        self._most = np.zeros(shape, dtype=np.int64)

    def add(self, label: int, points: Floats) -> None:
        """Count the points (N, 3) of a label, voxel space, centre origin; points outside the volume are left out."""
        inside = np.all((points >= -0.5) & (points < np.array(self.winners.shape) - 0.5), axis=1)
        shape = self.winners.shape
        flat = _flat_index(points[inside], (shape[0], shape[1], shape[2]), 1)
        voxels, counts = np.unique(flat, return_counts=True)
        wins = counts > self._most.flat[voxels]
        self._most.flat[voxels[wins]] = counts[wins]
        self.winners.flat[voxels[wins]] = label
