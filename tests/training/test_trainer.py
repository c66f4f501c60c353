from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from small_training import logs, same_weights, small_trainer
from tests_support import write_hdf5

from dwiml import DWIMLTrainer, DWIMLTrainerOneInput, Learn2TrackModel, TensorSequence
from dwiml.training.reporting import progress
from dwiml.training.reporting.monitors import BestMonitor
from dwiml.viz.logs import read_logs


def test_leaves_everything_in_the_experiments_folder(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2)
    trainer.train_and_validate()
    exp = tmp_path / "exp"
    assert {str(p.relative_to(exp)) for p in exp.rglob("*") if p.is_file()} == {
        "parameters.json",
        "checkpoint/latest.pt",
        "checkpoint/previous.pt",
        "best_model/parameters.json",
        "best_model/model_state.pt",
        "logs/metrics.jsonl",
        "logs/batches.jsonl",
        "logs/events.jsonl",
    }
    lines = logs(exp, durations=True)
    assert [line["epoch"] for line in lines] == [0, 1]
    for line in lines:
        for name in ("train_loss", "valid_loss", "grad_norm", "grad_norm_clipped", "learning_rate"):
            assert isinstance(line[name], float)
        assert line["grad_norm_clipped"] <= 1.0 + 1e-6
        assert line["train_duration_s"] > 0
        assert line["valid_duration_s"] > 0
    parameters = json.loads((exp / "parameters.json").read_text())
    assert parameters["model"]["rnn_layer_sizes"] == [8, 8]
    assert parameters["sampler"]["seed"] == 4
    assert parameters["data"]["fingerprint"]
    assert parameters["versions"]["torch"] == torch.__version__
    assert parameters["groups_config"] == {}


def test_learns(tiny_hdf5: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"loader_args": {"reverse_ratio": 0, "split_ratio": 0}, "model_args": {"dropout": 0.0}}
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=25, learning_rates=0.02, **options)
    trainer.train_and_validate()
    losses = [line["train_loss"] for line in logs(tmp_path / "exp")]
    assert losses[0] > 0.5
    assert losses[-1] < 0.25 * losses[0]


def test_the_best_model_is_kept_and_can_be_loaded(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=3)
    states = []
    finish = trainer.finish_epoch

    def keep(metrics: dict[str, float]) -> None:
        states.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
        finish(metrics)

    trainer.finish_epoch = keep  # type: ignore[method-assign]
    trainer.train_and_validate()
    losses = [line["valid_loss"] for line in logs(tmp_path / "exp")]
    best = Learn2TrackModel.load(tmp_path / "exp" / "best_model")
    expected = states[losses.index(min(losses))]
    assert all(torch.equal(value, expected[key]) for key, value in best.state_dict().items())


@pytest.mark.first(1)
@pytest.mark.parametrize("interrupted_as", ["checkpoint", "auto"])
def test_resumed_is_the_same_to_the_last_bit(tiny_hdf5: Path, tmp_path: Path, interrupted_as: str) -> None:
    whole = small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=4)
    whole.train_and_validate()
    small_trainer(tiny_hdf5, tmp_path, "parts", max_epochs=2).train_and_validate()
    if interrupted_as == "checkpoint":
        # The script gives no seeds, so the recorded ones are used.
        second = small_trainer(tiny_hdf5, tmp_path, "parts", from_checkpoint=True, data_seed=None, new_max_epochs=4)
    else:
        second = small_trainer(tiny_hdf5, tmp_path, "parts", max_epochs=4, resume="auto")
    assert second.next_epoch == 2
    second.train_and_validate()
    assert same_weights(whole.model, second.model)
    assert logs(tmp_path / "whole") == logs(tmp_path / "parts")


@pytest.mark.first(2)
@pytest.mark.parametrize(("lazy", "nb_cpu_processes"), [(True, 0), (False, 2), (True, 2)])
def test_lazy_data_and_workers_change_nothing(
    tiny_hdf5: Path, tmp_path: Path, lazy: bool, nb_cpu_processes: int
) -> None:
    reference = small_trainer(tiny_hdf5, tmp_path, "reference", max_epochs=2)
    reference.train_and_validate()
    other = small_trainer(tiny_hdf5, tmp_path, "other", max_epochs=2, lazy=lazy, nb_cpu_processes=nb_cpu_processes)
    other.train_and_validate()
    assert same_weights(reference.model, other.model)
    assert logs(tmp_path / "reference") == logs(tmp_path / "other")


@pytest.mark.slow
def test_a_resume_may_change_lazy_and_workers(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=2).train_and_validate()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, lazy=True, nb_cpu_processes=1, resume="must").train_and_validate()
    assert logs(tmp_path / "whole") == logs(tmp_path / "exp")


def test_drawn_seeds_are_recorded_and_taken_up(tiny_hdf5: Path, tmp_path: Path) -> None:
    first = small_trainer(tiny_hdf5, tmp_path, max_epochs=1, data_seed=None)
    first.train_and_validate()
    second = small_trainer(tiny_hdf5, tmp_path, max_epochs=2, data_seed=None, resume="auto")
    assert second.seed == first.seed
    assert second.batch_sampler.params == first.batch_sampler.params
    assert second.batch_loader.params == first.batch_loader.params


def test_an_ended_run_stays_as_it_is(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    before = (tmp_path / "exp" / "checkpoint" / "latest.pt").read_bytes()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, resume="auto").train_and_validate()
    assert (tmp_path / "exp" / "checkpoint" / "latest.pt").read_bytes() == before
    assert len(logs(tmp_path / "exp")) == 1


def test_other_parameters_are_named_and_refused(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    with pytest.raises(ValueError, match=r"trainer.weight_decay was 0.0 and is now 0.1.*another experiment"):
        small_trainer(tiny_hdf5, tmp_path, weight_decay=0.1, resume="auto")
    with pytest.raises(ValueError, match="loader.split_ratio was 0.3 and is now 0.9"):
        small_trainer(tiny_hdf5, tmp_path, loader_args={"split_ratio": 0.9}, resume="auto")
    with pytest.raises(ValueError, match="model.step_size was 2.0 and is now 1.5"):
        small_trainer(tiny_hdf5, tmp_path, model_args={"step_size": 1.5}, resume="auto")
    with pytest.raises(ValueError, match="sampler.seed was 4 and is now 5"):
        small_trainer(tiny_hdf5, tmp_path, data_seed=5, resume="auto")
    other = write_hdf5(tmp_path / "other.hdf5", {"sub-a": 30}, {"sub-d": 12}, seed=1)
    with pytest.raises(ValueError, match="data.fingerprint was"):
        small_trainer(other, tmp_path, resume="auto")


def test_an_experiment_that_exists_is_not_overwritten(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    with pytest.raises(FileExistsError, match="already exists: resume it"):
        small_trainer(tiny_hdf5, tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        small_trainer(tiny_hdf5, tmp_path, "other", resume="must")
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        small_trainer(tiny_hdf5, tmp_path, "other", from_checkpoint=True)


def test_a_users_own_files_beside_an_experiment_are_left(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    note = tmp_path / "exp" / "notes.txt"
    note.write_text("mine")
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, resume="auto").train_and_validate()
    assert note.read_text() == "mine"


def test_early_stopping(tiny_hdf5: Path, tmp_path: Path) -> None:
    # A loss must fall by more than 10 to be better: it never does.
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=9, patience=2, patience_delta=10.0)
    trainer.train_and_validate()
    assert [line["epoch"] for line in logs(tmp_path / "exp")] == [0, 1, 2]
    second = small_trainer(tiny_hdf5, tmp_path, from_checkpoint=True, new_patience=4)
    second.train_and_validate()
    assert [line["epoch"] for line in logs(tmp_path / "exp")] == [0, 1, 2, 3, 4]


def test_the_best_epoch_is_one_everywhere(tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The loss falls by less than this: patience sees no progress, the best model is the last one all the same.
    trainer = small_trainer(
        tiny_hdf5, tmp_path, max_epochs=4, learning_rates=1e-4, patience=9, patience_delta=0.5, verbose=True
    )
    trainer.train_and_validate()
    lines = logs(tmp_path / "exp")
    losses = [line["valid_loss"] for line in lines]
    best = losses.index(min(losses))
    assert best > 0
    said = capsys.readouterr().err.splitlines()
    marked = [line for line in said if line.startswith("Epoch ") and line.endswith("(best)")]
    assert marked[-1].startswith(f"Epoch {best} ")
    assert f"best validation loss {min(losses):.4g} in epoch {best}." in said[-1]
    assert read_logs([tmp_path / "exp"])[0].best() == (best, losses[best])
    assert trainer.best.nb_bad_epochs == 3
    assert best == 3
    assert same_weights(Learn2TrackModel.load(tmp_path / "exp" / "best_model"), trainer.model)


@pytest.mark.parametrize(
    ("values", "best", "nb_bad"),
    [
        ([1.0, 0.95, 0.9, 0.85], 3, 0),
        ([1.0, 0.95, 0.96, 0.97], 1, 3),
        ([1.0, 1.0, 0.5, 0.5], 2, 1),
    ],
)
def test_patience_waits_for_more_than_delta(values: list[float], best: int, nb_bad: int) -> None:
    monitor = BestMonitor(9, 0.12)
    marked = [epoch for epoch, value in enumerate(values) if monitor.update(value, epoch)]
    assert (marked[-1], monitor.best_epoch, monitor.best_value) == (best, best, values[best])
    assert monitor.nb_bad_epochs == nb_bad


def test_without_a_validation_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 20})
    with pytest.warns(UserWarning, match="There is no validation streamline") as caught:
        trainer = small_trainer(path, tmp_path, max_epochs=2, verbose=True)
    assert len(caught) == 1
    # Another warning would be an error.
    trainer.train_and_validate()
    assert all("valid_loss" not in line and "train_loss" in line for line in logs(tmp_path / "exp"))
    losses = [line["train_loss"] for line in logs(tmp_path / "exp")]
    assert trainer.best.best_value == min(losses)
    assert f"; best training loss {min(losses):.4g} in epoch " in capsys.readouterr().err
    assert read_logs([tmp_path / "exp"])[0].best() == (losses.index(min(losses)), min(losses))


def test_no_training_streamline(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 0}, {"sub-b": 5})
    with pytest.raises(
        ValueError,
        match=r"no training streamline of two points or more, .*, in .*data.hdf5' \(training subjects: sub-a\)",
    ):
        small_trainer(path, tmp_path)
    path = write_hdf5(tmp_path / "none.hdf5", {}, {"sub-b": 5})
    with pytest.raises(ValueError, match=r"no training streamline .*\(training subjects: none\)"):
        small_trainer(path, tmp_path)


def test_one_streamline_and_an_empty_subject(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 1, "sub-b": 0}, {"sub-c": 1})
    small_trainer(path, tmp_path, max_epochs=2).train_and_validate()
    assert len(logs(tmp_path / "exp")) == 2


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "RAdam", "SGD"])
def test_optimizers_and_learning_rates(tiny_hdf5: Path, tmp_path: Path, optimizer: str) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, optimizer=optimizer, learning_rates=[0.1, 0.01], max_epochs=3)
    assert type(trainer.optimizer).__name__ == optimizer
    trainer.train_and_validate()
    assert [line["learning_rate"] for line in logs(tmp_path / "exp")] == [0.1, 0.01, 0.01]


def test_limits_on_batches(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(
        tiny_hdf5,
        tmp_path,
        max_epochs=1,
        max_batches_per_epoch_training=2,
        max_batches_per_epoch_validation=None,
        nb_cpu_processes=1,
    )
    seen = []
    run = trainer.run_one_batch

    def spy(targets: TensorSequence, ids_per_subj: Any) -> tuple[torch.Tensor, int]:
        seen.append(ids_per_subj.key.phase)
        return run(targets, ids_per_subj)

    trainer.run_one_batch = spy  # type: ignore[method-assign]
    trainer.train_and_validate()
    assert seen == ["training"] * 2 + ["validation"]
    assert "Infinity" not in (tmp_path / "exp" / "parameters.json").read_text()


class NaNInSecondBatch(DWIMLTrainerOneInput):
    def run_one_batch(self, targets: TensorSequence, ids_per_subj: Any) -> tuple[torch.Tensor, int]:
        loss, n = super().run_one_batch(targets, ids_per_subj)
        key = ids_per_subj.key
        spoilt = key.phase == self.spoilt_phase and (self.next_epoch, key.batch_index) == (1, 0)
        return (loss * float("nan") if spoilt else loss), n

    spoilt_phase = "training"


@pytest.mark.parametrize("phase", ["training", "validation"])
def test_a_nan_loss_is_named_and_spoils_nothing(tiny_hdf5: Path, tmp_path: Path, phase: str) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=3)
    spoilt = NaNInSecondBatch(
        trainer.model, tmp_path, "exp", trainer.batch_sampler, trainer.batch_loader, max_epochs=3, verbose=False, seed=1
    )
    spoilt.spoilt_phase = phase
    with pytest.raises(FloatingPointError, match=f"The loss is NaN in batch 0 of the {phase} of epoch 1") as caught:
        spoilt.train_and_validate()
    assert "; the last checkpoint was written before it. " in str(caught.value)
    assert [line["epoch"] for line in logs(tmp_path / "exp")] == [0]
    assert all(
        torch.isfinite(value).all()
        for value in Learn2TrackModel.load(tmp_path / "exp/best_model").state_dict().values()
    )


def test_lines_and_no_bar_without_a_terminal(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, verbose=True, data_seed=None).train_and_validate()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["Model", "Training", "Validation", "Memory", "Longest"]
    assert len(lines) == 8
    assert lines[5].startswith("Epoch 0 of 2: train loss ")
    assert lines[7].startswith("Training ended: 2 epochs are done; best validation loss ")


def test_a_line_now_and_then_in_a_long_epoch(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_READINGS", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1, verbose=True, data_seed=None).train_and_validate()
    lines = capsys.readouterr().err.splitlines()
    assert lines[6].startswith("Epoch 0 of 1, training: 2 of 4 batches, loss ")
    assert lines[9].startswith("Epoch 0 of 1, validation: 1 of 1 batch, loss ")


def test_comet_failing_stops_nothing(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "comet_ml", None)
    with caplog.at_level(logging.WARNING):
        small_trainer(tiny_hdf5, tmp_path, max_epochs=1, comet_workspace="w", comet_project="p").train_and_validate()
    assert len(logs(tmp_path / "exp")) == 1
    assert "Comet failed" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"max_epochs": 0}, "max_epochs must be a whole number of at least 1, got 0"),
        ({"max_epochs": None}, "max_epochs must be a whole number"),
        ({"max_batches_per_epoch_training": 0}, "max_batches_per_epoch_training must be a whole number"),
        ({"patience": 0}, "patience must be a whole number of at least 1, got 0"),
        ({"clip_grad": 0}, "clip_grad must be above 0 and at most 1e"),
        ({"weight_decay": -1}, "weight_decay must be a number from 0 to 100, got -1"),
        ({"learning_rates": []}, "learning_rates must be a positive number, or a list"),
        ({"learning_rates": [0.1, -1]}, "learning_rates must be a positive number, or a list"),
        ({"optimizer": "adam"}, "optimizer must be one of Adam, AdamW, RAdam, SGD, got 'adam'"),
        ({"resume": "yes"}, "resume must be one of 'never', 'auto', 'must', got 'yes'"),
        ({"comet_workspace": "me"}, "Comet needs both comet_workspace and comet_project"),
        ({"wandb_entity": "me"}, "wandb_entity needs wandb_project"),
        ({"name": ""}, "experiment_name must be the name of a folder"),
        (
            {"name": "../other"},
            "without slashes or line breaks and not too long, got '../other'",
        ),
        ({"nb_cpu_processes": -1}, "nb_cpu_processes must be a whole number of at least 0, got -1"),
    ],
)
def test_bad_arguments(tiny_hdf5: Path, tmp_path: Path, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small_trainer(tiny_hdf5, tmp_path, **arguments)
    assert not (tmp_path / "exp").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tiny_hdf5: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use_gpu is True, but torch finds no GPU"):
        small_trainer(tiny_hdf5, tmp_path, use_gpu=True)


def test_the_loader_must_load_inputs(tiny_hdf5: Path, tmp_path: Path) -> None:
    from dwiml import DWIMLStreamlinesBatchLoader

    trainer = small_trainer(tiny_hdf5, tmp_path)
    plain = DWIMLStreamlinesBatchLoader(trainer.batch_sampler.dataset, trainer.model, "streamlines")
    with pytest.raises(
        TypeError, match="needs a DWIMLBatchLoaderOneInput, got an object of type DWIMLStreamlinesBatchLoader"
    ):
        DWIMLTrainerOneInput(trainer.model, tmp_path, "exp", trainer.batch_sampler, plain)  # type: ignore[arg-type]


def test_sampler_and_loader_must_match(tiny_hdf5: Path, tmp_path: Path) -> None:
    first, second = small_trainer(tiny_hdf5, tmp_path), small_trainer(tiny_hdf5, tmp_path)
    with pytest.raises(ValueError, match="must have the same dataset"):
        DWIMLTrainer(first.model, tmp_path, "exp", second.batch_sampler, first.batch_loader)
    with pytest.raises(ValueError, match="must have the same model as the trainer"):
        DWIMLTrainer(first.model, tmp_path, "exp", first.batch_sampler, second.batch_loader)
    with pytest.raises(TypeError, match="an instance of a subclass of MainModelAbstract, got an object of type Linear"):
        DWIMLTrainer(torch.nn.Linear(2, 2), tmp_path, "exp", first.batch_sampler, first.batch_loader)


def test_numpys_numbers_are_taken_and_resumed(tiny_hdf5: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "model_args": {"step_size": np.float64(2), "dropout": np.float64(0.1), "rnn_key": np.str_("lstm")},
        "loader_args": {"split_ratio": np.float64(0.3)},
        "learning_rates": np.logspace(-2, -3, 2),
        "weight_decay": np.float32(0.25),
        "clip_grad": np.float64(1),
        "patience": np.int64(5),
    }
    small_trainer(tiny_hdf5, tmp_path, max_epochs=np.int64(1), **options).train_and_validate()
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, resume="must", **options).train_and_validate()
    assert len(logs(tmp_path / "exp")) == 2


class AlwaysClipped(DWIMLTrainerOneInput):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, clip_grad=0.5, **kwargs)


def test_a_childs_own_choice_is_compared_and_not_handed_back(tiny_hdf5: Path, tmp_path: Path) -> None:
    plain = small_trainer(tiny_hdf5, tmp_path)
    parts = (plain.model, tmp_path, "exp", plain.batch_sampler, plain.batch_loader)
    AlwaysClipped(*parts, max_epochs=1, verbose=False).train_and_validate()
    assert json.loads((tmp_path / "exp/parameters.json").read_text())["trainer"]["fixed_by_class"] == {"clip_grad": 0.5}
    assert AlwaysClipped.init_from_checkpoint(*parts, new_max_epochs=2).settings.clip_grad == 0.5
    with pytest.raises(ValueError, match="trainer.class was 'AlwaysClipped' and is now 'DWIMLTrainerOneInput'"):
        DWIMLTrainerOneInput(*parts, resume="auto")


def test_other_subjects_are_refused(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    second = small_trainer(tiny_hdf5, tmp_path, "other")
    second.batch_sampler.dataset.load_data(subj_id="sub-a")
    with (
        pytest.warns(UserWarning, match="no validation streamline"),
        pytest.raises(ValueError, match=r"data.training_subjects was \['sub-a', 'sub-b', 'sub-c'\] and is now"),
    ):
        DWIMLTrainerOneInput(
            second.model, tmp_path, "exp", second.batch_sampler, second.batch_loader, resume="auto", verbose=False
        )


def test_a_lost_best_model_is_told(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    shutil.rmtree(tmp_path / "exp" / "best_model")
    with pytest.warns(UserWarning, match="best_model' was not found; the next better epoch"):
        small_trainer(tiny_hdf5, tmp_path, resume="auto")


def test_what_a_kill_left_half_written_is_removed(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    left = tmp_path / "exp" / "checkpoint" / ".latest.pt.abcd.tmp"
    left.write_text("half")
    small_trainer(tiny_hdf5, tmp_path, max_epochs=2, resume="auto").train_and_validate()
    assert not left.exists()


def test_two_trainers_of_one_name(tiny_hdf5: Path, tmp_path: Path) -> None:
    first, second = small_trainer(tiny_hdf5, tmp_path, max_epochs=1), small_trainer(tiny_hdf5, tmp_path, max_epochs=1)
    first.train_and_validate()
    with pytest.raises(FileExistsError, match="already exists"):
        second.train_and_validate()


def test_a_place_that_is_a_file(tiny_hdf5: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="'.*file' is a file"):
        small_trainer(tiny_hdf5, tmp_path / "file")


def test_only_streamlines_of_one_point(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 3}, {"sub-b": 2})
    with h5py.File(path, "a") as handle:
        for name, nb in (("sub-a", 3), ("sub-b", 2)):
            group = handle[name]["streamlines"]
            for key, values in (
                ("lengths", np.ones(nb)),
                ("offsets", np.arange(nb)),
                ("euclidean_lengths", np.zeros(nb)),
            ):
                del group[key]
                group[key] = values.astype(np.float32 if key == "euclidean_lengths" else np.int64)
    with pytest.raises(ValueError, match="no training streamline of two points or more"):
        small_trainer(path, tmp_path)


def test_a_batch_result_of_another_kind(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=1)
    trainer.run_one_batch = lambda targets, ids: torch.tensor(1.0)  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(TypeError, match=r"run_one_batch must return \(mean_loss, n\)"):
        trainer.train_and_validate()
