"""The classifier of streamlines: both directions alike, its loss, what it learns, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from dwiml import StreamlineClassifierModel, TensorSequence, seed_everything

SMALL: dict[str, Any] = {"nb_features": 2, "nb_points": 8, "nb_channels": (6, 5), "point_size": 7, "hidden_size": 9}


def small(**more: Any) -> StreamlineClassifierModel:
    seed_everything(3)
    return StreamlineClassifierModel(**{**SMALL, **more}).eval()


def batch(nb: int, *, seed: int = 1, nb_points: int = 8) -> tuple[TensorSequence, TensorSequence]:
    """Return random features and random walks."""
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(nb, nb_points, 3, generator=rng).cumsum(dim=1)
    lines = TensorSequence(points.flatten(end_dim=1), torch.full((nb,), nb_points))
    return lines.mapped(torch.randn(nb * nb_points, 2, generator=rng)), lines


def test_the_layers_are_those_of_torch() -> None:
    model = small().double()
    inputs, lines = batch(3)
    inputs, lines = inputs.mapped(inputs.data.double()), lines.mapped(lines.data.double())
    points = lines.data.unflatten(0, (3, 8))
    directions = torch.gradient(points, dim=1)[0]
    first = model.point_layer[0]
    (conv_a, _), (conv_b, _) = model.convolutions
    _, hidden, _, _, last = model.last_layers
    expected = []
    for sign in (1, -1):
        rows = torch.cat([inputs.data.unflatten(0, (3, 8)), sign * directions], dim=2)
        rows = rows if sign == 1 else rows.flip(1)
        values = functional.relu(functional.linear(rows, first.weight, first.bias)).transpose(1, 2)
        values = functional.relu(functional.conv1d(functional.pad(values, (1, 1)), conv_a.weight, conv_a.bias, 2))
        values = functional.relu(functional.conv1d(functional.pad(values, (1, 1)), conv_b.weight, conv_b.bias))
        values = functional.relu(functional.linear(values.flatten(1), hidden.weight, hidden.bias))
        expected.append(functional.linear(values, last.weight, last.bias)[:, 0])
    outputs = model(inputs, lines)
    torch.testing.assert_close(outputs, (expected[0] + expected[1]) / 2)
    torch.testing.assert_close(model.plausibility(outputs), (1 / (1 + torch.exp(-outputs))).float())


@pytest.mark.parametrize("nb", [0, 1, 5])
def test_a_streamline_and_its_reverse_are_alike(nb: int) -> None:
    model, (inputs, lines) = small(), batch(nb)
    outputs = model(inputs, lines)
    assert outputs.shape == (nb,)
    torch.testing.assert_close(model(inputs.reversed(), lines.reversed()), outputs)
    for number in range(nb):
        alone = model(inputs[number : number + 1], lines[number : number + 1])
        torch.testing.assert_close(alone, outputs[number : number + 1])


def test_a_single_point_is_repeated() -> None:
    model, (inputs, lines) = small(), batch(2)
    lengths = torch.tensor([1, 8])
    some = TensorSequence(lines.data[7:], lengths)
    features = TensorSequence(inputs.data[7:], lengths)
    repeated = TensorSequence(lines.data[7].repeat(8, 1), torch.tensor([8]))
    expected = model(repeated.mapped(inputs.data[7].repeat(8, 1)), repeated)
    torch.testing.assert_close(model(features, some)[:1], expected)
    with pytest.raises(ValueError, match="takes streamlines of 8 points; streamline 0 of 1 has 3: resample them"):
        model(TensorSequence(inputs.data[:3], torch.tensor([3])), TensorSequence(lines.data[:3], torch.tensor([3])))


def test_the_loss_is_the_cross_entropy() -> None:
    model, (inputs, lines) = small(), batch(4)
    outputs, values = model(inputs, lines), torch.tensor([[0.0], [1.0], [0.3], [1.0]])
    p = torch.sigmoid(outputs.double())
    by_hand = -(values[:, 0] * p.log() + (1 - values[:, 0]) * (1 - p).log())
    losses, n = model.compute_loss(outputs, lines, average_results=False, values=values)
    assert n == 4
    torch.testing.assert_close(losses, by_hand.float())
    mean, n = model.compute_loss(outputs, lines, values=values, seen=lines, nb_recovery_steps=2)
    torch.testing.assert_close(mean, by_hand.mean().float())
    empty, n = model.compute_loss(outputs[:0], lines[:0], values=values[:0])
    assert (float(empty.detach()), n) == (0, 0)
    for wrong, got in ((None, "none"), (values[:2], r"\(2, 1\)"), (values.expand(4, 2), r"\(4, 2\)")):
        with pytest.raises(ValueError, match=rf"one value per streamline, shape \(4, 1\), got {got}"):
            model.compute_loss(outputs, lines, values=wrong)


def test_it_learns_the_shape_and_the_volume() -> None:
    """Plausible: the feature increases along a straight line. Neither the shape nor the feature alone tells."""
    seed_everything(1)
    rng = torch.Generator().manual_seed(0)
    model = StreamlineClassifierModel(**{**SMALL, "nb_channels": (16, 16), "point_size": 16, "dropout": 0.0})
    t = torch.linspace(0, 1, 8)
    bent, flat = torch.rand(400, generator=rng) < 0.5, torch.rand(400, generator=rng) < 0.5
    points = torch.stack([t.expand(400, 8) * 4, bent[:, None] * 6 * t * (1 - t), torch.zeros(400, 8)], dim=2)
    points = points + 0.05 * torch.randn(points.shape, generator=rng)
    features = torch.stack([torch.where(flat[:, None], torch.full((8,), 0.5), t), torch.zeros(400, 8)], dim=2)
    lines = TensorSequence(points.flatten(end_dim=1), torch.full((400,), 8))
    inputs, values = lines.mapped(features.flatten(end_dim=1)), (~bent & ~flat).float()[:, None]
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(80):
        loss, _ = model.compute_loss(model(inputs, lines), lines, values=values)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.eval().plausibility(model(inputs, lines)) > 0.5
    assert (found == (values[:, 0] > 0.5)).float().mean() > 0.98


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    model, (inputs, lines) = small(target_key="good", neighborhood_type="axes", neighborhood_radius=1), batch(2)
    model.save(tmp_path)
    again = StreamlineClassifierModel.load(tmp_path).eval()
    assert again.params == model.params
    assert again.target_key == "good"
    many = inputs.mapped(torch.randn(16, 14))
    assert torch.equal(again(many, lines), model(many, lines))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"nb_points": 9}, "nb_points must be a multiple of 2 for the 2 layers of nb_channels, got 9"),
        ({"nb_channels": (4,)}, "nb_channels must have 2 to 12 numbers, one per layer, got 1"),
        ({"nb_channels": (4, 0)}, "nb_channels must be a whole number of at least 1"),
        ({"point_size": 0}, "point_size must be"),
        ({"hidden_size": -1}, "hidden_size must be"),
        ({"dropout": 1.5}, "dropout must be"),
        ({"target_key": ""}, "target_key must be the name of a data_per_streamline, got ''"),
    ],
)
def test_invalid_parameters(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        StreamlineClassifierModel(**{**SMALL, **options})
