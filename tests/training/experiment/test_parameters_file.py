"""What ``parameters.json`` records beside all that was chosen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
from small_training import interrupt, logs, small_trainer

from dwiml import Learn2TrackModel
from dwiml.files import read_json
from dwiml.training.experiment.checkpoint import load_checkpoint, save_checkpoint


def test_how_the_data_were_made_is_recorded_and_never_compared(tiny_hdf5: Path, tmp_path: Path) -> None:
    copy, config = tmp_path / "copy.hdf5", {"input": {"type": "volume", "standardization": "all"}}
    shutil.copy(tiny_hdf5, copy)
    with h5py.File(copy, "r+") as handle:
        handle.attrs["groups_config"] = json.dumps(config)
    small_trainer(copy, tmp_path, max_epochs=1).train_and_validate()
    path = tmp_path / "exp" / "parameters.json"
    recorded = json.loads(path.read_text())
    made = recorded["groups_config"]
    # With the voxel grids of the training subjects, to which tracking compares another one.
    assert set(made["input"].pop("grids")) == {"voxel_orders", "obliquity", "voxel_sizes"}
    assert made == config
    # As an older dwiml has left it; what it is trained with goes on, and is recorded.
    del recorded["groups_config"]
    path.write_text(json.dumps(recorded))
    small_trainer(copy, tmp_path, max_epochs=2, resume="must").train_and_validate()
    again = json.loads(path.read_text())["groups_config"]
    assert again["input"].pop("grids")
    assert again == config
    assert len(logs(tmp_path / "exp")) == 2


class OfTwoSteps(Learn2TrackModel):
    """Chooses the arguments of its superclass itself."""

    def __init__(self, nb_features: int, step_size: float | None = None, dropout: float = 0.0) -> None:
        super().__init__(nb_features=nb_features, step_size=step_size, dropout=dropout, rnn_layer_sizes=(4, 4))


@pytest.mark.parametrize("model_class", [Learn2TrackModel, OfTwoSteps])
def test_an_experiment_name_that_the_model_was_not_given_is_left_out(
    tiny_hdf5: Path, tmp_path: Path, model_class: Any
) -> None:
    options: dict[str, Any] = {"max_epochs": 2, "model_class": model_class}
    interrupt(small_trainer(tiny_hdf5, tmp_path, **options), 6)
    recorded = read_json(tmp_path / "exp" / "parameters.json")
    assert recorded["experiment_name"] == "exp"
    assert "experiment_name" not in json.dumps(recorded["model"])
    assert "experiment_name" not in (tmp_path / "exp" / "best_model" / "parameters.json").read_text()
    # Earlier versions recorded it.
    checkpoint = load_checkpoint(tmp_path / "exp" / "checkpoint")
    section = checkpoint["parameters"]["model"]
    (section["fixed_by_class"] if model_class is OfTwoSteps else section)["experiment_name"] = ""
    del checkpoint["format_version"]
    save_checkpoint(tmp_path / "exp" / "checkpoint", checkpoint)
    small_trainer(tiny_hdf5, tmp_path, resume="must", **options).train_and_validate()
    assert len(logs(tmp_path / "exp")) == 2
