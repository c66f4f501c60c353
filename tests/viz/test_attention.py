"""Figures of attention, read back from the matplotlib objects."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dwiml.viz.attention import plot_attended_streamlines, plot_attention
from dwiml.viz.pieces import DrawnTractogram


def drawn(figure: Figure) -> Figure:
    FigureCanvasAgg(figure).draw()
    return figure


def weights(nb: int, seed: int = 0) -> np.ndarray:
    found = np.tril(np.random.default_rng(seed).random((nb, nb)) ** 4)
    return found / found.sum(axis=1, keepdims=True)


def test_all_panels_have_one_scale_and_hide_only_later_points() -> None:
    nb, rare = 12, weights(12)
    rare[5] = [1.0, 1e-9, *[0.0] * 10]
    rows = {"encoder": {"layer 0": weights(nb), "layer 1": rare}, "$cross": {"layer 0": weights(nb, 2)}}
    figure = drawn(plot_attention(rows, 1.5 * np.arange(nb), title="a $ b"))
    panels = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in panels] == ["encoder, layer 0", "encoder, layer 1", "$cross, layer 0"]
    assert len({ax.images[0].norm.vmin for ax in panels}) == 1
    assert panels[0].images[0].norm.vmax == max(each.max() for row in rows.values() for each in row.values())
    for ax in panels:
        shown = ax.images[0].get_array()
        np.testing.assert_array_equal(shown.mask, ~np.tri(nb, dtype=bool))
        # The lowest weights have a color too.
        assert shown.min() >= ax.images[0].norm.vmin > 0
    labels = [text.get_text() for text in panels[-1].get_xticklabels()]
    assert labels[:2] == ["0\n0 mm", "3\n4 mm"]
    assert panels[0].get_yticklabels()[1].get_text() == "3 (4 mm)"
    (bar,) = [ax for ax in figure.axes if ax.get_ylabel().startswith("Weight of attention (log scale")]
    assert any(text.get_text() for text in bar.get_yticklabels())


@pytest.mark.slow
def test_long_rows_are_continued_and_labels_do_not_overlap() -> None:
    layers = {f"layer {number}": weights(200, number) for number in range(6)}
    figure = drawn(plot_attention({"encoder": layers}, 1.5 * np.arange(200), title="long"))
    panels = [ax for ax in figure.axes if ax.images and ax.get_visible()]
    places = [ax.get_subplotspec() for ax in panels]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [
        *((0, column) for column in range(4)),
        (1, 0),
        (1, 1),
    ]
    many = {f"layer {i}": {f"head {k}": weights(300, i + k) for k in range(9)} for i in range(2)}
    figure = drawn(plot_attention(many, 1.5 * np.arange(300), title="many"))
    assert len([ax for ax in figure.axes if ax.images]) == 18
    for ax in [ax for ax in figure.axes if ax.images]:
        boxes = [text.get_window_extent() for text in ax.get_xticklabels() if text.get_text() and text.get_visible()]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
        assert ax.title.get_window_extent().width < 1.1 * ax.get_window_extent().width


@pytest.mark.first(1)
@pytest.mark.parametrize("nb", [61, 301])
def test_labels_of_neighboring_panels_do_not_touch(nb: int) -> None:
    heads = {"layer 0": {f"head {k}": weights(nb, k) for k in range(8)}}
    figure = drawn(plot_attention({**heads, "layer 1": heads["layer 0"]}, 1.5 * np.arange(nb), title="heads"))
    last_row = [ax for ax in figure.axes if ax.images][8:]
    texts = [text for ax in last_row for text in ax.get_xticklabels() if text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) >= 16
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


@pytest.mark.parametrize("nb", [1, 2])
def test_a_streamline_of_few_points(nb: int) -> None:
    matrix = np.tril(np.ones((nb, nb))) / np.arange(1, nb + 1)[:, None]
    figure = drawn(plot_attention({"encoder": {"layer 0": matrix}}, np.arange(nb) * 1.0, title="few"))
    assert figure.get_suptitle() == "few"


def test_streamlines_have_a_dot_at_their_first_point() -> None:
    points = np.array([[0, 0, 0], [10, 0, 0], [20, 5, 0], [0, 9, 1], [0, 9, 20]], dtype=np.float32)
    tractogram = DrawnTractogram("encoder", points, np.array([3, 2]), np.arange(5, dtype=np.float32))
    figure = drawn(plot_attended_streamlines(tractogram, color="attention", title="run"))
    assert figure.get_suptitle() == "run\nwhite dot: first point"
    for ax, axes in zip(figure.axes, ([0, 1], [0, 2], [1, 2]), strict=False):
        np.testing.assert_array_equal(ax.collections[-1].get_offsets(), points[[0, 3]][:, axes])
    assert figure.axes[-1].get_ylabel() == "attention"
