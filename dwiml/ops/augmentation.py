"""Augmentation of streamlines: reverse, split, noise.

Each is drawn first, then applied: `draw_...` takes the random generator and returns what was chosen; the other function
is deterministic. Streamlines are flat: `points` (N, F) of all of them in order, `lengths` (S,) points in each.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

Scalar = TypeVar("Scalar", bound=np.generic)

# In standard deviations: no point of a streamline should jump far away by chance.
_NOISE_LIMIT = 2.0


def draw_reverse(nb: int, ratio: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose the streamlines to reverse.

    Parameters
    ----------
    nb : int
        Number of streamlines, S.
    ratio : float
        Probability that a streamline is chosen, in [0, 1].
    rng : numpy.random.Generator
        Source of the draw.

    Returns
    -------
    array of shape (S,), bool
        True for a streamline to reverse.

    Raises
    ------
    ValueError
        If the ratio is outside [0, 1].
    """
    _check_ratio("reverse", ratio)
    return rng.random(nb) < ratio


def reverse(points: NDArray[Scalar], lengths: ArrayLike, chosen: NDArray[np.bool_]) -> NDArray[Scalar]:
    """Put the points of the chosen streamlines in the opposite order.

    Parameters
    ----------
    points : array of shape (N, F)
        Points of all streamlines, any space.
    lengths : array of shape (S,)
        Number of points of each streamline.
    chosen : array of shape (S,), bool
        True for a streamline to reverse.

    Returns
    -------
    array of shape (N, F)
        A copy, the chosen streamlines reversed.

    Raises
    ------
    ValueError
        If the lengths do not add up to N, or `chosen` has not one value a streamline.
    """
    lengths = _checked_lengths(lengths)
    if lengths.sum() != len(points):
        raise ValueError(f"lengths add up to {lengths.sum()} points, but there are {len(points)}.")
    chosen = np.asarray(chosen, dtype=bool)
    if chosen.shape != lengths.shape:
        raise ValueError(f"chosen must have shape {lengths.shape}, one value a streamline, got {chosen.shape}.")
    ends = np.cumsum(lengths)
    first_plus_last = ends - lengths + ends - 1
    to_move = np.flatnonzero(np.repeat(chosen, lengths))
    reversed_points = points.copy()
    reversed_points[to_move] = points[np.repeat(first_plus_last[chosen], lengths[chosen]) - to_move]
    return reversed_points


def draw_split(lengths: ArrayLike, ratio: float, rng: np.random.Generator, *, min_points: int = 2) -> NDArray[np.int64]:
    """Choose the streamlines to split in two, and where.

    Parameters
    ----------
    lengths : array of shape (S,)
        Number of points of each streamline.
    ratio : float
        Probability that a streamline is chosen, in [0, 1].
    rng : numpy.random.Generator
        Source of the draw.
    min_points : int
        Least number of points of each half. A chosen streamline of less than twice this many stays whole.

    Returns
    -------
    array of shape (S,), int64
        Number of points of the first half, uniform over the cuts that leave `min_points` on both sides; 0 for a
        streamline that stays whole.

    Raises
    ------
    ValueError
        If the ratio is outside [0, 1] or `min_points` is below 1.
    """
    _check_ratio("split", ratio)
    if min_points < 1:
        raise ValueError(f"min_points must be at least 1, got {min_points}.")
    lengths = _checked_lengths(lengths)
    chosen = rng.random(len(lengths)) < ratio
    where = rng.random(len(lengths))
    nb_cuts = lengths - 2 * min_points + 1
    cuts = min_points + np.floor(where * nb_cuts).astype(np.int64)
    return np.where(chosen & (nb_cuts > 0), cuts, 0)


def split(lengths: ArrayLike, cuts: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lengths of the streamlines after splitting. The points do not move: the two halves stay side by side.

    Parameters
    ----------
    lengths : array of shape (S,)
        Number of points of each streamline.
    cuts : array of shape (S,)
        Number of points of the first half, 0 for a streamline that stays whole.

    Returns
    -------
    new_lengths : array of shape (S',), int64
        Number of points of each streamline or half, in order; their sum is unchanged.
    counts : array of shape (S,), int64
        Into how many each streamline went, 1 or 2.

    Raises
    ------
    ValueError
        If a cut is negative or not below its streamline's length.
    """
    lengths = _checked_lengths(lengths)
    cuts = np.asarray(cuts, dtype=np.int64)
    if cuts.shape != lengths.shape:
        raise ValueError(f"cuts must have shape {lengths.shape}, one a streamline, got {cuts.shape}.")
    if ((cuts < 0) | (cuts >= np.maximum(lengths, 1))).any():
        raise ValueError("A cut must leave at least one point on both sides; 0 keeps the streamline whole.")
    is_cut = cuts > 0
    counts = 1 + is_cut.astype(np.int64)
    new_lengths = np.repeat(lengths, counts)
    second_half = (np.cumsum(counts) - 1)[is_cut]
    new_lengths[second_half - 1] = cuts[is_cut]
    new_lengths[second_half] -= cuts[is_cut]
    return new_lengths, counts


def draw_noise(nb_points: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw noise for points: a standard normal truncated at 2 standard deviations, to be multiplied by a size.

    By inversion: the normal quantile of uniform numbers between the probabilities of the two limits. The truncation
    leaves a variance of 0.774.

    Parameters
    ----------
    nb_points : int
        Number of points, N.
    rng : numpy.random.Generator
        Source of the draw.

    Returns
    -------
    array of shape (N, 3), float32
        Independent values in [-2, 2], without unit.
    """
    lowest = ndtr(-_NOISE_LIMIT)
    quantiles = lowest + (1 - 2 * lowest) * rng.random((nb_points, 3))
    # The last rounding may step over the limit.
    noise: NDArray[np.float64] = np.clip(ndtri(quantiles), -_NOISE_LIMIT, _NOISE_LIMIT)
    return noise.astype(np.float32)


def _check_ratio(name: str, ratio: float) -> None:
    if not 0 <= ratio <= 1:
        raise ValueError(f"The {name} ratio must be between 0 and 1, got {ratio}.")


def _checked_lengths(lengths: ArrayLike) -> NDArray[np.int64]:
    checked = np.asarray(lengths, dtype=np.int64)
    if checked.ndim != 1 or (checked < 0).any():
        raise ValueError(f"lengths must be one count of points a streamline, got {checked!r}.")
    return checked
