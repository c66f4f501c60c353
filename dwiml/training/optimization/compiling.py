"""Compiled layers that do not compile again for each batch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import functional


def padded_size(nb_rows: int) -> int:
    """Return the next size of 2 to the power of a multiple of a quarter, in whole eights: at most 19% more rows."""
    quarters = math.ceil(math.log2(max(nb_rows, 64)) * 4)
    return max(-(-int(2 ** (quarters / 4)) // 8) * 8, nb_rows)


class PaddedRows:
    """A layer's forward, compiled, on as many rows as some batch before had.

    Batches are never of the same size, and torch compiles for each size: rows of zeros are added until there is one of
    few sizes, and what they give is cut off. The layer must treat each row by itself.

    Parameters
    ----------
    layer
        Its forward takes rows (N, F) and returns rows.
    """

    def __init__(self, layer: torch.nn.Module) -> None:
        self._compiled: Any = torch.compile(layer.forward, dynamic=False)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the layer's output for rows (N, F)."""
        extra = padded_size(len(rows)) - len(rows)
        result: torch.Tensor = self._compiled(functional.pad(rows, (0, 0, 0, extra)))
        return result[: len(rows)]


def compile_layers(layers: Iterable[torch.nn.Module]) -> None:
    """Compile the forward of some layers, in place; their weights and names stay as they are.

    Raises
    ------
    ValueError
        When there is no layer.
    """
    found = list(layers)
    if not found:
        raise ValueError(
            "compile_model was asked for, but the model names no layer that treats each point by itself: override its "
            "layers_by_point."
        )
    for layer in found:
        layer.forward = PaddedRows(layer)
