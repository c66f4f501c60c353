"""An experiment's objects from its parameters.json: never larger than its weights, whatever the numbers say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fuzzing import run_watched
from small_training import small_trainer

from dwiml.cli.main import main
from dwiml.models.base import MainModelAbstract
from dwiml.training.loading import load_best_model, rebuild_experiment


@pytest.fixture(scope="module")
def trained(tiny_hdf5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    experiments = tmp_path_factory.mktemp("experiments")
    small_trainer(tiny_hdf5, experiments, max_epochs=1).train_and_validate()
    return experiments / "exp"


def changed(trained: Path, folder: Path, section: str, **changes: Any) -> Path:
    shutil.copytree(trained, folder)
    recorded = json.loads((folder / "parameters.json").read_text())
    recorded[section].update(changes)
    (folder / "parameters.json").write_text(json.dumps(recorded))
    return folder


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"rnn_layer_sizes": [20_000, 20_000]},
            "but the experiment's weights take 0.0 MB",
        ),
        ({"rnn_layer_sizes": [10**9]}, "rnn_layer_sizes must be a whole number of at most 100000"),
        ({"nb_features": 10**7}, "describes a model of"),
        ({"nb_features": 10**12}, "nb_features must be a whole number of at most 10000000"),
        (
            {"neighborhood_type": "grid", "neighborhood_radius": 10**6},
            "radius of a neighborhood of type 'grid'",
        ),
        ({"nb_previous_dirs": 10**9}, "nb_previous_dirs must be a whole number of at most 10000"),
        ({"prev_dirs_embedding_key": "nn_embedding", "prev_dirs_embedded_size": 10**9}, "at most 100000"),
        ({"dg_args": {"output_size": 10**12}}, "has no option 'output_size'"),
    ],
)
@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_a_model_is_no_larger_than_its_weights(
    trained: Path, tmp_path: Path, changes: dict[str, Any], sentence: str, command: str
) -> None:
    experiment = changed(trained, tmp_path / "exp", "model", **changes)
    outcome = run_watched(lambda: main([command, str(experiment)]), watched=[tmp_path])
    assert outcome.kind == "sentence", outcome.err
    assert sentence in outcome.err


def test_without_any_weights_nothing_is_built(trained: Path, tmp_path: Path) -> None:
    experiment = changed(trained, tmp_path / "exp", "model")
    shutil.rmtree(experiment / "checkpoint")
    assert rebuild_experiment(experiment).model.nb_features == 4
    shutil.rmtree(experiment / "best_model")
    with pytest.raises(FileNotFoundError, match="has neither a checkpoint nor a best model yet"):
        rebuild_experiment(experiment)


@pytest.mark.parametrize(
    "text", ["[]", "null", '{"model": 3}', '{"model": {"class": []}}', "{", '{"a": 1, "a": 2}', ""]
)
def test_a_damaged_file_is_a_sentence(trained: Path, tmp_path: Path, text: str) -> None:
    experiment = changed(trained, tmp_path / "exp", "model")
    (experiment / "parameters.json").write_text(text)
    with pytest.raises(ValueError, match=r"parameters.json' is (not valid JSON|damaged)"):
        rebuild_experiment(experiment)


@pytest.mark.parametrize(("use_gpu", "device"), [(False, "cpu"), (None, "cuda"), (True, "cuda")])
def test_the_best_model_uses_the_gpu_only_if_the_training_might(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_gpu: bool | None, device: str
) -> None:
    experiment = changed(trained, tmp_path / "exp", "trainer", use_gpu=use_gpu)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    used = []
    monkeypatch.setattr(MainModelAbstract, "load", lambda folder, device: used.append(device))
    load_best_model(experiment)
    assert used == [device]
