"""Every model learns: a right forward pass with a wrong backward pass trains without a word and learns nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_transformers import KINDS, small
from torch import Tensor

from dwiml import Learn2TrackModel, TensorSequence

NB_FEATURES = 5
Batch = tuple[TensorSequence, TensorSequence]
MAP = torch.randn(NB_FEATURES, 3, generator=torch.Generator().manual_seed(11))
TURN = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(4)))[0]


def lengths_of(generator: torch.Generator, nb: int = 16) -> Tensor:
    return torch.randint(2, 10, (nb,), generator=generator)


def walk(directions: Tensor, lengths: Tensor, generator: torch.Generator) -> TensorSequence:
    """Streamlines whose steps are `directions`; the last of each streamline is not taken."""
    lines = [
        torch.cat([torch.zeros(1, 3), steps[:-1].cumsum(0)]) + torch.rand(3, generator=generator)
        for steps in torch.split(directions, lengths.tolist())
    ]
    return TensorSequence.from_list(lines)


def from_inputs(generator: torch.Generator) -> Batch:
    """The direction is a function of the input at the point."""
    lengths = lengths_of(generator)
    features = torch.randn(int(lengths.sum()), NB_FEATURES, generator=generator)
    directions = torch.nn.functional.normalize(features @ MAP, dim=1)
    return TensorSequence(features, lengths), walk(directions, lengths, generator)


def from_the_last_input(generator: torch.Generator) -> Batch:
    """The direction is a function of the input one point back: only a memory gets it right."""
    lengths = lengths_of(generator)
    features = torch.randn(int(lengths.sum()), NB_FEATURES, generator=generator)
    starts = torch.cumsum(lengths, 0) - lengths
    shifted = features.roll(1, dims=0)
    shifted[starts] = 1.0
    directions = torch.nn.functional.normalize(shifted @ MAP, dim=1)
    return TensorSequence(features, lengths), walk(directions, lengths, generator)


def from_the_last_step(generator: torch.Generator) -> Batch:
    """Each step is the one before it, turned; the inputs say nothing. All start in the same direction."""
    lengths = lengths_of(generator)
    lines = []
    for length in lengths.tolist():
        step = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)
        steps = [torch.tensor([1.0, 0.0, 0.0]), step]
        while len(steps) < length:
            steps.append(TURN @ steps[-1])
        lines.append(torch.stack(steps[:length]))
    features = torch.zeros(int(lengths.sum()), NB_FEATURES)
    return TensorSequence(features, lengths), walk(torch.cat(lines), lengths, generator)


def train(
    model: Any, draw: Callable[[torch.Generator], Batch], nb_steps: int, ignore: int = 0, lr: float = 0.02
) -> tuple[float, float]:
    """Return the first and the last loss, each on a batch not trained on; `ignore` first steps are left out."""
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def losses() -> Tensor:
        inputs, targets = draw(generator)
        lines = targets if model.forward_uses_last_point else targets.trimmed_last()
        inputs = inputs if model.forward_uses_last_point else inputs.trimmed_last()
        rows, _ = model.compute_loss(model(inputs, lines), targets, average_results=False)
        position = torch.cat([torch.arange(int(n)) for n in lines.lengths])
        return rows[position >= ignore].mean()

    first = losses().item()
    for _ in range(nb_steps):
        optimizer.zero_grad()
        losses().backward()
        optimizer.step()
    return first, losses().item()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dg_key", ["cosine-regression", "l2-regression"])
def test_pointwise_model_learns_from_inputs(pointwise_model: Any, dg_key: str) -> None:
    first, last = train(pointwise_model(nb_features=NB_FEATURES, dg_key=dg_key), from_inputs, 200)
    assert first > 0.7
    assert last < 0.05


def test_model_with_a_loss_of_its_own_learns(own_loss_model: Any) -> None:
    def points_from_inputs(generator: torch.Generator) -> Batch:
        lengths = lengths_of(generator)
        features = torch.randn(int(lengths.sum()), NB_FEATURES, generator=generator)
        return TensorSequence(features, lengths), TensorSequence(features @ MAP, lengths)

    first, last = train(own_loss_model(nb_features=NB_FEATURES), points_from_inputs, 300)
    assert first > 1
    assert last < 0.05


@pytest.mark.first(2)
@pytest.mark.parametrize("rnn_key", ["gru", "lstm"])
@pytest.mark.parametrize(
    "options",
    [
        {"rnn_layer_sizes": (32, 32)},
        {"rnn_layer_sizes": (32, 32), "use_skip_connection": False, "use_layer_normalization": False},
        {
            "rnn_layer_sizes": (32,),
            "nb_previous_dirs": 1,
            "input_embedding_key": "nn_embedding",
            "input_embedded_size": 32,
            "dg_key": "l2-regression",
        },
    ],
)
def test_learn2track_learns_from_inputs(rnn_key: str, options: dict[str, Any]) -> None:
    first, last = train(Learn2TrackModel(nb_features=NB_FEATURES, rnn_key=rnn_key, **options), from_inputs, 150)
    assert first > 0.7
    assert last < 0.05


@pytest.mark.first(1)
@pytest.mark.parametrize("rnn_key", ["gru", "lstm"])
def test_learn2track_remembers(rnn_key: str) -> None:
    model = Learn2TrackModel(nb_features=NB_FEATURES, rnn_key=rnn_key, rnn_layer_sizes=(32, 32))
    first, last = train(model, from_the_last_input, 200)
    assert first > 0.7
    assert last < 0.1


@pytest.mark.first(2)
@pytest.mark.parametrize("rnn_key", ["gru", "lstm"])
@pytest.mark.parametrize("key", [None, "nn_embedding"])
def test_learn2track_learns_from_previous_directions(rnn_key: str, key: str | None) -> None:
    model = Learn2TrackModel(
        nb_features=NB_FEATURES,
        rnn_key=rnn_key,
        rnn_layer_sizes=(32,),
        nb_previous_dirs=1,
        prev_dirs_embedding_key=key,
        prev_dirs_embedded_size=None if key is None else 16,
    )
    # The second step is drawn by lot.
    first, last = train(model, from_the_last_step, 120, ignore=2)
    assert first > 0.5
    assert last < 0.05


@pytest.mark.first(1)
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_learn_from_inputs(kind: str) -> None:
    first, last = train(small(kind, nb_features=NB_FEATURES), from_inputs, 120, lr=0.005)
    assert first > 0.7
    assert last < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_look_back(kind: str) -> None:
    model = small(kind, nb_features=NB_FEATURES, positional_encoding="rotary", norm_first=False)
    first, last = train(model, from_the_last_input, 300, lr=0.005)
    assert first > 0.7
    assert last < 0.2


@pytest.mark.first(1)
@pytest.mark.parametrize("kind", ["src-and-tgt", "src-tgt-concat"])
def test_transformers_learn_from_previous_directions(kind: str) -> None:
    # The second step is drawn by lot.
    first, last = train(small(kind, nb_features=NB_FEATURES), from_the_last_step, 120, ignore=2, lr=0.005)
    assert first > 0.5
    assert last < 0.1
