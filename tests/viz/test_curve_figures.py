"""What a reader of the figures of logs sees: labels, notes and limits of axes."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dwiml.viz.curves.log import Log
from dwiml.viz.curves.weights import draw_weights
from dwiml.viz.logs import plot_logs


def drawn(*logs: Log, **options: Any) -> Figure:
    figure = plot_logs(logs, **options)
    FigureCanvasAgg(figure).draw()
    return figure


def test_the_learning_rate_is_not_smoothed() -> None:
    rates = [0.1] * 10 + [0.01] * 10
    log = Log("run", [{"epoch": i, "train_loss": float(i % 2), "learning_rate": rate} for i, rate in enumerate(rates)])
    of_loss, of_rate = drawn(log, smooth=4).axes
    assert len(of_loss.lines) > len(of_rate.lines) == 1
    assert of_rate.lines[0].get_ydata().tolist() == rates


@pytest.mark.parametrize("options", [{}, {"figsize": (6, 4)}, {"panels": ["loss"], "figsize": (4, 4)}])
def test_the_note_on_different_losses_is_not_cut(options: dict[str, Any]) -> None:
    kinds = ("sphere-gaussian-mixture", "cosine-regression with add_eos True", "fisher-von-mises", "gaussian", "Mine")
    records = [{"epoch": i, "train_loss": 1.0, "learning_rate": 0.1, "speed": 2.0} for i in range(3)]
    figure = drawn(*(Log(f"run {i}", records, loss=kind) for i, kind in enumerate(kinds)), **options)
    label = figure.axes[0].xaxis.label
    assert "and 1 more): their values cannot be compared." in " ".join(label.get_text().split())
    for box in (label.get_window_extent(), figure.legends[0].get_window_extent()):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width


@pytest.mark.parametrize("decades", [0.2, 0.4, 1.0, 4.0])
def test_a_logarithmic_axis_of_weights_has_several_labels(decades: float) -> None:
    for low in (6.3e-5, 6.5e-6, 2e-3):
        changes = [low, low * 10**decades]
        records = [{"epoch": i, "weight_change/out": each, "weight_norm/out": 1.0} for i, each in enumerate(changes)]
        figure = Figure()
        draw_weights(figure, [Log("run", records)])
        FigureCanvasAgg(figure).draw()
        axis = figure.axes[0].yaxis
        bottom, top = axis.get_view_interval()
        texts = [tick.label1.get_text() for tick in axis.get_major_ticks() + axis.get_minor_ticks()]
        shown = [text for text in texts if text and bottom <= float(text.removesuffix("%")) / 100 <= top]
        assert 2 <= len(shown) <= 8
        assert all(text.endswith("%") for text in shown)


def test_no_whole_run_is_an_outlier() -> None:
    def log(name: str, values: list[float]) -> Log:
        return Log(name, [{"epoch": i, "train_loss": value} for i, value in enumerate(values)])

    usual = [log(f"run {k}", [1.0 + 0.01 * (i % 10) for i in range(20)]) for k in range(4)]
    far = log("far", [1e5, *(50.0 + i % 5 for i in range(19))])
    axes = drawn(*usual, far, remove_outliers=True).axes[0]
    low, high = axes.get_ylim()
    assert 0 < low < 1
    assert 54 < high < 70
    assert [text.get_text() for text in axes.texts] == ["1 value outside"]
    (axes,) = drawn(*usual, log("constant", [30.0] * 3), remove_outliers=True).axes
    assert axes.get_ylim()[1] > 30
    assert not axes.texts
