"""Format scores of tractograms as text tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dwiml.arguments import counted, grouped
from dwiml.scoring.connections import Connection
from dwiml.scoring.ground_truth import GroundTruth
from dwiml.scoring.scores import BundleScore, Scores

_MEASURES = {"overlap": "overlap", "overreach": "overreach", "f1": "F1 (Dice)"}
_CONNECTIONS = {
    "valid connections (VC)": Connection.VALID,
    "wrong path connections (WPC)": Connection.WRONG_PATH,
    "invalid connections (IC)": Connection.INVALID,
    "no connections (NC)": Connection.NONE,
}
_MOST_INVALID_BUNDLES = 5
NOT_AVAILABLE = "-"


def heading(truth: GroundTruth, folder: str, *, max_outside: float, min_coverage: float) -> str:
    """Return the lines above the tables: the ground truth and the tolerances.

    Parameters
    ----------
    truth
        The ground truth that the tractograms were scored against.
    folder
        Folder of the ground truth.
    max_outside, min_coverage
        Shares (0 to 1) used for the scores.
    """
    without = len(truth.names) - int(truth.has_ends.sum())
    lines = [
        f"{counted(len(truth.names), 'true bundle')} of '{folder}'",
        f"tolerances: {truth.mask_tolerance:g} mm (mask), {truth.end_tolerance:g} mm (ends), at most "
        f"{100 * max_outside:g} % of a streamline's length outside",
    ]
    if without:
        lines.append(
            f"{without} {'has' if without == 1 else 'have'} no end regions: valid when {100 * min_coverage:g} % of the "
            "mask is covered, connections not available"
        )
    return "\n".join(lines)


def tables(
    scores: Mapping[str, Scores], truth: GroundTruth, folder: str, *, max_outside: float, min_coverage: float
) -> str:
    """Return a table of the bundles and a table of the totals, for one tractogram or several side by side.

    Parameters
    ----------
    scores
        {name of the tractogram: its scores}; at least one.
    truth, folder, max_outside, min_coverage
        See :func:`heading`.
    """
    title = heading(truth, folder, max_outside=max_outside, min_coverage=min_coverage)
    (first, *others) = scores.values()
    by_bundle = _bundles_compared(scores) if others else _bundles(first)
    parts = [title, aligned(by_bundle), aligned(_totals(scores))]
    if not others and first.invalid_bundles:
        parts.append(_invalid_bundles(first))
    return "\n\n".join(parts)


def _bundles(scores: Scores) -> list[list[str]]:
    """Return the rows for one tractogram, without columns that are not available for any bundle."""
    columns: dict[str, list[str]] = {"bundle": [bundle.name for bundle in scores.bundles]}
    columns["valid bundle"] = ["yes" if bundle.found else "no" for bundle in scores.bundles]
    columns["VC"] = [count(bundle.nb_valid) for bundle in scores.bundles]
    columns["VC %"] = [percent(bundle.valid_share) for bundle in scores.bundles]
    for key, title in (("nb_wrong_path", "WPC"), ("nb_in_mask", "in the mask")):
        columns[title] = [count(getattr(bundle, key)) for bundle in scores.bundles]
    for key, title in _MEASURES.items():
        columns[f"{title} %"] = [percent(getattr(bundle, key)) for bundle in scores.bundles]
    columns["BA mm"] = [millimeters(bundle.adjacency) for bundle in scores.bundles]
    shown = {title: cells for title, cells in columns.items() if any(cell != NOT_AVAILABLE for cell in cells)}
    return [list(shown), *map(list, zip(*shown.values(), strict=True))]


def _bundles_compared(scores: Mapping[str, Scores]) -> list[list[str]]:
    rows = [["overlap / overreach / F1 (%)", *scores]]
    for bundles in zip(*(item.bundles for item in scores.values()), strict=True):
        rows.append([bundles[0].name, *map(_measures, bundles)])
    return rows


def _measures(bundle: BundleScore) -> str:
    return " / ".join(percent(getattr(bundle, measure)) for measure in _MEASURES)


def _totals(scores: Mapping[str, Scores]) -> list[list[str]]:
    items = list(scores.values())
    rows = [["total", *scores], ["streamlines", *(count(item.nb_streamlines) for item in items)]]
    if any(item.has_ends for item in items):
        for title, connection in _CONNECTIONS.items():
            rows.append([f"{title}, %", *(percent(item.share(connection)) for item in items)])
    rows.append(["valid bundles (VB)", *(f"{item.nb_found}/{len(item.bundles)}" for item in items)])
    if any(item.has_ends for item in items):
        rows.append(["invalid bundles (IB)", *(count(len(item.invalid_bundles)) for item in items)])
    for measure, title in _MEASURES.items():
        means = [percent(item.mean(measure)) for item in items]
        if any(mean != NOT_AVAILABLE for mean in means):
            rows.append([f"mean {title}, %", *means])
    distances = [millimeters(item.mean("adjacency")) for item in items]
    if any(distance != NOT_AVAILABLE for distance in distances):
        rows.append(["mean bundle adjacency (BA), mm", *distances])
    return rows


def _invalid_bundles(scores: Scores) -> str:
    shown = scores.invalid_bundles[:_MOST_INVALID_BUNDLES]
    lines = [f"  {count(bundle.nb_streamlines)}: {' - '.join(bundle.regions)}" for bundle in shown]
    nb_more = len(scores.invalid_bundles) - len(shown)
    title = "Invalid bundles (streamlines: regions)"
    return "\n".join([f"{title}, the largest; {count(nb_more)} more:" if nb_more else f"{title}:", *lines])


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


def percent(share: float | None) -> str:
    """Return a share (0 to 1) as text, in percent."""
    return NOT_AVAILABLE if share is None else f"{100 * share:.1f}"


def count(number: int | None) -> str:
    """Return a count as text."""
    return NOT_AVAILABLE if number is None else grouped(number)


def millimeters(distance: float | None) -> str:
    """Return a distance in mm as text."""
    return NOT_AVAILABLE if distance is None else f"{distance:.2f}"
