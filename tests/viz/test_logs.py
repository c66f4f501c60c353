"""The figure of training curves, read back from the matplotlib objects."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import dwiml
from dwiml.training.reporting.loggers import LocalLogger
from dwiml.training.reporting.metrics import name_of
from dwiml.viz import logs
from dwiml.viz.curves.log import Log
from dwiml.viz.curves.panels import choose_panels
from dwiml.viz.curves.reading import find_experiments
from dwiml.viz.logs import plot_logs, read_logs, visualize_logs


def write_experiment(folder: Path, nb_epochs: int = 4, *, leave_out: tuple[str, ...] = (), **more: float) -> Path:
    """Log a training whose losses decrease, except for the last validation loss."""
    log = LocalLogger(folder)
    for epoch in range(nb_epochs):
        metrics = {
            "train_loss": 100 + 1 / (epoch + 1),
            "valid_loss": 101 + 1 / (epoch + 1) + (2 if epoch == nb_epochs - 1 and epoch else 0),
            "grad_norm": 2.0 - epoch / 10,
            "grad_norm_clipped": 1.0,
            "learning_rate": 0.001,
            "train_duration_s": 30.0,
            "valid_duration_s": 5.0 + epoch,
            **more,
        }
        log.log_metrics({name: value for name, value in metrics.items() if name not in leave_out}, epoch)
    return folder


def write_losses(folder: Path, nb_epochs: int = 4) -> Path:
    """Log only losses, for a single panel, which is faster."""
    leave_out = ("grad_norm", "grad_norm_clipped", "learning_rate", "train_duration_s", "valid_duration_s")
    return write_experiment(folder, nb_epochs, leave_out=leave_out)


@pytest.fixture(autouse=True)
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_DPI", 40)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def _drawn(*folders: Path, **options: Any) -> tuple[Figure, dict[str, Axes]]:
    figure = plot_logs(read_logs(folders), **options)
    FigureCanvasAgg(figure).draw()
    return figure, {axes.get_ylabel(): axes for axes in figure.axes}


def _curves(axes: Axes) -> list[tuple[str, list[float], list[float]]]:
    """Return style, epochs and values of each curve; the style of a star is ``*``."""
    return [
        (str(line.get_linestyle() if line.get_marker() != "*" else "*"), list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
    ]


def _tick_texts(axes: Axes) -> list[str]:
    low, high = axes.get_xlim()
    return [
        label.get_text()
        for place, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
        if low <= place <= high
    ]


def _is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and float(np.std(pyplot.imread(path))) > 0.01


def test_without_options_the_figure_is_saved_in_the_experiments_folder(tmp_path: Path) -> None:
    folder = write_losses(tmp_path / "run")
    assert dwiml.visualize_logs(folder) == [folder / "curves.png"]
    assert _is_png(folder / "curves.png")
    # The default figure is always replaced: it can be recreated from the logs.
    write_losses(folder, 6)
    before = (folder / "curves.png").read_bytes()
    assert visualize_logs([folder]) == [folder / "curves.png"]
    assert (folder / "curves.png").read_bytes() != before
    assert sorted(os.listdir(folder)) == ["curves.png", "logs"]


def test_the_panels_of_one_experiment(tmp_path: Path) -> None:
    figure, panels = _drawn(write_experiment(tmp_path / "run"))
    assert list(panels) == ["Loss", "Gradient norm", "Learning rate", "Time per epoch (s)"]
    training, validation, best = _curves(panels["Loss"])
    assert training == ("-", [0, 1, 2, 3], [101, 100.5, pytest.approx(100 + 1 / 3), 100.25])
    assert validation == ("--", [0, 1, 2, 3], [102, 101.5, pytest.approx(101 + 1 / 3), 103.25])
    assert best == ("*", [2], [pytest.approx(101 + 1 / 3)])
    assert len({line.get_color() for line in panels["Loss"].lines}) == 1
    legend = [text.get_text() for text in panels["Loss"].get_legend().get_texts()]
    assert legend == ["training", "validation", "best validation: 101.3 (epoch 2)"]
    assert [curve[0] for curve in _curves(panels["Gradient norm"])] == ["-", "--"]
    assert _curves(panels["Time per epoch (s)"])[1] == ("--", [0, 1, 2, 3], [5, 6, 7, 8])
    # The axis does not start at 0, which would flatten losses near 100.
    assert panels["Loss"].get_ylim()[0] > 99
    assert figure.get_suptitle() == "run"


@pytest.mark.first(2)
@pytest.mark.parametrize("nb_epochs", [1, 2, 3, 5, 30, 200])
def test_epochs_are_whole_numbers_and_few_of_them_are_visible_points(tmp_path: Path, nb_epochs: int) -> None:
    _, panels = _drawn(write_experiment(tmp_path / "run", nb_epochs))
    for axes in panels.values():
        texts = _tick_texts(axes)
        assert texts
        assert all(text.isdecimal() and int(text) < nb_epochs + 20 for text in texts), texts
        assert len(set(texts)) == len(texts)
        low, high = axes.get_xlim()
        assert low < 0
        assert high > nb_epochs - 1
    assert (panels["Loss"].lines[0].get_marker() == "None") == (nb_epochs > 30)


def test_several_experiments_differ_in_color_and_are_saved_beside_the_first(tmp_path: Path) -> None:
    folders = [write_losses(tmp_path / name, nb) for name, nb in (("a", 3), ("b", 5), ("c", 4))]
    assert visualize_logs(folders) == [tmp_path / "curves_compared.png"]
    assert _is_png(tmp_path / "curves_compared.png")
    figure, panels = _drawn(*folders)
    colors = [line.get_color() for line in panels["Loss"].lines]
    # The lines of each experiment, training and validation, then the stars.
    assert colors[0:6:2] == colors[1:6:2] == colors[6:9]
    assert len(set(colors)) == 3
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["a (best 101.5, epoch 1)", "b (best 101.2, epoch 3)", "c (best 101.3, epoch 2)"]


@pytest.mark.slow
def test_many_experiments_look_different_and_their_legend_covers_nothing(tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / f"sweep_{i}_{'long_name_' * (i % 8)}") for i in range(25)]
    figure, panels = _drawn(*folders)
    looks = {(line.get_color(), line.get_marker()) for line in figure.legends[0].get_lines()}
    assert len(looks) == 25
    looks = {(line.get_color(), line.get_marker()) for line in panels["Learning rate"].lines}
    assert len(looks) == 25
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.x1
    assert all(axes.get_tightbbox().y0 >= legend.y1 for axes in figure.axes)
    assert all(axes.get_window_extent().height > 100 for axes in figure.axes)


def test_experiments_of_equal_name_have_longer_labels_and_duplicates_are_drawn_once(tmp_path: Path) -> None:
    first, second = write_losses(tmp_path / "x" / "run"), write_losses(tmp_path / "y" / "run")
    assert [log.label for log in read_logs([first, second])] == ["x/run", "y/run"]
    assert visualize_logs([first, tmp_path / "x" / ".." / "x" / "run"]) == [first / "curves.png"]


def test_metrics_that_were_not_computed_have_no_panel_and_no_curve(tmp_path: Path) -> None:
    folder = write_experiment(
        tmp_path / "run", leave_out=("valid_loss", "valid_duration_s", "grad_norm", "grad_norm_clipped")
    )
    _, panels = _drawn(folder)
    assert list(panels) == ["Loss", "Learning rate", "Time per epoch (s)"]
    assert [curve[0] for curve in _curves(panels["Loss"])] == ["-", "*"]


def test_a_metric_computed_in_some_epochs_is_drawn_there() -> None:
    records = [{"epoch": 0, "train_loss": 2.0, "valid_loss": None}, {"epoch": 1, "train_loss": 1.0, "valid_loss": 1.5}]
    log = Log("run", [*records, {"epoch": 4, "train_loss": 0.5}])
    assert log.series("valid_loss") == ([1], [1.5])
    assert log.series("train_loss") == ([0, 1, 4], [2.0, 1.0, 0.5])
    assert log.best() == (1, 1.5)
    FigureCanvasAgg(plot_logs([log])).draw()


def test_the_first_of_equal_validation_losses_is_the_best() -> None:
    assert Log("run", [{"epoch": i, "valid_loss": 1.0} for i in range(3)]).best() == (0, 1.0)
    assert Log("run", [{"epoch": 0, "train_loss": 1.0}]).best() is None


def test_the_star_marks_the_epoch_of_the_best_model(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    values = [0.2, 0.9, 0.7]
    records = [{"epoch": i, "valid_loss": 1.0 + i, "gv_valid_connections": value} for i, value in enumerate(values)]
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "parameters.json").write_text(json.dumps({"trainer": {"best_model_metric": "gv_valid_connections"}}))
    _, panels = _drawn(folder)
    assert [curve[0] for curve in _curves(panels["Loss"])] == ["--"]
    tracked = panels["Tracked: valid connections (fraction)"]
    assert _curves(tracked)[-1] == ("*", [1], [0.9])
    assert [text.get_text() for text in tracked.get_legend().get_texts()] == ["best model: 0.9 (epoch 1)"]
    for damaged in ("{", json.dumps({"trainer": {"best_model_metric": "unknown"}}), "[]"):
        (folder / "parameters.json").write_text(damaged)
        assert _curves(_drawn(folder)[1]["Loss"])[-1] == ("*", [0], [1.0])


def test_unknown_metrics_get_a_panel_with_their_unit(tmp_path: Path) -> None:
    folder = write_experiment(
        tmp_path / "run", gv_distance_mm=3.0, train_points_per_s=1e4, valid_angle=4.0, train_angle=2.0
    )
    _, panels = _drawn(folder)
    assert list(panels)[4:] == ["Speed (points/s)", "Angle", "GV distance (mm)"]
    assert [curve[0] for curve in _curves(panels["Angle"])] == ["-", "--"]
    assert [panel.key for panel in choose_panels(read_logs([folder]))][5:] == ["angle", "gv_distance_mm"]


def test_log_scale(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "run", waiting=0.0)
    _, panels = _drawn(folder, log_scale=["loss", "learning_rate"])
    assert panels["Loss (log scale)"].get_yscale() == "log"
    assert panels["Gradient norm"].get_yscale() == "linear"
    labels = [label.get_text() for label in panels["Learning rate (log scale)"].get_yticklabels(which="both")]
    assert "0.001" in labels
    with pytest.raises(
        ValueError, match="Unknown panel 'lr' in log_scale; choose among: loss, grad_norm, learning_rate"
    ):
        visualize_logs(folder, log_scale=["lr"])
    with pytest.raises(ValueError, match="'waiting' has values that are not positive"):
        visualize_logs(folder, log_scale=["waiting"])


def _falling(low: float) -> Log:
    records = [{"epoch": i, "train_loss": low * 40 ** (1 - i / 4), "valid_loss": 2 * low} for i in range(5)]
    return Log("run", records)


def test_a_loss_that_falls_steeply_has_a_log_scale_with_plain_labels(tmp_path: Path) -> None:
    figure = plot_logs([_falling(0.002)])
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    assert (axes.get_yscale(), axes.get_ylabel()) == ("log", "Loss (log scale)")
    low, high = axes.get_ylim()
    texts = [label.get_text() for label in axes.get_yticklabels(which="both")]
    shown = [float(text) for text in texts if text and low <= float(text) <= high]
    assert 3 <= len(shown) <= 12
    figure = plot_logs([_falling(0.002)], linear_scale=["loss"])
    assert (figure.axes[0].get_yscale(), figure.axes[0].get_ylabel()) == ("linear", "Loss")
    with pytest.raises(ValueError, match="Unknown panel 'lr' in linear_scale; choose among: loss"):
        visualize_logs(write_losses(tmp_path / "run"), linear_scale=["lr"])
    with pytest.raises(ValueError, match="'loss' is both in log_scale and in linear_scale"):
        visualize_logs(tmp_path / "run", linear_scale=["loss"], log_scale=["loss"])


def test_the_loss_of_the_demo_is_not_flat() -> None:
    # Largest / smallest value of 27, as after the four epochs of scripts/demo.sh.
    losses = [(0.155, 0.022), (0.023, 0.0083), (0.0198, 0.0062), (0.0187, 0.0057)]
    log = Log("run", [{"epoch": i, "train_loss": a, "valid_loss": b} for i, (a, b) in enumerate(losses)])
    figure = plot_logs([log])
    assert figure.axes[0].get_yscale() == "log"
    # Without the first epoch, it does not fall so far.
    assert plot_logs([log], epochs="1:").axes[0].get_yscale() == "linear"


def test_a_small_change_of_the_memory_looks_small() -> None:
    log = Log("run", [{"epoch": i, "peak_memory_mb": 958 + i / 10} for i in range(3)])
    low, high = plot_logs([log]).axes[0].get_ylim()
    assert low == 0
    assert high > 1.05 * 958
    assert plot_logs([log], ylim={"memory": (900, 1000)}).axes[0].get_ylim() == (900, 1000)


@pytest.mark.parametrize("decades", [1.1, 1.4, 1.6, 2.0, 2.5, 3.0, 3.5, 5.0])
def test_labels_of_a_log_scale_do_not_overlap(decades: float) -> None:
    for shift in (0.0, 0.3, 0.6):
        losses = 0.7 * 10 ** (shift - np.array([0.0, decades / 2, decades]))
        figure = plot_logs([Log("run", [{"epoch": i, "train_loss": loss} for i, loss in enumerate(losses.tolist())])])
        FigureCanvasAgg(figure).draw()
        (axes,) = figure.axes
        low, high = axes.get_ylim()
        every = axes.get_yticklabels(which="both")
        labels = [label for label in every if label.get_text() and low <= label.get_position()[1] <= high]
        boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
        assert 2 <= len(boxes) <= 12
        assert all(above.y0 > below.y1 for below, above in itertools.pairwise(boxes))


@pytest.mark.parametrize("losses", [(9.9, 1.0), (100.0, 0.0), (100.0, -1.0), (-1.0, -100.0)])
def test_other_losses_keep_a_linear_scale(losses: tuple[float, float]) -> None:
    figure = plot_logs([Log("run", [{"epoch": i, "train_loss": loss} for i, loss in enumerate(losses)])])
    assert figure.axes[0].get_yscale() == "linear"


@pytest.mark.parametrize("value", [0.001, -3.0, 0.0, 1e308])
def test_a_constant_is_drawn_in_the_middle_of_round_limits(value: float) -> None:
    figure = plot_logs([Log("run", [{"epoch": i, "learning_rate": value} for i in range(3)])])
    low, high = figure.axes[0].get_ylim()
    assert low < value < high
    if 0 < abs(value) < 1e300:
        assert (low, high) == tuple(sorted((0, 2 * value)))


def test_names_are_not_parsed_as_formulas() -> None:
    # Each is an invalid formula for matplotlib, or a label that it omits.
    names = ["a$x_^{$", "_b$\\foo$"]
    records = [{"epoch": 0, "train_loss": 1.0, "valid_loss": 1.0, "c$\\foo$_mm": 1.0, "train_$^$": 1.0}]
    for logged in ([Log(name, records) for name in names], [Log(names[0], records)]):
        figure = plot_logs(logged)
        FigureCanvasAgg(figure).draw()
        assert names[0] in figure.get_suptitle()
        assert [axes.get_ylabel() for axes in figure.axes] == ["Loss", "$^$", "C$\\foo$ (mm)"]


def test_the_title_of_a_comparison_names_few_experiments() -> None:
    records = [{"epoch": 0, "train_loss": 1.0}]
    assert plot_logs([Log("gru", records), Log("lstm", records)]).get_suptitle() == "gru, lstm"
    assert plot_logs([Log(str(i), records) for i in range(5)]).get_suptitle() == "5 experiments"
    assert plot_logs([Log(each * 50, records) for each in "ab"]).get_suptitle() == "2 experiments"


@pytest.mark.slow
def test_the_default_path_keeps_the_form_given_by_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_losses(tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    assert visualize_logs("runs/a") == [Path("runs/a/curves.png")]
    assert visualize_logs(["runs/a", "runs/b"]) == [Path("runs/curves_compared.png")]
    monkeypatch.chdir(tmp_path / "runs" / "a")
    assert visualize_logs([".", "../b"]) == [Path("../curves_compared.png")]
    assert visualize_logs(["../b/../a", "../b"]) == [Path("../b/../curves_compared.png")]
    assert visualize_logs(["../../runs/b/../../runs/a", "../b"])[0].resolve() == tmp_path / "runs/curves_compared.png"
    assert os.listdir(tmp_path / "runs" / "b") == ["logs"]


def test_out(tmp_path: Path) -> None:
    folder = write_losses(tmp_path / "run")
    out = tmp_path / "figure.pdf"
    assert visualize_logs(folder, out=out) == [out]
    assert out.read_bytes().startswith(b"%PDF")
    assert not (folder / "curves.png").exists()
    with pytest.raises(FileExistsError, match="figure.pdf' exists; replace it with overwrite=True"):
        visualize_logs(folder, out=out)
    assert visualize_logs(folder, out=out, overwrite=True) == [out]
    with pytest.raises(ValueError, match=r"must end in one of: .*\.pdf.*\.png"):
        visualize_logs(folder, out=tmp_path / "figure.txt")
    with pytest.raises(FileNotFoundError, match="Figure: the folder '.*nowhere' does not exist"):
        visualize_logs(folder, out=tmp_path / "nowhere" / "figure.png")


def test_folders_that_are_not_experiments_are_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (write_losses(tmp_path / "exps" / name) for name in "ab")
    (tmp_path / "exps" / "begun" / "logs").mkdir(parents=True)
    (tmp_path / "exps" / "begun" / "logs" / "metrics.jsonl").touch()
    (tmp_path / "exps" / "other").mkdir()
    compared = tmp_path / "exps" / "curves_compared.png"
    assert visualize_logs(sorted((tmp_path / "exps").iterdir())) == [compared]
    names = [record.args[0].name for record in caplog.records]  # type: ignore[index, union-attr]
    assert names == ["begun", "other"]
    caplog.clear()
    # The figure of the first call is ignored too.
    assert visualize_logs(sorted((tmp_path / "exps").iterdir())) == [compared]
    assert "curves_compared.png" not in caplog.text
    (tmp_path / "exps" / "notes.txt").touch()
    visualize_logs(sorted((tmp_path / "exps").iterdir()))
    assert "notes.txt' is ignored: it is a file" in caplog.text
    assert visualize_logs(tmp_path / "exps") == [compared]
    (tmp_path / "exps" / "stopped").mkdir()
    (tmp_path / "exps" / "stopped" / "parameters.json").touch()
    caplog.clear()
    assert [log.label for log in read_logs(find_experiments([tmp_path / "exps"]))] == ["a", "b"]
    names = [record.args[0].name for record in caplog.records]  # type: ignore[index, union-attr]
    assert names == ["begun", "stopped"]
    with pytest.raises(FileNotFoundError, match="'.*missing' does not exist"):
        visualize_logs([first, second, tmp_path / "missing"])
    with pytest.raises(ValueError, match="None of the given paths is an experiment folder"):
        visualize_logs([tmp_path / "exps" / "other", tmp_path / "exps" / "begun"])


def test_nothing_else_is_written_into_an_experiment(tmp_path: Path) -> None:
    folder = write_losses(tmp_path / "run")
    before = (folder / "logs" / "metrics.jsonl").read_bytes()
    for name in ("logs/curves.png", "figure.png", "best.svg"):
        with pytest.raises(ValueError, match="is inside the experiment"):
            visualize_logs(folder, out=folder / name, overwrite=True)
    assert visualize_logs(folder, out=folder / "curves.svg") == [folder / "curves.svg"]
    # The log would be replaced through the link.
    (folder / "curves.png").symlink_to("logs/metrics.jsonl")
    with pytest.raises(ValueError, match="curves.png' is a symbolic link"):
        visualize_logs(folder)
    with pytest.raises(ValueError, match="is inside the experiment"):
        visualize_logs(folder, out=folder / "curves.png", overwrite=True)
    (folder / "curves.png").unlink()
    os.mkfifo(folder / "curves.png")
    with pytest.raises(ValueError, match="is not a regular file"):
        visualize_logs(folder)
    assert (folder / "logs" / "metrics.jsonl").read_bytes() == before


@pytest.mark.first(1)
@pytest.mark.parametrize("backend", ["module://no_such.backend", "nonsense"])
def test_a_figure_is_saved_whatever_backend_the_environment_names(tmp_path: Path, backend: str) -> None:
    folder = write_losses(tmp_path / "run")
    environment = {**os.environ, "MPLBACKEND": backend}
    environment.pop("DISPLAY", None)
    code = "import sys; from dwiml.cli.main import main; sys.exit(main(sys.argv[1:]))"
    for display in ("", ":77"):
        command = [sys.executable, "-W", "error", "-c", code, "visualize_logs", str(folder)]
        done = subprocess.run(command, env={**environment, "DISPLAY": display}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"Curves saved in {folder / 'curves.png'}\n"
        assert done.stderr.count("\n") == bool(display)
        assert ("No window could be opened" in done.stderr) == bool(display)


def test_invalid_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No experiment was given"):
        visualize_logs([])
    with pytest.raises(FileNotFoundError, match="'.*nothing' does not exist"):
        visualize_logs(tmp_path / "nothing")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match="metrics.jsonl' is empty: no epoch is finished yet"):
        visualize_logs(tmp_path)
    (tmp_path / "logs" / "metrics.jsonl").write_text('{"epoch": 0}\n')
    with pytest.raises(ValueError, match="has no metric to draw"):
        visualize_logs(tmp_path)


class _Window(FigureCanvasAgg):
    """A canvas that claims to belong to a window."""

    required_interactive_framework = "test"


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Figure]]:
    """A display whose windows are closed immediately; returns the figures that they showed."""
    shown: list[Figure] = []
    monkeypatch.setenv("DISPLAY", ":0")

    def open_figure(**options: Any) -> Figure:
        figure = Figure()
        _Window(figure)
        return figure

    opened: list[Figure] = []
    monkeypatch.setattr(pyplot, "figure", lambda **options: opened.append(open_figure()) or opened[-1])
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(opened[-1]))
    return lambda: shown


def test_a_window_is_shown_if_there_is_a_display(tmp_path: Path, window: Callable[[], list[Figure]]) -> None:
    folder = write_losses(tmp_path / "run")
    assert visualize_logs(folder) == []
    assert window()[0].axes[0].get_ylabel() == "Loss"
    assert os.listdir(folder) == ["logs"]
    assert visualize_logs(folder, show=False) == [folder / "curves.png"]
    assert visualize_logs(folder, out=tmp_path / "a.png") == [tmp_path / "a.png"]
    assert len(window()) == 1
    assert visualize_logs(folder, out=tmp_path / "b.png", show=True) == [tmp_path / "b.png"]
    assert len(window()) == 2


def test_the_figure_is_saved_if_no_window_can_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_losses(tmp_path / "run")
    monkeypatch.setenv("DISPLAY", ":77")
    monkeypatch.setitem(mpl.rcParams, "backend", "agg")
    pyplot.switch_backend("agg")
    assert visualize_logs(folder) == [folder / "curves.png"]

    def broken(**options: Any) -> Figure:
        raise RuntimeError("couldn't connect to display")

    monkeypatch.setattr(pyplot, "figure", broken)
    assert visualize_logs(folder) == [folder / "curves.png"]
    assert pyplot.get_fignums() == []


def test_names_of_metrics_are_readable(tmp_path: Path) -> None:
    assert name_of("gv_endpoint_distance_mm") == "GV endpoint distance (mm)"
    assert name_of("points_per_s") == "points/s"
    folder = write_experiment(tmp_path / "run", gv_endpoint_distance_mm=2.5)
    (folder / "parameters.json").write_text('{"trainer": {"best_model_metric": "gv_endpoint_distance_mm"}}')
    figure, panels = _drawn(folder, write_losses(tmp_path / "other"))
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[0] == "run (best GV endpoint distance (mm) 2.5, epoch 0)"
    # The legend is above its panel and hides no curve.
    for axes in panels.values():
        if axes.get_legend() is not None:
            lowest = axes.get_legend().get_window_extent().y0
            assert lowest >= axes.get_window_extent().y1 - 1
