"""Format the result of a curation as text tables."""

from __future__ import annotations

from dwiml.arguments import grouped
from dwiml.curation.curating import Curation
from dwiml.scoring.tables import aligned


def tables(curation: Curation) -> str:
    """Return a table of the tractograms and a table of the bundles.

    Parameters
    ----------
    curation
        The result.
    """
    files = [["tractogram", "streamlines", "valid"]]
    files += [[each.file, grouped(each.nb_streamlines), grouped(each.nb_valid)] for each in curation.tractograms]
    files.append(
        [
            "total",
            grouped(sum(each.nb_streamlines for each in curation.tractograms)),
            grouped(sum(each.nb_valid for each in curation.tractograms)),
        ]
    )
    return f"{aligned(files)}\n\n{aligned(_bundles(curation))}"


def _bundles(curation: Curation) -> list[list[str]]:
    rows = [["bundle", "bundle_id", "valid", "outliers", "kept", "written", "mm", "overlap % before", "after"]]
    for index, bundle in enumerate(curation.bundles):
        numbers = (bundle.nb_valid, bundle.nb_outliers, bundle.nb_kept, bundle.nb_written, bundle.mm_written)
        overlaps = (bundle.overlap_before, bundle.overlap_after)
        rows.append([bundle.name, str(index), *map(grouped, numbers), *map(_percent, overlaps)])
    totals = [
        sum(getattr(bundle, name) for bundle in curation.bundles)
        for name in ("nb_valid", "nb_outliers", "nb_kept", "nb_written", "mm_written")
    ]
    rows.append(["total", "", *map(grouped, totals), "", ""])
    return rows


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
