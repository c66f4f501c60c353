"""The layers of transformers, on rows of ragged sequences; names and weights are those of ``torch.nn``'s layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from dwiml.models.embeddings import ACTIVATIONS
from dwiml.models.transformers.attention import Attending, MultiHeadAttention


@dataclass(frozen=True)
class LayerOptions:
    """Sizes and options that all layers of a transformer share.

    Attributes
    ----------
    d_model, nb_heads, ffnn_hidden_size
        Number of features of a row, of heads, and of hidden units of the feed-forward network.
    dropout
        Probability that a value is set to zero in training: attention weights, hidden units, and the output of each
        part before it is added.
    activation
        A key of :data:`ACTIVATIONS`.
    norm_first
        Normalize the input of each part (pre-norm), or the sum of its input and output (post-norm).
    rotary
        Rotate queries and keys by their positions.
    """

    d_model: int
    nb_heads: int
    ffnn_hidden_size: int
    dropout: float
    activation: str
    norm_first: bool
    rotary: bool

    def attention(self) -> MultiHeadAttention:
        """Return a new attention of these sizes."""
        return MultiHeadAttention(self.d_model, self.nb_heads, dropout=self.dropout, rotary=self.rotary)


class EncoderLayer(nn.Module):
    """Causal self-attention, then a feed-forward network, as ``torch.nn.TransformerEncoderLayer``."""

    def __init__(self, options: LayerOptions) -> None:
        super().__init__()
        self._norm_first = options.norm_first
        self._activation = ACTIVATIONS[options.activation]
        self.self_attn = options.attention()
        self.linear1 = nn.Linear(options.d_model, options.ffnn_hidden_size)
        self.linear2 = nn.Linear(options.ffnn_hidden_size, options.d_model)
        self.norm1 = nn.LayerNorm(options.d_model)
        self.norm2 = nn.LayerNorm(options.d_model)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, rows: Tensor, attending: Attending) -> Tensor:
        """Return the rows of the next layer, (N, d_model)."""
        if self._norm_first:
            normed = self.norm1(rows)
            rows = rows + self.dropout(self.self_attn(normed, normed, attending))
            return rows + self._feed_forward(self.norm2(rows))
        rows = self.norm1(rows + self.dropout(self.self_attn(rows, rows, attending)))
        result: Tensor = self.norm2(rows + self._feed_forward(rows))
        return result

    def _feed_forward(self, rows: Tensor) -> Tensor:
        hidden = self.dropout(self._activation(self.linear1(rows)))
        result: Tensor = self.dropout(self.linear2(hidden))
        return result


class DecoderLayer(EncoderLayer):
    """Causal self-attention, causal attention to the encoder's output, then a feed-forward network.

    As ``torch.nn.TransformerDecoderLayer``.
    """

    def __init__(self, options: LayerOptions) -> None:
        super().__init__(options)
        self.multihead_attn = options.attention()
        self.norm3 = nn.LayerNorm(options.d_model)

    def forward(self, rows: Tensor, attending: Attending, encoded: Tensor | None = None) -> Tensor:
        """Return the rows of the next layer, (N, d_model); ``encoded``: the output of the encoder, (N, d_model)."""
        assert encoded is not None
        if self._norm_first:
            normed = self.norm1(rows)
            rows = rows + self.dropout(self.self_attn(normed, normed, attending))
            rows = rows + self.dropout(self.multihead_attn(self.norm2(rows), encoded, attending))
            return rows + self._feed_forward(self.norm3(rows))
        rows = self.norm1(rows + self.dropout(self.self_attn(rows, rows, attending)))
        rows = self.norm2(rows + self.dropout(self.multihead_attn(rows, encoded, attending)))
        result: Tensor = self.norm3(rows + self._feed_forward(rows))
        return result


class _Stack(nn.Module):
    """Layers, one after the other, then a normalization if asked for; see :class:`Encoder`."""

    def __init__(self, layer: type[EncoderLayer], options: LayerOptions, nb_layers: int, *, final_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(options) for _ in range(nb_layers))
        self.norm: nn.Module = nn.LayerNorm(options.d_model) if final_norm else nn.Identity()

    @property
    def attentions(self) -> list[MultiHeadAttention]:
        """The self-attention of each layer."""
        return [cast(EncoderLayer, layer).self_attn for layer in self.layers]


class Encoder(_Stack):
    """A stack of encoder layers, then a normalization if asked for.

    Parameters
    ----------
    options
        Sizes and options of all layers.
    nb_layers
        Number of layers.
    final_norm
        Normalize the output of the last layer.
    """

    def __init__(self, options: LayerOptions, nb_layers: int, *, final_norm: bool) -> None:
        super().__init__(EncoderLayer, options, nb_layers, final_norm=final_norm)

    def forward(self, rows: Tensor, attending: Attending) -> Tensor:
        """Return the output of the last layer, (N, d_model)."""
        for layer in self.layers:
            rows = layer(rows, attending)
        result: Tensor = self.norm(rows)
        return result


class Decoder(_Stack):
    """A stack of decoder layers, then a normalization if asked for.

    Parameters
    ----------
    options, nb_layers, final_norm
        As in :class:`Encoder`.
    """

    def __init__(self, options: LayerOptions, nb_layers: int, *, final_norm: bool) -> None:
        super().__init__(DecoderLayer, options, nb_layers, final_norm=final_norm)

    @property
    def cross_attentions(self) -> list[MultiHeadAttention]:
        """The attention of each layer to the encoder's output."""
        return [cast(DecoderLayer, layer).multihead_attn for layer in self.layers]

    def forward(self, rows: Tensor, encoded: Tensor, attending: Attending) -> Tensor:
        """Return the output of the last layer, (N, d_model); ``encoded``: the output of the encoder, (N, d_model)."""
        for layer in self.layers:
            rows = layer(rows, attending, encoded)
        result: Tensor = self.norm(rows)
        return result
