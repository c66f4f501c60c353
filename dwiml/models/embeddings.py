"""Embeddings of the features of a point."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dwiml.arguments import check_whole, shown

# Far above any trained size: a number from a damaged or untrusted file must not cause a large allocation.
MAX_UNITS = 100_000


class NoEmbedding(nn.Identity):
    """The identity: features are not changed.

    Parameters
    ----------
    input_size
        Number of features.
    output_size
        None, or the same number.

    Raises
    ------
    ValueError
        If ``output_size`` differs from ``input_size``.
    """

    def __init__(self, input_size: int, output_size: int | None = None) -> None:
        super().__init__()
        if output_size is not None and output_size != input_size:
            raise ValueError(
                f"'no_embedding' keeps the {input_size} features, got an embedded size of {shown(output_size)}: "
                "leave it out, or choose 'nn_embedding'."
            )
        self.output_size = input_size


class NNEmbedding(nn.Module):
    """A linear layer, then ReLU.

    Parameters
    ----------
    input_size, output_size
        Number of features before and after.

    Raises
    ------
    ValueError
        If ``output_size`` is not a positive integer.
    """

    def __init__(self, input_size: int, output_size: int | None = None) -> None:
        super().__init__()
        self.output_size = check_whole("The embedded size of 'nn_embedding'", output_size, low=1, high=MAX_UNITS)
        self.linear = nn.Linear(input_size, self.output_size)

    def forward(self, features: Tensor) -> Tensor:
        """Embed rows of shape (N, input_size) to (N, output_size)."""
        return torch.relu(self.linear(features))


Embedding = NoEmbedding | NNEmbedding

EMBEDDINGS: dict[str, type[NoEmbedding] | type[NNEmbedding]] = {
    "no_embedding": NoEmbedding,
    "nn_embedding": NNEmbedding,
}


def build_embedding(key: str, input_size: int, output_size: int | None) -> Embedding:
    """Build an embedding by its key.

    Parameters
    ----------
    key
        A key of :data:`EMBEDDINGS`.
    input_size, output_size
        Number of features before and after; None is valid for 'no_embedding' only.

    Raises
    ------
    ValueError
        If the key is unknown, or the size is invalid for the embedding.
    """
    if not isinstance(key, str) or key not in EMBEDDINGS:
        raise ValueError(f"Embedding {key!r} is unknown; choose among {sorted(EMBEDDINGS)}.")
    return EMBEDDINGS[key](input_size, output_size)
