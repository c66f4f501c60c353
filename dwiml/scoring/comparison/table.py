"""Compact text tables of the total scores: one row per tractogram."""

from __future__ import annotations

from collections.abc import Mapping

from dwiml.scoring.comparison.intervals import Interval
from dwiml.scoring.comparison.totals import COUNTS, totals
from dwiml.scoring.scores import Scores
from dwiml.scoring.tables import NOT_AVAILABLE, aligned, count, millimeters, percent

# Total score: (heading, unit).
_COLUMNS = {
    "valid_connections": ("VC", "%"),
    "wrong_path_connections": ("WPC", "%"),
    "invalid_connections": ("IC", "%"),
    "no_connections": ("NC", "%"),
    "valid_bundles": ("VB", ""),
    "invalid_bundles": ("IB", ""),
    "overlap": ("OL", "%"),
    "overreach": ("OR", "%"),
    "f1": ("F1", "%"),
    "adjacency": ("BA", "mm"),
}
_LEGEND = (
    "VC, WPC, IC, NC: valid, wrong path, invalid and no connections; VB, IB: valid and invalid bundles;\n"
    "OL, OR, F1, BA: mean overlap, overreach, F1 (Dice) and bundle adjacency"
)


def comparison_table(
    scores: Mapping[str, Scores], repeats: Mapping[str, Mapping[str, float | int | None]] | None = None
) -> str:
    """Return a table with one row per tractogram, and a legend.

    Parameters
    ----------
    scores
        {name of the tractogram: its scores}; may be empty if `repeats` are given.
    repeats
        From :func:`~dwiml.scoring.comparison.totals.over_repeats`: two more rows, the mean and the standard deviation.
    """
    rows = [["tractogram", "streamlines", *(f"{title} {unit}".rstrip() for title, unit in _COLUMNS.values())]]
    for name, each in scores.items():
        cells = {key: _cell(key, value) for key, value in totals(each).items()}
        cells["valid_bundles"] = f"{each.nb_found}/{len(each.bundles)}"
        rows.append([name, count(each.nb_streamlines), *(cells[key] for key in _COLUMNS)])
    for key, title in (("mean", "mean"), ("std", "standard deviation")) if repeats else ():
        assert repeats is not None
        rows.append([title, "", *(_cell(name, repeats[name][key], decimals=1) for name in _COLUMNS)])
    return f"{aligned(rows)}\n\n{_LEGEND}"


def interval_table(intervals: Mapping[str, Mapping[str, Interval | None]]) -> str:
    """Return a table of intervals, with one row per tractogram.

    Parameters
    ----------
    intervals
        {name of the tractogram: intervals from :func:`~dwiml.scoring.comparison.intervals.bootstrap_intervals`}.
    """
    names = [name for name in _COLUMNS if name not in COUNTS]
    rows = [["95% interval", *(" ".join(_COLUMNS[name]) for name in names)]]
    for tractogram, found in intervals.items():
        cells = []
        for name in names:
            interval = found[name]
            ends = None if interval is None else [_cell(name, end) for end in interval]
            cells.append(NOT_AVAILABLE if ends is None else f"{ends[0]} to {ends[1]}")
        rows.append([tractogram, *cells])
    return aligned(rows)


def _cell(name: str, value: float | int | None, decimals: int = 0) -> str:
    """Return a total score as text: shares in percent, mm with two decimals, and counts with `decimals`."""
    if value is None:
        return NOT_AVAILABLE
    if name in COUNTS:
        return f"{value:.{decimals}f}"
    return millimeters(value) if _COLUMNS[name][1] == "mm" else percent(value)
