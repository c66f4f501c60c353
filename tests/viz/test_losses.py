"""The histograms of a loss, read back from the matplotlib objects."""

from __future__ import annotations

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
