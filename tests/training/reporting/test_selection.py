"""The best model selected by a metric of the user's, and what the messages, the log and the figures say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import AngleTrainer, logs, small_trainer

from dwiml import DWIMLTrainerOneInput, DWIMLTrainerOneInputWithGVPhase, Learn2TrackModel, TensorSequence
from dwiml.files import read_json
from dwiml.training.experiment.checkpoint import load_checkpoint
from dwiml.viz.logs import plot_logs, read_logs


class ByPoints(AngleTrainer):
    """Logs values of its own in each epoch: 3, 1, 2 in the validation."""

    selection_metric = "valid_score_mm"

    def run_one_batch(self, targets: TensorSequence, ids_per_subj: Any) -> tuple[torch.Tensor, int]:
        self.log("score_mm", (3.0, 1.0, 2.0)[self.next_epoch], n=1)
        return super().run_one_batch(targets, ids_per_subj)


class Highest(ByPoints):
    def selection_value(self, metrics: dict[str, float]) -> float | None:
        # Of a type that a checkpoint cannot hold.
        return np.float64(-metrics.pop("valid_score_mm"))


class Unnamed(Highest):
    selection_metric = None


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("trainer_class", "name", "best", "values"),
    [
        (ByPoints, "valid score (mm)", 1, [3.0, 1.0, 2.0]),
        (Highest, "valid score (mm)", 0, [-3.0, -1.0, -2.0]),
        (Unnamed, "selection value", 0, [-3.0, -1.0, -2.0]),
    ],
)
def test_the_best_model_is_selected_and_named_by_ones_own_metric(
    tiny_hdf5: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    trainer_class: Any,
    name: str,
    best: int,
    values: list[float],
) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=3, trainer_class=trainer_class, verbose=True)
    trainer.train_and_validate()
    lines = logs(tmp_path / "exp")
    assert [line["selection_value"] for line in lines] == values
    assert [line["valid_score_mm"] for line in lines] == [3.0, 1.0, 2.0]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("Epoch ", "Training ended"))]
    assert said[0].endswith(f" (best {name.partition(' (')[0]})")
    assert "loss" not in said[-1]
    assert f"; the best model by {name} is that of epoch {best}. " in said[-1]
    (log,) = read_logs([tmp_path / "exp"])
    shown = values if trainer_class is Unnamed else [3.0, 1.0, 2.0]
    assert log.best() == (best, shown[best])
    legends = [each for axes in plot_logs([log]).axes if (each := axes.get_legend()) is not None]
    texts = [text.get_text() for each in legends for text in each.get_texts()]
    assert f"best model: {shown[best]:.4g} (epoch {best})" in texts
    assert not any(text.startswith("best validation") for text in texts)
    # The next run goes on from it.
    assert type(load_checkpoint(tmp_path / "exp" / "checkpoint")["best"]["best_value"]) is float
    resumed = small_trainer(tiny_hdf5, tmp_path, max_epochs=3, trainer_class=trainer_class, resume="must")
    assert (resumed.best.best_epoch, resumed.best.best_value) == (best, values[best])
    recorded = read_json(tmp_path / "exp" / "parameters.json")
    assert recorded["selection_metric"] == ("selection_value" if trainer_class is Unnamed else "valid_score_mm")


def _selecting(base: type[DWIMLTrainerOneInput] = ByPoints, **attributes: Any) -> Any:
    return type("Selecting", (base,), attributes)


@pytest.mark.parametrize(
    ("attributes", "error", "sentence"),
    [
        (
            {"selection_metric": "valid_scor"},
            ValueError,
            r"^Epoch 0 has no metric 'valid_scor', which .*; did you mean 'valid_score_mm'.*\? It has: ",
        ),
        ({"selection_metric": 3}, TypeError, "^Selecting.selection_metric must be the name of a metric .* None, got 3"),
        ({"selection_value": lambda self, metrics: "low"}, ValueError, r"must return a finite number .* got 'low'\.$"),
        ({"selection_value": lambda self, metrics: float("nan")}, ValueError, r"must return a finite .* got nan\.$"),
    ],
)
def test_what_selects_nothing_is_one_sentence(
    tiny_hdf5: Path, tmp_path: Path, attributes: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, trainer_class=_selecting(**attributes))
    with pytest.raises(error, match=sentence):
        trainer.train_and_validate()


def test_epochs_that_do_not_count(tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    never = _selecting(selection_value=lambda self, metrics: None)
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, trainer_class=never, verbose=True).train_and_validate()
    assert "; no epoch had a value of valid score (mm), so there is no best model." in capsys.readouterr().err
    assert read_logs([tmp_path / "exp"])[0].best() is None
    assert "selection_value" not in logs(tmp_path / "exp")[0]


class OfGivenMetric(DWIMLTrainerOneInput):
    """Selects the best model by a metric, and logs nothing."""


class LogsInBackPropagate(DWIMLTrainerOneInput):
    """Logs where log cannot be called."""

    def back_propagate(self, mean_loss: torch.Tensor, n: int) -> None:
        super().back_propagate(mean_loss, n)
        self.log("score", 1.0, n)


@pytest.mark.first(5)
@pytest.mark.parametrize(
    ("base", "metric", "options", "meant"),
    [
        (OfGivenMetric, "valid_los", {}, "did you mean 'valid_loss'"),
        (OfGivenMetric, "loss", {}, "did you mean 'valid_loss' or 'train_loss'"),
        (OfGivenMetric, "valid_angle_deg", {}, "will have this metric; the metrics of"),
        (
            OfGivenMetric,
            "valid_loss",
            {"overfit_batches": 1},
            r"\(there is no validation\); did you mean 'train_loss'\?",
        ),
        (OfGivenMetric, "grad_norm_clipped", {"clip_grad": None}, "will have this metric; the metrics of"),
        (ByPoints, "score_mm", {}, "did you mean 'valid_score_mm' or 'train_score_mm'"),
        (ByPoints, "valid_score_mm", {"overfit_batches": 1}, "did you mean 'train_score_mm'"),
        (ByPoints, "valid_grad_norm", {}, "did you mean 'grad_norm'"),
        (ByPoints, "val_score_mm", {}, r"did you mean 'valid_score_mm'\?"),
        (ByPoints, "training_score_mm", {}, r"did you mean 'train_score_mm'\?"),
        (ByPoints, "val_score_mm", {"overfit_batches": 1}, r"did you mean 'train_score_mm'\?"),
        (OfGivenMetric, "val_loss", {}, r"did you mean 'valid_loss'\?"),
        (OfGivenMetric, "validation_loss", {}, r"did you mean 'valid_loss'\?"),
        (
            LogsInBackPropagate,
            "train_score",
            {},
            r"those of self.log, which works in run_one_batch and the methods that it calls, start with train_ or val",
        ),
        (DWIMLTrainerOneInputWithGVPhase, "gv_lenght_ratio", {}, "did you mean 'gv_length_ratio'"),
    ],
)
def test_a_metric_that_no_epoch_will_have_is_refused_before_the_training(
    tiny_hdf5: Path, tmp_path: Path, base: Any, metric: str, options: dict[str, Any], meant: str
) -> None:
    cls = _selecting(base, selection_metric=metric)
    options = {"tracking_phase_theta": 180.0, **options} if base is DWIMLTrainerOneInputWithGVPhase else options
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, trainer_class=cls, **options)
    with pytest.raises(ValueError, match=f"^Selecting.selection_metric is '{metric}', and no epoch .*{meant}"):
        trainer.train_and_validate()
    assert not (tmp_path / "exp").exists()


class OfFinishEpoch(DWIMLTrainerOneInput):
    selection_metric = "mine"

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        super().finish_epoch({**metrics, "mine": 2.0})


class LoggingModel(Learn2TrackModel):
    """Logs by itself."""

    trainer: Any = None

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss, n = super().compute_loss(*args, **kwargs)
        type(self).trainer.log("half", loss / 2, n)
        return loss, n


def test_metrics_that_are_known_only_later_are_not_refused(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, trainer_class=OfFinishEpoch)
    trainer.train_and_validate()
    assert trainer.best.best_value == 2.0
    cls = _selecting(OfGivenMetric, selection_metric="valid_half")
    args = {"rnn_layer_sizes": (8, 8)}
    options: dict[str, Any] = {"trainer_class": cls, "model_class": LoggingModel, "model_args": args}
    trainer = small_trainer(tiny_hdf5, tmp_path, "other", max_epochs=1, **options)
    LoggingModel.trainer = trainer
    trainer.train_and_validate()
    assert trainer.best.best_value == logs(tmp_path / "other")[0]["valid_half"]


def test_a_value_that_is_set_on_the_trainer_is_logged_and_named(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, verbose=True)
    trainer.selection_value = lambda metrics: -metrics["train_loss"]  # type: ignore[method-assign]
    trainer.train_and_validate()
    (line,) = logs(tmp_path / "exp")
    assert line["selection_value"] == -line["train_loss"]
    shown = capsys.readouterr().err
    assert "(best selection value)" in shown
    assert "best loss" not in shown


def test_a_value_of_none_is_warned_of_once(tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    never = _selecting(selection_value=lambda self, metrics: None)
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, trainer_class=never).train_and_validate()
    assert [record.getMessage() for record in caplog.records] == [
        "Selecting.selection_value returned None in epoch 0: there is no best model until an epoch has a value."
    ]


def test_ones_own_metric_goes_before_that_of_the_tracking_phase(tiny_hdf5: Path, tmp_path: Path) -> None:
    own = _selecting(DWIMLTrainerOneInputWithGVPhase, selection_metric="train_loss")
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, trainer_class=own, tracking_phase_theta=180.0)
    trainer.train_and_validate()
    assert trainer.best.best_value == logs(tmp_path / "exp")[0]["train_loss"]


def test_another_metric_than_before_is_refused_on_resume(tiny_hdf5: Path, tmp_path: Path) -> None:
    class Same(AngleTrainer):
        selection_metric = None

    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, trainer_class=Same).train_and_validate()
    Same.selection_metric = "valid_angle_deg"
    with pytest.raises(ValueError, match="was selected by 'selection_value', but now .* by 'valid_angle_deg'"):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=2, trainer_class=Same, resume="must")
    Same.selection_metric = None
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, trainer_class=Same, resume="must").train_and_validate()
