"""What of the logs is drawn, and how: panels, graphs, batches, axes, smoothing, tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import dwiml
from dwiml.cli.main import main
from dwiml.training.reporting.loggers import LocalLogger
from dwiml.training.reporting.loggers.batches import BatchLog
from dwiml.viz import logs as module
from dwiml.viz.curves.correlation import draw_correlation
from dwiml.viz.curves.log import Log
from dwiml.viz.curves.options import CurveOptions
from dwiml.viz.curves.series import curve_of, points_of, smooth, thinned, usual_range
from dwiml.viz.logs import plot_logs, read_logs, visualize_logs

RECORDS = [
    {
        "epoch": epoch,
        "train_loss": 1 / (epoch + 1),
        "valid_loss": 2 / (epoch + 1),
        "learning_rate": 0.1,
        "train_duration_s": 50.0,
        "valid_duration_s": 10.0,
        "train_points_per_s": 2e4,
    }
    for epoch in range(6)
]


def experiment(folder: Path, *, nb_epochs: int = 4, batches: bool = True, **parameters: Any) -> Path:
    """Write the logs of an experiment with 5 batches an epoch, and two more of an epoch in progress."""
    log, of_batches = LocalLogger(folder), BatchLog(folder)
    for record in RECORDS[:nb_epochs]:
        log.log_metrics({name: value for name, value in record.items() if name != "epoch"}, record["epoch"])
    for step in range(5 * nb_epochs + 2) if batches else ():
        line = {"epoch": step // 5, "batch": step % 5, "step": step + 1, "train_loss": float(step), "duration_s": 9.0}
        of_batches.log_batches([{**line, "grad_norm": 1.0, "learning_rate": 0.1, "points_per_s": 3}])
    if parameters:
        (folder / "parameters.json").write_text(json.dumps(parameters))
    return folder


def drawn(*logs: Log, **choices: Any) -> Figure:
    figure = plot_logs(logs, **choices)
    FigureCanvasAgg(figure).draw()
    return figure


def labels(figure: Figure) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes]


def test_a_figure_for_a_notebook(tmp_path: Path) -> None:
    for name in ("gru", "lstm"):
        (tmp_path / name / "logs").mkdir(parents=True)
        lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
        (tmp_path / name / "logs" / "metrics.jsonl").write_text(lines)
    both: Any = [tmp_path / "gru", tmp_path / "lstm"]
    for given in (tmp_path, str(tmp_path), both, read_logs([tmp_path / "gru"])):
        assert len(dwiml.plot_logs(given, panels=["loss"]).axes) == 1
    with pytest.raises(FileNotFoundError):
        dwiml.plot_logs(tmp_path / "none")


def test_panels_are_chosen_and_ordered() -> None:
    log = Log("run", RECORDS)
    assert labels(drawn(log, panels=["learning_rate", "epoch_time"])) == ["Learning rate", "Time per epoch (s)"]
    with pytest.raises(ValueError, match="Unknown panel 'lr' in panels; choose among: loss, learning_rate"):
        plot_logs([log], panels=["lr"])


def test_a_graph_has_metrics_and_what_is_computed_from_two() -> None:
    log = Log("run", RECORDS)
    names = ["diff(valid_loss,train_loss)", "ratio(valid_loss, train_loss)", "sum(train_loss,valid_loss)", "train_loss"]
    figure = drawn(log, graphs=[["Mine", *names]])
    (axes,) = figure.axes
    assert axes.get_ylabel() == "Mine"
    values = [line.get_ydata() for line in axes.lines]
    expected = [1 / (np.arange(6) + 1), np.full(6, 2.0), 3 / (np.arange(6) + 1), 1 / (np.arange(6) + 1)]
    for found, right in zip(values, expected, strict=True):
        np.testing.assert_allclose(found, right)
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts[:2] == ["validation loss \N{MINUS SIGN} training loss", "validation loss / training loss"]
    assert labels(drawn(log, graphs=[["Mine", "train_loss"]], panels=["loss"])) == ["Loss (log scale)", "Mine"]


def test_a_ratio_to_zero_is_left_out() -> None:
    log = Log("run", [{"epoch": 0, "a": 1.0, "b": 0.0}, {"epoch": 1, "a": 1.0, "b": 4.0}, {"epoch": 2, "a": 1.0}])
    assert log.series("ratio(a,b)") == ([1], [0.25])


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (["T", "loss"], "graph 'T': no log has the metric 'loss'; there are: 'train_loss', 'valid_loss'"),
        (["T", "mean(train_loss,valid_loss)"], r"is not one of diff\(A,B\), ratio\(A,B\), sum\(A,B\) of two metrics"),
        (["T", "diff(train_loss,b)"], "no log has the metric 'b'"),
        (["T"], "A graph needs a title and one to 4 metrics or expressions"),
        (["T", *["train_loss"] * 5], "A graph needs a title and one to 4"),
    ],
)
def test_a_wrong_graph(graph: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_logs([Log("run", RECORDS)], graphs=[graph])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"epochs": "3"}, "epochs must be FIRST:END"),
        ({"epochs": "3:3"}, "an END after FIRST"),
        ({"epochs": "-1:"}, "epochs must be FIRST:END"),
        ({"smooth": 0}, "smooth must be"),
        ({"x": "batch"}, "x must be"),
        ({"ylim": {"loss": (2, 1)}}, "ylim of 'loss' must be two numbers, the lower one first"),
        ({"ylim": {"lr": (0, 1)}}, "Unknown panel 'lr' in ylim"),
        ({"figsize": (0, 3)}, "figsize must be a width and a height in inches"),
        ({"epochs": "6:"}, "No epoch of '6:' is finished: there are 6 epochs, counted from 0."),
        ({"log_scale": ["loss"], "ylim": {"loss": (0, 1)}}, "'loss' cannot have a logarithmic scale from 0: give"),
    ],
)
def test_a_wrong_option(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_logs([Log("run", RECORDS)], **choice)


def test_a_range_of_epochs_also_limits_the_star() -> None:
    figure = drawn(Log("run", RECORDS), epochs="1:4", panels=["loss"])
    assert [line.get_marker() for line in figure.axes[0].lines] == ["o", "o"]
    assert list(figure.axes[0].lines[0].get_xdata()) == [1, 2, 3]
    assert figure.axes[0].get_xlim()[0] > 0
    legend = figure.axes[0].get_legend()
    assert legend is not None
    # The best epoch is not drawn.
    assert [text.get_text() for text in legend.get_texts()] == ["training", "validation"]


def test_axes_of_time_and_points() -> None:
    log = Log("run", RECORDS)
    axes = drawn(log, x="time", panels=["loss"]).axes[0]
    assert axes.get_xlabel() == "Time of the training (minutes)"
    np.testing.assert_allclose(axes.lines[0].get_xdata(), np.arange(1, 7))
    axes = drawn(log, x="points", panels=["loss"]).axes[0]
    assert axes.get_xlabel() == "Streamline points seen (millions)"
    np.testing.assert_allclose(axes.lines[0].get_xdata(), np.arange(1, 7))
    axes = drawn(Log("run", RECORDS * 1, note=""), x="time", epochs="0:1", panels=["loss"]).axes[0]
    assert axes.get_xlabel() == "Time of the training (seconds)"


def test_limits_from_zero_need_a_linear_scale() -> None:
    log = Log("run", [{"epoch": i, "train_loss": 40.0**-i} for i in range(3)])
    assert drawn(log).axes[0].get_yscale() == "log"
    axes = drawn(log, ylim={"loss": (0, 0.1)}).axes[0]
    assert (axes.get_yscale(), axes.get_ylabel(), axes.get_ylim()) == ("linear", "Loss", (0, 0.1))


def test_limits_and_size() -> None:
    figure = drawn(Log("run", RECORDS), ylim={"loss": (0.2, 0.5)}, figsize=(7, 8))
    assert figure.axes[0].get_ylim() == (0.2, 0.5)
    assert tuple(figure.get_size_inches()) == (7, 8)


def test_values_of_batches_are_between_the_epochs(tmp_path: Path) -> None:
    (log,) = read_logs([experiment(tmp_path / "run")], batches=True)
    options = CurveOptions(per_batch=True)
    x, values, _ = points_of(log, "train_loss", options)
    # The last epoch, which is not finished, has as many batches as the one before.
    np.testing.assert_allclose(x, (np.arange(22) + 1) / 5)
    np.testing.assert_allclose(values, np.arange(22))
    x, values, _ = points_of(log, "valid_loss", options)
    assert x.tolist() == [1, 2, 3, 4]
    assert log.nb_epochs == pytest.approx(4.4)
    figure = drawn(log, per_batch=True)
    assert labels(figure) == ["Loss", "Gradient norm", "Learning rate", "Speed (points/s)"]
    assert figure.axes[0].get_xlabel() == "Epochs done"
    x, _, _ = points_of(log, "train_loss", CurveOptions(per_batch=True, x="time"))
    # Four epochs of a minute, and 9 seconds of the one in progress.
    assert x[19] == 240
    assert x[-1] == 249
    x, _, _ = points_of(log, "train_loss", CurveOptions(per_batch=True, epochs="1:2"))
    np.testing.assert_allclose(x, [1.2, 1.4, 1.6, 1.8, 2.0])


def test_batches_are_drawn_before_the_first_epoch_is_finished(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "run", nb_epochs=0)
    assert visualize_logs(folder, per_batch=True) == [folder / "curves.png"]
    other = experiment(tmp_path / "other")
    assert visualize_logs([folder, other], per_batch=True) == [tmp_path / "curves_compared.png"]
    with pytest.raises(FileNotFoundError, match="no epoch is finished yet"):
        visualize_logs(folder)


def test_without_a_log_of_batches_the_epochs_are_drawn(tmp_path: Path) -> None:
    (log,) = read_logs([experiment(tmp_path / "run", batches=False)], batches=True)
    assert points_of(log, "train_loss", CurveOptions(per_batch=True))[0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("width", [2, 3, 4, 7, 50])
def test_smoothing_is_the_mean_of_the_neighbors(width: int) -> None:
    values = np.random.default_rng(0).normal(size=20)
    before, after = (width - 1) // 2, width // 2
    expected = [values[max(i - before, 0) : i + after + 1].mean() for i in range(20)]
    np.testing.assert_allclose(smooth(values, width), expected)


def test_the_values_stay_visible_behind_their_means() -> None:
    log = Log("run", [{"epoch": i, "train_loss": float(i % 2)} for i in range(20)])
    raw, mean = drawn(log, smooth=4, panels=["loss"]).axes[0].lines[:2]
    np.testing.assert_array_equal(raw.get_ydata(), np.arange(20) % 2)
    assert raw.get_alpha() == 0.25
    assert set(mean.get_ydata()[1:17].tolist()) == {0.5}


def test_epochs_without_a_value_interrupt_the_line() -> None:
    records = [{"epoch": i, "train_loss": 1.0, **({} if i in (3, 4) else {"valid_loss": 2.0})} for i in range(8)]
    curve = curve_of(Log("run", records), "valid_loss", CurveOptions())
    assert curve.x.tolist() == [0, 1, 2, 5, 5, 6, 7]
    assert np.isnan(curve.y).tolist() == [False, False, False, True, False, False, False]
    # A metric of every fourth epoch has no gaps.
    sparse = Log("run", [{"epoch": i, **({"gv": 1.0} if i % 4 == 3 else {})} for i in range(20)])
    assert not np.isnan(curve_of(sparse, "gv", CurveOptions()).y).any()


def test_many_points_keep_their_extremes() -> None:
    y = np.random.default_rng(0).normal(size=100_000)
    y[[5, 77_777]] = 50, -50
    x, thin, _ = thinned(np.arange(100_000.0), y, y)
    assert len(x) <= 4100
    assert (thin.max(), thin.min()) == (50, -50)
    assert (np.diff(x) > 0).all()
    few = np.arange(10.0)
    assert thinned(few, few, few)[0] is few


def test_outliers_are_outside_of_the_axis_and_counted() -> None:
    values = [float(i % 10) for i in range(40)]
    values[3], values[7] = 1e6, -1e6
    log = Log("run", [{"epoch": i, "train_loss": value} for i, value in enumerate(values)])
    axes = drawn(log, remove_outliers=True).axes[0]
    low, high = axes.get_ylim()
    assert -1 < low < 0
    assert 9 < high < 10
    assert [text.get_text() for text in axes.texts] == ["2 values outside"]
    assert usual_range([curve_of(Log("run", RECORDS), "learning_rate", CurveOptions())]) is None


def test_losses_of_different_kinds_have_a_note(tmp_path: Path) -> None:
    def run(name: str, **model: Any) -> Path:
        return experiment(tmp_path / name, batches=False, trainer={}, model=model)

    cosine = run("a", dg_key="cosine-regression", dg_args={"dropout": 0.1})
    same = run("b", dg_key="cosine-regression", dg_args={"dropout": 0.3})
    other = run("c", dg_key="cosine-regression", dg_args={"add_eos": True})
    mine = run("d", **{"class": "MyModel"})
    assert "defined differently" not in drawn(*read_logs([cosine, same])).axes[0].get_xlabel()
    figure = drawn(*read_logs([cosine, other, mine]))
    note = "(cosine-regression, cosine-regression with add_eos True, MyModel): their values cannot be compared."
    assert note in " ".join(figure.axes[0].get_xlabel().split())
    assert all("defined differently" not in axes.get_xlabel() for axes in figure.axes[1:])


def test_where_a_training_was_resumed_is_marked(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "run")
    events = [("start", 0.0), ("checkpoint", None), ("resume", 2.4), ("resume", 3.0), ("warning", None)]
    lines = [{"time": "2026", "event": name, "text": "", "epochs_done": done} for name, done in events]
    (folder / "logs/events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (log,) = read_logs([folder], batches=True)
    assert log.resumed == (2.4, 3.0)
    assert log.note == "not finished"
    axes = drawn(log, per_batch=True, panels=["loss"]).axes[0]
    (marks,) = [line for line in axes.lines if line.get_marker() == "^"]
    assert list(marks.get_xdata()) == [2.4, 3.0]
    assert "resumed" in [text.get_text() for text in axes.get_legend().get_texts()]
    (folder / "logs/events.jsonl").write_text(json.dumps({"time": "", "event": "end", "text": ""}))
    assert read_logs([folder])[0].note == ""


def test_a_table_has_what_is_drawn(tmp_path: Path) -> None:
    folder, table = experiment(tmp_path / "run"), tmp_path / "values.csv"
    graph = ["Mine", "diff(valid_loss,train_loss)"]
    written = visualize_logs(
        folder, csv=table, graphs=[graph], panels=["learning_rate"], epochs="1:3", rename={"run": "a, b"}
    )
    assert written == [folder / "curves.png", table]
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["panel"], row["metric"]) for row in rows] == [
        *[("learning_rate", "learning_rate")] * 2,
        *[("Mine", "diff(valid_loss,train_loss)")] * 2,
    ]
    assert {row["experiment"] for row in rows} == {"a, b"}
    assert [float(row["value"]) for row in rows[2:]] == pytest.approx([1 / 2, 1 / 3])
    with pytest.raises(FileExistsError, match="values.csv"):
        visualize_logs(folder, csv=table)
    with pytest.raises(ValueError, match="must be two files"):
        visualize_logs(folder, csv=tmp_path / "a.pdf", out=tmp_path / "a.pdf")


def test_a_name_that_no_experiment_has(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rename: there is no experiment 'b'; there are: 'run'"):
        visualize_logs(experiment(tmp_path / "run"), rename={"b": "c"})


def test_correlation_is_that_of_scipy(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 5, 30).astype(float), rng.normal(size=30)
    log = Log("run", [{"epoch": i, "a": float(a[i]), "b": float(b[i])} for i in range(30)])
    figure = Figure()
    draw_correlation(figure, [log], ["a", "b"], CurveOptions())
    rank = scipy.stats.spearmanr(a, b).statistic
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"run (rank correlation {rank:.2f})"]
    folder = experiment(tmp_path / "run")
    assert visualize_logs(folder, correlation=["train_loss", "valid_loss"]) == [folder / "correlation.png"]
    with pytest.raises(ValueError, match="per_batch is for the curves, not for correlation"):
        visualize_logs(folder, correlation=["train_loss", "valid_loss"], per_batch=True)
    with pytest.raises(ValueError, match="correlation must be two metrics"):
        visualize_logs(folder, correlation=["train_loss"])
    with pytest.raises(ValueError, match="No experiment has both 'train_loss' and 'gv' in one epoch"):
        draw_correlation(
            Figure(),
            [Log("x", [{"epoch": 0, "train_loss": 1.0}, {"epoch": 1, "gv": 1.0}])],
            ["train_loss", "gv"],
            CurveOptions(),
        )


def test_logs_of_dwi_ml_are_drawn_beside_ours(tmp_path: Path) -> None:
    other = tmp_path / "theirs"
    (other / "logs").mkdir(parents=True)
    np.save(other / "logs/train_loss_monitor_per_epoch.npy", [3.0, 2.0])
    np.save(other / "logs/training_time_monitor_duration.npy", [1.0, 2.0])
    ours = experiment(tmp_path / "ours")
    assert visualize_logs(tmp_path) == [tmp_path / "curves_compared.png"]
    logs = read_logs([ours, other])
    assert logs[1].series("train_loss") == ([0, 1], [3.0, 2.0])
    assert logs[1].series("train_duration_s") == ([0, 1], [60.0, 120.0])
    assert logs[1].note == "dwi_ml"


def test_a_figure_is_drawn_again_until_the_training_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, waited = experiment(tmp_path / "run"), []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        assert (folder / "curves.png").exists()

    monkeypatch.setattr(module, "is_running", lambda folder: len(waited) < 3)
    monkeypatch.setattr(module.time, "sleep", wait)
    assert visualize_logs(folder, watch=5) == [folder / "curves.png"]
    # Of epochs that may still come.
    late = {"epochs": "9:", "log_scale": ["loss"]}
    assert visualize_logs(folder, watch=5, **late) == [folder / "curves.png"]
    with pytest.raises(ValueError, match="No epoch of '9:' is finished"):
        visualize_logs(folder, show=False, **late)
    assert waited == [5, 5, 5]
    with pytest.raises(ValueError, match="watch draws into a file"):
        visualize_logs(folder, watch=5, show=True)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = experiment(tmp_path / "run"), tmp_path / "a.png"
    words = ["visualize_logs", str(folder), "--out", str(out), "--per_batch", "--smooth", "3", "--x", "time"]
    words += ["--ylim", "loss", "0", "1e1", "--remove_outliers", "--rename", "run", "mine", "--figsize", "6", "5"]
    assert main([*words, "--csv", str(tmp_path / "a.csv")]) == 0
    assert capsys.readouterr().out == f"Curves saved in {out}\nValues saved in {tmp_path / 'a.csv'}\n"
    assert (
        main(["visualize_logs", str(folder), "--save", "--graph", "T", "train_loss", "--graph", "U", "valid_loss"]) == 0
    )
    assert main(["visualize_logs", str(folder), "--save", "--correlation", "train_loss", "valid_loss"]) == 0
    assert "Correlation saved in" in capsys.readouterr().out
    assert main(["visualize_logs", str(folder), "--save", "--ylim", "loss", "a", "1"]) == 2
    assert "LOW and HIGH must be numbers, got a and 1" in capsys.readouterr().err


def test_each_file_is_named_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert main(["visualize_logs", "run", "--out", "a.png", "--csv", "./x.csv"]) == 0
    assert capsys.readouterr().out.splitlines() == ["Curves saved in a.png", "Values saved in x.csv"]
