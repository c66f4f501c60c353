"""Find out, without streamlines, whether the main directions of voxels lead from one voxel to the next.

The main directions of neighboring voxels form paths. With directions in wrong axes (such as gradient directions with x
mirrored), paths leave their bundle after a few voxels. Paths are followed with the directions as they are, and with
mirrored or exchanged axes, and their mean lengths are compared, similarly to Schilling et al. (2019), "A fiber
coherence index for quality control of B-table orientation in diffusion MRI scans", doi:10.1016/j.mri.2019.01.018.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.ops.axes.alignment import described_change, kind_of_unknown
from dwiml.ops.axes.conventions import BASES, Directions, sh_order
from dwiml.ops.axes.conversion import Matrix, sh_matrix, sphere_directions

MIN_VOXELS = 500
"""With fewer voxels, nothing is concluded."""
# Other axes are reported if their paths are longer by this factor, and longer than some voxels.
_FACTOR, _LEAST_VOXELS = 1.25, 3.0
_NB_STARTS = 500
_NB_ON_SPHERE = 724
_LARGEST_ANGLE = 45.0
_LONGEST_VOXELS = 25
_VOXELS_AT_ONCE = 20_000


@dataclass(frozen=True)
class Coherence:
    """How long the paths along the main directions are, as a mean in smallest voxel sizes.

    Attributes
    ----------
    length
        With the directions as they are.
    longest
        With the axes that give the longest paths.
    change
        These axes: ``x mirrored``; empty if they are the axes as they are.
    """

    length: float
    longest: float
    change: str

    @property
    def is_suspicious(self) -> bool:
        """Whether other axes give clearly longer paths."""
        return bool(self.change) and self.longest >= max(_FACTOR * self.length, _LEAST_VOXELS)


def measure_coherence(
    values: NDArray[np.floating], inside: NDArray[np.bool_], voxel_sizes: ArrayLike, known: Directions | None
) -> Coherence | None:
    """Measure how long the paths are along the main directions of voxels.

    From 500 voxels (evenly spaced in the mask), paths go both ways in steps of the smallest voxel size along the main
    direction of the voxel in which they are, until they leave the mask, turn by more than 45 degrees in a step, or have
    25 steps. The main direction is that of the longest peak or the first eigenvector of a tensor. For spherical
    harmonics, it is that of the smallest amplitude (of a diffusion signal) or the largest one (of an orientation
    distribution), whichever gives longer paths.

    Parameters
    ----------
    values
        Shape (V, F): the features of the V voxels of the mask, in C order, without standardization.
    inside
        Shape (X, Y, Z), bool: the mask, such as the white matter.
    voxel_sizes
        Shape (3,), mm.
    known
        The convention of the features; None if it is unknown. They are then taken for spherical harmonics or peaks
        because of their number, in any basis.

    Returns
    -------
    Coherence or None
        None if there are fewer than :data:`MIN_VOXELS` voxels, or the features are not directional.
    """
    if len(values) < MIN_VOXELS:
        return None
    sizes = np.asarray(voxel_sizes, dtype=np.float64)
    found = [_compared(directions, inside, sizes) for directions in _main_directions(np.asarray(values), known)]
    if not found:
        return None
    best = max(found, key=lambda each: each.longest)
    # Paths may be long as they are in another basis.
    return replace(best, length=max(each.length for each in found))


def _main_directions(values: NDArray[np.floating], known: Directions | None) -> Iterator[Matrix]:
    """Yield main directions of the voxels, shape (V, 3), unit vectors along voxel axes, in each possible reading."""
    kind = kind_of_unknown(values.shape[1]) if known is None else known.kind
    if kind == "peaks":
        peaks = values.reshape(len(values), -1, 3)
        lengths = np.linalg.norm(peaks, axis=-1)
        longest = np.take_along_axis(peaks, lengths.argmax(axis=1)[:, None, None], axis=1)[:, 0]
        yield longest / np.maximum(lengths.max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    if kind == "tensor":
        # The order of DIPY: xx, xy, yy, xz, yz, zz.
        tensors = values[:, [[0, 1, 3], [1, 2, 4], [3, 4, 5]]]
        yield np.linalg.eigh(tensors)[1][..., 2]
    if kind != "sh":
        return
    convention = known or Directions(kind="sh", basis="descoteaux07")
    bases = product(BASES, (False, True)) if known is None else [(convention.basis, convention.legacy)]
    order = sh_order(values.shape[1], full_basis=convention.full_basis)
    if not order:
        return
    sphere = sphere_directions(_NB_ON_SPHERE)
    for basis, legacy in bases:
        evaluated = partial(sh_matrix, order=order, basis=basis, legacy=legacy, full_basis=convention.full_basis)
        functions: Matrix = (evaluated(sphere) + evaluated(-sphere)) / 2
        # Functions are even: half of the sphere is enough.
        half = sphere[:, 2] > 0
        weights = functions[half].T.astype(np.float32)
        parts = np.split(values, range(_VOXELS_AT_ONCE, len(values), _VOXELS_AT_ONCE))
        amplitudes = [part.astype(np.float32) @ weights for part in parts]
        # Of a signal, and of an orientation distribution.
        yield sphere[half][np.concatenate([each.argmin(axis=1) for each in amplitudes])]
        yield sphere[half][np.concatenate([each.argmax(axis=1) for each in amplitudes])]


def _compared(directions: Matrix, inside: NDArray[np.bool_], sizes: NDArray[np.float64]) -> Coherence:
    """Return the lengths of the paths with the directions as they are, and with the best of all axes."""
    own = _mean_length(directions, inside, sizes)
    longest, change = own, ""
    for order, signs in _changes():
        turned = directions[:, list(order)] * np.array(signs)
        length = _mean_length(turned, inside, sizes)
        if length > longest:
            longest, change = length, described_change(order, signs)
    return Coherence(own, longest, change)


def _changes() -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the mirrored and exchanged axes; of two that differ by the sign of all axes, the first."""
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=2):
            if (order, signs) != ((0, 1, 2), (1, 1)):
                yield order, (*signs, 1)


def _mean_length(directions: Matrix, inside: NDArray[np.bool_], sizes: NDArray[np.float64]) -> float:
    voxels = np.argwhere(inside)
    rows = np.full(inside.shape, -1)
    rows[inside] = np.arange(len(voxels))
    starts = np.unique(np.linspace(0, len(voxels) - 1, min(_NB_STARTS, len(voxels))).astype(np.int64))
    return sum(_mean_steps(directions, voxels, rows, starts, sizes, sign) for sign in (1.0, -1.0))


def _mean_steps(
    directions: Matrix,
    voxels: NDArray[np.int64],
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    sizes: NDArray[np.float64],
    sign: float,
) -> float:
    """Return the mean number of steps from some voxels in one direction."""
    step, least = sizes.min() / sizes, np.cos(np.radians(_LARGEST_ANGLE))
    points, last = voxels[starts] + 0.5, sign * directions[starts]
    nb_steps = 0
    for _ in range(_LONGEST_VOXELS):
        points = points + last * step
        places = np.floor(points).astype(np.int64)
        in_volume = ((places >= 0) & (places < rows.shape)).all(axis=1)
        row = np.where(in_volume, rows[tuple(places.clip(0, np.array(rows.shape) - 1).T)], -1)
        following = directions[row]
        cosines = np.einsum("px,px->p", following, last)
        going = (row >= 0) & (np.abs(cosines) >= least)
        if not going.any():
            break
        nb_steps += int(np.count_nonzero(going))
        points, last = points[going], (following * np.sign(cosines)[:, None])[going]
    return nb_steps / len(starts)
