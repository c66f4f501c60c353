"""The autoencoder of streamlines: the layers beside torch's own, any number of streamlines, spaces and parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from dwiml import AutoencoderModel, TensorSequence, seed_everything
from dwiml.models.protocols import check_tracks

SMALL: dict[str, Any] = {"nb_points": 16, "nb_channels": (4, 8, 16), "latent_size": 5}


def small(**more: Any) -> AutoencoderModel:
    seed_everything(3)
    return AutoencoderModel(**{**SMALL, **more}).eval()


def lines(nb: int, nb_points: int = 16) -> TensorSequence:
    """Return random walks in mm."""
    rng = torch.Generator().manual_seed(nb)
    points = torch.randn(nb, nb_points, 3, generator=rng).cumsum(dim=1) * 3 + torch.tensor([20.0, -40.0, 10.0])
    return TensorSequence(points.flatten(end_dim=1), torch.full((nb,), nb_points))


def as_torch_says(model: AutoencoderModel, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the latent vectors and reconstructions with torch's own padding and upsampling."""
    values = ((points - model.center) / model.scale).swapaxes(1, 2)
    for number, layer in enumerate(model.encoder):
        stride = 1 if number == len(model.encoder) - 1 else 2
        values = functional.conv1d(functional.pad(values, (1, 1), "reflect"), layer.weight, layer.bias, stride=stride)
        values = values if stride == 1 else functional.relu(values)
    shape = values.shape
    latent = model.to_latent(values.flatten(1))
    values = model.from_latent(latent).view(shape)
    for number, layer in enumerate(model.decoder):
        values = functional.conv1d(functional.pad(values, (1, 1), "reflect"), layer.weight, layer.bias)
        if number < len(model.decoder) - 1:
            values = functional.interpolate(functional.relu(values), scale_factor=2.0, mode="linear")
    return latent, values.swapaxes(1, 2) * model.scale + model.center


@pytest.mark.parametrize(
    "options",
    [SMALL, {**SMALL, "nb_points": 8}, {**SMALL, "center": (10, -5, 3), "scale": (20.0, -30.0, 40.0)}, {}],
    ids=["small", "fewest points", "other scale", "as in the article"],
)
def test_the_layers_are_those_of_torch(options: dict[str, Any]) -> None:
    seed_everything(1)
    model = AutoencoderModel(**options).double()
    streamlines = lines(3, model.nb_points)
    points = streamlines.data.double().unflatten(0, (3, model.nb_points))
    latent, rebuilt = as_torch_says(model, points)
    got = model.encode(streamlines.mapped(streamlines.data.double()))
    assert got.shape == (3, model.latent_size)
    torch.testing.assert_close(got, latent)
    decoded = model.decode(got)
    assert decoded.lengths.tolist() == [model.nb_points] * 3
    torch.testing.assert_close(decoded.data, rebuilt.flatten(end_dim=1))


def test_the_default_layers_are_those_of_dwi_ml() -> None:
    with torch.device("meta"):
        model = AutoencoderModel()
    sizes = [tuple(layer.weight.shape) for layer in model.encoder]
    assert sizes == [(32, 3, 3), (64, 32, 3), (128, 64, 3), (256, 128, 3), (512, 256, 3), (1024, 512, 3)]
    sizes = [tuple(layer.weight.shape) for layer in model.decoder]
    assert sizes == [(512, 1024, 3), (256, 512, 3), (128, 256, 3), (64, 128, 3), (32, 64, 3), (3, 32, 3)]
    assert model.to_latent.weight.shape == (32, 8192)
    assert model.from_latent.weight.shape == (8192, 32)


@pytest.mark.parametrize("nb", [0, 1, 2, 7])
def test_any_number_of_streamlines(nb: int) -> None:
    model, streamlines = small(), lines(nb)
    latent = model.encode(streamlines)
    assert latent.shape == (nb, 5)
    assert len(model.decode(latent)) == nb
    loss, n = model.compute_loss(model(streamlines), streamlines)
    assert (n, loss.shape) == (16 * nb, ())
    assert torch.isfinite(loss)
    if nb:
        torch.testing.assert_close(latent[:1], model.encode(streamlines[:1]))


def test_the_loss_is_the_mean_squared_distance_in_mm() -> None:
    model, streamlines = small(), lines(4)
    outputs = model(streamlines)
    expected = ((outputs.detach().numpy().reshape(-1, 3) - streamlines.data.numpy()) ** 2).sum(1)
    loss, n = model.compute_loss(outputs, streamlines)
    losses, same = model.compute_loss(outputs, streamlines, average_results=False)
    assert n == same == len(losses) == 64
    np.testing.assert_allclose(losses.detach().numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(float(loss.detach()), expected.mean(), rtol=1e-5)


def test_a_streamline_of_one_point_is_that_point_many_times() -> None:
    model, streamlines = small(), lines(2)
    point = torch.tensor([[1.0, 2.0, 3.0]])
    mixed = TensorSequence.from_list([streamlines[0], point, streamlines[1]])
    same = TensorSequence.from_list([streamlines[0], point.expand(16, 3), streamlines[1]])
    assert torch.equal(model.encode(mixed), model.encode(same))
    outputs = model(mixed)
    losses, n = model.compute_loss(outputs, mixed, average_results=False)
    assert n == 33
    torch.testing.assert_close(losses[16], (outputs[1, 0] - point[0]).square().sum())


def test_a_reversed_streamline_is_another_one() -> None:
    model, streamlines = small(), lines(3)
    assert (model.encode(streamlines) - model.encode(streamlines.reversed())).norm(dim=1).min() > 1e-3


def test_other_numbers_of_points_are_refused() -> None:
    model, sentence = small(), r"takes streamlines of 16 points; streamline 1 of 2 has 12: resample them"
    short = TensorSequence.from_list([lines(1)[0], lines(1, 12)[0]])
    with pytest.raises(ValueError, match=sentence):
        model.encode(short)
    with pytest.raises(ValueError, match=sentence):
        model.compute_loss(torch.zeros(2, 16, 3), short)
    with pytest.raises(ValueError, match=r"latent must have shape \(S, 5\), got \(2, 4\)"):
        model.decode(torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"nb_points": 18},
            "nb_points must be a multiple of 4, and at least 8, for the 3 layers of nb_channels, got 18",
        ),
        ({"nb_points": 4}, "at least 8"),
        ({"latent_size": 0}, "latent_size must be a whole number of at least 1, got 0"),
        ({"nb_channels": [4]}, "nb_channels must have 2 to 12 numbers, one for each layer, got 1"),
        ({"nb_channels": 4}, "nb_channels must have 2 to 12 numbers"),
        ({"nb_channels": [4, 10**9]}, "nb_channels must be a whole number of at most 100000"),
        ({"scale": 0.0}, "scale must be a number of mm other than 0"),
        ({"scale": [1.0, 2.0]}, "scale must have three numbers, one for each axis, got 2"),
        ({"center": 3.0}, "center must have three numbers"),
        ({"center": (0, float("nan"), 0)}, "center must be a number from"),
    ],
)
def test_bad_parameters_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small(**options)
    with pytest.raises(TypeError, match="step_size"):
        small(step_size=1.0)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    model = small(center=(1, 2, 3), scale=(50, 60, -70))
    model.save(tmp_path / "model")
    again = AutoencoderModel.load(tmp_path / "model").eval()
    assert again.params == model.params
    assert again.params["scale"] == [50, 60, -70]
    assert torch.equal(again(lines(2)), model(lines(2)))


def test_it_does_not_track() -> None:
    with pytest.raises(ValueError, match=r"^Tracker needs a model that tracks; AutoencoderModel has no nb_features"):
        check_tracks(small(), "Tracker")


def test_half_precision_does_not_round_coordinates() -> None:
    model = small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(lines(2))
    assert outputs.dtype == torch.float32
    assert (outputs - outputs.bfloat16().float()).abs().max() > 0
