"""Augmentation of streamlines: reversal, splitting, independent noise and correlated positional noise.

Each augmentation is drawn first and then applied. ``draw_...`` uses the random generator and returns the draws, which
can be stored and applied again; applying them is deterministic. Streamlines are flat: ``points`` (N, F) has the
concatenated points of all streamlines, and ``lengths`` (S,) the number of points of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import lfilter

from dwiml.ops.ragged import last_rows, reversed_rows

Scalar = TypeVar("Scalar", bound=np.generic)

# In standard deviations: no point of a streamline is moved far away by chance.
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
    """Reverse the order of the points of the chosen streamlines.

    Parameters
    ----------
    points : array of shape (N, F)
        Points of all streamlines, any space and origin.
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
        If the lengths do not add up to N, or `chosen` does not have one value per streamline.
    """
    lengths = _checked_lengths(lengths)
    if lengths.sum() != len(points):
        raise ValueError(f"lengths add up to {lengths.sum()} points, but there are {len(points)}.")
    chosen = np.asarray(chosen, dtype=bool)
    if chosen.shape != lengths.shape:
        raise ValueError(f"chosen must have shape {lengths.shape}, one value per streamline, got {chosen.shape}.")
    to_move = np.repeat(chosen, lengths)
    reversed_points = points.copy()
    reversed_points[to_move] = points[reversed_rows(lengths)[to_move]]
    return reversed_points


def draw_split(nb: int, ratio: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Choose the streamlines to split in two, and where.

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
    array of shape (S,), float64
        For a chosen streamline, where to cut it, uniform in [0, 1), as a fraction of the cuts that its length
        allows. -1 for a streamline that is not split.

    Raises
    ------
    ValueError
        If the ratio is outside [0, 1].
    """
    _check_ratio("split", ratio)
    chosen = rng.random(nb) < ratio
    return np.where(chosen, rng.random(nb), -1.0)


def cuts_at(lengths: ArrayLike, places: ArrayLike, *, min_points: int = 2) -> NDArray[np.int64]:
    """Convert the places of :func:`draw_split` to numbers of points.

    Parameters
    ----------
    lengths : array of shape (S,)
        Number of points of each streamline.
    places : array of shape (S,)
        Where to cut each, in [0, 1); negative for one that stays whole.
    min_points : int
        Minimum number of points of each half. A chosen streamline with fewer than twice as many points is not split.

    Returns
    -------
    array of shape (S,), int64
        Number of points of the first half, uniform over the cuts that leave `min_points` on both sides when the place
        is uniform; 0 for a streamline that stays whole.

    Raises
    ------
    ValueError
        If `min_points` is below 1, or there is not one place per streamline.
    """
    if min_points < 1:
        raise ValueError(f"min_points must be at least 1, got {min_points}.")
    lengths = _checked_lengths(lengths)
    places = np.asarray(places, dtype=np.float64)
    if places.shape != lengths.shape:
        raise ValueError(f"places must have shape {lengths.shape}, one per streamline, got {places.shape}.")
    nb_cuts = lengths - 2 * min_points + 1
    cuts = min_points + np.floor(places * nb_cuts).astype(np.int64)
    return np.where((places >= 0) & (nb_cuts > 0), cuts, 0)


def split(lengths: ArrayLike, cuts: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the lengths of the streamlines after splitting; the points stay where they are in the flat array.

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
        Number of pieces of each streamline, 1 or 2.

    Raises
    ------
    ValueError
        If a cut is negative or not below its streamline's length.
    """
    lengths = _checked_lengths(lengths)
    cuts = np.asarray(cuts, dtype=np.int64)
    if cuts.shape != lengths.shape:
        raise ValueError(f"cuts must have shape {lengths.shape}, one per streamline, got {cuts.shape}.")
    if ((cuts < 0) | (cuts >= np.maximum(lengths, 1))).any():
        raise ValueError("A cut must leave at least one point on both sides; 0 keeps the streamline whole.")
    is_cut = cuts > 0
    counts = 1 + is_cut.astype(np.int64)
    new_lengths = np.repeat(lengths, counts)
    second_half = last_rows(counts)[is_cut]
    new_lengths[second_half - 1] = cuts[is_cut]
    new_lengths[second_half] -= cuts[is_cut]
    return new_lengths, counts


@dataclass(frozen=True)
class DrawnAugmentation:
    """The reversal and splitting drawn for each streamline of a batch; applied again, they give the same batch.

    Attributes
    ----------
    reversed : array of shape (S,), bool
        Whether the streamline is reversed.
    split_places : array of shape (S,), float64
        Where it is cut in two once it is reversed, as :func:`draw_split` returns it; -1: it stays whole.
    """

    reversed: NDArray[np.bool_]
    split_places: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.reversed)

    def __getitem__(self, some: slice) -> DrawnAugmentation:
        """Return the draws of some of the streamlines."""
        return DrawnAugmentation(self.reversed[some], self.split_places[some])

    def apply(
        self, points: NDArray[Scalar], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[Scalar], NDArray[np.int64], NDArray[np.int64]]:
        """Reverse, then split.

        Parameters
        ----------
        points : array of shape (N, F)
            Points of all streamlines, any space and origin.
        lengths : array of shape (S,)
            Number of points of each streamline.

        Returns
        -------
        points : array of shape (N, F)
            The same points, in their new order.
        lengths : array of shape (S',), int64
            Number of points of each streamline or half.
        counts : array of shape (S,), int64
            Number of pieces of each streamline, 1 or 2.

        Raises
        ------
        ValueError
            If it was drawn for another number of streamlines.
        """
        if len(self) != len(lengths):
            raise ValueError(f"This augmentation was drawn for {len(self)} streamlines, the batch has {len(lengths)}.")
        if self.reversed.any():
            points = reverse(points, lengths, self.reversed)
        return points, *split(lengths, cuts_at(lengths, self.split_places))


def draw_noise(nb_points: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw independent noise for points: normal, truncated at 2 standard deviations, to be multiplied by a size.

    Values beyond the limit are drawn again until there is none (rejection sampling). The variance is then 0.774, that
    of the truncated normal distribution, 1 - 4 phi(2) / (2 Phi(2) - 1).

    Parameters
    ----------
    nb_points : int
        Number of points, N.
    rng : numpy.random.Generator
        Source of the draw.

    Returns
    -------
    array of shape (N, 3), float32
        Values in [-2, 2], without unit.
    """
    noise = rng.standard_normal(3 * nb_points, dtype=np.float32)
    beyond = np.flatnonzero(np.abs(noise) > _NOISE_LIMIT)
    while len(beyond):
        noise[beyond] = rng.standard_normal(len(beyond), dtype=np.float32)
        beyond = beyond[np.abs(noise[beyond]) > _NOISE_LIMIT]
    return noise.reshape(nb_points, 3)


def draw_correlated_noise(lengths: ArrayLike, nb_points: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw correlated positional noise: streamlines that drift from their true positions; to be multiplied by a size.

    Each coordinate is an Ornstein-Uhlenbeck process sampled at the points, that is a stationary autoregressive process
    of order 1: normal, of variance 1, the correlation between two points k points apart being exp(-k / nb_points). All
    of a streamline's noise is then multiplied by one number drawn uniformly from 0 to 2. Source of the process:
    Uhlenbeck and Ornstein, "On the theory of the Brownian motion", 1930, doi:10.1103/PhysRev.36.823.

    Parameters
    ----------
    lengths : array of shape (S,)
        Number of points of each streamline.
    nb_points : float
        Correlation length, in points; positive.
    rng : numpy.random.Generator
        Source of the draw.

    Returns
    -------
    array of shape (N, 3), float32
        Noise of all points, one streamline after the other; without unit.

    Raises
    ------
    ValueError
        If a length is negative.
    """
    lengths = _checked_lengths(lengths)
    longest = int(lengths.max(initial=0))
    if not longest:
        return np.zeros((0, 3), dtype=np.float32)
    kept = np.exp(-1.0 / nb_points)
    innovation = np.sqrt(1.0 - kept**2)
    drawn = rng.standard_normal((len(lengths), longest, 3), dtype=np.float32)
    # Stationary from the first point on: it has the variance of the process, not of the innovations.
    drawn[:, 0] /= innovation
    noise = lfilter([innovation], [1.0, -kept], drawn, axis=1)
    noise *= rng.uniform(0.0, 2.0, len(lengths))[:, None, None]
    return np.asarray(noise[np.arange(longest) < lengths[:, None]], dtype=np.float32)


def _check_ratio(name: str, ratio: float) -> None:
    if not 0 <= ratio <= 1:
        raise ValueError(f"The {name} ratio must be between 0 and 1, got {ratio}.")


def _checked_lengths(lengths: ArrayLike) -> NDArray[np.int64]:
    checked = np.asarray(lengths, dtype=np.int64)
    if checked.ndim != 1 or (checked < 0).any():
        raise ValueError(f"lengths must be one number of points per streamline, got {checked!r}.")
    return checked
