"""The figure of the changes of weights, read back from the matplotlib objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dwiml import visualize_logs
from dwiml.training.reporting.loggers import LocalLogger
from dwiml.viz import logs as viz_logs
from dwiml.viz.curves.log import Log
from dwiml.viz.curves.panels import choose_panels
from dwiml.viz.curves.weights import draw_weights, relative_changes
from dwiml.viz.logs import plot_logs, read_logs


def log_of(changes: dict[str, list[float]], label: str = "run", norm: float = 4.0) -> Log:
    nb_epochs = max(map(len, changes.values()))
    records: list[dict[str, Any]] = [{"epoch": epoch, "train_loss": 1.0} for epoch in range(nb_epochs)]
    for name, values in changes.items():
        for record, value in zip(records, values, strict=False):
            record |= {f"weight_change/{name}": value, f"weight_norm/{name}": norm}
    return Log(label, records)


def test_changes_are_relative_to_the_norm_and_layers_of_a_parent_are_merged() -> None:
    log = log_of({"rnn.a": [3.0, 1.0], "rnn.b": [4.0], "out": [0.0, 2.0]})
    (changes,) = relative_changes([log])
    assert list(changes) == ["rnn.a", "rnn.b", "out"]
    assert changes["rnn.a"] == ([0, 1], [0.75, 0.25])
    assert changes["rnn.b"] == ([0], [1.0])
    (changes,) = relative_changes([log], max_layers=2)
    # Only in an epoch in which both were measured: 5 = |(3, 4)|, relative to |(4, 4)|.
    assert changes["rnn"] == ([0], [pytest.approx(5 / 32**0.5)])
    assert changes["out"] == ([0, 1], [0.0, 0.5])
    assert relative_changes([log_of({"still": [0.0]}, norm=0.0)]) == [{"still": ([0], [0.0])}]


def drawn(*logs: Log) -> Figure:
    figure = Figure()
    draw_weights(figure, logs)
    FigureCanvasAgg(figure).draw()
    return figure


def test_one_legend_outside_and_the_same_colors_in_all_rows() -> None:
    many = {f"encoder.layers.{i}.part_{k}": [0.1 * (i + 1)] * 40 for i in range(6) for k in range(9)}
    many["frozen"] = [0.0]
    figure = drawn(log_of({**many, "$out": [0.5, 0.25]}, "first"), log_of({**many, "$out": [0.5]}, "second"))
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim()
    assert first.get_xlim()[1] > 39
    assert len(first.lines) == len(second.lines) == 8
    assert first.lines[-1].get_color() == second.lines[-1].get_color() != second.lines[0].get_color()
    assert list(first.lines[-1].get_ydata()) == [0.125, 0.0625]
    assert first.get_yscale() == "log"
    assert [first.get_title(), second.get_title()] == ["first", "second"]
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [*(f"encoder.layers.{i}" for i in range(6)), "frozen (does not change)", "$out"]
    looks = {(line.get_color(), line.get_marker()) for line in legend.get_lines()}
    assert len(looks) == 8
    box = legend.get_window_extent()
    assert not any(axes.get_window_extent().overlaps(box) for axes in figure.axes)
    ticks = [text.get_text() for text in first.get_yticklabels() if text.get_text()]
    assert all(tick.endswith("%") for tick in ticks)


def test_different_models_have_a_legend_each() -> None:
    many = {f"encoder.layers.{i}": [0.1 * (i + 1), 0.1] for i in range(24)}
    changes = [{"rnn": [0.5, 0.2], "$out": [0.25, 0.1]}, many, {"rnn": [0.5, 0.2], "out": [0.0, 0.0]}]
    figure = drawn(*(log_of(each, f"run {number}") for number, each in enumerate(changes)))
    assert not figure.legends
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["run 0", "run 1", "run 2"]
    names = [["rnn", "$out"], ["encoder.layers"], ["rnn", "out (does not change)"]]
    for axes, expected in zip(figure.axes, names, strict=True):
        legend = axes.get_legend()
        assert [text.get_text() for text in legend.get_texts()] == expected
        looks = [(line.get_color(), line.get_marker()) for line in axes.lines]
        assert looks == [(line.get_color(), line.get_marker()) for line in legend.get_lines()]
        box = legend.get_window_extent()
        assert box.x0 >= axes.get_window_extent().x1
        assert figure.bbox.contains(box.x1, box.y0)
        assert figure.bbox.contains(box.x1, box.y1)
    boxes = [axes.get_legend().get_window_extent() for axes in figure.axes]
    assert not boxes[0].overlaps(boxes[1])
    assert not boxes[1].overlaps(boxes[2])
    first, second, _ = figure.axes
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim() == second.get_ylim()


def write(folder: Path, *, weights: bool = True) -> Path:
    log = LocalLogger(folder)
    for epoch in range(3):
        more = {"weight_change/out": 0.5 / (epoch + 1), "weight_norm/out": 2.0} if weights else {}
        log.log_metrics({"train_loss": 1.0, **more}, epoch)
    return folder


def test_the_figure_is_saved_beside_the_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(viz_logs, "_DPI", 40)
    folder, other, without = write(tmp_path / "a"), write(tmp_path / "b"), write(tmp_path / "c", weights=False)
    # The curves do not have a panel for each layer.
    assert [panel.key for panel in choose_panels(read_logs([folder]))] == ["loss"]
    assert len(plot_logs(read_logs([folder])).axes) == 1
    assert visualize_logs(folder, weights=True, show=False) == [folder / "weights.png"]
    assert pyplot.imread(folder / "weights.png").std() > 0.01
    assert visualize_logs([folder, other], weights=True, show=False) == [tmp_path / "weights_compared.png"]
    assert visualize_logs(folder, weights=True, out=folder / "weights.svg") == [folder / "weights.svg"]
    with pytest.raises(ValueError, match="only the training may write"):
        visualize_logs(folder, weights=True, out=folder / "curves.svg")
    assert visualize_logs([folder, without], weights=True, show=False) == [tmp_path / "weights_compared.png"]
    assert caplog.messages == ["'c' is ignored: it was trained without log_weights."]
    with pytest.raises(ValueError, match="The log of 'c' has no weights of layers; they are logged"):
        visualize_logs(without, weights=True, show=False)
    with pytest.raises(ValueError, match="for the curves"):
        visualize_logs(folder, weights=True, log_scale=["loss"])
