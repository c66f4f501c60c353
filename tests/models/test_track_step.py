"""Tracking uses the model as it was trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwiml import (
    Learn2TrackModel,
    ModelWithDirectionGetter,
    ModelWithNeighborhood,
    ModelWithOneInput,
    ModelWithPreviousDirections,
    TensorSequence,
    check_track_step,
)


class WithPrevious(ModelWithPreviousDirections, ModelWithDirectionGetter, ModelWithNeighborhood, ModelWithOneInput):
    """What a user writes: each output depends on the point and on previous directions."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = nn.Linear(self.embedded_input_size + self.embedded_prev_dirs_size, 8)
        self.instantiate_direction_getter(8)

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence) -> Tensor:
        directions = self.embed_previous_dirs(self.previous_dirs(streamlines))
        return self.direction_getter(torch.tanh(self.hidden(torch.cat([self.embed_inputs(inputs), directions], 1))))


class Smoothing(WithPrevious):
    """Each output depends on the last three inputs."""

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence) -> Tensor:
        sums = inputs.data.clone()
        for back in (1, 2):
            shifted = torch.cat([sums.new_zeros(min(back, len(sums)), sums.shape[1]), inputs.data[:-back]])
            sums = sums + shifted * (inputs.positions() >= back)[:, None]
        return super().forward(inputs.mapped(sums), streamlines)


class Declaring(Smoothing):
    """Says how many points it needs."""

    @property
    def nb_points_to_track(self) -> int:
        return 3


class Forgetting(Learn2TrackModel):
    """Loses the hidden states of streamlines when others stop."""

    def select_memory(self, memory: Any, kept: Tensor) -> Any:
        return [tuple(part[: len(kept)] for part in layer) for layer in memory]


AROUND: dict[str, Any] = {"neighborhood_type": "axes", "neighborhood_radius": 1}


@pytest.mark.parametrize(
    "model",
    [
        WithPrevious(nb_features=3),
        WithPrevious(nb_features=3, nb_previous_dirs=4, **AROUND),
        WithPrevious(nb_features=3, nb_previous_dirs=2, dg_key="sphere-classification"),
        Declaring(nb_features=3),
        Learn2TrackModel(nb_features=3, rnn_layer_sizes=[8, 8], nb_previous_dirs=2, dropout=0.4),
    ],
    ids=["point", "directions", "classes", "window", "recurrent"],
)
def test_models_track_as_they_were_trained(model: Any) -> None:
    check_track_step(model)
    assert model.training


@pytest.mark.parametrize(
    "model", [Smoothing(nb_features=3), Forgetting(nb_features=3, rnn_layer_sizes=[32])], ids=["window", "memory"]
)
def test_a_model_that_tracks_otherwise_is_an_error(model: Any) -> None:
    sentence = rf"^{type(model).__name__}\.track_step gives other outputs than forward \(they differ by "
    with pytest.raises(ValueError, match=sentence):
        check_track_step(model.eval())
    assert not model.training


def test_models_that_cannot_be_checked_are_named(own_loss_model: Any) -> None:
    with pytest.raises(ValueError, match="^check_track_step needs a model that tracks; OwnLossModel has no "):
        check_track_step(own_loss_model(nb_features=3))

    class OneRow(WithPrevious):
        def forward(self, inputs: TensorSequence, streamlines: TensorSequence) -> Tensor:
            return super().forward(inputs, streamlines)[:1]

    sentence = (
        r"^check_track_step needs outputs of one row per point \(28\); OneRow\.forward returned a tensor of shape"
    )
    with pytest.raises(ValueError, match=sentence):
        check_track_step(OneRow(nb_features=3))
