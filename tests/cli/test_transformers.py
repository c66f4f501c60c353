"""Transformers by command: train, resume, evaluate, and track in both ways."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import pytest
from small_training import logs

from dwiml import TransformerSrcAndTgtModel, TransformerSrcOnlyModel, TransformerSrcTgtConcatModel
from dwiml.cli.main import main
from dwiml.models.catalog import MODELS

GROUPS = ["--input_group_name", "input", "--streamline_group_name", "streamlines"]
SIZES = ["--input_embedded_size", "16", "--nb_heads", "2", "--nb_layers_encoder", "1", "--max_len", "300"]
TRAINING = ["--step_size", "1.5", "--seed", "1", "--learning_rates", "0.01", "--batch_size_training", "50", "-q"]
TRANSFORMERS = [name for name in MODELS if name.startswith("transformer-")]
MORE = {
    "transformer-src-and-tgt": ["--nb_layers_decoder", "1", "--sos", "repulsion100"],
    "transformer-src-only": ["--positional_encoding", "rotary"],
    "transformer-src-tgt-concat": ["--target_embedded_size", "8", "--no_norm_first"],
}


@pytest.mark.first(1)
@pytest.mark.parametrize("name", sorted(TRANSFORMERS, reverse=True))
def test_train_resume_evaluate_and_track(
    name: str, phantom_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*GROUPS, *SIZES, *MORE[name], *TRAINING, "--max_epochs", "2"]
    options += ["--dg_key", "sphere-classification", "--dg_args", '{"sphere": "repulsion100", "add_eos": false}']
    assert main(["train", name, str(phantom_hdf5), str(tmp_path), "exp", *options]) == 0
    experiment = str(tmp_path / "exp")
    assert main(["resume", experiment, "--new_max_epochs", "3", "-q"]) == 0
    losses = [epoch["valid_loss"] for epoch in logs(tmp_path / "exp")]
    assert losses[0] > losses[1] > losses[2]
    assert main(["evaluate", experiment, "--subset", "testing"]) == 0
    recorded = json.loads((tmp_path / "exp" / "parameters.json").read_text())
    assert recorded["model"]["class"] == MODELS[name].rpartition(".")[2]
    options = ["--tracking_mask", "wm_mask", "--nb_seeds", "20", "--min_length", "0"]
    for algo in ("det", "prob"):
        out = tmp_path / f"{algo}.trk"
        assert main(["track", experiment, "sub-03", str(out), *options, "--algo", algo, "--max_length", "60"]) == 0
        assert len(nib.streamlines.load(out).streamlines) > 15
    capsys.readouterr()
    assert main(["track", experiment, "sub-03", str(tmp_path / "long.trk"), *options, "--max_length", "700"]) == 2
    assert "takes at most 300 (max_len): choose a smaller" in capsys.readouterr().err


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_help_names_the_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", name, "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--nb_heads N number of heads of each attention; a divisor of the number of features of a point" in text
    assert ("--sos" in text) is (name != "transformer-src-only")
    assert ("--nb_layers_decoder" in text) is (name == "transformer-src-and-tgt")


WHY = "a transformer attends to all previous points instead of a number of previous directions, so leave it out"


@pytest.mark.parametrize("name", ["nb_previous_dirs", "prev_dirs_embedding_key"])
def test_previous_directions_are_not_for_transformers(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in (TransformerSrcOnlyModel, TransformerSrcAndTgtModel, TransformerSrcTgtConcatModel):
        with pytest.raises(TypeError, match=f"^{model.__name__} has no parameter '{name}'; {WHY}.$"):
            model(nb_features=4, **{name: 1})
    config = tmp_path / "common.yaml"
    config.write_text(f"{name}: 2\n")
    for words, option in ([f"--{name}", "2"], f"--{name}"), (["--config", str(config)], f"'{name}'"):
        with pytest.raises(SystemExit):
            main(["train", "transformer-src-only", "data.hdf5", str(tmp_path), "exp", *GROUPS, *words])
        assert f"there is no option {option}: {WHY}" in capsys.readouterr().err
    # Another model without previous directions gives no such reason.
    with pytest.raises(SystemExit):
        main(["train", "autoencoder", "data.hdf5", str(tmp_path), "exp", f"--{name}", "2"])
    assert "a transformer" not in capsys.readouterr().err
