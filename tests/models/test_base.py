from __future__ import annotations

import copy
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dwiml
from dwiml import Learn2TrackModel, MainModelAbstract, ModelWithOneInput


def test_parameters_are_recorded_and_build_the_same_model(pointwise_model: Any) -> None:
    model = pointwise_model(nb_features=np.int64(4), hidden_size=7, step_size=0.5, experiment_name="mine")
    assert model.params == {
        "hidden_size": 7,
        "dg_key": "cosine-regression",
        "dg_args": None,
        "nb_features": 4,
        "input_embedding_key": "no_embedding",
        "input_embedded_size": None,
        "input_embedding_args": None,
        "experiment_name": "mine",
        "step_size": 0.5,
        "nb_points": None,
        "compress_lines": None,
    }
    again = pointwise_model(**json.loads(json.dumps(model.params)))
    assert again.params == model.params
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]


def test_save_and_load_give_the_same_model(tmp_path: Path) -> None:
    model = Learn2TrackModel(
        nb_features=3, rnn_layer_sizes=(5, 4), nb_previous_dirs=2, neighborhood_type="axes", neighborhood_radius=1
    )
    model.save(tmp_path / "a" / "best_model")
    model.save(tmp_path / "a" / "best_model")
    assert sorted(p.name for p in (tmp_path / "a" / "best_model").iterdir()) == ["model_state.pt", "parameters.json"]
    described = json.loads((tmp_path / "a" / "best_model" / "parameters.json").read_text())
    assert described["class"] == "Learn2TrackModel"
    assert described["dwiml_version"] == dwiml.__version__
    again = Learn2TrackModel.load(tmp_path / "a" / "best_model")
    assert again.params == model.params
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value)


def test_load_explains_what_is_wrong(tmp_path: Path, pointwise_model: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"it has no parameters\.json"):
        pointwise_model.load(tmp_path)
    model = pointwise_model(nb_features=4)
    model.save(tmp_path)
    with pytest.raises(ValueError, match=r"is of class PointwiseModel, not Learn2TrackModel: use PointwiseModel\.load"):
        Learn2TrackModel.load(tmp_path)
    parameters = tmp_path / "parameters.json"
    text = parameters.read_text()
    parameters.write_text(text.replace('"nb_features": 4', '"nb_features": 5'))
    with pytest.raises(
        ValueError,
        match=r"do not fit .*: 'hidden.weight' should be a float32 tensor of shape \(32, 5\)",
    ):
        pointwise_model.load(tmp_path)
    parameters.write_text(text.replace('"nb_features": 4', '"nb_featurs": 4'))
    with pytest.raises(ValueError, match="does not describe a model: .*nb_feature"):
        pointwise_model.load(tmp_path)
    both = text.replace('"step_size": null', '"step_size": 1').replace('"nb_points": null', '"nb_points": 9')
    parameters.write_text(both)
    with pytest.raises(ValueError, match="does not describe a model: a model can ask for one resampling"):
        pointwise_model.load(tmp_path)
    parameters.write_text('{"trainer": {}, "model": {}}')
    with pytest.raises(ValueError, match=r"' is an experiment folder; its best model is in '.*best_model', once"):
        pointwise_model.load(tmp_path)
    parameters.write_text(text[:20])
    with pytest.raises(ValueError, match=r"parameters\.json' is not valid JSON"):
        pointwise_model.load(tmp_path)
    parameters.write_text(text)
    state = tmp_path / "model_state.pt"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"model_state\.pt' is damaged"):
        pointwise_model.load(tmp_path)
    state.unlink()
    with pytest.raises(FileNotFoundError, match=r"it has no model_state\.pt"):
        pointwise_model.load(tmp_path)


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("trapped"),))


def test_a_crafted_file_runs_nothing(tmp_path: Path, pointwise_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pointwise_model(nb_features=4).save(tmp_path)
    torch.save(_Trap(), tmp_path / "model_state.pt")
    with pytest.raises(
        ValueError, match=r"was not loaded: it holds other objects than plain values and tensors.*it would use"
    ):
        pointwise_model.load(tmp_path)
    assert not (tmp_path / "trapped").exists()


def test_a_failed_save_leaves_the_old_files(
    tmp_path: Path, pointwise_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointwise_model(nb_features=4).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    whole = torch.save

    def half_written(state: object, handle: Any) -> None:
        if isinstance(handle, io.BytesIO):
            # The check that what is saved could be read again.
            whole(state, handle)
            return
        handle.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OSError, match="disk full"):
        pointwise_model(nb_features=4).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"step_size": 0.5, "nb_points": 20}, "can ask for one resampling, got 2: step_size, nb_points"),
        ({"step_size": 0.0}, "step_size must be positive, got 0"),
        ({"compress_lines": -1.0}, "compress_lines must be positive, got -1"),
        ({"compress_lines": float("nan")}, "compress_lines must be positive, got nan"),
        ({"nb_points": 1}, "nb_points must be a whole number of at least 2, got 1"),
        ({"nb_points": 2.5}, "nb_points must be a whole number of at least 2, got 2.5"),
        ({"nb_points": 5.0}, "nb_points must be a whole number of at least 2, got 5.0"),
        ({"nb_points": True}, "nb_points must be a whole number of at least 2, got True"),
        ({"step_size": "0.5"}, "step_size must be positive, got '0.5'"),
        ({"step_size": float("inf")}, "step_size must be positive, got inf"),
        ({"compress_lines": True}, "compress_lines must be positive, got True"),
    ],
)
def test_resampling_is_checked(asked: dict[str, Any], message: str, own_loss_model: Any) -> None:
    with pytest.raises(ValueError, match=message):
        own_loss_model(nb_features=4, **asked)


def test_unknown_parameter_and_missing_methods(own_loss_model: Any) -> None:
    with pytest.raises(TypeError, match=r"OwnLossModel has no parameter 'nb_featurs'; did you mean 'nb_features'\?"):
        own_loss_model(nb_features=4, nb_featurs=4)
    with pytest.raises(TypeError, match="OwnLossModel has no parameter 'foo'; it has: 'compress_lines', .*'step_size'"):
        own_loss_model(nb_features=4, foo=1)
    with pytest.raises(TypeError, match="Learn2TrackModel has no parameter 'rnn_layer_size'.* 'rnn_layer_sizes'"):
        Learn2TrackModel(nb_features=4, rnn_layer_size=[8])
    with pytest.raises(TypeError, match="abstract"):
        ModelWithOneInput(nb_features=4)  # type: ignore[abstract]
    with pytest.raises(TypeError, match="abstract"):
        MainModelAbstract()  # type: ignore[abstract]


def test_copy_and_pickle(own_loss_model: Any) -> None:
    model = own_loss_model(nb_features=4)
    assert copy.deepcopy(model).params == model.params
    model = Learn2TrackModel(nb_features=4, rnn_layer_sizes=[3, 3])
    assert pickle.loads(pickle.dumps(model)).params == model.params
    assert model.device == torch.device("cpu")
