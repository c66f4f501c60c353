"""Multi-head attention to the points up to one's own, with the weights of ``torch.nn.MultiheadAttention``."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwiml.models.transformers.buckets import LengthBuckets
from dwiml.models.transformers.positions import rotated, rotation

Encoding = Callable[[Tensor, int], Tensor]


class Attending(abc.ABC):
    """How the points of a batch attend to each other.

    Parameters
    ----------
    positions
        Shape (N,), int64: the position of each row in its streamline.
    nb_positions
        All positions are below it.
    """

    def __init__(self, positions: Tensor, nb_positions: int) -> None:
        self.positions = positions
        self._nb_positions = nb_positions
        self._encoded: dict[tuple[Encoding, int], Tensor] = {}

    @abc.abstractmethod
    def attend(self, layer: MultiHeadAttention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the mean of the values up to each row's own position, weighted by attention; all (N, H, D)."""

    def encoded(self, encoding: Encoding, size: int, dtype: torch.dtype) -> Tensor:
        """Return an encoding of the positions, (N, ...); computed once, however many layers ask for it."""
        key = (encoding, size)
        if key not in self._encoded:
            table = encoding(torch.arange(self._nb_positions, device=self.positions.device), size)
            self._encoded[key] = table.to(dtype).index_select(0, self.positions)
        return self._encoded[key]


class MultiHeadAttention(nn.Module):
    """Multi-head attention; Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762, section 3.2.

    Parameters
    ----------
    d_model
        Number of features of each row.
    nb_heads
        Number of heads; a divisor of ``d_model``.
    dropout
        Probability that a weight of attention is set to zero in training.
    rotary
        Rotate queries and keys by their positions (:func:`dwiml.models.transformers.positions.rotated`).
    """

    def __init__(self, d_model: int, nb_heads: int, *, dropout: float = 0.0, rotary: bool = False) -> None:
        super().__init__()
        self.nb_heads = nb_heads
        self.head_size = d_model // nb_heads
        self.dropout = dropout
        self.rotary = rotary
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, rows: Tensor, attended: Tensor, attending: Attending) -> Tensor:
        """Attend from each row to the rows up to its own position.

        Parameters
        ----------
        rows, attended
            Shape (N, d_model): what queries, and what keys and values are computed from; the same tensor in
            self-attention.
        attending
            How the rows attend to each other.

        Returns
        -------
        Tensor
            Shape (N, d_model).
        """
        size, weight, bias = rows.shape[1], self.in_proj_weight, self.in_proj_bias
        if rows is attended:
            queries, keys, values = functional.linear(rows, weight, bias).chunk(3, dim=1)
        else:
            queries = functional.linear(rows, weight[:size], bias[:size])
            keys, values = functional.linear(attended, weight[size:], bias[size:]).chunk(2, dim=1)
        queries, keys, values = (each.view(-1, self.nb_heads, self.head_size) for each in (queries, keys, values))
        if self.rotary:
            rotations = attending.encoded(rotation, self.head_size, rows.dtype)
            queries, keys = rotated(queries, rotations), rotated(keys, rotations)
        mixed = attending.attend(self, queries, keys, values)
        result: Tensor = self.out_proj(mixed.flatten(1))
        return result

    @property
    def dropout_now(self) -> float:
        """The dropout probability in training, otherwise 0."""
        return self.dropout if self.training else 0.0


class WholeStreamlines(Attending):
    """Attention within whole streamlines; rows are in the order of :class:`LengthBuckets`.

    Streamlines of similar length are padded together. Padding comes after the points, so that causal attention never
    reaches it: no mask is needed.

    Parameters
    ----------
    buckets
        The streamlines.
    """

    def __init__(self, buckets: LengthBuckets) -> None:
        super().__init__(buckets.positions, buckets.longest)
        self.buckets = buckets

    def attend(self, layer: MultiHeadAttention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the weighted means of the values, (N, H, D)."""
        parts = []
        for bucket in self.buckets.buckets:
            query, key, value = (bucket.pad(each) for each in (queries, keys, values))
            padded = functional.scaled_dot_product_attention(
                query, key, value, dropout_p=layer.dropout_now, is_causal=True
            )
            parts.append(bucket.unpad(padded))
        return torch.cat(parts) if parts else values


class RecordedAttention(WholeStreamlines):
    """The same attention, computed explicitly and without dropout, keeping the weights.

    Attributes
    ----------
    weights
        For each layer, in the order of calls: shape (S, H, L, L), streamlines in the order given to the buckets, where
        L is the length of the longest. Row i holds the weights of point i; 0 beyond the end of a streamline.
    """

    def __init__(self, buckets: LengthBuckets) -> None:
        super().__init__(buckets)
        self.weights: dict[MultiHeadAttention, Tensor] = {}

    def attend(self, layer: MultiHeadAttention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the weighted means of the values, (N, H, D), and keep the weights."""
        lengths, longest = self.buckets.lengths, self.buckets.longest
        kept = queries.new_zeros(len(lengths), queries.shape[1], longest, longest)
        # Sequences without a row are the first ones.
        start, parts = int((lengths == 0).sum()), []
        for bucket in self.buckets.buckets:
            query, key, value = (bucket.pad(each) for each in (queries, keys, values))
            nb, length = bucket.shape
            causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
            scores = query @ key.transpose(2, 3) / math.sqrt(layer.head_size)
            weights = scores.masked_fill(~causal, -torch.inf).softmax(dim=-1)
            parts.append(bucket.unpad(weights @ value))
            chosen = self.buckets.order[start : start + nb]
            inside = torch.arange(length) < lengths[chosen, None]
            kept[chosen.to(kept.device), :, :length, :length] = weights * inside.to(kept.device)[:, None, :, None]
            start += nb
        self.weights[layer] = kept
        return torch.cat(parts) if parts else values
