"""Saved models: a bit that changed is found, and no file takes more memory than the weights that it holds."""

from __future__ import annotations

import json
import logging
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dwiml import Learn2TrackModel
from dwiml.files import tensors


def small_model(**changes: Any) -> Learn2TrackModel:
    torch.manual_seed(0)
    return Learn2TrackModel(**{"nb_features": 3, "rnn_layer_sizes": (4, 4), "nb_previous_dirs": 1, **changes})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    small_model().save(tmp_path)
    return tmp_path


def change(folder: Path, **changes: Any) -> None:
    path = folder / "parameters.json"
    described = json.loads(path.read_text())
    described["params"].update(changes)
    path.write_text(json.dumps(described))


def test_a_bit_of_any_byte_of_the_weights_is_found(saved: Path) -> None:
    path = saved / "model_state.pt"
    good, rng = path.read_bytes(), np.random.default_rng(0)
    for place in rng.choice(len(good), 400, replace=False):
        damaged = bytearray(good)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model_state\.pt' (is damaged|was not loaded)"):
            Learn2TrackModel.load(saved)
    path.write_bytes(good)
    Learn2TrackModel.load(saved)


@pytest.mark.parametrize("size", [0, 1, 21, 90, 300])
def test_a_short_file_of_weights_is_a_sentence(saved: Path, size: int) -> None:
    path = saved / "model_state.pt"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model_state\.pt' (is damaged|was not loaded)"):
        Learn2TrackModel.load(saved)


def test_an_older_file_has_no_digest_and_that_is_said(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = small_model()
    torch.save(model.state_dict(), saved / "model_state.pt")
    with caplog.at_level(logging.WARNING):
        again = Learn2TrackModel.load(saved)
    assert "has no digest" in caplog.text
    assert torch.equal(torch.cat([each.flatten() for each in again.parameters()]), flat(model))
    caplog.clear()
    again.save(saved)
    Learn2TrackModel.load(saved)
    assert not caplog.records


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([each.flatten() for each in model.parameters()])


def test_torch_reads_the_weights_too(saved: Path) -> None:
    state = torch.load(saved / "model_state.pt", weights_only=True)
    assert {name: value.tolist() for name, value in state.items()} == {
        name: value.tolist() for name, value in small_model().state_dict().items()
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(saved: Path, value: float) -> None:
    model = small_model()
    with torch.no_grad():
        model.rnn.layers[0].weight_ih_l0[2, 1] = value
    model.save(saved)
    with pytest.raises(ValueError, match=r"1 of the 72 values of 'rnn.layers.0.weight_ih_l0' are NaN or infinite"):
        Learn2TrackModel.load(saved)


class Masked(nn.Module):
    """A mask of attention is saved, and holds minus infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


def test_a_saved_mask_may_hold_infinity_and_no_nan() -> None:
    from dwiml.models.saving import check_finite

    check_finite(Masked(), Masked().state_dict(), "The weights")
    with pytest.raises(ValueError, match="1 of the 2 values of 'mask' are NaN"):
        check_finite(Masked(), {"mask": torch.tensor([0.0, torch.nan])}, "The weights")


def test_weights_of_another_precision_are_taken(saved: Path) -> None:
    state = {name: value.double() for name, value in small_model().state_dict().items()}
    torch.save(state, saved / "model_state.pt")
    assert torch.equal(flat(Learn2TrackModel.load(saved)), flat(small_model()))


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Let the process have 2 GB more than now: an allocation of what a file says would fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + 2 * 10**9, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


HUGE = {
    "rnn_layer_sizes": [[30_000, 30_000], [10**9], [10**30], [4] * 100_000, [4.5], "44", [-4]],
    "nb_features": [10**6, 10**12, 10**30, 2.5, "3", True],
    "nb_previous_dirs": [10**5, 10**12, -1, None],
    "input_embedding_key": ["nn_embedding", "mlp_embedding", "cnn_embedding", ["nn_embedding"], 3],
    "input_embedding_args": [{"hidden_sizes": [10**9]}, [], {"input_size": 3}],
    "dg_key": ["sphere-classification", {}],
    "dg_args": [{"output_size": 7}, {"dropout": 7}, [], {"input_size": 3}],
    "neighborhood_type": ["grid", []],
    "nb_points": [10**12, 1],
    "unknown": [1],
}


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in HUGE.items() for value in values])
def test_parameters_of_another_size_are_refused_before_they_take_memory(saved: Path, name: str, value: Any) -> None:
    change(saved, **{name: value})
    with pytest.raises(ValueError, match=r"(do not fit the model|does not describe a model)") as caught:
        Learn2TrackModel.load(saved)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) - len(str(saved)) < 600


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(("kind", "radius"), [("grid", 10**6), ("axes", 10**9), ("grid", 200), ("axes", 10**30)])
def test_a_neighborhood_has_a_largest_size(saved: Path, kind: str, radius: int) -> None:
    change(saved, neighborhood_type=kind, neighborhood_radius=radius)
    with pytest.raises(ValueError, match="(at most|do not fit the model)"):
        Learn2TrackModel.load(saved)


def test_building_on_trial_draws_no_random_number(saved: Path) -> None:
    torch.manual_seed(5)
    small_model_again = Learn2TrackModel(**small_model().params)
    torch.manual_seed(5)
    Learn2TrackModel(**small_model_again.params)
    after_one = torch.get_rng_state()
    torch.manual_seed(5)
    Learn2TrackModel.load(saved)
    assert torch.equal(torch.get_rng_state(), after_one)


class CannotBeTried(Learn2TrackModel):
    """A model of the user's that looks at its values while it is made."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = self.rnn.layers[0].weight_ih_l0.detach()[0, 0].item()


class NeedsNumpy(Learn2TrackModel):
    """Another one, for which torch's error is of another kind."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = self.rnn.layers[0].weight_ih_l0.detach().numpy()[0, 0]


@pytest.mark.parametrize("kind", [CannotBeTried, NeedsNumpy])
def test_a_model_that_needs_values_to_be_made_loads(tmp_path: Path, kind: type[Learn2TrackModel]) -> None:
    model = kind(nb_features=3, rnn_layer_sizes=[4])
    model.save(tmp_path)
    assert torch.equal(flat(kind.load(tmp_path)), flat(model))


def test_torch_s_advice_to_load_unsafely_is_not_repeated(saved: Path) -> None:
    for content in (np.zeros(3), Masked(), print, {"a": bytearray(3)}):
        torch.save(content, saved / "model_state.pt")
        with pytest.raises(ValueError, match=r"was not loaded: .*was not written by torch.save \(.*\)\.$") as caught:
            Learn2TrackModel.load(saved)
        assert "weights_only" not in str(caught.value)


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    other, folder = tmp_path / "other.pt", tmp_path / "model"
    other.write_bytes(b"mine")
    folder.mkdir()
    (folder / "model_state.pt").symlink_to(other)
    small_model().save(folder)
    assert other.read_bytes() == b"mine"
    Learn2TrackModel.load(folder)


def test_what_cannot_be_read_is_told_with_its_reason(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def denied(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("model_state.pt"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(PermissionError, match=r"model_state\.pt' cannot be read: permission denied\.$"):
        Learn2TrackModel.load(saved)


def test_a_pipe_is_not_waited_for(saved: Path) -> None:
    for name in ("model_state.pt", "parameters.json"):
        path = saved / name
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(ValueError, match="not a regular file"):
            Learn2TrackModel.load(saved)
        path.unlink()
        path.write_bytes(content)


def test_state_that_cannot_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^'a' -> an object of type float64$"):
        tensors.as_plain({"a": np.float64(3)})
    tensors.as_plain({"a": torch.zeros(3), "b": [1, (2.0, None)], "c": {"d": "e"}})


def test_parameters_that_changed_since_are_told(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A step size with another digit is no error of any reader's."""
    path = saved / "parameters.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(described.items()))))
    Learn2TrackModel.load(saved)
    assert not caplog.records
    change(saved, step_size=2.0)
    assert Learn2TrackModel.load(saved).step_size == 2.0
    assert "have changed since they were saved" in caplog.text
    caplog.clear()
    del described["digest"]
    path.write_text(json.dumps(described))
    Learn2TrackModel.load(saved)
    assert not caplog.records
