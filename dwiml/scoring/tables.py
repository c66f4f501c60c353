"""The scores of tractograms as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
_UNTOLD = "-"


def tables(
    scores: Mapping[str, Scores], truth: GroundTruth, folder: str, *, max_outside: float, min_coverage: float
) -> str:
    """Return a table by bundle and one of the totals: of one tractogram, or of several side by side."""
    without = len(truth.names) - int(truth.has_ends.sum())
    heading = [
        f"{len(truth.names)} true bundle{'s' * (len(truth.names) != 1)} of '{folder}'",
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
    parts = ["\n".join(heading), _aligned(by_bundle), _aligned(_sums(scores))]
    if not others and first.invalid_bundles:
        parts.append(_invalid_bundles(first))
    return "\n\n".join(parts)


def _bundles(scores: Scores) -> list[list[str]]:
    """Return the rows of one tractogram; a column that no bundle has is left out."""
    columns: dict[str, list[str]] = {"bundle": [bundle.name for bundle in scores.bundles]}
    columns["valid bundle"] = ["yes" if bundle.found else "no" for bundle in scores.bundles]
    for key, title in (("nb_valid", "VC"), ("nb_wrong_path", "WPC"), ("nb_in_mask", "in the mask")):
        columns[title] = [_count(getattr(bundle, key)) for bundle in scores.bundles]
    for key, title in _MEASURES.items():
        columns[f"{title} %"] = [_percent(getattr(bundle, key)) for bundle in scores.bundles]
    told = {title: cells for title, cells in columns.items() if any(cell != _UNTOLD for cell in cells)}
    return [list(told), *map(list, zip(*told.values(), strict=True))]


def _bundles_compared(scores: Mapping[str, Scores]) -> list[list[str]]:
    rows = [["overlap / overreach / F1 (%)", *scores]]
    for bundles in zip(*(each.bundles for each in scores.values()), strict=True):
        rows.append([bundles[0].name, *map(_measures, bundles)])
    return rows


def _measures(bundle: BundleScore) -> str:
    return " / ".join(_percent(getattr(bundle, measure)) for measure in _MEASURES)


def _sums(scores: Mapping[str, Scores]) -> list[list[str]]:
    every = list(scores.values())
    rows = [["total", *scores], ["streamlines", *(_count(each.nb_streamlines) for each in every)]]
    if any(each.has_ends for each in every):
        for title, connection in _CONNECTIONS.items():
            rows.append([f"{title}, %", *(_percent(each.share(connection)) for each in every)])
    rows.append(["valid bundles (VB)", *(f"{each.nb_found}/{len(each.bundles)}" for each in every)])
    if any(each.has_ends for each in every):
        rows.append(["invalid bundles (IB)", *(_count(len(each.invalid_bundles)) for each in every)])
    for measure, title in _MEASURES.items():
        means = [_percent(each.mean(measure)) for each in every]
        if any(mean != _UNTOLD for mean in means):
            rows.append([f"mean {title}, %", *means])
    return rows


def _invalid_bundles(scores: Scores) -> str:
    shown = scores.invalid_bundles[:_MOST_INVALID_BUNDLES]
    lines = [f"  {_count(each.nb_streamlines)}: {' - '.join(each.regions)}" for each in shown]
    left = len(scores.invalid_bundles) - len(shown)
    title = "Invalid bundles (streamlines: regions)"
    return "\n".join([f"{title}, the largest; {_count(left)} more:" if left else f"{title}:", *lines])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as text, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _percent(share: float | None) -> str:
    return _UNTOLD if share is None else f"{100 * share:.1f}"


def _count(number: int | None) -> str:
    return _UNTOLD if number is None else f"{number:,}".replace(",", " ")
