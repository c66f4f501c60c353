"""Embeddings by command: their options, in a config file too, and what a model with them can be used for."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import pytest
import torch
from small_training import logs

from dwiml.cli.main import main
from dwiml.models.catalog import MODELS
from dwiml.training.loading import load_best_model

CNN = ["--input_embedding_key", "cnn_embedding", "--input_embedding_args", '{"nb_filters": [6], "kernel_sizes": [3]}']
CNN += ["--input_embedded_size", "12", "--neighborhood_type", "grid", "--neighborhood_radius", "1"]
MLP = ["--nb_previous_dirs", "2", "--prev_dirs_embedding_key", "mlp_embedding", "--prev_dirs_embedded_size", "4"]
MLP += ["--prev_dirs_embedding_args", '{"hidden_sizes": [5], "activation": "gelu"}']
TRAINING = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--rnn_layer_sizes", "8", "-q"]
TRAINING += ["--step_size", "2", "--max_epochs", "1", "--seed", "1"]


def test_train_resume_evaluate_and_track(tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "learn2track", str(tiny_hdf5), str(tmp_path), "exp", *TRAINING, *CNN, *MLP]) == 0
    experiment = str(tmp_path / "exp")
    recorded = json.loads((tmp_path / "exp" / "parameters.json").read_text())["model"]
    assert recorded["input_embedding_args"] == {"nb_filters": [6], "kernel_sizes": [3]}
    assert recorded["prev_dirs_embedding_args"] == {"hidden_sizes": [5], "activation": "gelu"}
    config = ["--config", str(tmp_path / "exp" / "config.yaml"), "--experiment_name", "again"]
    assert main(["train", "learn2track", *config]) == 0
    models = [load_best_model(tmp_path / name) for name in ("exp", "again")]
    assert models[0].params == models[1].params | {"experiment_name": "exp"}
    states = [model.state_dict() for model in models]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert main(["resume", experiment, "--new_max_epochs", "2", "-q"]) == 0
    assert len(logs(tmp_path / "exp")) == 2
    assert main(["evaluate", experiment, "--subset", "testing"]) == 0
    options = ["--tracking_mask", "wm_mask", "--seeding_mask", "wm_mask", "--nb_seeds", "9", "--min_length", "0"]
    assert main(["track", experiment, "sub-e", str(tmp_path / "out.trk"), *options]) == 0
    assert len(nib.streamlines.load(tmp_path / "out.trk").streamlines) > 4
    capsys.readouterr()
    other = ["--input_embedding_args", '{"filters": 3}']
    assert main(["train", "learn2track", str(tiny_hdf5), str(tmp_path), "other", *TRAINING, *CNN, *other]) == 2
    assert "'cnn_embedding' has no option 'filters'; it has: ['nb_filters', 'k" in capsys.readouterr().err


@pytest.mark.parametrize("name", MODELS)
def test_help_names_the_choices(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    if "--input_embedding_key" in text:
        assert "embedding of the input: 'no_embedding', 'nn_embedding', 'mlp_embedding' or 'cnn_embedding'" in text
        assert (
            "--input_embedding_args JSON|none options of the embedding of the input: hidden_sizes, activation" in text
        )
