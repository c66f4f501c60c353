"""Models without a volume: trained, stopped, resumed, rebuilt and shown like the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
from small_training import interrupt, logs, same_weights
from without_volume import SMALL_AUTOENCODER, NextPointModel, trainer_without_volume

from dwiml import AutoencoderModel, DWIMLStreamlinesBatchLoader, DWIMLTrainer
from dwiml.cli.main import main
from dwiml.evaluation.losses_by_point import SubjectReader, measure_losses
from dwiml.training.cluster.process import how_to_resume
from dwiml.training.loading import load_best_model, rebuild_experiment, recorded_parameters
from dwiml.training.recorded_classes import trainer_class_of

MODELS = [NextPointModel, AutoencoderModel]


@pytest.mark.first(1)
@pytest.mark.parametrize("model_class", MODELS)
@pytest.mark.parametrize("lazy", [True, False])
def test_stopped_and_resumed_is_the_same_to_the_last_bit(
    tiny_hdf5: Path, tmp_path: Path, model_class: type[Any], lazy: bool
) -> None:
    options = {"model_class": model_class, "max_epochs": 4, "lazy": lazy}
    whole = trainer_without_volume(tiny_hdf5, tmp_path, "whole", **options)
    whole.train_and_validate()
    for nth in (2, 5):
        interrupt(trainer_without_volume(tiny_hdf5, tmp_path, "parts", resume="auto", **options), nth)
    last = trainer_without_volume(tiny_hdf5, tmp_path, "parts", resume="auto", **options)
    last.train_and_validate()
    assert same_weights(whole.model, last.model)
    assert logs(tmp_path / "whole") == logs(tmp_path / "parts")
    losses = [line["train_loss"] for line in logs(tmp_path / "whole")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("model_class", MODELS)
def test_the_experiment_is_rebuilt(tiny_hdf5: Path, tmp_path: Path, model_class: type[Any]) -> None:
    trainer = trainer_without_volume(tiny_hdf5, tmp_path, model_class=model_class)
    trainer.train_and_validate()
    assert "input_group_name" not in recorded_parameters(tmp_path / "exp")["loader"]
    rebuilt = rebuild_experiment(tmp_path / "exp", model_class=model_class, load_testing=True)
    assert type(rebuilt.loader) is DWIMLStreamlinesBatchLoader
    trainer_class = trainer_class_of(rebuilt.parameters, None, "exp")
    assert trainer_class is DWIMLTrainer
    assert not rebuilt.dataset.training_set[0].volumes
    best = load_best_model(tmp_path / "exp", model_class=model_class)
    losses = measure_losses(best, SubjectReader(rebuilt.loader, "testing", 0))
    assert len(losses.lengths) == 5
    again = trainer_class.init_from_checkpoint(
        rebuilt.model, tmp_path, "exp", rebuilt.sampler, rebuilt.loader, new_max_epochs=3
    )
    again.train_and_validate()
    assert len(logs(tmp_path / "exp")) == 3


def test_ones_own_model_is_not_called_damaged(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer_without_volume(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    with pytest.raises(ValueError, match="NextPointModel, which is not part of dwiml"):
        rebuild_experiment(tmp_path / "exp")


def test_the_command_to_resume_is_shown_and_works(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = trainer_without_volume(tiny_hdf5, tmp_path, model_class=AutoencoderModel)
    interrupt(trainer, 1)
    assert how_to_resume(trainer).endswith(f"or dwiml resume {tmp_path / 'exp'}")
    assert main(["resume", str(tmp_path / "exp"), "-q"]) == 0
    assert len(logs(tmp_path / "exp")) == 2


def test_the_loss_of_a_model_without_a_volume_is_drawn(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer_without_volume(tiny_hdf5, tmp_path).train_and_validate()
    command = ["show_loss", str(tmp_path / "exp"), "sub-e", str(tmp_path / "out")]
    assert main([*command, "--model_class", "without_volume:NextPointModel"]) == 0
    assert "sub-e (testing set): mean loss" in capsys.readouterr().out
    drawn = nib.streamlines.load(tmp_path / "out" / "loss.trk")
    assert len(drawn.streamlines) == 5
    assert drawn.header["dimensions"].tolist() == [12, 10, 9]


def test_what_needs_a_volume_or_directions_says_so(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer_without_volume(tiny_hdf5, tmp_path, model_class=AutoencoderModel).train_and_validate()
    experiment = str(tmp_path / "exp")
    assert main(["track", experiment, "sub-e", str(tmp_path / "out.trk"), "--tracking_mask", "wm_mask"]) == 2
    assert "was trained without a volume (its batch loader has no input_group_name)" in capsys.readouterr().err
    assert main(["evaluate", experiment]) == 2
    assert "AutoencoderModel predicts none: use 'dwiml show_loss'" in capsys.readouterr().err
    assert not (tmp_path / "out.trk").exists()


def test_a_recorded_volume_is_not_required_but_the_streamlines_are(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer_without_volume(tiny_hdf5, tmp_path, model_class=AutoencoderModel, max_epochs=1).train_and_validate()
    path = tmp_path / "exp" / "parameters.json"
    recorded = json.loads(path.read_text())
    del recorded["loader"]["streamline_group_name"]
    path.write_text(json.dumps(recorded))
    with pytest.raises(ValueError, match=r"is damaged .*: no loader.streamline_group_name"):
        recorded_parameters(tmp_path / "exp")


def test_the_autoencoder_is_recorded_with_all_its_parameters(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = trainer_without_volume(tiny_hdf5, tmp_path, model_class=AutoencoderModel, max_epochs=1)
    assert trainer.parameters["model"].items() >= {"class": "AutoencoderModel", **SMALL_AUTOENCODER}.items()
    assert trainer.parameters["model"]["center"] == [0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"latent_size": 100_000}, "but the experiment's weights take"),
        ({"nb_channels": [100_000] * 5, "nb_points": 32}, "describes a model of"),
        ({"nb_points": 96_000, "latent_size": 90_000}, "describes a model of"),
        ({"nb_points": 10**9}, "nb_points must be a whole number of at most 100000"),
        ({"scale": []}, "scale must have three numbers"),
        ({"center": None}, "center must have three numbers|center must be a number"),
    ],
)
def test_a_changed_file_does_not_take_memory(
    tiny_hdf5: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    trainer_without_volume(tiny_hdf5, tmp_path, model_class=AutoencoderModel, max_epochs=1).train_and_validate()
    path = tmp_path / "exp" / "parameters.json"
    recorded = json.loads(path.read_text())
    recorded["model"].update(changes)
    path.write_text(json.dumps(recorded))
    with pytest.raises(ValueError, match=sentence):
        rebuild_experiment(tmp_path / "exp")
