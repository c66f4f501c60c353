"""The figure of scores, read back from the matplotlib objects."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dwiml.scoring.connections import Connection
from dwiml.scoring.scores import BundleScore, InvalidBundle, Scores
from dwiml.viz.score_figure import plot_scores


def made(seed: int, nb_bundles: int = 10, *, ends: bool = True, longest: str = "") -> Scores:
    """Return random scores; every fourth bundle is not found."""
    rng = np.random.default_rng(seed)
    bundles = []
    for b in range(nb_bundles):
        found = b % 4 != 3
        bundles.append(
            BundleScore(
                name=f"bundle_{b}{longest}",
                has_ends=ends,
                found=found,
                nb_valid=int(rng.integers(1, 5000)) * found if ends else None,
                nb_wrong_path=2 if ends else None,
                nb_in_mask=None if ends else int(rng.integers(0, 5000)),
                nb_voxels=100,
                overlap=float(rng.uniform()) * found,
                overreach=float(rng.uniform(0, 3)) * found if ends else None,
                f1=float(rng.uniform()) * found if ends else None,
            )
        )
    kind = rng.permutation(np.repeat([0, 1, 2, 3], [400, 150, 50, 400])).astype(np.int8)
    return Scores(kind, np.full(1000, -1), tuple(bundles), (InvalidBundle(("a head", "b tail"), 3),) * 21)


def drawn(figure: Figure) -> list[Axes]:
    FigureCanvasAgg(figure).draw()
    return list(figure.axes)


def widths(ax: Axes) -> list[float]:
    return [patch.get_width() for patch in ax.patches]


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_every_number_of_one_tractogram_is_a_bar() -> None:
    scores = made(0)
    figure = plot_scores({"l2t": scores}, title="l2t against 10 bundles")
    sums, overlap, overreach, f1, counts = drawn(figure)
    assert figure.get_suptitle() == "l2t against 10 bundles"
    assert widths(sums) == pytest.approx([40, 5, 15, 40])
    assert texts(sums) == ["40.0", "5.0", "15.0", "40.0", "8 of 10 bundles valid, 21 invalid"]
    assert [label.get_text() for label in sums.get_yticklabels()] == ["l2t\n1 000 streamlines"]
    for ax, measure in ((overlap, "overlap"), (overreach, "overreach"), (f1, "f1")):
        values = [100 * getattr(bundle, measure) for bundle in scores.bundles]
        assert widths(ax) == pytest.approx([np.mean(values), *values])
        assert texts(ax) == [f"{value:.1f}" for value in [np.mean(values), *values]]
        assert ax.get_xlim()[1] > max(values)
    assert widths(counts) == [0, *(bundle.nb_valid for bundle in scores.bundles)]
    assert counts.get_xlabel() == "Streamlines (valid)"
    assert overlap.get_xlabel() == "Overlap (% of the true volume)"
    names = overlap.get_yticklabels()
    assert [name.get_text() for name in names] == ["mean", *(bundle.name for bundle in scores.bundles)]
    assert [name.get_fontstyle() == "italic" for name in names[1:]] == [not bundle.found for bundle in scores.bundles]


def test_several_tractograms_have_different_colors() -> None:
    scores = {"one": made(0), "$two$": made(1)}
    figure = plot_scores(scores, title="t")
    sums, overlap, *_ = drawn(figure)
    assert len(sums.patches) == 8
    values = [100 * bundle.overlap for each in scores.values() for bundle in each.bundles]
    bars = overlap.patches
    assert [bar.get_width() for i, bar in enumerate(bars) if i % 11] == pytest.approx(values)
    colors = [bar.get_facecolor() for bar in bars]
    assert len(set(colors[:11])) == len(set(colors[11:])) == 1
    assert colors[0] != colors[-1]
    (legend,) = [each for sub in figure.subfigs for each in sub.legends]
    assert [text.get_text() for text in legend.get_texts()] == ["one", "$two$"]
    # The bars of a row do not overlap.
    tops = sorted((bar.get_y(), bar.get_y() + bar.get_height()) for bar in bars)
    assert all(end <= start + 1e-9 for (_, end), (start, _) in itertools.pairwise(tops))


def test_without_end_regions_only_coverage_is_drawn() -> None:
    scores = made(0, ends=False)
    figure = plot_scores({"l2t": scores}, title="t")
    sums, overlap, counts = drawn(figure)
    assert not sums.patches
    assert "l2t: 1 000 streamlines; 8 of 10 bundles valid\n(no bundle has end regions" in texts(sums)[0]
    assert widths(overlap)[1:] == pytest.approx([100 * bundle.overlap for bundle in scores.bundles])
    assert counts.get_xlabel() == "Streamlines (in the mask)"
    assert widths(counts)[1:] == [bundle.nb_in_mask for bundle in scores.bundles]


def test_no_valid_bundle() -> None:
    missed = BundleScore("a", True, False, 0, 0, None, 10, 0.0, 0.0, 0.0)
    scores = Scores(np.zeros(0, np.int8), np.zeros(0, np.int64), (missed,), ())
    sums, overlap, overreach, *_ = drawn(plot_scores({"none": scores}, title="t"))
    assert widths(overlap) == widths(overreach) == [0, 0]
    assert widths(sums) == [0, 0, 0, 0]
    assert scores.share(Connection.VALID) is None


LONG = "_with_a_rather_long_name_that_goes_on_and_on_and_on"


@pytest.mark.first(2)
@pytest.mark.parametrize(
    ("nb_tractograms", "nb_bundles", "longest"), [(1, 10, ""), (6, 10, ""), (1, 72, LONG), (3, 25, LONG), (6, 25, LONG)]
)
def test_names_and_numbers_do_not_overlap(nb_tractograms: int, nb_bundles: int, longest: str) -> None:
    scores = {f"tractogram {i}": made(i, nb_bundles, longest=longest) for i in range(nb_tractograms)}
    figure = plot_scores(scores, title="t")
    _, *panels = drawn(figure)
    assert all(ax.get_position().width > 0.1 for ax in panels)
    labels = [label.get_window_extent() for label in panels[0].get_yticklabels()]
    assert all(upper.y0 > lower.y1 - 0.5 for upper, lower in itertools.pairwise(labels))
    assert min(label.x0 for label in labels) >= 0
    for ax in panels:
        numbers = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
        assert bool(numbers) == (nb_tractograms <= 3)
        # The boxes may overlap slightly, since they are larger than the digits.
        assert all(low.y1 <= high.y0 + 3 for low, high in itertools.pairwise(numbers))


def test_the_bundle_adjacency_has_a_panel_if_it_is_known() -> None:
    scores = made(0)
    bundles = tuple(replace(each, adjacency=1.25 + i if each.found else None) for i, each in enumerate(scores.bundles))
    scores = replace(scores, bundles=bundles)
    adjacency = drawn(plot_scores({"a": scores}, title="t"))[4]
    assert adjacency.get_xlabel() == "Bundle adjacency (mm)"
    known = [each.adjacency for each in bundles if each.adjacency is not None]
    assert widths(adjacency) == pytest.approx([np.mean(known), *(each.adjacency or 0 for each in bundles)])
    assert texts(adjacency) == [f"{value:.2f}" for value in [np.mean(known), *known]]
