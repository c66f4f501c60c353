"""Compiled layers that are not recompiled for each batch size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import functional


def padded_size(nb_rows: int) -> int:
    """Return the padded number of rows: the next of 2 ** (k / 4), rounded to a multiple of 8; at most 19% more."""
    quarters = math.ceil(math.log2(max(nb_rows, 64)) * 4)
    return max(-(-int(2 ** (quarters / 4)) // 8) * 8, nb_rows)


class PaddedRows:
    """The compiled forward of a layer, on rows padded to one of a few sizes.

    Batches differ in size, and torch compiles for each size. Rows of zeros are added up to one of a few sizes,
    and their outputs are removed. The layer must process each row independently.

    Parameters
    ----------
    layer
        A layer whose forward takes rows of shape (N, F) and returns N rows.
    """

    def __init__(self, layer: torch.nn.Module) -> None:
        self._compiled: Any = torch.compile(layer.forward, dynamic=False)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the layer's output for rows of shape (N, F)."""
        extra = padded_size(len(rows)) - len(rows)
        result: torch.Tensor = self._compiled(functional.pad(rows, (0, 0, 0, extra)))
        return result[: len(rows)]


def compile_layers(layers: Iterable[torch.nn.Module]) -> None:
    """Compile the forward of some layers, in place; their weights and names are unchanged.

    Raises
    ------
    ValueError
        If there is no layer.
    """
    found = list(layers)
    if not found:
        raise ValueError(
            "compile_model is True, but the model has no layer that processes each point independently: override its "
            "layers_by_point."
        )
    for layer in found:
        layer.forward = PaddedRows(layer)
