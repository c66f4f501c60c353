"""What may be chosen for a training beside what it trains on."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import interrupt, logs, same_weights, small_trainer
from tests_support import write_hdf5

from dwiml import DWIMLTrainerOneInput, Learn2TrackModel, TensorSequence
from dwiml.training.experiment.checkpoint import load_checkpoint
from dwiml.training.optimization.compiling import PaddedRows, padded_size
from dwiml.viz.logs import read_logs

NOTHING_RANDOM: dict[str, Any] = {
    "loader_args": {
        "reverse_ratio": 0,
        "split_ratio": 0,
        "noise_gaussian_size_forward": 0,
        "noise_gaussian_size_loss": 0,
    },
    "model_args": {"dropout": 0.0},
}


def test_two_batches_accumulated_are_one_of_twice_the_size(tmp_path: Path) -> None:
    # 64 streamlines: 2 batches of 32, or 4 of 16. Streamlines of different lengths: means alone would not do.
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 64}, {"sub-b": 8})
    small = small_trainer(path, tmp_path, "small", max_epochs=4, accumulate_batches=2, **NOTHING_RANDOM)
    large = small_trainer(path, tmp_path, "large", max_epochs=4, **NOTHING_RANDOM)
    large.batch_sampler.batch_size["training"] = 32
    small.train_and_validate()
    large.train_and_validate()
    for line, expected in zip(logs(tmp_path / "small"), logs(tmp_path / "large"), strict=True):
        for name in ("train_loss", "valid_loss", "grad_norm"):
            assert line[name] == pytest.approx(expected[name], rel=1e-4)
    weights = [trainer.model.state_dict() for trainer in (small, large)]
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-4) for key in weights[0])


@pytest.mark.first(1)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns_as_well(tiny_hdf5: Path, tmp_path: Path, precision: str) -> None:
    for name in ("float32", precision):
        small_trainer(tiny_hdf5, tmp_path, name, max_epochs=5, precision=name, **NOTHING_RANDOM).train_and_validate()
    losses = {name: [line["valid_loss"] for line in logs(tmp_path / name)] for name in ("float32", precision)}
    assert losses[precision] != losses["float32"]
    assert losses[precision] == pytest.approx(losses["float32"], rel=0.02)
    best = Learn2TrackModel.load(tmp_path / precision / "best_model")
    assert {weights.dtype for weights in best.parameters()} == {torch.float32}


@pytest.mark.slow
def test_fp16_is_resumed_with_its_scale(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=2, precision="fp16").train_and_validate()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, precision="fp16").train_and_validate()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, precision="fp16", resume="must").train_and_validate()
    assert logs(tmp_path / "whole") == logs(tmp_path / "exp")
    assert load_checkpoint(tmp_path / "exp" / "checkpoint")["scaler"]["scale"] > 1


def test_validation_and_best_model_have_the_averaged_weights(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, ema_decay=0.9)
    trainer.train_and_validate()
    best = Learn2TrackModel.load(tmp_path / "exp" / "best_model")
    assert trainer.averaged is not None
    assert trainer.averaged.nb_updates == 4
    assert not same_weights(best, trainer.model)
    with trainer.averaged.applied():
        assert same_weights(best, trainer.model)


class Spoilt(DWIMLTrainerOneInput):
    """Gives a NaN loss in one batch, or a gradient of NaN."""

    phase, gradient = "training", False

    def run_one_batch(self, targets: TensorSequence, ids_per_subj: Any) -> tuple[torch.Tensor, int]:
        loss, n = super().run_one_batch(targets, ids_per_subj)
        if (ids_per_subj.key.phase, ids_per_subj.key.batch_index) != (self.phase, {"training": 2}.get(self.phase, 0)):
            return loss, n
        if not self.gradient:
            return loss * float("nan"), n
        # The root of 0: its value is 0, its slope is infinite, and 0 times that is NaN.
        return loss + (loss * 0).sqrt(), n


def spoil(trainer: DWIMLTrainerOneInput, phase: str = "training", *, gradient: bool = False) -> DWIMLTrainerOneInput:
    trainer.__class__ = Spoilt
    trainer.phase, trainer.gradient = phase, gradient  # type: ignore[attr-defined]
    return trainer


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
def test_nan_stops_with_the_batch_saved(tiny_hdf5: Path, tmp_path: Path, gradient: bool) -> None:
    trainer = spoil(small_trainer(tiny_hdf5, tmp_path, max_epochs=2), gradient=gradient)
    what = "gradient norm" if gradient else "loss"
    with pytest.raises(FloatingPointError, match=f"The {what} is NaN in batch 2 of the training of epoch 0") as caught:
        trainer.train_and_validate()
    assert "The batch has streamlines of sub-a, sub-b" in str(caught.value)
    assert "; no checkpoint was written yet, and experiment_name can be used again. Look for " in str(caught.value)
    saved = torch.load(tmp_path / "exp/bad_batches/training_epoch_0_batch_2.pt", weights_only=True)
    assert f"'{tmp_path / 'exp/bad_batches/training_epoch_0_batch_2.pt'}'" in str(caught.value)
    assert saved["points"].shape == (int(saved["lengths"].sum()), 3)
    assert sum(len(ids) for ids in saved["ids"].values()) == 16
    # The weights are still good.
    assert all(torch.isfinite(weights).all() for weights in trainer.model.parameters())


def test_the_name_of_an_experiment_is_free_if_a_nan_came_before_any_result(tiny_hdf5: Path, tmp_path: Path) -> None:
    bad = tmp_path / "exp/bad_batches/training_epoch_0_batch_2.pt"
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1)
    trainer.config = "model: learn2track"
    with pytest.raises(FloatingPointError, match="experiment_name can be used again"):
        spoil(trainer).train_and_validate()
    assert (tmp_path / "exp/config.yaml").is_file()
    before = bad.read_bytes()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, learning_rates=0.0002).train_and_validate()
    assert bad.read_bytes() == before
    recorded = json.loads((tmp_path / "exp/parameters.json").read_text())
    assert recorded["trainer"]["learning_rates"] == 0.0002
    # That of the first try would be of other parameters.
    assert not (tmp_path / "exp/config.yaml").exists()
    assert len(logs(tmp_path / "exp")) == 1
    with pytest.raises(FileExistsError, match="already exists"):
        small_trainer(tiny_hdf5, tmp_path)
    later = spoil(small_trainer(tiny_hdf5, tmp_path, max_epochs=2, resume="auto", learning_rates=0.0002))
    with pytest.raises(FloatingPointError, match="; the last checkpoint was written before it. Look for"):
        later.train_and_validate()
    with pytest.raises(FileExistsError, match="already exists"):
        small_trainer(tiny_hdf5, tmp_path)


def test_an_experiment_without_bad_batch_keeps_its_name(tiny_hdf5: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError):
        spoil(small_trainer(tiny_hdf5, tmp_path, max_epochs=1)).train_and_validate()
    # As if another training had been killed in its first epoch.
    (tmp_path / "exp/bad_batches/training_epoch_0_batch_2.pt").unlink()
    with pytest.raises(FileExistsError, match="already exists"):
        small_trainer(tiny_hdf5, tmp_path)


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
def test_nan_is_skipped_and_counted(tiny_hdf5: Path, tmp_path: Path, gradient: bool) -> None:
    trainer = spoil(small_trainer(tiny_hdf5, tmp_path, max_epochs=2, nan_policy="skip"), gradient=gradient)
    trainer.train_and_validate()
    for line in logs(tmp_path / "exp"):
        assert line["train_skipped_batches"] == 1
        assert line["train_loss"] > 0
        assert "valid_skipped_batches" not in line
    assert all(torch.isfinite(weights).all() for weights in trainer.model.parameters())


class SkipsInEpoch1(DWIMLTrainerOneInput):
    """Gives NaN in the first validation batch of epoch 1, and a lower loss in all others of it."""

    def run_one_batch(self, targets: TensorSequence, ids_per_subj: Any) -> tuple[torch.Tensor, int]:
        loss, n = super().run_one_batch(targets, ids_per_subj)
        if self.next_epoch != 1 or ids_per_subj.key.phase != "validation":
            return loss, n
        return (loss * float("nan") if ids_per_subj.key.batch_index == 0 else loss * 0), n


@pytest.mark.parametrize("scheduler", [None, "ReduceLROnPlateau"])
def test_an_epoch_whose_validation_skipped_a_batch_is_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scheduler: str | None
) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 30}, {"sub-b": 40})
    trainer = small_trainer(
        path,
        tmp_path,
        max_epochs=3,
        nan_policy="skip",
        learning_rates=0.01,
        lr_scheduler=scheduler,
        lr_scheduler_args=None if scheduler is None else {"patience": 0, "factor": 0.5},
        verbose=True,
        patience=9,
    )
    trainer.__class__ = SkipsInEpoch1
    trainer.train_and_validate()
    lines = logs(tmp_path / "exp")
    assert lines[1]["valid_loss"] == 0
    assert lines[1]["valid_skipped_batches"] == 1
    judged = {epoch: lines[epoch]["valid_loss"] for epoch in (0, 2)}
    best = min(judged, key=judged.__getitem__)
    assert (trainer.best.best_epoch, trainer.best.best_value) == (best, judged[best])
    assert trainer.best.nb_bad_epochs == (0 if best == 2 else 1)
    assert read_logs([tmp_path / "exp"])[0].best() == (best, judged[best])
    assert "Epoch 1 does not count for the best model and patience: a batch was skipped" in capsys.readouterr().err
    # Had the plateau's schedule seen a loss of 0, epoch 2 would be worse.
    assert lines[2]["learning_rate"] == 0.01


def test_a_nan_validation_is_never_the_best(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = spoil(small_trainer(tiny_hdf5, tmp_path, max_epochs=2, nan_policy="skip"), "validation")
    with pytest.raises(ValueError, match="Epoch 0 has no valid_loss"):
        trainer.train_and_validate()
    assert trainer.best.best_value is None


def test_a_first_try_leaves_nothing(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    trainer = small_trainer(tiny_hdf5, tmp_path / "experiments", max_epochs=50, fast_dev_run=True, verbose=True)
    seen = []
    finish = trainer.finish_epoch

    def note(metrics: dict[str, float]) -> None:
        finish(metrics)
        seen.append((trainer.folder.path / "checkpoint" / "latest.pt").exists())

    trainer.finish_epoch = note  # type: ignore[method-assign]
    trainer.train_and_validate()
    assert seen == [True]
    assert trainer.next_epoch == 1
    assert not (tmp_path / "experiments").exists()
    assert not list((tmp_path / "temporary").iterdir())
    assert capsys.readouterr().err.endswith("This was a trial: nothing is kept.\n")


def test_a_first_try_that_ends_early_leaves_a_bad_batch_only(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    small_trainer(tiny_hdf5, tmp_path, fast_dev_run=True)
    interrupt(small_trainer(tiny_hdf5, tmp_path, fast_dev_run=True), 0)
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())
    bad = spoil(small_trainer(tiny_hdf5, tmp_path, fast_dev_run=True), "validation")
    with pytest.raises(FloatingPointError, match="Its streamlines are saved in") as caught:
        bad.train_and_validate()
    assert Path(str(caught.value).split("saved in '")[1].split("'")[0]).is_file()


def test_the_same_batches_again_and_again(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=3, overfit_batches=2)
    keys = []
    run = trainer.run_one_batch

    def note(targets: TensorSequence, ids_per_subj: Any) -> tuple[torch.Tensor, int]:
        keys.append((ids_per_subj.key.phase, ids_per_subj.key.epoch, ids_per_subj.key.batch_index))
        return run(targets, ids_per_subj)

    trainer.run_one_batch = note  # type: ignore[method-assign]
    assert "an epoch uses 2 of them" in trainer.summary()
    trainer.train_and_validate()
    assert keys == [("training", 0, 0), ("training", 0, 1)] * 3
    assert all("valid_loss" not in line for line in logs(tmp_path / "exp"))


def test_where_the_time_goes(tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, profile=True, verbose=True).train_and_validate()
    shown = capsys.readouterr().err
    for part in ("waiting for data", "interpolation", "forward and loss", "backward", "optimizer"):
        assert part in shown


def test_summary(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_batches_per_epoch_training=3)
    text = trainer.summary()
    assert f"{sum(weights.numel() for weights in trainer.model.parameters()):,}".replace(",", " ") in text
    assert "4 batches, an epoch uses 3 of them, 75% of the data" in text
    assert "Memory     at least " in text
    assert "volumes" in text
    trainer.batch_sampler.set_position("validation", 3, first_batch=1)
    before = vars(trainer.batch_sampler).copy()
    assert trainer.summary() == text
    assert vars(trainer.batch_sampler) == before


def test_deterministic_algorithms_for_the_training_only(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, deterministic=True)
    seen = []
    run = trainer.run_one_batch

    def note(*batch: Any) -> Any:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return run(*batch)

    trainer.run_one_batch = note  # type: ignore[method-assign]
    trainer.train_and_validate()
    assert set(seen) == {True}
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]


@pytest.mark.slow
# Torch warns of its own internals while it compiles.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", ["nn_embedding", "cnn_embedding"])
def test_compiled_layers_compute_the_same(tiny_hdf5: Path, tmp_path: Path, key: str) -> None:
    embedding = {"input_embedding_key": key, "input_embedded_size": 6, "dropout": 0.0}
    embedding |= {"neighborhood_type": "grid", "neighborhood_radius": 1}
    for name, compiled in (("plain", False), ("compiled", True)):
        options: dict[str, Any] = {**NOTHING_RANDOM, "model_args": embedding, "compile_model": compiled}
        small_trainer(tiny_hdf5, tmp_path, name, max_epochs=2, **options).train_and_validate()
    losses = [[line["valid_loss"] for line in logs(tmp_path / name)] for name in ("plain", "compiled")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert Learn2TrackModel.load(tmp_path / "compiled" / "best_model").params["input_embedded_size"] == 6


def test_compiled_rows_are_padded_to_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {padded_size(nb) for nb in range(60_000, 120_000)}
    assert len(sizes) <= 6
    assert all(nb <= padded_size(nb) <= 1.2 * nb + 64 for nb in range(64, 120_000, 97))
    seen = []

    def not_compiled(forward: Any, **_: Any) -> Any:
        def run(rows: torch.Tensor) -> torch.Tensor:
            seen.append(len(rows))
            return forward(rows)

        return run

    monkeypatch.setattr(torch, "compile", not_compiled)
    layer = torch.nn.Linear(3, 2)
    rows = torch.randn(1001, 3)
    expected = layer(rows)
    assert torch.equal(PaddedRows(layer)(rows), expected)
    assert seen == [padded_size(1001)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"learning_rates": 1e38}, "each from 1e-12 to 100, got 1e\\+38"),
        ({"learning_rates": [0.1, 1e-30]}, "each from 1e-12 to 100"),
        ({"weight_decay": 1e30}, "weight_decay must be a number from 0 to 100, got 1e\\+30"),
        ({"clip_grad": 1e20}, "clip_grad must be above 0 and at most 1e\\+09, got 1e\\+20"),
        ({"patience_delta": 1e30}, "patience_delta must be a number from 0 to 1e\\+06"),
        ({"checkpoint_minutes": 1e30}, "checkpoint_minutes must be above 0 and at most 1e\\+06"),
        ({"nb_cpu_processes": 10**6}, "nb_cpu_processes must be a whole number of at most"),
        ({"max_epochs": 10**12}, "max_epochs must be a whole number of at most 1000000000"),
        ({"ema_decay": 1e38}, "ema_decay must be None, or between 0 and 1"),
        (
            {"learning_rates": 0.1, "lr_scheduler": "ExponentialLR", "lr_scheduler_args": {"gamma": 1e38}},
            "its learning rate would be .* in epoch",
        ),
        ({"loader_args": {"noise_gaussian_size_forward": 1e38}}, "noise_gaussian_size_forward must be a number from 0"),
        ({"loader_args": {"noise_correlated_size": 1e38}}, "noise_correlated_size must be a number from 0 to 100"),
        ({"precision": "half"}, "precision must be one of 'float32', 'bf16', 'fp16', got 'half'"),
        ({"accumulate_batches": 0}, "accumulate_batches must be a whole number of at least 1, got 0"),
        ({"ema_decay": 1.0}, "ema_decay must be None, or between 0 and 1"),
        ({"nan_policy": "ignore"}, "nan_policy must be one of 'stop', 'skip', got 'ignore'"),
        ({"checkpoint_minutes": 0}, "checkpoint_minutes must be above 0"),
        ({"max_time": "soon"}, "max_time"),
        ({"stop_signal": "SIGKILL"}, "SIGKILL"),
        ({"overfit_batches": 0}, "overfit_batches must be a whole number of at least 1, got 0"),
        ({"learning_rates": 0.1, "lr_scheduler": "Warmup"}, "'?Warmup'?"),
        ({"learning_rates": [0.1, 0.2], "lr_scheduler": "warmup_cosine"}, "warmup_cosine"),
    ],
)
def test_what_cannot_be_is_refused(tiny_hdf5: Path, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small_trainer(tiny_hdf5, tmp_path, **options)
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lr", "did you mean 'learning_rates'[?]"),
        ("epochs", "did you mean 'max_epochs'[?]"),
        ("batch_size", "did you mean the batch sampler's 'batch_size_training'[?]"),
        ("clip_gradd", "did you mean 'clip_grad'[?]"),
        ("qwertz", "it has: 'accumulate_batches', .*'weight_decay'"),
    ],
)
@pytest.mark.parametrize("tracking", [False, True])
def test_an_unknown_parameter_names_the_class_and_what_is_meant(
    tiny_hdf5: Path, tmp_path: Path, name: str, hint: str, tracking: bool
) -> None:
    class_name = "DWIMLTrainerOneInputWithGVPhase" if tracking else "DWIMLTrainerOneInput"
    with pytest.raises(TypeError, match=f"^{class_name} has no parameter '{name}'; {hint}"):
        small_trainer(tiny_hdf5, tmp_path, tracking=tracking, **{name: 0.1})


def test_fp16_does_not_hide_a_gradient_that_is_always_nan(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=40, precision="fp16")
    run = trainer.run_one_batch

    def spoilt(*batch: Any) -> Any:
        loss, n = run(*batch)
        return loss + (loss * 0).sqrt(), n

    trainer.run_one_batch = spoilt  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError, match="gradient norm"):
        trainer.train_and_validate()


def test_a_first_try_of_a_long_schedule(tiny_hdf5: Path, tmp_path: Path) -> None:
    schedule = {"learning_rates": 0.01, "lr_scheduler": "warmup_cosine", "lr_scheduler_args": {"warmup_epochs": 3}}
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=20, fast_dev_run=True, **schedule)
    trainer.train_and_validate()
    assert trainer.next_epoch == 1


def test_settings_of_numpy_are_pythons_own_and_do_not_change_later(tiny_hdf5: Path, tmp_path: Path) -> None:
    rates = [np.float32(0.5), 0.25]
    numbers = {
        "max_epochs": np.int64(1),
        "weight_decay": np.float32(0),
        "clip_grad": np.float32(1),
        "seed": np.int32(3),
    }
    options = {"learning_rates": rates, "profile": np.bool_(False), "patience": np.int64(5), **numbers}
    trainer = small_trainer(tiny_hdf5, tmp_path, **options)
    rates.append(0.125)
    given = {name: getattr(trainer.settings, name) for name in options}
    assert {name: type(value) for name, value in given.items() if value != options[name]} == {"learning_rates": tuple}
    assert given["learning_rates"] == (0.5, 0.25)
    assert {type(each) for each in [*given.values(), *given["learning_rates"]]} == {int, float, bool, tuple}
    trainer.train_and_validate()
    resumed = small_trainer(
        tiny_hdf5, tmp_path, resume="must", **{**options, "learning_rates": rates[:2], "max_epochs": 2}
    )
    resumed.train_and_validate()
    assert resumed.next_epoch == 2
