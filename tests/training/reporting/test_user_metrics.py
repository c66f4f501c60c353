"""Metrics that a user's run_one_batch logs: the mean over an epoch, whatever stops it and however many share it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rank_starting import train
from small_training import interrupt, logs, small_trainer, with_angle
from tests_support import write_hdf5

import dwiml
from dwiml import DWIMLTrainerOneInput
from dwiml.training.experiment.checkpoint import load_checkpoint
from dwiml.training.reporting import progress
from dwiml.training.reporting.user_metrics import check_metric_name
from dwiml.viz.curves.panels import choose_panels
from dwiml.viz.logs import read_logs

METRICS = ("train_angle_deg", "valid_angle_deg", "train_nb_points", "valid_nb_points")


def logging_with(
    trainer: DWIMLTrainerOneInput, log: Callable[[DWIMLTrainerOneInput, Any, Any], object]
) -> DWIMLTrainerOneInput:
    """Have a trainer call ``log(trainer, targets, ids_per_subj)`` in each batch."""
    run = trainer.run_one_batch

    def run_and_log(targets: Any, ids_per_subj: Any) -> Any:
        log(trainer, targets, ids_per_subj)
        return run(targets, ids_per_subj)

    trainer.run_one_batch = run_and_log  # type: ignore[method-assign]
    return trainer


def test_the_mean_is_weighted_by_n(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2)
    seen: dict[tuple[str, int], list[tuple[float, int]]] = {}

    def log(trainer: DWIMLTrainerOneInput, targets: Any, ids_per_subj: Any) -> None:
        key = ids_per_subj.key
        value, n = targets.data.mean(), len(targets)
        seen.setdefault((key.phase, trainer.next_epoch), []).append((float(value), n))
        trainer.log("x", value, n)
        trainer.log("nothing", math.nan, 0)

    logging_with(trainer, log).train_and_validate()
    for line in logs(tmp_path / "exp"):
        for phase, prefix in (("training", "train"), ("validation", "valid")):
            pairs = seen[phase, line["epoch"]]
            expected = sum(value * n for value, n in pairs) / sum(n for _, n in pairs)
            assert line[f"{prefix}_x"] == pytest.approx(expected, rel=1e-12)
        assert "train_nothing" not in line


# An epoch has 4 batches of training and 1 of validation.
@pytest.mark.first(2)
@pytest.mark.parametrize("stops", [[0], [2], [3], [4], [1, 0, 0], [2, 2, 2]])
def test_stopped_anywhere_it_is_the_same_to_the_last_bit(tiny_hdf5: Path, tmp_path: Path, stops: list[int]) -> None:
    with_angle(small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=2)).train_and_validate()
    for nth in stops:
        interrupt(with_angle(small_trainer(tiny_hdf5, tmp_path, "parts", max_epochs=2, resume="auto")), nth)
    with_angle(small_trainer(tiny_hdf5, tmp_path, "parts", max_epochs=2, resume="auto")).train_and_validate()
    whole = logs(tmp_path / "whole")
    assert all(name in line for line in whole for name in METRICS)
    assert whole == logs(tmp_path / "parts")


@pytest.mark.slow
def test_two_ranks_log_what_one_does_and_go_on_with_one(tmp_path: Path) -> None:
    # The last batch has one streamline: the second rank has no share of it, and logs nothing.
    data = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 20, "sub-b": 13}, {"sub-c": 9})
    # Small steps: rounding differs with the shares.
    options: dict[str, Any] = {"logs_angle": True, "max_epochs": 2, "learning_rates": 1e-4}
    for name, nb in (("one", 1), ("two", 2)):
        train(data, tmp_path, name, nb=nb, **options)
    train(data, tmp_path, "stopped", nb=2, stops_at=2, code=None, **options)
    monitors = load_checkpoint(tmp_path / "stopped" / "checkpoint")["monitors"]
    assert len(monitors["own"]) == 2
    assert monitors["own"][0]["angle_deg"]["weights"] != monitors["own"][1]["angle_deg"]["weights"]
    train(data, tmp_path, "stopped", nb=1, **options)
    for name in ("two", "stopped"):
        for line, expected in zip(logs(tmp_path / name), logs(tmp_path / "one"), strict=True):
            # One of two ranks leaves out a batch's single streamline too: its own share is one.
            for metric in ("train_angle_deg", "valid_angle_deg"):
                assert line[metric] == pytest.approx(expected[metric], rel=1e-4), (name, metric)
            assert line["valid_nb_points"] == pytest.approx(expected["valid_nb_points"], rel=1e-9)


def test_it_is_shown_in_the_line_and_beside_the_bar(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_READINGS", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with_angle(small_trainer(tiny_hdf5, tmp_path, max_epochs=1, verbose=True)).train_and_validate()
    lines = capsys.readouterr().err.splitlines()
    assert any("training: 2 of 4 batches, loss " in line and ", angle (degrees) " in line for line in lines)
    (epoch,) = [line for line in lines if line.startswith("Epoch 0") and "train loss" in line]
    (logged,) = logs(tmp_path / "exp")
    assert f"train angle (degrees) {logged['train_angle_deg']:#.4g}, " in epoch
    assert f"valid angle (degrees) {logged['valid_angle_deg']:#.4g}" in epoch


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1.000"), (0.25, "0.2500"), (1234.0, "1234"), (0.0, "0.000"), (-12.5, "-12.50"), (123456.0, "1.235e+05")],
)
def test_a_metric_always_has_four_digits(value: float, text: str) -> None:
    line = progress.epoch_line({"train_loss": 0.5, "valid_a": value}, 0, 1, is_best=False)
    assert line == f"Epoch 0 of 1: train loss 0.50000, valid a {text}, 0.0 s"


@pytest.mark.parametrize("by", [None, "valid_b", "gv_endpoint_distance_mm"])
def test_the_line_of_an_epoch_has_losses_first_and_a_stable_order(by: str | None) -> None:
    own = {"train_b": 1234.56, "train_a": 0.000123456, "valid_b": 2.0}
    metrics = {
        "valid_loss": 0.25,
        "gv_endpoint_distance_mm": 3.14159,
        **own,
        "train_loss": 0.5,
        "train_duration_s": 2.0,
    }
    line = progress.epoch_line(metrics, 0, 2, is_best=False, by=by)
    tracked = ", GV endpoint distance (mm) 3.142" if by == "gv_endpoint_distance_mm" else ""
    assert line == (
        "Epoch 0 of 2: train loss 0.50000, valid loss 0.25000, train a 0.0001235, train b 1235, valid b 2.000"
        f"{tracked}, 2.0 s"
    )
    reordered = dict(reversed(metrics.items()))
    assert progress.epoch_line(reordered, 0, 2, is_best=False, by=by) == line


@pytest.mark.parametrize("phase", ["training", "validation"])
@pytest.mark.parametrize("value", [math.nan, torch.tensor(math.inf)])
def test_nan_is_named_and_stops(tiny_hdf5: Path, tmp_path: Path, phase: str, value: Any) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2)
    logging_with(trainer, lambda t, _, ids: t.log("x", value if ids.key.phase == phase else 1.0, 1))
    what = "NaN" if math.isnan(value) else "infinite"
    with pytest.raises(FloatingPointError) as caught:
        trainer.train_and_validate()
    assert str(caught.value).startswith(
        f"The metric 'x' is {what} in batch 0 of the {phase} of epoch 0. The batch has "
    )
    end = (
        "no checkpoint was written yet, and experiment_name can be used again. Check the value that you give to "
        "self.log, or set nan_policy='skip'."
    )
    assert str(caught.value).endswith(end)
    assert not (tmp_path / "exp" / "logs" / "metrics.jsonl").exists()


def test_nan_is_left_out_and_said_where_batches_are_skipped(
    tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, nan_policy="skip")
    logging_with(trainer, lambda t, _, ids: t.log("x", math.nan if ids.key.batch_index == 1 else 2.0, 3))
    with caplog.at_level(logging.WARNING):
        trainer.train_and_validate()
    assert "The metric 'x' is NaN in batch 1 of the training of epoch 0: left out of the mean." in caplog.text
    (line,) = logs(tmp_path / "exp")
    assert line["train_x"] == 2.0
    assert "train_skipped_batches" not in line


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (("loss", 1.0, 1), ValueError, "'loss' is the name of one of the trainer's metrics"),
        (("train_angle", 1.0, 1), ValueError, r"without the phase \('angle' instead of 'train_angle'\)"),
        (("an angle", 1.0, 1), ValueError, "letters, digits and underscores, starting with a letter, got 'an angle'"),
        ((3, 1.0, 1), ValueError, "got 3"),
        (("x", torch.ones(2), 1), ValueError, r"number or a 0-d tensor \(a mean\), got a tensor of shape \(2,\)"),
        (("x", "much", 1), ValueError, "must be a number or a 0-d tensor .* got 'much'"),
        (("x", None, 1), ValueError, "got None"),
        (("x", 1.0, 0.5), ValueError, "n of metric 'x' must be a whole number of at least 0, got 0.5"),
        (("x", 1.0, -1), ValueError, "got -1"),
        (("x", 1.0), TypeError, r"log\('x', ...\) needs n, the number of points .*: self.log\('x', value, n=...\)"),
    ],
)
def test_what_cannot_be_logged(
    tiny_hdf5: Path, tmp_path: Path, arguments: Any, error: type[Exception], sentence: str
) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1)
    logging_with(trainer, lambda t, *_: t.log(*arguments))
    with pytest.raises(error, match=sentence):
        trainer.train_and_validate()


def test_outside_of_a_batch_it_is_refused(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1)
    with pytest.raises(RuntimeError, match="can only be called in run_one_batch.*metrics of finish_epoch instead"):
        trainer.log("x", 1.0, 1)
    trainer.train_and_validate()
    with pytest.raises(RuntimeError, match="can only be called in run_one_batch"):
        trainer.log("x", 1.0, 1)


@pytest.mark.slow
def test_the_figure_has_a_panel_of_it(tiny_hdf5: Path, tmp_path: Path) -> None:
    with_angle(small_trainer(tiny_hdf5, tmp_path, max_epochs=2)).train_and_validate()
    (panel,) = [each for each in choose_panels(read_logs([tmp_path / "exp"])) if each.key == "angle_deg"]
    assert panel.axis == "Angle (degrees)"
    assert [(line.metric, line.label) for line in panel.lines] == [
        ("train_angle_deg", "training"),
        ("valid_angle_deg", "validation"),
    ]
    dwiml.visualize_logs(tmp_path / "exp", show=False, log_scale=["angle_deg"])
    assert (tmp_path / "exp" / "curves.png").stat().st_size > 10_000


def test_numpys_numbers_are_taken(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1)
    logging_with(trainer, lambda t, *_: t.log("x", np.float32(0.5), np.int64(2)))
    trainer.train_and_validate()
    assert json.dumps(logs(tmp_path / "exp")[0]["valid_x"]) == "0.5"


def test_names_of_the_log_are_reserved() -> None:
    assert check_metric_name("angle_deg") == "angle_deg"
    for name in ("epoch", "learning_rate", "grad_norm", "data_wait_s", "points_per_s", "duration_s"):
        with pytest.raises(ValueError, match="is the name of one of the trainer's metrics"):
            check_metric_name(name)
