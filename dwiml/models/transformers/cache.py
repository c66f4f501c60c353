"""Keys and values of the points so far, so that a step of tracking computes one point of each streamline."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dwiml.models.transformers.attention import Attending, MultiHeadAttention, WholeStreamlines
from dwiml.models.transformers.buckets import LengthBuckets
from dwiml.ops import ragged

# Rows of ended streamlines are removed when they are more than this share.
_MAX_ENDED = 0.25


@dataclass(frozen=True)
class KeyValueMemory:
    """The keys and values of all points of some streamlines, for each attention.

    Streamlines are aligned at their last point, so that a new point is one column. Buffers double when they are full,
    and rows of ended streamlines stay until they are a quarter of all: each value is copied a few times only, however
    long a streamline grows. A memory shares its buffers with the one that it was made from: continue from each memory
    once.

    Attributes
    ----------
    lengths
        Shape (S,), int64, on the device: number of points of each streamline.
    rows
        Shape (S,), int64: the row of each streamline in the buffers.
    first
        Shape (R,), int64: the first column of each row; None: 0 in all rows.
    nb_columns
        Number of columns in use.
    buffers
        For each attention: keys and values, shape (2, R, H, C, D), with C columns, at least ``nb_columns``.
    """

    lengths: Tensor
    rows: Tensor
    first: Tensor | None
    nb_columns: int
    buffers: dict[MultiHeadAttention, Tensor] = field(default_factory=dict)

    def select(self, kept: Tensor) -> KeyValueMemory:
        """Return the memory of the streamlines ``kept``, (K,), int64, each at most once."""
        chosen = replace(self, lengths=self.lengths[kept], rows=self.rows[kept])
        nb_rows = next((each.shape[1] for each in self.buffers.values()), 0)
        if len(kept) >= (1 - _MAX_ENDED) * nb_rows:
            return chosen
        first, unused = self.first, 0
        if first is not None:
            first = first[chosen.rows]
            # Columns that only ended streamlines used.
            unused = int(first.min()) if len(kept) else 0
            first = first - unused
        used = slice(unused, self.nb_columns)
        return replace(
            chosen,
            rows=torch.arange(len(kept), device=kept.device),
            first=first,
            nb_columns=self.nb_columns - unused,
            buffers={
                layer: buffer[:, :, :, used].index_select(1, chosen.rows) for layer, buffer in self.buffers.items()
            },
        )


class FirstSegments(WholeStreamlines):
    """Attention within whole streamlines that also fills a memory.

    Attributes
    ----------
    memory
        Complete when all layers have attended.
    """

    def __init__(self, buckets: LengthBuckets) -> None:
        super().__init__(buckets)
        lengths, device = buckets.lengths, buckets.positions.device
        order = buckets.order.numpy()
        first = buckets.longest - lengths.numpy()
        # Sorted rows, each streamline at its own row, aligned at its last point.
        starts = order * buckets.longest + first[order]
        self._slots = torch.from_numpy(ragged.run_rows(starts, lengths.numpy()[order])).to(device)
        self.memory = KeyValueMemory(
            lengths.to(device),
            torch.arange(len(lengths), device=device),
            torch.from_numpy(first).to(device) if np.any(first) else None,
            buckets.longest,
        )

    def attend(self, layer: MultiHeadAttention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the weighted means of the values, (N, H, D), and remember keys and values."""
        nb = len(self.buckets.lengths)
        both = torch.stack([keys, values])
        padded = both.new_zeros(2, nb * self.buckets.longest, *both.shape[2:]).index_copy(1, self._slots, both)
        self.memory.buffers[layer] = (
            padded.view(2, nb, self.buckets.longest, *both.shape[2:]).transpose(2, 3).contiguous()
        )
        return super().attend(layer, queries, keys, values)


class NextPoints(Attending):
    """Attention of one new point of each streamline, in the order of a memory, to the points before it and itself.

    Parameters
    ----------
    memory
        The points so far.

    Attributes
    ----------
    memory
        With the new points, complete when all layers have attended.
    """

    def __init__(self, memory: KeyValueMemory) -> None:
        super().__init__(memory.lengths, memory.nb_columns + 1)
        self._column = memory.nb_columns
        self.memory = replace(
            memory, lengths=memory.lengths + 1, nb_columns=memory.nb_columns + 1, buffers=dict(memory.buffers)
        )
        self._mask: Tensor | None = None
        if memory.first is not None:
            columns = torch.arange(self.memory.nb_columns, device=memory.first.device)
            self._mask = (columns >= memory.first[:, None])[:, None, None]

    def attend(self, layer: MultiHeadAttention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the weighted means of the values, (S, H, D), and remember keys and values."""
        rows, column = self.memory.rows, self._column
        buffer = self._with_room(layer)
        buffer[:, :, :, column].index_copy_(1, rows, torch.stack([keys, values]).to(buffer.dtype))
        nb_rows = buffer.shape[1]
        # Rows of ended streamlines are computed too, and left out.
        asked = queries.new_zeros(nb_rows, *queries.shape[1:]).index_copy(0, rows, queries)
        past_keys, past_values = buffer[:, :, :, : column + 1].to(queries.dtype)
        mixed = functional.scaled_dot_product_attention(
            asked[:, :, None], past_keys, past_values, attn_mask=self._mask, dropout_p=layer.dropout_now
        )
        return mixed[:, :, 0].index_select(0, rows)

    def _with_room(self, layer: MultiHeadAttention) -> Tensor:
        """Return the buffer of a layer, enlarged if it is full."""
        buffer = self.memory.buffers[layer]
        capacity = buffer.shape[3]
        if self._column == capacity:
            buffer = functional.pad(buffer, (0, 0, 0, max(capacity, 16)))
            self.memory.buffers[layer] = buffer
        return buffer
