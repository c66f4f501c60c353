"""The ground truth of the scores: masks of bundles and the regions where they end."""

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

# Tolerance for rounding errors of distances between voxel centers.
_ROUNDING_MM = 1e-4

Volume = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TrueBundle:
    """A true bundle.

    Attributes
    ----------
    mask : (X, Y, Z) bool
        Voxels of the bundle.
    head, tail : (X, Y, Z) bool, optional
        Voxels where it ends. If both are None, only the coverage of the mask can be scored.
    """

    mask: Volume
    head: Volume | None = None
    tail: Volume | None = None


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """B bundles with R end regions, on a grid of V voxels (flat index, C order).

    Created by :meth:`from_volumes` or :func:`~dwiml.scoring.ground_truth_files.read_ground_truth`.

    Attributes
    ----------
    names
        Names of the bundles.
    grid
        The voxel grid.
    masks : sparse (V, B) float32
        Voxels of each bundle.
    wide_masks : sparse (V, B) float32
        Voxels of each bundle, and those within the tolerance of it.
    regions
        Names of the end regions, such as ``arch head``. Identical regions are merged.
    ends : sparse (V, R) float32
        Voxels of each region, and those within the tolerance of it.
    head, tail : (B,) int64
        Indices of the regions where each bundle ends; -1 for a bundle without end regions.
    mask_tolerance, end_tolerance
        Tolerances, in mm.
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
        """Whether the end regions of each bundle are known; shape (B,)."""
        return self.head >= 0

    @property
    def mask_sizes(self) -> NDArray[np.int64]:
        """Number of voxels in the mask of each bundle; shape (B,), int64."""
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
            {name: volumes of the bundle}, all with the same shape.
        affine : (4, 4)
            From voxel indices (center origin) to rasmm.
        mask_tolerance
            Largest distance (mm, between voxel centers) from a mask to the voxels of the widened mask. Less than the
            smallest voxel size has no effect.
        end_tolerance
            Largest distance (mm, between voxel centers) from an end region to the voxels that are added to it. A voxel
            near several regions is added to the nearest only, or to all those at the same distance.

        Raises
        ------
        ValueError
            If there are no bundles, if shapes differ, if a volume is empty or not boolean, if a bundle has a head but
            no tail or the same region as both, or if the affine or a tolerance is invalid.
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
        raise ValueError("The ground truth has no bundles; give at least one.")
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
                    f"The {kind} of bundle '{name}' has shape {volume.shape}, but the mask of the first bundle has "
                    f"shape {shape}; all must have the same three axes."
                )
            if volume.dtype != np.bool_:
                raise ValueError(
                    f"The {kind} of bundle '{name}' holds {volume.dtype} values, but booleans are expected; threshold "
                    "it, for instance with volume > 0.5."
                )
            if not volume.any():
                raise ValueError(f"The {kind} of bundle '{name}' has no voxels.")
    x, y, z = shape
    return x, y, z


def _gather_regions(
    bundles: Mapping[str, TrueBundle],
) -> tuple[tuple[str, ...], list[Volume], NDArray[np.int64], NDArray[np.int64]]:
    """Return the names and volumes of the distinct regions, and the head and tail region of each bundle."""
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
