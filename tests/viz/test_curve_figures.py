"""What a reader of the figures of logs sees: labels, notes and limits of axes."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dwiml.viz.curves.log import Log
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
