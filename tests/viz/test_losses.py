"""The histograms of a loss, read back from the matplotlib objects."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from dwiml.viz.losses import plot_loss_histograms


def counts_of(ax: Any) -> list[np.ndarray]:
    return [patch.get_data().values for patch in ax.patches if isinstance(patch, StepPatch)]


def drawn(figure: Figure) -> Figure:
    FigureCanvasAgg(figure).draw()
    return figure


def test_every_loss_is_counted_once_and_nan_is_ignored() -> None:
    rng = np.random.default_rng(0)
    loss = rng.exponential(0.01, 5000)
    loss[:40] = np.nan
    figure = drawn(plot_loss_histograms(loss, rng.uniform(1, 2, 300), title="exp: loss on sub-01"))
    points, streamlines = figure.axes
    assert counts_of(points)[0].sum() == 4960
    assert counts_of(streamlines)[0].sum() == 300
    assert (points.get_yscale(), streamlines.get_yscale()) == ("log", "linear")
    assert points.get_ylabel() == "Number of points (log scale)"
    assert streamlines.get_ylabel() == "Number of streamlines"
    mean = np.nanmean(loss)
    assert points.get_legend().get_texts()[0].get_text() == f"mean {mean:.3g}"
    assert points.lines[0].get_xdata()[0] == pytest.approx(mean)
    assert figure.get_suptitle() == "exp: loss on sub-01"


def test_ends_have_a_separate_panel() -> None:
    last, others = np.array([0.9, 1.0]), np.array([0.0, 0.1, 0.2, 0.2, np.nan])
    figure = drawn(plot_loss_histograms(np.ones(5), np.ones(2), title="t", eos=(last, others)))
    panel = figure.axes[2]
    # Percentages of each kind, filled and outlined.
    assert [each.sum() for each in counts_of(panel)] == pytest.approx([100] * 4)
    assert [each.max() for each in counts_of(panel)] == pytest.approx([50] * 4)
    assert panel.get_ylabel() == "Percentage of these points"
    assert panel.get_xlim() == (0, 1)
    labels = [text.get_text() for text in panel.get_legend().get_texts()]
    assert labels == ["last points, mean 0.95", "other points, mean 0.125"]


def test_losses_far_from_zero_fill_the_axis() -> None:
    figure = drawn(plot_loss_histograms(np.linspace(6, 7, 50), np.linspace(0.1, 7, 50), title="t"))
    assert [ax.get_xlim() for ax in figure.axes] == [(6, 7), (0, 7)]
    assert [counts_of(ax)[0].sum() for ax in figure.axes] == [50, 50]


def test_equal_and_negative_losses_are_drawn() -> None:
    figure = drawn(plot_loss_histograms(np.zeros(3), np.array([-1.0, -0.5]), title="t"))
    assert counts_of(figure.axes[0])[0].sum() == 3
    assert counts_of(figure.axes[1])[0].sum() == 2


def test_thirds_have_panels_of_percentages() -> None:
    loss = (np.array([0.0, 1.0]), np.array([1.0, 1.0, 1.0]), np.zeros(0))
    displacement = (np.array([0.5]), np.array([1.5]), np.array([2.0, 1.0]))
    eos = (np.ones(2), np.zeros(3))
    figure = drawn(
        plot_loss_histograms(
            np.arange(5.0), np.ones(2), title="t", eos=eos, loss_by_third=loss, displacement_by_third=displacement
        )
    )
    assert len(figure.axes) == 5
    of_loss, of_displacement, of_eos = figure.axes[2:]
    assert [each.sum() for each in counts_of(of_loss)] == pytest.approx([100, 100, 0])
    assert [each.sum() for each in counts_of(of_displacement)] == pytest.approx([100] * 3)
    assert counts_of(of_loss)[0][[0, -1]] == pytest.approx([50, 50])
    labels = [text.get_text() for text in of_loss.get_legend().get_texts()]
    assert labels == ["first third, mean 0.5", "middle third, mean 1", "last third, no points"]
    labels = [text.get_text() for text in of_displacement.get_legend().get_texts()]
    assert labels == ["first third, mean 0.5 mm", "middle third, mean 1.5 mm", "last third, mean 1.5 mm"]
    assert "(mm)" in of_displacement.get_xlabel()
    assert of_eos.get_xlabel() == "Probability that the streamline ends"
    colors = [patch.get_edgecolor() for patch in of_loss.patches]
    lightness = sorted(float(np.dot(color[:3], [0.2126, 0.7152, 0.0722])) for color in colors)
    assert np.diff(lightness).min() > 0.2


@pytest.mark.parametrize(("with_eos", "with_displacement", "size"), [(False, False, 3), (False, True, 4)])
def test_no_two_labels_overlap(with_eos: bool, with_displacement: bool, size: int) -> None:
    thirds = tuple(np.geomspace(1e-4, 1e4, 50) for _ in range(3))
    figure = plot_loss_histograms(
        thirds[0],
        thirds[0],
        title="An experiment with a rather long name: loss on sub-01 (validation set)",
        eos=(thirds[0], thirds[0]) if with_eos else None,
        loss_by_third=thirds,
        displacement_by_third=thirds if with_displacement else None,
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [ax.get_tightbbox(renderer) for ax in figure.axes]
    assert len(boxes) == size
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


@pytest.mark.parametrize("scale", [1e-6, 0.0123, 1.0, 1234.0])
def test_labels_fit_into_their_panel(scale: float) -> None:
    rng = np.random.default_rng(0)
    thirds = [rng.exponential(scale * size, 2000) for size in (1, 1.2, 2)]
    means = -12 - 1e-4 * rng.random(300)
    figure = drawn(
        plot_loss_histograms(thirds[0], means, title="t", loss_by_third=thirds, displacement_by_third=thirds)
    )
    for ax in figure.axes:
        panel, legend = ax.get_window_extent(), ax.get_legend().get_window_extent()
        assert legend.x1 <= panel.x1
        low, high = ax.get_xlim()
        ticks = [tick for tick in ax.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        assert len(ticks) >= 2
        boxes = [tick.label1.get_window_extent() for tick in ticks]
        assert all(first.x1 + 2 < second.x0 for first, second in pairwise(boxes))
        assert not ax.xaxis.get_offset_text().get_text()


def test_no_line_leads_to_the_first_bin() -> None:
    thirds = [np.array([0.0, 1.0])] * 3
    figure = drawn(plot_loss_histograms(np.arange(3.0), np.ones(2), title="t", loss_by_third=thirds))
    first = figure.axes[2].patches[0].get_path().vertices
    assert first[0].tolist() == [0, 50]
    assert figure.axes[2].get_ylim()[0] == 0
