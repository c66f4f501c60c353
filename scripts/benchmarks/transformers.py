"""A training step of the transformers, beside torch's own layers on padded tensors.

The same weights, the same batch: dwiml's layers, which pad streamlines of similar length together for attention only,
and torch's layers on all streamlines padded to the longest. The baseline calls the same functions for the embeddings
and the direction getter; its other layers are ``torch.nn.TransformerEncoder`` or ``torch.nn.Transformer``.

Padding follows the points, so that the causal mask alone hides it: torch then needs no mask in memory. This is the
faster baseline. With ``padding_masks``, torch also receives the padding masks that its documentation describes; the
outputs are the same.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from measuring import Figure
from steps import compare_steps, make_batch, prepare
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dwiml import TensorSequence, TransformerSrcAndTgtModel, TransformerSrcOnlyModel, TransformerSrcTgtConcatModel
from dwiml.models.transformers.base import TransformerModel
from dwiml.models.transformers.positions import sinusoidal


@dataclass(frozen=True)
class Kind:
    """One of the transformers: its class, the options that set its sizes, full and quick, and torch's layers."""

    model_class: type[TransformerModel]
    options: dict[str, Any]
    quick_options: dict[str, Any]
    layers: str = "torch.nn.TransformerEncoder"


KINDS = {
    "src-only": Kind(TransformerSrcOnlyModel, {"nb_layers_encoder": 4}, {"nb_layers_encoder": 1}),
    "src-and-tgt": Kind(
        TransformerSrcAndTgtModel,
        {"nb_layers_encoder": 4, "nb_layers_decoder": 4},
        {"nb_layers_encoder": 1, "nb_layers_decoder": 1},
        "torch.nn.Transformer",
    ),
    "src-tgt-concat": Kind(
        TransformerSrcTgtConcatModel,
        {"nb_layers_encoder": 4, "target_embedded_size": 64},
        {"nb_layers_encoder": 1, "target_embedded_size": 8},
    ),
}


class PaddedTransformer(nn.Module):
    """A transformer of dwiml, with torch's layers, on padded streamlines.

    Parameters
    ----------
    model
        Its embeddings, its direction getter and all weights are copied.
    padding_masks
        Give padding masks to torch's layers, in addition to the causal ones.
    """

    def __init__(self, model: TransformerModel, *, padding_masks: bool) -> None:
        super().__init__()
        self.padding_masks = padding_masks
        self.layers = torch_layers(model)
        self.model = copy.deepcopy(model)
        for name in ("encoder", "decoder"):
            if hasattr(self.model, name):
                delattr(self.model, name)

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence) -> Tensor:
        """Embed, pad, run torch's layers, and join the rows again."""
        lines = [inputs.mapped(rows).split() for rows in self.model.embedded_rows(inputs, streamlines)]
        padded = [pad_sequence(each, batch_first=True) for each in lines]
        places = torch.arange(padded[0].shape[1], device=inputs.device)
        encoding = sinusoidal(places, self.model.d_model).to(padded[0].dtype)
        causal = torch.ones(len(places), len(places), dtype=torch.bool, device=inputs.device).triu(1)
        is_padding = places >= inputs.lengths.to(inputs.device)[:, None] if self.padding_masks else None
        hidden = self.run_layers([each + encoding for each in padded], causal, is_padding)
        rows = torch.cat([row[: len(line)] for row, line in zip(hidden, lines[0], strict=True)])
        directions: Tensor = self.model.direction_getter(rows)
        return directions

    def run_layers(self, padded: Sequence[Tensor], causal: Tensor, is_padding: Tensor | None) -> Tensor:
        """Return the output of torch's layers, (S, L, d_model), for one or two tensors of this shape."""
        if len(padded) == 1:
            encoded: Tensor = self.layers(padded[0], causal, is_padding, is_causal=True)
            return encoded
        decoded: Tensor = self.layers(
            *padded,
            src_mask=causal,
            tgt_mask=causal,
            memory_mask=causal,
            src_key_padding_mask=is_padding,
            tgt_key_padding_mask=is_padding,
            memory_key_padding_mask=is_padding,
            src_is_causal=True,
            tgt_is_causal=True,
            memory_is_causal=True,
        )
        return decoded


def torch_layers(model: TransformerModel) -> nn.Module:
    """Return torch's layers, with the weights of a model."""
    hidden_size = model.ffnn_hidden_size or 4 * model.d_model
    options: dict[str, Any] = {"dropout": model.dropout, "norm_first": model.norm_first, "batch_first": True}
    layer = nn.TransformerEncoderLayer(model.d_model, model.nb_heads, hidden_size, **options)
    weights = {name: value for name, value in model.state_dict().items() if name.startswith(("encoder.", "decoder."))}
    encoder = nn.TransformerEncoder(
        layer, len(model.attentions["encoder"]), nn.LayerNorm(model.d_model), enable_nested_tensor=False
    )
    if "decoder" not in model.attentions:
        encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in weights.items()})
        return encoder
    both = nn.Transformer(
        model.d_model,
        model.nb_heads,
        num_decoder_layers=len(model.attentions["decoder"]),
        dim_feedforward=hidden_size,
        custom_encoder=encoder,
        **options,
    )
    both.load_state_dict(weights)
    return both


def measure_transformer(
    name: str, *, quick: bool, device: torch.device, kind: str = "src-only", padding_masks: bool = False
) -> Figure:
    """Time a whole step on 2 threads of the CPU, or on a GPU; checks that both ways compute the same."""
    prepare(device, quick=quick)
    chosen = KINDS[kind]
    nb_streamlines, size, nb_features = (20, 16, 8) if quick else (200, 256, 28)
    torch.manual_seed(0)
    model = chosen.model_class(
        nb_features=nb_features,
        input_embedded_size=size,
        dropout=0.0,
        **(chosen.quick_options if quick else chosen.options),
    )
    padded = PaddedTransformer(model, padding_masks=padding_masks)
    return compare_steps(
        name,
        model.to(device),
        padded.to(device),
        partial(make_batch, nb_features=nb_features),
        nb_streamlines,
        baseline=f"{chosen.layers} on padded tensors, {'causal and padding masks' if padding_masks else 'causal mask'}",
        device=device,
    )
