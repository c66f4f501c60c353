"""The head that classifies directions, and ends, on a sphere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import chisquare

from dwiml import Learn2TrackModel, TensorSequence
from dwiml.models.direction_getters import SphereClassification
from dwiml.ops.randomness import KeyedDraws


def lines(seed: int = 0) -> TensorSequence:
    rng = np.random.default_rng(seed)
    points = [torch.from_numpy(rng.normal(size=(n, 3)).cumsum(axis=0)) for n in (5, 2, 8, 1)]
    return TensorSequence.from_list(points)


class Given(KeyedDraws):
    """Uniform numbers that are given."""

    def __init__(self, numbers: Any) -> None:
        super().__init__(0, torch.arange(len(numbers)), 0)
        object.__setattr__(self, "numbers", torch.as_tensor(numbers, dtype=torch.float64))

    def uniform(self, i: int) -> torch.Tensor:
        return self.numbers


def model(**dg_args: Any) -> Learn2TrackModel:
    torch.manual_seed(0)
    return Learn2TrackModel(
        nb_features=2,
        rnn_layer_sizes=(16,),
        dg_key="sphere-classification",
        dg_args={"sphere": "repulsion100", **dg_args},
    )


@pytest.mark.parametrize("add_eos", [True, False])
def test_loss_is_that_of_a_loop_in_float64(add_eos: bool) -> None:
    network, targets = model(add_eos=add_eos), lines()
    directions = network.direction_getter.directions.double().numpy()
    nb_rows = targets.total_points if add_eos else targets.diff().total_points
    outputs = torch.randn(nb_rows, len(directions) + add_eos, dtype=torch.float64)
    expected = []
    rows = iter(outputs.numpy())
    for line in targets:
        for step in np.diff(line.numpy(), axis=0):
            expected.append(-log_softmax(next(rows))[np.argmax(directions @ (step / np.linalg.norm(step)))])
        if add_eos:
            expected.append(-log_softmax(next(rows))[len(directions)])
    losses, n = network.compute_loss(outputs, targets, average_results=False)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-6)
    mean, nb = network.compute_loss(outputs, targets)
    assert (float(mean), n, nb) == (pytest.approx(np.mean(expected)), nb_rows, nb_rows)


@pytest.mark.parametrize("add_eos", [True, False])
def test_the_way_back_is_learned_where_the_model_saw_other_points(add_eos: bool) -> None:
    network, targets = model(add_eos=add_eos), lines()
    seen = targets.mapped(targets.data + 0.3 * torch.randn_like(targets.data))
    directions = network.direction_getter.directions.numpy()
    nb_rows = targets.total_points if add_eos else targets.diff().total_points
    outputs = torch.randn(nb_rows, len(directions) + add_eos)
    rows, expected = iter(outputs.double().numpy()), []
    for line, near in zip(targets, seen, strict=True):
        for i in range(len(line) - 1):
            way = (line[i + 1] - line[i] + (line[i] - near[i]) / 2).numpy()
            expected.append(-log_softmax(next(rows))[np.argmax(directions @ (way / np.linalg.norm(way)))])
        if add_eos:
            expected.append(-log_softmax(next(rows))[len(directions)])
    given = seen if add_eos else seen.trimmed_last()
    losses, _ = network.compute_loss(outputs, targets, average_results=False, seen=given, nb_recovery_steps=2)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-5)


def test_repeated_points_are_left_out_and_nan_is_named() -> None:
    network = model()
    targets = TensorSequence.from_list([torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0]])])
    losses, _ = network.compute_loss(torch.randn(3, 101), targets, average_results=False)
    assert losses[0] == 0
    assert (losses[1:] > 0).all()
    bad = TensorSequence.from_list([torch.tensor([[0.0, 0, 0], [torch.nan, 0, 0], [1, 0, 0]])])
    assert network.compute_loss(torch.randn(3, 101), bad)[0].isnan()


@pytest.mark.slow
def test_it_learns_directions_and_ends() -> None:
    network = model()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    targets = TensorSequence.from_list([torch.arange(9.0)[:, None] * torch.tensor([0.0, 0.6, 0.8])])
    # The second feature says where the end is near.
    inputs = targets.mapped(torch.stack([torch.ones(9), (torch.arange(9) == 8).float()], dim=1))
    first = None
    for _ in range(200):
        loss, _ = network.compute_loss(network(inputs, targets), targets)
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first is not None
    assert loss.item() < first / 20
    outputs = network(inputs, targets)
    ends = network.eos_probability(outputs)
    assert ends is not None
    assert ends[8] > 0.9
    assert ends[:8].max() < 0.1
    directions = network.get_tracking_directions(outputs, "det", 0.5)
    assert directions[8].isnan().all()
    # A hundred directions: neighbours are about 20 degrees apart.
    assert (directions[:8] @ torch.tensor([0.0, 0.6, 0.8]) > np.cos(np.radians(15))).all()


def test_directions_are_drawn_as_often_as_they_are_probable() -> None:
    network = model(add_eos=False)
    nb = 20_000
    outputs = torch.randn(1, 100).mul(1.5).expand(nb, -1)
    draws = Given((torch.arange(nb) + 0.5) / nb)
    drawn = network.get_tracking_directions(outputs, "prob", draws=draws)
    directions, probabilities = network.direction_getter.distribution(outputs[:1])
    counts = torch.bincount((drawn @ directions.T).argmax(dim=1), minlength=100).numpy()
    expected = probabilities[0].double().numpy()
    assert chisquare(counts, expected / expected.sum() * nb).pvalue > 0.01
    half = network.get_tracking_directions(outputs, "prob", draws=draws, allowed=lambda choice: choice[None, :, 0] > 0)
    assert (half[:, 0] > 0).all()
    none = network.get_tracking_directions(outputs, "prob", draws=draws, allowed=lambda choice: choice[None, :, 0] > 2)
    assert not none.any()


def test_the_highest_draw_falls_on_a_direction_that_is_possible() -> None:
    network = model(add_eos=False)
    outputs = torch.full((2, 100), -1e4)
    outputs[:, 3] = 0
    drawn = network.get_tracking_directions(outputs, "prob", draws=Given([0.0, 1 - 2.0**-53]))
    torch.testing.assert_close(drawn, network.direction_getter.directions[[3, 3]])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="^dg_args: sphere must be the name of one of DIPY's spheres, .*, got 'cube'"):
        SphereClassification(8, sphere="cube")
    with pytest.raises(ValueError, match="add_eos must be True or False, got 'yes'"):
        model(add_eos="yes")
    network = model(add_eos=False)
    with pytest.raises(ValueError, match="algo must be 'det' or 'prob', got 'best'"):
        network.get_tracking_directions(torch.zeros(1, 100), "best")
    with pytest.raises(ValueError, match="algo 'prob' needs draws"):
        network.get_tracking_directions(torch.zeros(1, 100), "prob")
    with pytest.raises(ValueError, match="does not predict the end of streamlines"):
        network.get_tracking_directions(torch.zeros(1, 100), "det", 0.5)
