"""What a type checker says of a user's own typed model: an error that it must find is an ignored one.

mypy (strict) checks this file with the library, and reports an ignore that nothing needs. It is never run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dwiml import (
    ModelWithDirectionGetter,
    ModelWithNeighborhood,
    ModelWithOneInput,
    ModelWithPreviousDirections,
    TensorSequence,
    TrackingModel,
)


class MyTracker(ModelWithPreviousDirections, ModelWithDirectionGetter, ModelWithNeighborhood, ModelWithOneInput):
    def __init__(self, *, hidden_size: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = torch.nn.Linear(self.embedded_input_size + self.embedded_prev_dirs_size, hidden_size)
        self.instantiate_direction_getter(hidden_size)

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence) -> Tensor:
        directions = self.embed_previous_dirs(self.previous_dirs(streamlines))
        features = torch.cat([self.embed_inputs(inputs), directions], dim=1)
        return self.direction_getter(torch.relu(self.hidden(features)))


class NextPoint(ModelWithOneInput):
    @property
    def forward_uses_last_point(self) -> bool:
        return False

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence) -> Tensor:
        return streamlines.data + self.embed_inputs(inputs)[:, :3]

    def compute_loss(
        self, outputs: Tensor, targets: TensorSequence, average_results: bool = True
    ) -> tuple[Tensor, int]:
        losses = (outputs - torch.cat([line[1:] for line in targets])).square().sum(dim=1)
        return (losses.mean() if average_results else losses), len(losses)


def tracks(model: MyTracker, other: NextPoint) -> None:
    right: TrackingModel = model
    wrong: TrackingModel = other  # type: ignore[assignment]
    size: int = model.direction_getter.output_size
    model.direction_getter(3)  # type: ignore[arg-type]
    del right, wrong, size
