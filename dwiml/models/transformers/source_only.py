"""A transformer whose only input is the volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dwiml.arguments import MAX_LAYERS, check_whole
from dwiml.models.transformers.attention import Attending, MultiHeadAttention
from dwiml.models.transformers.base import TransformerModel
from dwiml.models.transformers.layers import Encoder
from dwiml.ops.sequences import TensorSequence


class EncoderAlone(TransformerModel):
    """A transformer whose layers are those of an encoder; a subclass builds it and defines :meth:`embedded_rows`."""

    encoder: Encoder

    @property
    def attentions(self) -> Mapping[str, Sequence[MultiHeadAttention]]:
        """The attentions of all layers: 'encoder'."""
        return {"encoder": self.encoder.attentions}

    def run_layers(self, embedded: Sequence[Tensor], attending: Attending) -> Tensor:
        """Return the output of the encoder, (N, d_model)."""
        features: Tensor = self.encoder(embedded[0], attending)
        return features


class TransformerSrcOnlyModel(EncoderAlone):
    """A causal transformer encoder over the inputs of a streamline's points.

    Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762, with the encoder alone. d_model is the size of
    the embedded input.

    Parameters
    ----------
    nb_layers_encoder
        Number of layers.
    **kwargs
        Parameters of :class:`~dwiml.models.transformers.base.TransformerModel` and of its base classes.

    Raises
    ------
    ValueError
        If a parameter is out of range, or ``nb_heads`` does not divide d_model.
    """

    def __init__(self, *, nb_layers_encoder: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        nb_layers = check_whole("nb_layers_encoder", nb_layers_encoder, low=1, high=MAX_LAYERS)
        options = self.layer_options(self.embedded_input_size, "the size of the embedded input")
        self.encoder = Encoder(options, nb_layers, final_norm=self.use_final_norm)
        self.instantiate_direction_getter(self.d_model)

    def embedded_rows(self, inputs: TensorSequence, streamlines: TensorSequence) -> Sequence[Tensor]:
        """Return the embedded inputs, (N, d_model)."""
        return [self.embed_inputs(inputs)]
