"""Small transformers, and batches for them."""

from __future__ import annotations

from typing import Any

import torch

from dwiml import TensorSequence, TransformerSrcAndTgtModel, TransformerSrcOnlyModel, TransformerSrcTgtConcatModel

KINDS = {
    "src-only": TransformerSrcOnlyModel,
    "src-and-tgt": TransformerSrcAndTgtModel,
    "src-tgt-concat": TransformerSrcTgtConcatModel,
}
SMALL: dict[str, Any] = {"input_embedded_size": 16, "nb_heads": 4, "nb_layers_encoder": 2, "dropout": 0.0}
SMALL_OF = {
    "src-only": SMALL,
    "src-and-tgt": SMALL | {"nb_layers_decoder": 2},
    "src-tgt-concat": SMALL | {"target_embedded_size": 8},
}
CONFIGURATIONS: list[dict[str, Any]] = [
    {"kind": kind, "positional_encoding": encoding, "norm_first": norm_first}
    for kind in KINDS
    for encoding in ("sinusoidal", "rotary")
    for norm_first in (True, False)
] + [{"kind": kind, "sos": "repulsion100"} for kind in ("src-and-tgt", "src-tgt-concat")]


def small(kind: str, **options: Any) -> Any:
    """Return a small transformer without dropout, with the same weights at each call."""
    torch.manual_seed(5)
    return KINDS[kind](**{"nb_features": 4, **SMALL_OF[kind], **options})


def batch(lengths: list[int], nb_features: int = 4, seed: int = 0) -> tuple[TensorSequence, TensorSequence]:
    """Return inputs and points of streamlines of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    lines = TensorSequence(torch.randn(sum(lengths), 3, generator=generator).cumsum(0), torch.tensor(lengths))
    return lines.mapped(torch.randn(lines.total_points, nb_features, generator=generator)), lines
