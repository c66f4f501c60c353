"""The base class of the transformers: their parameters, training, tracking, and the view of their attention."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dwiml.arguments import check_choice, check_dropout, check_whole, grouped
from dwiml.models.embeddings import ACTIVATIONS, MAX_UNITS
from dwiml.models.inputs import ModelWithNeighborhood, ModelWithOneInput
from dwiml.models.transformers.attention import Attending, MultiHeadAttention, RecordedAttention, WholeStreamlines
from dwiml.models.transformers.buckets import LengthBuckets
from dwiml.models.transformers.cache import FirstSegments, KeyValueMemory, NextPoints
from dwiml.models.transformers.layers import LayerOptions
from dwiml.models.transformers.positions import POSITIONAL_ENCODINGS, sinusoidal
from dwiml.models.with_direction_getter import ModelWithDirectionGetter
from dwiml.ops.resampling import MAX_POINTS
from dwiml.ops.sequences import TensorSequence

DEFAULT_SIZE = 256


class TransformerModel(ModelWithDirectionGetter, ModelWithNeighborhood, ModelWithOneInput):
    """A transformer along streamlines: each point attends to the points before it and to itself, never to later ones.

    Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762. A subclass builds its embeddings and layers,
    then calls ``instantiate_direction_getter``, and defines :meth:`embedded_rows`, :meth:`run_layers` and
    :attr:`attentions`.

    Parameters
    ----------
    nb_heads
        Number of heads of each attention; a divisor of the number of features of a point (d_model).
    ffnn_hidden_size
        Number of hidden units of the feed-forward networks; None: 4 * d_model.
    dropout
        Probability that a value is set to zero in training: embeddings, attention weights, hidden units, and the
        output of each part of a layer.
    activation
        Activation of the feed-forward networks: 'relu' or 'gelu'.
    norm_first
        Normalize the input of each part of a layer (pre-norm). Otherwise, the sum of its input and output (post-norm).
    use_final_norm
        Normalize the output of the last layer.
    positional_encoding
        Encoding of positions along the streamline: 'sinusoidal' (added to the embeddings) or 'rotary' (queries and keys
        are rotated; d_model / nb_heads must be even).
    max_len
        Largest number of points of a streamline, in training and in tracking.
    input_embedding_key
        Embedding of the input: 'no_embedding', 'nn_embedding', 'mlp_embedding' or 'cnn_embedding'.
    input_embedded_size
        Size of the embedding of the input; None: 256 for 'nn_embedding' and 'mlp_embedding'.
    **kwargs
        Parameters of the base classes: ``nb_features``, ``dg_key``, ``neighborhood_type``, ``step_size``, ...

    Attributes
    ----------
    d_model : int
        Number of features of a point in all layers.

    Raises
    ------
    ValueError
        If a parameter is out of range, or ``nb_heads`` does not divide d_model.
    """

    d_model: int
    max_len: int

    def __init__(
        self,
        *,
        nb_heads: int = 8,
        ffnn_hidden_size: int | None = None,
        dropout: float = 0.1,
        activation: str = "relu",
        norm_first: bool = True,
        use_final_norm: bool = True,
        positional_encoding: str = "sinusoidal",
        max_len: int = 1000,
        input_embedding_key: str = "nn_embedding",
        input_embedded_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        if input_embedding_key in ("nn_embedding", "mlp_embedding") and input_embedded_size is None:
            input_embedded_size = DEFAULT_SIZE
        super().__init__(input_embedding_key=input_embedding_key, input_embedded_size=input_embedded_size, **kwargs)
        self.nb_heads = check_whole("nb_heads", nb_heads, low=1, high=MAX_UNITS)
        self.dropout = check_dropout("dropout", dropout)
        self.activation = check_choice("activation", activation, ACTIVATIONS)
        self.norm_first = norm_first
        self.use_final_norm = use_final_norm
        self.positional_encoding = check_choice("positional_encoding", positional_encoding, POSITIONAL_ENCODINGS)
        self.max_len = check_whole("max_len", max_len, low=1, high=MAX_POINTS)
        if ffnn_hidden_size is not None:
            ffnn_hidden_size = check_whole("ffnn_hidden_size", ffnn_hidden_size, low=1, high=MAX_UNITS)
        self.ffnn_hidden_size = ffnn_hidden_size
        self.embedding_dropout = nn.Dropout(self.dropout)

    def layer_options(self, d_model: int, made_of: str) -> LayerOptions:
        """Set :attr:`d_model`, and return what the layers share.

        Parameters
        ----------
        d_model
            Number of features of a point in all layers.
        made_of
            The parameters that d_model comes from, for the error.

        Raises
        ------
        ValueError
            If ``nb_heads`` does not divide d_model, or 'rotary' finds heads of an odd size.
        """
        self.d_model = d_model
        head_size, rest = divmod(d_model, self.nb_heads)
        if rest:
            raise ValueError(
                f"nb_heads must be a divisor of d_model ({d_model}: {made_of}), got {self.nb_heads}; choose another "
                "nb_heads or another embedded size."
            )
        rotary = self.positional_encoding == "rotary"
        if rotary and head_size % 2:
            raise ValueError(
                f"positional_encoding 'rotary' needs an even number of features per head, got {head_size} (d_model="
                f"{d_model}: {made_of}, nb_heads={self.nb_heads}); choose another nb_heads or another embedded size."
            )
        return LayerOptions(
            d_model=d_model,
            nb_heads=self.nb_heads,
            ffnn_hidden_size=self.ffnn_hidden_size or 4 * d_model,
            dropout=self.dropout,
            activation=self.activation,
            norm_first=self.norm_first,
            rotary=rotary,
        )

    @abc.abstractmethod
    def embedded_rows(self, inputs: TensorSequence, streamlines: TensorSequence) -> Sequence[Tensor]:
        """Return the embeddings of all points, each of shape (N, d_model), before positions are added.

        Parameters
        ----------
        inputs
            Shape (N, input_size).
        streamlines
            Points (M, 3), voxel space, corner origin, that end at those of the inputs.
        """

    @abc.abstractmethod
    def run_layers(self, embedded: Sequence[Tensor], attending: Attending) -> Tensor:
        """Return the output of the last layer, (N, d_model), for what :meth:`embedded_rows` returned, with positions.

        Parameters
        ----------
        embedded
            Each of shape (N, d_model).
        attending
            How the rows attend to each other, for all layers.
        """

    @property
    @abc.abstractmethod
    def attentions(self) -> Mapping[str, Sequence[MultiHeadAttention]]:
        """The attentions of all layers, by the name of their group."""

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence) -> Tensor:
        """Compute the outputs of the direction getter for each row of ``inputs``.

        Parameters
        ----------
        inputs
            Shape (N, input_size).
        streamlines
            Points (N, 3), voxel space, corner origin: as many as inputs.

        Returns
        -------
        Tensor
            The outputs, (N, K), one streamline after the other.

        Raises
        ------
        ValueError
            If inputs and streamlines do not have the same lengths, or one has more points than ``max_len``.
        """
        return self._outputs(inputs, streamlines, WholeStreamlines(self._buckets(inputs, streamlines)))

    def attention(self, inputs: TensorSequence, streamlines: TensorSequence) -> dict[str, list[Tensor]]:
        """Return the attention weights, computed explicitly and without dropout.

        Parameters
        ----------
        inputs, streamlines
            As in :meth:`forward`.

        Returns
        -------
        dict
            For each group of :attr:`attentions`, one tensor per layer, of shape (S, nb_heads, L, L), L being the number
            of points of the longest streamline. Row i holds the weights that point i gives to the points 0 to i, with a
            sum of 1; rows beyond the end of a streamline are 0.

        Raises
        ------
        ValueError
            As in :meth:`forward`.
        """
        attending = RecordedAttention(self._buckets(inputs, streamlines))
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                self._outputs(inputs, streamlines, attending)
        finally:
            self.train(was_training)
        return {name: [attending.weights[layer] for layer in layers] for name, layers in self.attentions.items()}

    @torch.no_grad()
    def track_step(
        self, inputs: TensorSequence, streamlines: TensorSequence, memory: KeyValueMemory | None
    ) -> tuple[Tensor, KeyValueMemory]:
        """Compute the outputs at the last point of each streamline; the memory holds keys and values.

        Continue from each memory once: it shares its buffers with the next one.

        Raises
        ------
        ValueError
            If a streamline has more points than ``max_len``.
        """
        if memory is None:
            attending = FirstSegments(self._buckets(inputs, streamlines))
            return inputs.mapped(self._outputs(inputs, streamlines, attending)).last_points(), attending.memory
        if memory.nb_columns >= self.max_len and len(memory.lengths):
            # The columns of ended streamlines count too, so the lengths decide.
            self._check_length(int(memory.lengths.max()) + 1)
        step = NextPoints(memory)
        features = self.run_layers(self._with_positions(self.embedded_rows(inputs, streamlines), step), step)
        return self.direction_getter(features), step.memory

    def select_memory(self, memory: KeyValueMemory, kept: Tensor) -> KeyValueMemory:
        """Return the keys and values of the streamlines ``kept``, (K,), int64, each at most once."""
        return memory.select(kept)

    @property
    def tracking_bytes_per_point(self) -> int:
        """Memory that tracking keeps for each point of a streamline, in bytes: keys and values, and room to grow."""
        nb_layers = sum(len(layers) for layers in self.attentions.values())
        # Buffers may be twice as large as needed.
        return 2 * nb_layers * 2 * self.d_model * 4

    def _outputs(self, inputs: TensorSequence, streamlines: TensorSequence, attending: WholeStreamlines) -> Tensor:
        buckets = attending.buckets
        embedded = [buckets.sort(rows) for rows in self.embedded_rows(inputs, streamlines)]
        rows = self.run_layers(self._with_positions(embedded, attending), attending)
        # Reordered last: few columns instead of all features.
        return buckets.unsort(self.direction_getter(rows))

    def _with_positions(self, embedded: Sequence[Tensor], attending: Attending) -> list[Tensor]:
        # Sums of layers keep the precision of the weights, also where autocast computes in another.
        dtype = next(self.parameters()).dtype
        embedded = [rows.to(dtype) for rows in embedded]
        if self.positional_encoding == "sinusoidal":
            encoding = attending.encoded(sinusoidal, self.d_model, dtype)
            embedded = [rows + encoding for rows in embedded]
        return [self.embedding_dropout(rows) for rows in embedded]

    def _buckets(self, inputs: TensorSequence, streamlines: TensorSequence) -> LengthBuckets:
        if not torch.equal(inputs.lengths, streamlines.lengths):
            raise ValueError(
                f"There must be one input per point: got {inputs.total_points} inputs in {len(inputs)} sequences for "
                f"{streamlines.total_points} points in {len(streamlines)} streamlines."
            )
        buckets = LengthBuckets(inputs.lengths, inputs.device)
        self._check_length(buckets.longest)
        self.count_padding(inputs.total_points, buckets.nb_places)
        return buckets

    def _check_length(self, nb_points: int) -> None:
        if nb_points > self.max_len:
            raise ValueError(
                f"A streamline has {grouped(nb_points)} points; this model takes at most {grouped(self.max_len)} "
                "(max_len): use a larger step size, or train a model with a larger max_len."
            )
