"""Transformers that also receive the direction of the step that led to each point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dwiml.arguments import MAX_LAYERS, check_whole
from dwiml.models.transformers.attention import Attending, MultiHeadAttention
from dwiml.models.transformers.base import TransformerModel
from dwiml.models.transformers.layers import Decoder, Encoder
from dwiml.models.transformers.source_only import EncoderAlone
from dwiml.models.transformers.targets import TargetEmbedding
from dwiml.ops.directions import previous_directions
from dwiml.ops.sequences import TensorSequence


class TransformerWithTargets(TransformerModel):
    """A transformer that receives, at each point, the direction of the step that led to it.

    It is a target of the point before. At the first point, it is replaced by the start of the streamline (SOS). A
    subclass builds :attr:`target_embedding`.

    Parameters
    ----------
    sos
        How previous directions and the start of the streamline (SOS) are given: 'label' for vectors with a fourth value
        that is 1 at the start, or the name of one of DIPY's spheres, such as 'repulsion100', for the class of the
        nearest direction, with one more class for the start.
    normalize_targets
        Give previous directions unit length. Otherwise they are the steps themselves, in voxels.
    **kwargs
        Parameters of :class:`~dwiml.models.transformers.base.TransformerModel` and of its base classes.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    target_embedding: TargetEmbedding

    def __init__(self, *, sos: str = "label", normalize_targets: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sos = sos
        self.normalize_targets = normalize_targets

    @property
    def nb_points_to_track(self) -> int:
        """Two: they give the direction of the last step."""
        return 2

    def embedded_targets(self, inputs: TensorSequence, streamlines: TensorSequence) -> Tensor:
        """Return the embedded previous directions at the points of the inputs.

        Parameters
        ----------
        inputs
            Shape (N, input_size).
        streamlines
            Points (M, 3), voxel space, corner origin, that end at those of the inputs.

        Returns
        -------
        Tensor
            Shape (N, size of the target embedding).
        """
        directions = previous_directions(streamlines, 1, normalize=self.normalize_targets)
        is_start = streamlines.is_first()
        if not torch.equal(inputs.lengths, streamlines.lengths):
            both = streamlines.mapped(torch.cat([directions, is_start[:, None].to(directions.dtype)], dim=1))
            both = both.tail(inputs.lengths)
            directions, is_start = both.data[:, :3], both.data[:, 3] > 0
        embedded: Tensor = self.target_embedding(directions, is_start)
        return embedded


class TransformerSrcAndTgtModel(TransformerWithTargets):
    """A causal transformer: the inputs go to the encoder, the previous directions to the decoder.

    Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762; here the encoder and the attention of the
    decoder to the encoder are causal too. d_model is the size of the embedded input.

    Parameters
    ----------
    nb_layers_encoder
        Number of layers of the encoder.
    nb_layers_decoder
        Number of layers of the decoder.
    **kwargs
        Parameters of :class:`TransformerWithTargets` and of its base classes.

    Raises
    ------
    ValueError
        If a parameter is out of range, or ``nb_heads`` does not divide d_model.
    """

    def __init__(self, *, nb_layers_encoder: int = 4, nb_layers_decoder: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        nb_encoder = check_whole("nb_layers_encoder", nb_layers_encoder, low=1, high=MAX_LAYERS)
        nb_decoder = check_whole("nb_layers_decoder", nb_layers_decoder, low=1, high=MAX_LAYERS)
        options = self.layer_options(self.embedded_input_size, "the size of the embedded input")
        self.target_embedding = TargetEmbedding(self.d_model, self.sos)
        self.encoder = Encoder(options, nb_encoder, final_norm=self.use_final_norm)
        self.decoder = Decoder(options, nb_decoder, final_norm=self.use_final_norm)
        self.instantiate_direction_getter(self.d_model)

    @property
    def attentions(self) -> Mapping[str, Sequence[MultiHeadAttention]]:
        """The attentions of all layers: 'encoder', 'decoder' and 'cross' (of the decoder to the encoder)."""
        return {
            "encoder": self.encoder.attentions,
            "decoder": self.decoder.attentions,
            "cross": self.decoder.cross_attentions,
        }

    def embedded_rows(self, inputs: TensorSequence, streamlines: TensorSequence) -> Sequence[Tensor]:
        """Return the embedded inputs and the embedded previous directions, each (N, d_model)."""
        return [self.embed_inputs(inputs), self.embedded_targets(inputs, streamlines)]

    def run_layers(self, embedded: Sequence[Tensor], attending: Attending) -> Tensor:
        """Return the output of the decoder, (N, d_model)."""
        sources, targets = embedded
        features: Tensor = self.decoder(targets, self.encoder(sources, attending), attending)
        return features


class TransformerSrcTgtConcatModel(TransformerWithTargets, EncoderAlone):
    """A causal transformer encoder over inputs and previous directions, their embeddings concatenated.

    Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762, with the encoder alone. d_model is the sum of
    the sizes of the two embeddings.

    Parameters
    ----------
    nb_layers_encoder
        Number of layers.
    target_embedded_size
        Size of the embedding of the previous directions.
    **kwargs
        Parameters of :class:`TransformerWithTargets` and of its base classes.

    Raises
    ------
    ValueError
        If a parameter is out of range, or ``nb_heads`` does not divide d_model.
    """

    def __init__(self, *, nb_layers_encoder: int = 4, target_embedded_size: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        nb_layers = check_whole("nb_layers_encoder", nb_layers_encoder, low=1, high=MAX_LAYERS)
        self.target_embedding = TargetEmbedding(target_embedded_size, self.sos)
        sizes = (self.embedded_input_size, self.target_embedding.output_size)
        options = self.layer_options(
            sum(sizes), f"{sizes[0]} of the embedded input + {sizes[1]} of target_embedded_size"
        )
        self.encoder = Encoder(options, nb_layers, final_norm=self.use_final_norm)
        self.instantiate_direction_getter(self.d_model)

    def embedded_rows(self, inputs: TensorSequence, streamlines: TensorSequence) -> Sequence[Tensor]:
        """Return the embedded inputs and previous directions side by side, (N, d_model)."""
        return [torch.cat([self.embed_inputs(inputs), self.embedded_targets(inputs, streamlines)], dim=1)]
