from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwiml import MainModelAbstract, ModelWithDirectionGetter, ModelWithOneInput, TensorSequence


class PointwiseModel(ModelWithDirectionGetter, ModelWithOneInput):
    """What a user writes with a direction getter: each point alone decides."""

    def __init__(self, *, hidden_size: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = nn.Linear(self.embedded_input_size, hidden_size)
        self.instantiate_direction_getter(hidden_size)

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence) -> Tensor:
        return self.direction_getter(torch.relu(self.hidden(self.embed_inputs(inputs))))


class OwnLossModel(ModelWithOneInput):
    """What a user writes without one: forward and loss of its own, here from all points."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = nn.Linear(self.embedded_input_size, 3)

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence) -> Tensor:
        return self.layer(self.embed_inputs(inputs))

    def compute_loss(
        self, outputs: Tensor, targets: TensorSequence, average_results: bool = True
    ) -> tuple[Tensor, int]:
        losses = (outputs - targets.data).square().sum(dim=1)
        return losses.mean() if average_results else losses, len(losses)


@pytest.fixture
def pointwise_model() -> type[MainModelAbstract]:
    return PointwiseModel


@pytest.fixture
def own_loss_model() -> type[MainModelAbstract]:
    return OwnLossModel
