"""Measure in which axes directional features follow the streamlines.

In white matter, a streamline runs along the fibers, where a fiber orientation distribution or a tensor is largest and a
diffusion signal is smallest. The alignment is 1 if the tangent of each sampled point has the largest (or smallest)
amplitude of its voxel, and 0 if the two are unrelated: ``sum(f(tangent) - mean(f)) / sum(max(f) - mean(f))``, with the
mean and the maximum over the sphere, so that voxels with a clear direction count more. For peaks, it is the mean of
``(3 cos^2 - 1) / 2``, weighted by the lengths of the peaks. Another choice of axes rotates the functions, and gives a
smaller alignment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dwiml.ops.axes.conventions import AXES, BASES, TENSOR_ORDERS, Directions, sh_order
from dwiml.ops.axes.conversion import Matrix, axes_matrix, conversion_matrix, sh_matrix, sphere_directions

MIN_POINTS = 100
"""With fewer points, nothing is concluded."""
# Another reading is reported if it is better by this much, and relates to the streamlines at all. Between the two, the
# points are the same, so that the noise of the difference is small.
_MARGIN, _LEAST = 0.05, 0.3
_UNKNOWN_MARGIN, _UNKNOWN_LEAST = 0.1, 0.5
# Readings this close to the best one are equivalent.
_EQUIVALENT = 0.01
_SAME_AXES = 1e-2
# Mean of a diffusion signal above its minimum, in parts of its range: with b-values up to about 3000 s/mm2, it is above
# 0.35 for one, two or three fibers. That of an orientation distribution with sharp peaks is below 0.25.
_LOWEST_SIGNAL = 0.25
# Directions in which the mean and the range of a function are taken.
_NB_ON_SPHERE = 724
_SH_COUNTS = (15, 28, 45, 66, 91, 120, 153)
_NB_OF_THREE_PEAKS = 9
_TINY = float(np.finfo(np.float64).tiny)
_Turn = tuple[tuple[float, ...], ...]
_AS_IT_IS: _Turn = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True)
class Reading:
    """Features read in a convention, and how well they follow the streamlines.

    Attributes
    ----------
    directions
        The convention of the image, if it can be stated in a groups config; otherwise None.
    change
        What would have to change in the axes, if it cannot be stated: ``x mirrored``.
    alignment
        At most 1; 0 if features and streamlines are unrelated.
    """

    directions: Directions | None
    change: str
    alignment: float


@dataclass(frozen=True)
class Measurement:
    """The alignment of some features of a subject.

    Attributes
    ----------
    kind
        ``sh``, ``peaks`` or ``tensor``.
    stated
        The convention from which the features were converted; None if it is unknown.
    alignment
        Alignment of the features as stored (for an unknown convention: in voxel axes, in the basis that fits best).
    best
        The reading with the largest alignment.
    nb_points
        Number of points of streamlines.
    """

    kind: str
    stated: Directions | None
    alignment: float
    best: Reading
    nb_points: int

    @property
    def is_suspicious(self) -> bool:
        """Whether another reading fits clearly better than the one that is stored."""
        margin, least = (_MARGIN, _LEAST) if self.stated else (_UNKNOWN_MARGIN, _UNKNOWN_LEAST)
        return self.best.alignment >= least and self.best.alignment - self.alignment > margin


def kind_of_unknown(nb_features: int) -> str:
    """Return what features of an unknown convention probably are, from their number; empty if it cannot be said.

    15, 28, 45, ... features are taken for spherical harmonics of even degrees, and 9 for three peaks. 6 are either a
    tensor or spherical harmonics, so they are not measured.
    """
    if nb_features in _SH_COUNTS:
        return "sh"
    return "peaks" if nb_features == _NB_OF_THREE_PEAKS else ""


# Values that are too large or not numbers are reported by the checks of the file.
@np.errstate(over="ignore", invalid="ignore")
def measure(
    values: NDArray[np.floating], tangents: NDArray[np.floating], affine: ArrayLike, stated: Directions | None
) -> Measurement | None:
    """Measure how well features follow the streamlines, as stored and in other axes.

    Parameters
    ----------
    values
        Shape (P, F): the features at P points, as stored but without standardization.
    tangents
        Shape (P, 3): direction of the streamline at each point, along voxel axes, in mm; of any length but zero.
    affine
        Shape (4, 4): from voxel indices to rasmm, in mm.
    stated
        The convention from which the features were converted; None if it is unknown.

    Returns
    -------
    Measurement or None
        None if there are fewer than :data:`MIN_POINTS` points with a value, or the features are not directional.
    """
    kind = stated.kind if stated is not None else kind_of_unknown(values.shape[1])
    some = (values != 0).any(axis=1)
    if kind == "sh" and sh_order(values.shape[1], full_basis=stated is not None and stated.full_basis) == 0:
        # A constant has no direction.
        return None
    if kind in ("", "none") or np.count_nonzero(some) < MIN_POINTS:
        return None
    rows: Matrix = values[some].astype(np.float64)
    units: Matrix = tangents[some].astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    readings = list({"sh": _of_sh, "peaks": _of_peaks, "tensor": _of_tensors}[kind](rows, units, affine, stated))
    return Measurement(kind, stated, _current(readings, stated), _best(readings, stated), len(rows))


def _best(readings: list[Reading], stated: Directions | None) -> Reading:
    """Return the best reading; of those that are equivalent to it, the stated one or else one that can be stated."""
    largest = max(reading.alignment for reading in readings)
    equivalent = [reading for reading in readings if reading.alignment > largest - _EQUIVALENT]

    def preference(reading: Reading) -> tuple[bool, bool, float]:
        is_stated = stated is not None and reading.directions == stated
        return is_stated, reading.directions is not None, reading.alignment

    return max(equivalent, key=preference)


def _current(readings: list[Reading], stated: Directions | None) -> float:
    same = [
        reading.alignment
        for reading in readings
        if reading.directions is not None
        and (reading.directions == stated if stated is not None else reading.directions.axes == "voxel")
    ]
    return max(same)


def _of_sh(values: Matrix, tangents: Matrix, affine: ArrayLike, stated: Directions | None) -> Iterator[Reading]:
    known = stated or Directions(kind="sh", basis="descoteaux07")
    nb = values.shape[1]
    # Where the convention is unknown, the values are those of the image.
    original = values
    if stated is not None:
        original = values @ np.linalg.inv(conversion_matrix(stated, nb, axes_matrix(stated.axes, affine))).T
    functions: dict[bytes, Matrix] = {}
    found: list[tuple[Directions | None, str, float, float]] = []
    heights: list[float] = []
    for basis, legacy in sorted(product(BASES, (False, True)), key=lambda each: each != (known.basis, known.legacy)):
        convention = replace(known, basis=basis, legacy=legacy)
        # All functions in one basis, in the axes of the image.
        coefficients = original @ _cached_conversion(replace(convention, axes="voxel"), nb, _AS_IT_IS).T
        mean, low, high = _range_over_sphere(coefficients, convention.stored)
        heights.append(float((mean - low).sum() / max((high - low).sum(), _TINY)))
        is_own = (basis, legacy) == (known.basis, known.legacy)
        for named, change, axes, turn in _readings(convention, affine, unnamed=is_own):
            if axes.tobytes() not in functions:
                functions[axes.tobytes()] = _even_functions(tangents @ axes.T, nb, convention.stored)
            turned = coefficients
            if turn != _AS_IT_IS:
                turned = coefficients @ _cached_conversion(convention.stored, nb, turn).T
            amplitudes = np.einsum("pf,pf->p", turned, functions[axes.tobytes()])
            share_high = (amplitudes - mean).sum() / max((high - mean).sum(), _TINY)
            share_low = (mean - amplitudes).sum() / max((mean - low).sum(), _TINY)
            found.append((named, change, share_high, share_low))
    # A signal is smallest along the fibers; an orientation distribution is largest. One with sharp peaks is close to
    # its minimum in most directions, so that any wrong direction might be taken for a fiber of a signal.
    height = min(heights) if stated is None else heights[0]
    is_signal = height > _LOWEST_SIGNAL and max(each[3] for each in found) > max(each[2] for each in found)
    for named, change, share_high, share_low in found:
        yield Reading(named, change, float(share_low if is_signal else share_high))


@lru_cache(maxsize=256)
def _cached_conversion(read: Directions, nb: int, turn: _Turn) -> Matrix:
    return conversion_matrix(read, nb, np.array(turn, dtype=np.float64))


def _even_functions(directions: Matrix, nb: int, known: Directions) -> Matrix:
    """Return the values of the harmonics, shape (N, F), averaged over both orientations of each direction."""
    order = sh_order(nb, full_basis=known.full_basis)
    assert order is not None
    evaluated = partial(sh_matrix, order=order, basis=known.basis, legacy=known.legacy, full_basis=known.full_basis)
    return (evaluated(directions) + evaluated(-directions)) / 2 if known.full_basis else evaluated(directions)


@lru_cache(maxsize=8)
def _functions_on_sphere(nb: int, known: Directions) -> Matrix:
    return _even_functions(sphere_directions(_NB_ON_SPHERE), nb, known)


def _range_over_sphere(coefficients: Matrix, known: Directions) -> tuple[Matrix, Matrix, Matrix]:
    """Return the mean, the minimum and the maximum of each function, shape (P,) each."""
    amplitudes = coefficients @ _functions_on_sphere(coefficients.shape[1], known).T
    return amplitudes.mean(axis=1), amplitudes.min(axis=1), amplitudes.max(axis=1)


def _of_peaks(values: Matrix, tangents: Matrix, affine: ArrayLike, stated: Directions | None) -> Iterator[Reading]:
    known = stated or Directions(kind="peaks")
    peaks = values.reshape(len(values), -1, 3) @ axes_matrix(known.axes, affine).T
    lengths = np.linalg.norm(peaks, axis=-1)
    for named, change, axes, turn in _readings(known, affine):
        products = np.einsum("pkx,px->pk", peaks, tangents @ (np.array(turn) @ axes).T)
        # The lengths cancel one of the two factors of cos^2.
        squares = np.divide(products**2, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        yield Reading(named, change, float((1.5 * squares - 0.5 * lengths).sum() / lengths.sum()))


def _of_tensors(values: Matrix, tangents: Matrix, affine: ArrayLike, stated: Directions | None) -> Iterator[Reading]:
    assert stated is not None
    rotation = axes_matrix(stated.axes, affine)
    original = values @ np.linalg.inv(conversion_matrix(stated, 6, rotation)).T
    for order in sorted(TENSOR_ORDERS, key=lambda name: name != stated.order):
        known = replace(stated, order=order)
        lower = original[:, TENSOR_ORDERS[order]]
        tensors = lower[:, [[0, 1, 3], [1, 2, 4], [3, 4, 5]]]
        mean = tensors.trace(axis1=1, axis2=2) / 3
        largest = np.linalg.eigvalsh(tensors)[:, 2]
        for named, change, axes, turn in _readings(known, affine, unnamed=order == stated.order):
            directions = tangents @ (np.array(turn) @ axes).T
            along = np.einsum("px,pxy,py->p", directions, tensors, directions)
            yield Reading(named, change, float((along - mean).sum() / max((largest - mean).sum(), _TINY)))


def _readings(
    known: Directions, affine: ArrayLike, *, unnamed: bool = True
) -> Iterator[tuple[Directions | None, str, Matrix, _Turn]]:
    """Yield the readings of an image: convention, change, matrix from voxel axes to its axes, and their change.

    The first is that of the known convention, then those of the other axes, then those with mirrored or exchanged axes.
    Equal readings are not repeated; two that differ by a sign are equal, because streamlines have no orientation.
    """
    seen: list[Matrix] = []

    def is_new(rotation: Matrix) -> bool:
        new = all(min(np.abs(rotation - sign * other).max() for sign in (1, -1)) > _SAME_AXES for other in seen)
        if new:
            seen.append(rotation)
        return new

    for axes in sorted(AXES, key=lambda name: name != known.axes):
        rotation = axes_matrix(axes, affine)
        if is_new(rotation):
            yield replace(known, axes=axes), "", rotation, _AS_IT_IS
    own = axes_matrix(known.axes, affine)
    for order in permutations(range(3)) if unnamed else ():
        for signs in product((1, -1), repeat=3):
            change = np.zeros((3, 3))
            change[range(3), order] = signs
            if is_new(change @ own):
                yield None, described_change(order, signs), own, tuple(map(tuple, change.tolist()))


def described_change(order: tuple[int, ...], signs: tuple[int, ...]) -> str:
    """Return what was done to axes, such as ``x mirrored``: their order (three axes), then their signs."""
    names = [f"{'-' * (sign < 0)}{'xyz'[axis]}" for axis, sign in zip(order, signs, strict=True)]
    mirrored = [k for k, sign in enumerate(signs) if sign < 0]
    if order == (0, 1, 2):
        # Two mirrored axes are the same as the third one alone.
        left = mirrored[0] if len(mirrored) == 1 else ({0, 1, 2} - set(mirrored)).pop()
        return f"{'xyz'[left]} mirrored"
    return f"x, y, z replaced by {', '.join(names)}"
