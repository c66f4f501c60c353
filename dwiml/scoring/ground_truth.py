"""The truth that tractograms are scored against: bundles' masks and the regions where they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.ndimage import distance_transform_edt

from dwiml.arguments import check_number
from dwiml.ops.spaces import voxel_sizes_of
from dwiml.scoring.defaults import END_TOLERANCE_MM, MASK_TOLERANCE_MM, MOST_TOLERANCE_MM
from dwiml.tractograms.grid import Grid

# Distances between voxel centres are rounded.
_ROUNDING_MM = 1e-4

Volume = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TrueBundle:
    """What is known of one bundle.

    Attributes
    ----------
    mask : (X, Y, Z) bool
        Its voxels.
    head, tail : (X, Y, Z) bool, optional
        Where it ends. Both None: only its coverage can be told.
    """

    mask: Volume
    head: Volume | None = None
    tail: Volume | None = None


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Bundles on one voxel grid.

    Made by :meth:`from_volumes` or :func:`~dwiml.scoring.ground_truth_files.read_ground_truth`.

    With V voxels (flat index, C order), B bundles and R end regions:

    Attributes
    ----------
    names
        The bundles.
    grid
        The voxels.
    masks, wide_masks : sparse (V, B)
        The bundles' voxels; the same, and those within the tolerance of them.
    regions
        Names of the end regions, such as ``arch head``. Regions of the same voxels are one.
    ends : sparse (V, R)
        The regions' voxels, and those within the tolerance of them.
    head, tail : (B,) int64
        The regions where each bundle ends; -1 for a bundle without.
    mask_tolerance, end_tolerance
        In mm.
    """

    names: tuple[str, ...]
    grid: Grid
    masks: sparse.csr_array
    wide_masks: sparse.csr_array
    regions: tuple[str, ...]
    ends: sparse.csr_array
    head: NDArray[np.int64]
    tail: NDArray[np.int64]
    mask_tolerance: float
    end_tolerance: float

    @property
    def has_ends(self) -> NDArray[np.bool_]:
        """Shape (B,): the bundles whose end regions are known."""
        return self.head >= 0

    @property
    def mask_sizes(self) -> NDArray[np.int64]:
        """Shape (B,): voxels of each bundle's mask."""
        return np.bincount(self.masks.indices, minlength=len(self.names))

    @classmethod
    def from_volumes(
        cls,
        bundles: Mapping[str, TrueBundle],
        affine: ArrayLike,
        *,
        mask_tolerance: float = MASK_TOLERANCE_MM,
        end_tolerance: float = END_TOLERANCE_MM,
    ) -> GroundTruth:
        """Prepare the bundles for scoring.

        Parameters
        ----------
        bundles
            {name: its volumes}, all of one shape.
        affine : (4, 4)
            From voxel indices (centre origin) to rasmm.
        mask_tolerance
            How far (mm, from voxel centre to voxel centre) a voxel may be from a mask to be in the wide one. Less
            than a voxel changes nothing.
        end_tolerance
            How far (mm) a voxel may be from an end region to belong to it. A voxel near several regions belongs to
            the nearest only, to several only where it is as near to them, so a region's own voxels stay its own.

        Raises
        ------
        ValueError
            For no bundle, different shapes, a volume that is empty or not of booleans, a head without a tail, a head
            that is the tail, a bad affine or tolerance.
        """
        mask_tolerance = check_number("mask_tolerance", mask_tolerance, low=0, high=MOST_TOLERANCE_MM)
        end_tolerance = check_number("end_tolerance", end_tolerance, low=0, high=MOST_TOLERANCE_MM)
        sizes = voxel_sizes_of(affine)
        shape = _checked_shape(bundles)
        masks = [np.flatnonzero(bundle.mask) for bundle in bundles.values()]
        regions, volumes, head, tail = _gather_regions(bundles)
        return cls(
            names=tuple(bundles),
            grid=Grid(np.asarray(affine, dtype=np.float64), shape),
            masks=_columns(masks, shape),
            wide_masks=_columns([_widen(bundle.mask, mask_tolerance, sizes) for bundle in bundles.values()], shape),
            regions=regions,
            ends=_columns(_widen_to_nearest(volumes, end_tolerance, sizes), shape),
            head=head,
            tail=tail,
            mask_tolerance=mask_tolerance,
            end_tolerance=end_tolerance,
        )


def _checked_shape(bundles: Mapping[str, TrueBundle]) -> tuple[int, int, int]:
    if not bundles:
        raise ValueError("The ground truth has no bundle; name one at least.")
    shape = next(iter(bundles.values())).mask.shape
    for name, bundle in bundles.items():
        if (bundle.head is None) != (bundle.tail is None):
            known, missing = ("head", "tail") if bundle.tail is None else ("tail", "head")
            raise ValueError(f"Bundle '{name}' has a {known} but no {missing}; give both, or neither.")
        for kind, volume in (("mask", bundle.mask), ("head", bundle.head), ("tail", bundle.tail)):
            if volume is None:
                continue
            if volume.ndim != 3 or volume.shape != shape:
                raise ValueError(
                    f"The {kind} of bundle '{name}' has shape {volume.shape}, that of the first bundle's mask is "
                    f"{shape}; all must have the same three axes."
                )
            if volume.dtype != np.bool_:
                raise ValueError(
                    f"The {kind} of bundle '{name}' holds {volume.dtype} values, booleans are expected; compare them, "
                    "for instance (volume > 0.5)."
                )
            if not volume.any():
                raise ValueError(f"The {kind} of bundle '{name}' has no voxel.")
    x, y, z = shape
    return x, y, z


def _gather_regions(
    bundles: Mapping[str, TrueBundle],
) -> tuple[tuple[str, ...], list[Volume], NDArray[np.int64], NDArray[np.int64]]:
    """Return names and volumes of the distinct regions, and which ones each bundle joins."""
    names: dict[bytes, str] = {}
    volumes: list[Volume] = []
    joined = np.full((2, len(bundles)), -1, dtype=np.int64)
    for b, (bundle_name, bundle) in enumerate(bundles.items()):
        for side, volume in enumerate((bundle.head, bundle.tail)):
            if volume is None:
                continue
            key = np.packbits(volume).tobytes()
            name = f"{bundle_name} {('head', 'tail')[side]}"
            if key not in names:
                volumes.append(volume)
            names[key] = f"{names[key]} / {name}" if key in names else name
            joined[side, b] = list(names).index(key)
        if joined[0, b] >= 0 and joined[0, b] == joined[1, b]:
            raise ValueError(f"The head and the tail of bundle '{bundle_name}' are the same region; they must be two.")
    return tuple(names.values()), volumes, joined[0], joined[1]


def _columns(voxels: Sequence[NDArray[np.int64]], shape: tuple[int, int, int]) -> sparse.csr_array:
    """Return a matrix (V, columns) of ones at the voxels of each column."""
    indptr = np.cumsum([0, *map(len, voxels)])
    indices = np.concatenate(voxels) if voxels else np.zeros(0, dtype=np.int64)
    ones = np.ones(len(indices), dtype=np.float32)
    return sparse.csc_array((ones, indices, indptr), shape=(int(np.prod(shape)), len(voxels))).tocsr()


def _widen(mask: Volume, tolerance: float, sizes: NDArray[np.float64]) -> NDArray[np.int64]:
    near, distance = _distances(mask, tolerance, sizes)
    return near[distance <= tolerance + _ROUNDING_MM]


def _widen_to_nearest(
    regions: Sequence[Volume], tolerance: float, sizes: NDArray[np.float64]
) -> list[NDArray[np.int64]]:
    if not regions:
        return []
    nearest = np.full(regions[0].size, np.inf)
    around = [_distances(region, tolerance, sizes) for region in regions]
    for near, distance in around:
        nearest[near] = np.minimum(nearest[near], distance)
    return [
        near[(distance <= tolerance + _ROUNDING_MM) & (distance <= nearest[near] + _ROUNDING_MM)]
        for near, distance in around
    ]


def _distances(
    mask: Volume, tolerance: float, sizes: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the flat indices of the voxels in a box around a mask, and their distances to it in mm."""
    if tolerance == 0:
        voxels = np.flatnonzero(mask)
        return voxels, np.zeros(len(voxels))
    box = []
    for axis in range(3):
        occupied = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        margin = int(np.ceil(tolerance / sizes[axis]))
        box.append(np.arange(max(occupied[0] - margin, 0), min(occupied[-1] + margin + 1, mask.shape[axis])))
    inside = np.ix_(*box)
    distance = distance_transform_edt(~mask[inside], sampling=sizes)
    return np.ravel_multi_index(inside, mask.shape).ravel(), distance.ravel()
