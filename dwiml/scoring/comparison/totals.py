"""The total scores of a tractogram, and their mean and standard deviation over repeated trackings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dwiml.scoring.connections import Connection
from dwiml.scoring.scores import VOLUME_MEASURES, Scores

SHARES = {
    "valid_connections": Connection.VALID,
    "wrong_path_connections": Connection.WRONG_PATH,
    "invalid_connections": Connection.INVALID,
    "no_connections": Connection.NONE,
}
COUNTS = ("valid_bundles", "invalid_bundles")
TOTALS = (*SHARES, *COUNTS, *VOLUME_MEASURES)


def totals(scores: Scores) -> dict[str, float | None]:
    """Return {name: total score} in the order of `TOTALS`, None if not available.

    Parameters
    ----------
    scores
        Scores of a tractogram.

    Returns
    -------
    dict
        Shares of the connections (0 to 1), numbers of valid and invalid bundles, and the means over the bundles of
        overlap, overreach, F1 (0 to 1) and adjacency (mm).
    """
    summary = {**scores.summary(), "adjacency": scores.mean("adjacency")}
    return {name: summary.get(name) for name in TOTALS}


def over_repeats(scores: Mapping[str, Scores]) -> dict[str, dict[str, float | int | None]]:
    """Return the mean and the standard deviation of the total scores over repeated trackings.

    Parameters
    ----------
    scores
        {name of the tractogram: its scores}: tractograms of the same tracker, for instance with different seeds.

    Returns
    -------
    dict
        {name of the total score: {"mean", "std", "nb"}}. The standard deviation is that of a sample (divided by
        nb - 1). Tractograms without this score, such as the adjacency if no bundle was found, are left out; None if too
        few remain.
    """
    rows = [totals(each) for each in scores.values()]
    result: dict[str, dict[str, float | int | None]] = {}
    for name in TOTALS:
        values = [value for row in rows if (value := row[name]) is not None]
        result[name] = {
            "mean": float(np.mean(values)) if values else None,
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "nb": len(values),
        }
    return result
