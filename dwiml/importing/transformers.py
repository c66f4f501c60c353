"""The transformers of dwi_ml in terms of dwiml's own."""

from __future__ import annotations

import torch

from dwiml.arguments import MAX_LAYERS
from dwiml.importing.given import Given, Translated, Weights
from dwiml.importing.parts import add_base, add_direction_getter, add_input, refuse_copy
from dwiml.models.transformers.positions import sinusoidal

SOURCE_ONLY, ENCODER_DECODER, CONCATENATED = (
    "TransformerSrcOnlyModel",
    "OriginalTransformerModel",
    "TransformerSrcAndTgtModel",
)
"""Names of the classes in dwi_ml."""

CLASSES = {
    SOURCE_ONLY: "TransformerSrcOnlyModel",
    ENCODER_DECODER: "TransformerSrcAndTgtModel",
    CONCATENATED: "TransformerSrcTgtConcatModel",
}
"""{name of the class in dwi_ml: name of the class in dwiml}"""

_ROOT = "modified_torch_transformer."
_POSITIONS = "position_encoding_layer.pos_emb"
# dwi_ml computes the angles in float32.
_TOLERANCE = 1e-3


def translate_transformer(kind: str, given: Given, weights: Weights, *, shift: bool) -> Translated:
    """Translate the parameters and the weights of a transformer of dwi_ml.

    Parameters
    ----------
    kind
        Name of its class in dwi_ml, a key of :data:`CLASSES`.
    given, weights
        The parameters and the weights of dwi_ml.
    shift
        Whether to read the volume where dwi_ml read it.

    Raises
    ------
    ValueError
        If dwiml does not have this model.
    """
    model = Translated(CLASSES[kind])
    add_base(given, model)
    add_input(given, weights, model, shift=shift)
    if model.params["input_embedding_key"] == "no_embedding" and model.params.get("neighborhood_type") == "axes":
        raise ValueError(
            f"'{given.path}': a transformer of dwi_ml with a neighborhood of type 'axes' and no embedding cannot be "
            "imported: dwiml has the neighbors in another order."
        )
    hidden = given.whole("ffnn_hidden_size", None)
    model.params |= {
        "nb_layers_encoder": given.whole("n_layers_e"),
        "nb_heads": given.whole("nheads"),
        "dropout": given.number("dropout_rate"),
        "activation": given.text("activation"),
        "norm_first": given.flag("norm_first"),
        "use_final_norm": False,
        "positional_encoding": given.text("positional_encoding_key"),
        "max_len": given.whole("max_len"),
    }
    if kind == ENCODER_DECODER:
        model.params["nb_layers_decoder"] = given.whole("n_layers_d")
    if kind != SOURCE_ONLY:
        _add_targets(kind, given, weights, model)
    _add_layers(kind, weights, model)
    # By default half of d_model.
    first = model.state.get("encoder.layers.0.linear1.weight")
    model.params["ffnn_hidden_size"] = first.shape[0] if hidden is None and first is not None and first.ndim else hidden
    _check_positions(weights, given)
    add_direction_getter(given, weights, model)
    given.refuse_rest()
    weights.refuse_rest()
    return model


def _add_targets(kind: str, given: Given, weights: Weights, model: Translated) -> None:
    key, size = given.text("target_embedding_key"), given.whole("target_embedded_size", None)
    refuse_copy(given)
    if key != "nn_embedding":
        raise ValueError(
            f"'{given.path}': target_embedding_key '{key}' of dwi_ml cannot be imported: dwiml has 'nn_embedding'."
        )
    sos = given.text("sos_token_type")
    model.params |= {"sos": "label" if sos == "as_label" else sos, "normalize_targets": False}
    if kind == CONCATENATED:
        model.params["target_embedded_size"] = size
    weights.move("embedding_layer_t.linear.", "target_embedding.linear.", model.state)


def _add_layers(kind: str, weights: Weights, model: Translated) -> None:
    for stack, number in (("encoder", "nb_layers_encoder"), ("decoder", "nb_layers_decoder")):
        attentions = ("self_attn", "multihead_attn") if stack == "decoder" else ("self_attn",)
        prefix = f"{_ROOT}{stack}." if kind == ENCODER_DECODER else _ROOT
        for layer in range(min(model.params.get(number, 0), MAX_LAYERS)):
            theirs, ours = f"{prefix}layers.{layer}.", f"{stack}.layers.{layer}."
            for attention in attentions:
                name = f"{theirs}{attention}."
                if not weights.has(f"{name}in_proj_weight"):
                    parts = [weights.matrix(f"{name}{part}_proj_weight") for part in "qkv"]
                    model.state[f"{ours}{attention}.in_proj_weight"] = _joined(parts)
            weights.move(theirs, ours, model.state)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    # Matrices of different widths do not fit any model, which is reported when they are loaded.
    return torch.cat(parts) if len({part.shape[1] for part in parts}) == 1 else parts[0]


def _check_positions(weights: Weights, given: Given) -> None:
    """Check that the positional encoding of the file is that of dwiml; it is not learned, but stored."""
    if not weights.has(_POSITIONS):
        return
    stored = weights.take(_POSITIONS)
    rows = stored.reshape(-1, stored.shape[-1]) if stored.ndim == 3 and stored.numel() else stored.new_zeros(0, 1)
    expected = sinusoidal(torch.arange(len(rows)), rows.shape[1]).to(rows.dtype)
    if not torch.allclose(rows, expected, rtol=0, atol=_TOLERANCE):
        raise ValueError(
            f"The weights that belong to '{given.path}' have another positional encoding than the sinusoidal one of "
            "dwi_ml 1.0."
        )
