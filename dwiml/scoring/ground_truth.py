"""The ground truth of the scores: masks of bundles and the regions where they end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.ndimage import distance_transform_edt

from dwiml.arguments import check_number
from dwiml.ops.spaces import voxel_sizes_of
from dwiml.scoring.defaults import END_TOLERANCE_MM, MASK_TOLERANCE_MM, MAX_OUTSIDE, MOST_TOLERANCE_MM
from dwiml.scoring.paths import NO_LIMITS, BundlePath, PathLimits, Volume
from dwiml.tractograms.grid import Grid

# Tolerance for rounding errors of distances between voxel centers.
_ROUNDING_MM = 1e-4


@dataclass(frozen=True, eq=False)
class TrueBundle:
    """A true bundle.

    Attributes
    ----------
    mask : (X, Y, Z) bool, optional
        Voxels of the bundle. None, with `paths` only, if the volume of the bundle cannot be scored.
    head, tail : (X, Y, Z) bool, optional
        Voxels where it ends. If both are None, and there are no paths, only the coverage of the mask can be scored.
    paths
        Instead of `head` and `tail`: the ways for a streamline to belong to the bundle, each with its own criteria; the
        mask is then no criterion.
    """

    mask: Volume | None
    head: Volume | None = None
    tail: Volume | None = None
    paths: tuple[BundlePath, ...] = ()


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """B bundles with P paths and R end regions, on a grid of V voxels (flat index, C order).

    A path is a pair of end regions, with criteria for the streamlines that join them. A bundle has one path, or several
    if its streamlines may join several pairs of regions.

    Created by :meth:`from_volumes` or :func:`~dwiml.scoring.ground_truth_files.read_ground_truth`.

    Attributes
    ----------
    names
        Names of the bundles.
    grid
        The voxel grid.
    masks : sparse (V, B) float32
        Voxels of each bundle.
    bundle_of_path : (P,) int64
        Index of the bundle of each path.
    wide_masks : sparse (V, P) float32
        Voxels in which a streamline of each path may lie: the mask, and the voxels within the tolerance of it.
    is_inside : (P,) bool
        Whether a path is restricted to `wide_masks`.
    crossed_masks : sparse (V, P) float32
        Voxels of which a streamline of each path must cross one.
    is_crossed : (P,) bool
        Whether a path has voxels in `crossed_masks`.
    limits
        Limits of the length and the shape of the streamlines of each path.
    regions
        Names of the end regions, such as ``arch head``. Identical regions are merged.
    ends : sparse (V, R) float32
        Voxels of each region, and those within the tolerance of it.
    head, tail : (P,) int64
        Indices of the regions where each path ends; -1 for a bundle without end regions.
    mask_tolerance, end_tolerance
        Tolerances, in mm.
    max_outside
        Default share (0 to 1) of the length of a valid connection that may lie outside `wide_masks`.
    first_wins
        Whether a streamline that is valid for several paths belongs to the first; otherwise it belongs to the bundle
        whose mask contains most of its length.
    """

    names: tuple[str, ...]
    grid: Grid
    masks: sparse.csr_array
    bundle_of_path: NDArray[np.int64]
    wide_masks: sparse.csr_array
    is_inside: NDArray[np.bool_]
    crossed_masks: sparse.csr_array
    is_crossed: NDArray[np.bool_]
    limits: tuple[PathLimits, ...]
    regions: tuple[str, ...]
    ends: sparse.csr_array
    head: NDArray[np.int64]
    tail: NDArray[np.int64]
    mask_tolerance: float
    end_tolerance: float
    max_outside: float
    first_wins: bool

    @property
    def has_ends(self) -> NDArray[np.bool_]:
        """Whether the end regions of each bundle are known; shape (B,)."""
        known = np.zeros(len(self.names), dtype=bool)
        known[self.bundle_of_path[self.head >= 0]] = True
        return known

    @property
    def mask_sizes(self) -> NDArray[np.int64]:
        """Number of voxels in the mask of each bundle, 0 for one without; shape (B,), int64."""
        return np.bincount(self.masks.indices, minlength=len(self.names))

    @classmethod
    def from_volumes(
        cls,
        bundles: Mapping[str, TrueBundle],
        affine: ArrayLike,
        *,
        mask_tolerance: float = MASK_TOLERANCE_MM,
        end_tolerance: float = END_TOLERANCE_MM,
        max_outside: float = MAX_OUTSIDE,
        first_wins: bool = False,
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
        max_outside
            Default share (0 to 1) of the length of a valid connection that may lie outside the widened mask.
        first_wins
            Whether a streamline that is valid for several bundles belongs to the one whose path is the first;
            otherwise it belongs to the one whose mask contains most of its length.

        Raises
        ------
        ValueError
            If there are no bundles, if shapes differ, if a volume is empty or not boolean, if a bundle has a head but
            no tail or the same region as both, or if the affine, a tolerance or the share is invalid.
        """
        mask_tolerance = check_number("mask_tolerance", mask_tolerance, low=0, high=MOST_TOLERANCE_MM)
        end_tolerance = check_number("end_tolerance", end_tolerance, low=0, high=MOST_TOLERANCE_MM)
        max_outside = check_number("max_outside", max_outside, low=0, high=1)
        sizes = voxel_sizes_of(affine)
        shape = _checked_shape(bundles)
        none = np.zeros(0, dtype=np.int64)
        masks = [none if bundle.mask is None else np.flatnonzero(bundle.mask) for bundle in bundles.values()]
        paths = _gather_paths(bundles)
        regions, volumes, head, tail = _gather_regions([path for _, path in paths])
        inside = [path.inside for _, path in paths]
        crossed = [path.crossed for _, path in paths]
        wide = [none if mask is None else _widen(mask, mask_tolerance, sizes) for mask in inside]
        return cls(
            names=tuple(bundles),
            grid=Grid(np.asarray(affine, dtype=np.float64), shape),
            masks=_columns(masks, shape),
            bundle_of_path=np.array([bundle for bundle, _ in paths], dtype=np.int64),
            wide_masks=_columns(wide, shape),
            is_inside=np.array([mask is not None for mask in inside]),
            crossed_masks=_columns([none if mask is None else np.flatnonzero(mask) for mask in crossed], shape),
            is_crossed=np.array([mask is not None for mask in crossed]),
            limits=tuple(path.limits for _, path in paths),
            regions=regions,
            ends=_columns(_widen_to_nearest(volumes, end_tolerance, sizes), shape),
            head=head,
            tail=tail,
            mask_tolerance=mask_tolerance,
            end_tolerance=end_tolerance,
            max_outside=max_outside,
            first_wins=first_wins,
        )


@dataclass(frozen=True, eq=False)
class _Path:
    """A path of any bundle; one without end regions has neither head nor tail."""

    name: str
    head: Volume | None
    tail: Volume | None
    inside: Volume | None
    crossed: Volume | None = None
    limits: PathLimits = NO_LIMITS


def _gather_paths(bundles: Mapping[str, TrueBundle]) -> list[tuple[int, _Path]]:
    """Return the paths of all bundles in their order, each with the index of its bundle."""
    paths = []
    for b, (name, bundle) in enumerate(bundles.items()):
        if not bundle.paths:
            paths.append((0, b, _Path(name, bundle.head, bundle.tail, bundle.mask)))
        for path in bundle.paths:
            made = _Path(path.name, path.head, path.tail, path.inside, path.crossed, path.limits)
            paths.append((path.order, b, made))
    return [(b, path) for _, b, path in sorted(paths, key=lambda item: item[0])]


def _volumes_of(bundles: Mapping[str, TrueBundle]) -> Iterator[tuple[str, Volume]]:
    """Yield what each volume is, for messages, and the volume."""
    for name, bundle in bundles.items():
        kinds = [("mask", bundle.mask), ("head", bundle.head), ("tail", bundle.tail)]
        for path in bundle.paths:
            of = "" if path.name == name else f" of '{path.name}'"
            kinds += [(f"head{of}", path.head), (f"tail{of}", path.tail)]
            kinds += [(f"all_mask{of}", path.inside), (f"any_mask{of}", path.crossed)]
        yield from ((f"The {kind} of bundle '{name}'", volume) for kind, volume in kinds if volume is not None)


def _checked_shape(bundles: Mapping[str, TrueBundle]) -> tuple[int, int, int]:
    if not bundles:
        raise ValueError("The ground truth has no bundles; give at least one.")
    for name, bundle in bundles.items():
        if (bundle.head is None) != (bundle.tail is None):
            known, missing = ("head", "tail") if bundle.tail is None else ("tail", "head")
            raise ValueError(f"Bundle '{name}' has a {known} but no {missing}; give both, or neither.")
        if bundle.paths and bundle.head is not None:
            raise ValueError(f"Bundle '{name}' has both paths and end regions of its own; give one of them.")
        if bundle.mask is None and not bundle.paths:
            raise ValueError(f"Bundle '{name}' has neither a mask nor paths; give at least one of them.")
    shape = next(volume for _, volume in _volumes_of(bundles)).shape
    for label, volume in _volumes_of(bundles):
        if volume.ndim != 3 or volume.shape != shape:
            raise ValueError(
                f"{label} has shape {volume.shape}, but the mask of the first bundle has "
                f"shape {shape}; all must have the same three axes."
            )
        if volume.dtype != np.bool_:
            raise ValueError(
                f"{label} holds {volume.dtype} values, but booleans are expected; threshold "
                "it, for instance with volume > 0.5."
            )
        if not volume.any():
            raise ValueError(f"{label} has no voxels.")
    x, y, z = shape
    return x, y, z


def _gather_regions(
    paths: Sequence[_Path],
) -> tuple[tuple[str, ...], list[Volume], NDArray[np.int64], NDArray[np.int64]]:
    """Return the names and volumes of the distinct regions, and the head and tail region of each path."""
    names: dict[bytes, str] = {}
    volumes: list[Volume] = []
    joined = np.full((2, len(paths)), -1, dtype=np.int64)
    for p, path in enumerate(paths):
        for side, volume in enumerate((path.head, path.tail)):
            if volume is None:
                continue
            key = np.packbits(volume).tobytes()
            name = f"{path.name} {('head', 'tail')[side]}"
            if key not in names:
                volumes.append(volume)
            names[key] = f"{names[key]} / {name}" if key in names else name
            joined[side, p] = list(names).index(key)
        if joined[0, p] >= 0 and joined[0, p] == joined[1, p]:
            raise ValueError(f"The head and the tail of bundle '{path.name}' are the same region; they must be two.")
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
