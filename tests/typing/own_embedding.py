"""What a type checker says of an embedding of a user's own. It is never run."""

from __future__ import annotations

from torch import Tensor, nn

from dwiml.models.embeddings import EMBEDDINGS, Embedding


class Gated(Embedding):
    def __init__(self, input_size: int, output_size: int | None = None, *, bias: bool = True) -> None:
        super().__init__(output_size or input_size)
        self.layer = nn.Linear(input_size, 2 * self.output_size, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.glu(self.layer(features), dim=1)


class OfGrid(Embedding):
    needs_grid = True

    def __init__(self, input_size: int, output_size: int | None = None, *, grid_size: int) -> None:
        super().__init__(input_size // grid_size**3)

    def forward(self, features: Tensor) -> Tensor:
        return features[:, : self.output_size]


EMBEDDINGS["gated"] = Gated
EMBEDDINGS["of_grid"] = OfGrid
EMBEDDINGS["wrong"] = nn.Linear  # type: ignore[assignment]
