"""Losses stay in float32 where the model computes in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import small_trainer
from torch import Tensor

from dwiml import AutoencoderModel, Learn2TrackModel, TensorSequence
from dwiml.models.direction_getters import DIRECTION_GETTERS, CosineRegression

HALF = (torch.bfloat16, torch.float16)


def model_and_targets(key: str, **dg_args: Any) -> tuple[Learn2TrackModel, TensorSequence]:
    torch.manual_seed(0)
    model = Learn2TrackModel(nb_features=2, rnn_layer_sizes=(6,), dg_key=key, dg_args=dg_args)
    return model, TensorSequence(torch.randn(300, 3).cumsum(0), torch.tensor([1, 99, 200]))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("key", sorted(DIRECTION_GETTERS))
def test_losses_are_the_same_under_autocast(key: str, dtype: torch.dtype) -> None:
    options = {"entropy_weight": 0.2, "expected_cosine": True} if key.startswith("fisher") else {}
    model, targets = model_and_targets(key, add_eos=True, **options)
    outputs = torch.randn(targets.total_points, model.direction_getter.output_size).to(dtype)
    expected, _ = model.compute_loss(outputs.float(), targets, average_results=False)
    steps, ends = torch.randn(300, 3), torch.arange(300) % 7 == 0
    of_getter = model.direction_getter.losses(outputs.float(), steps, ends)
    with torch.autocast("cpu", dtype=dtype):
        losses, _ = model.compute_loss(outputs, targets, average_results=False)
        assert losses.dtype == torch.float32
        assert torch.equal(losses, expected)
        assert torch.equal(model.direction_getter.losses(outputs.float(), steps, ends), of_getter)


@pytest.mark.parametrize("dtype", HALF)
def test_the_loss_of_the_autoencoder_is_the_same_under_autocast(dtype: torch.dtype) -> None:
    model = AutoencoderModel(nb_points=64)
    targets = TensorSequence(torch.randn(192, 3), torch.tensor([64, 64, 64]))
    outputs = torch.randn(3, 64, 3)
    expected, _ = model.compute_loss(outputs, targets)
    with torch.autocast("cpu", dtype=dtype):
        loss, _ = model.compute_loss(outputs, targets)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


class Watched(CosineRegression):
    """A direction getter of a user, with a matrix product in its loss."""

    seen: list[tuple[bool, torch.dtype, torch.dtype]]

    def forward(self, features: Tensor) -> Tensor:
        outputs = super().forward(features)
        assert torch.is_autocast_enabled(outputs.device.type)
        return outputs

    def direction_losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        product = outputs @ torch.eye(3)
        self.seen.append((torch.is_autocast_enabled(outputs.device.type), outputs.dtype, product.dtype))
        return super().direction_losses(product, steps)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_losses_of_a_training_are_computed_in_float32(
    precision: str, tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DIRECTION_GETTERS, "watched", Watched)
    Watched.seen = []
    options: dict[str, Any] = {"model_args": {"dg_key": "watched"}, "max_epochs": 1, "precision": precision}
    small_trainer(tiny_hdf5, tmp_path, **options).train_and_validate()
    assert set(Watched.seen) == {(False, torch.float32, torch.float32)}
