"""Format scores of tractograms as text tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dwiml.arguments import counted, grouped
from dwiml.scoring.connections import Connection
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.scores import BundleScore, Scores

_MEASURES = {"overlap": "overlap", "overreach": "overreach", "f1": "F1"}
_CONNECTIONS = {
    "valid connections (VC)": Connection.VALID,
    "wrong path connections (WPC)": Connection.WRONG_PATH,
    "invalid connections (IC)": Connection.INVALID,
    "no connections (NC)": Connection.NONE,
}
_MOST_INVALID_BUNDLES = 5
_NOT_AVAILABLE = "-"


def tables(
    scores: Mapping[str, Scores], truth: GroundTruth, folder: str, *, max_outside: float, min_coverage: float
) -> str:
    """Return a table of the bundles and a table of the totals, for one tractogram or several side by side.

    Parameters
    ----------
    scores
        {name of the tractogram: its scores}; at least one.
    truth
        The ground truth that they were scored against.
    folder
        Folder of the ground truth, for the heading.
    max_outside, min_coverage
        Shares (0 to 1) used for the scores, for the heading.
    """
    without = len(truth.names) - int(truth.has_ends.sum())
    heading = [
        f"{counted(len(truth.names), 'true bundle')} of '{folder}'",
        f"tolerances: {truth.mask_tolerance:g} mm (mask), {truth.end_tolerance:g} mm (ends), at most "
        f"{100 * max_outside:g} % of a streamline's length outside",
    ]
    if without:
        heading.append(
            f"{without} {'has' if without == 1 else 'have'} no end regions: valid when {100 * min_coverage:g} % of the "
            "mask is covered, connections not available"
        )
    (first, *others) = scores.values()
    by_bundle = _bundles_compared(scores) if others else _bundles(first)
    parts = ["\n".join(heading), aligned(by_bundle), aligned(_totals(scores))]
    if not others and first.invalid_bundles:
        parts.append(_invalid_bundles(first))
    return "\n\n".join(parts)


def _bundles(scores: Scores) -> list[list[str]]:
    """Return the rows for one tractogram, without columns that are not available for any bundle."""
    columns: dict[str, list[str]] = {"bundle": [bundle.name for bundle in scores.bundles]}
    columns["valid bundle"] = ["yes" if bundle.found else "no" for bundle in scores.bundles]
    for key, title in (("nb_valid", "VC"), ("nb_wrong_path", "WPC"), ("nb_in_mask", "in the mask")):
        columns[title] = [_count(getattr(bundle, key)) for bundle in scores.bundles]
    for key, title in _MEASURES.items():
        columns[f"{title} %"] = [_percent(getattr(bundle, key)) for bundle in scores.bundles]
    shown = {title: cells for title, cells in columns.items() if any(cell != _NOT_AVAILABLE for cell in cells)}
    return [list(shown), *map(list, zip(*shown.values(), strict=True))]


def _bundles_compared(scores: Mapping[str, Scores]) -> list[list[str]]:
    rows = [["overlap / overreach / F1 (%)", *scores]]
    for bundles in zip(*(item.bundles for item in scores.values()), strict=True):
        rows.append([bundles[0].name, *map(_measures, bundles)])
    return rows


def _measures(bundle: BundleScore) -> str:
    return " / ".join(_percent(getattr(bundle, measure)) for measure in _MEASURES)


def _totals(scores: Mapping[str, Scores]) -> list[list[str]]:
    items = list(scores.values())
    rows = [["total", *scores], ["streamlines", *(_count(item.nb_streamlines) for item in items)]]
    if any(item.has_ends for item in items):
        for title, connection in _CONNECTIONS.items():
            rows.append([f"{title}, %", *(_percent(item.share(connection)) for item in items)])
    rows.append(["valid bundles (VB)", *(f"{item.nb_found}/{len(item.bundles)}" for item in items)])
    if any(item.has_ends for item in items):
        rows.append(["invalid bundles (IB)", *(_count(len(item.invalid_bundles)) for item in items)])
    for measure, title in _MEASURES.items():
        means = [_percent(item.mean(measure)) for item in items]
        if any(mean != _NOT_AVAILABLE for mean in means):
            rows.append([f"mean {title}, %", *means])
    return rows


def _invalid_bundles(scores: Scores) -> str:
    shown = scores.invalid_bundles[:_MOST_INVALID_BUNDLES]
    lines = [f"  {_count(bundle.nb_streamlines)}: {' - '.join(bundle.regions)}" for bundle in shown]
    nb_more = len(scores.invalid_bundles) - len(shown)
    title = "Invalid bundles (streamlines: regions)"
    return "\n".join([f"{title}, the largest; {_count(nb_more)} more:" if nb_more else f"{title}:", *lines])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as text, with the first column left-aligned and the others right-aligned.

    Parameters
    ----------
    rows
        The cells of each row, the same number in all of them; at least one row.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _percent(share: float | None) -> str:
    return _NOT_AVAILABLE if share is None else f"{100 * share:.1f}"


def _count(number: int | None) -> str:
    return _NOT_AVAILABLE if number is None else grouped(number)
