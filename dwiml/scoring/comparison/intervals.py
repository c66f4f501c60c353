"""Confidence intervals of total scores, by the bootstrap."""

from __future__ import annotations

import numpy as np

from dwiml.arguments import check_whole
from dwiml.ops.randomness import keyed_generator
from dwiml.scoring.comparison.totals import SHARES, TOTALS
from dwiml.scoring.scores import VOLUME_MEASURES, Scores

CONFIDENCE = 0.95
FEWEST_RESAMPLES, MOST_RESAMPLES = 100, 1_000_000
# Limits the memory, with up to some hundreds of bundles.
_BATCH = 10_000

Interval = tuple[float, float]


def bootstrap_intervals(scores: Scores, *, nb_resamples: int, seed: int) -> dict[str, Interval | None]:
    """Return percentile bootstrap intervals, at the 95% level, of the total scores of a tractogram.

    Means over bundles (overlap, overreach, F1, adjacency): the bundles are resampled. Shares of connections: the
    streamlines are resampled. The numbers of the four kinds of connections in such a resample follow a multinomial
    distribution, from which they are drawn directly.

    Parameters
    ----------
    scores
        Scores of a tractogram.
    nb_resamples
        Number of resamples, from 100 to 1 000 000.
    seed
        Seed of the resamples, a non-negative integer. The same resamples are drawn for all tractograms and measures of
        the same size.

    Returns
    -------
    dict
        {name of the total score: (low, high)}, with the units of the score; None if it is not available or if there are
        fewer than two bundles or streamlines. The numbers of bundles have no interval.

    Raises
    ------
    ValueError
        If the number of resamples is invalid.

    References
    ----------
    Efron and Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13 (percentile intervals).
    """
    nb_resamples = check_whole("nb_resamples", nb_resamples, low=FEWEST_RESAMPLES, high=MOST_RESAMPLES)
    shares = _share_intervals(scores, nb_resamples, seed)
    means = {measure: _mean_interval(scores.values(measure), nb_resamples, seed) for measure in VOLUME_MEASURES}
    found = {**shares, **means}
    return {name: found[name] for name in TOTALS if name in found}


def _share_intervals(scores: Scores, nb_resamples: int, seed: int) -> dict[str, Interval | None]:
    counts = [scores.count(connection) for connection in SHARES.values()]
    nb = scores.nb_streamlines
    if nb < 2 or any(count is None for count in counts):
        return dict.fromkeys(SHARES)
    random = keyed_generator(seed, "bootstrap of streamlines")
    drawn = random.multinomial(nb, np.array(counts, dtype=np.float64) / nb, size=nb_resamples) / nb
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0).tolist()
    return dict(zip(SHARES, zip(low, high, strict=True), strict=True))


def _mean_interval(values: list[float], nb_resamples: int, seed: int) -> Interval | None:
    from scipy.stats import bootstrap

    if len(values) < 2:
        return None
    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=nb_resamples,
        batch=_BATCH,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=keyed_generator(seed, "bootstrap of bundles"),
    ).confidence_interval
    return float(interval.low), float(interval.high)
