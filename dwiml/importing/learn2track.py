"""``Learn2TrackModel`` of dwi_ml in terms of dwiml's own."""

from __future__ import annotations

from dwiml.arguments import MAX_LAYERS
from dwiml.importing.given import Given, Translated, Weights
from dwiml.importing.parts import add_base, add_direction_getter, add_input, axes_columns, refuse_copy

CLASS = "Learn2TrackModel"


def translate_learn2track(given: Given, weights: Weights, *, shift: bool) -> Translated:
    """Translate the parameters and the weights of a ``Learn2TrackModel`` of dwi_ml.

    Parameters
    ----------
    given, weights
        The parameters and the weights of dwi_ml.
    shift
        Whether to read the volume where dwi_ml read it.

    Raises
    ------
    ValueError
        If dwiml does not have this model.
    """
    model = Translated(CLASS)
    refuse_copy(given)
    add_base(given, model)
    sizes, dropout = given.sizes("rnn_layer_sizes"), given.number("dropout", 0.0)
    add_input(given, weights, model, shift=shift)
    nb_directions = _add_previous_dirs(given, weights, model)
    skips, normalizes = given.flag("use_skip_connection"), given.flag("use_layer_normalization")
    # Versions before 1.0 did not give the input to the direction getter.
    skips_to_output = skips and weights.nb_columns("direction_getter.layers.0.weight") != sum(sizes)
    model.params |= {
        "rnn_key": given.text("rnn_key").lower(),
        "rnn_layer_sizes": sizes,
        "use_skip_connection": skips,
        "use_layer_normalization": normalizes,
        "dropout": dropout if len(sizes) > 1 else 0.0,
        "rnn_args": {"activation": "relu", "normalize_last": normalizes, "skip_to_output": skips_to_output},
    }
    if dropout and (model.params["nb_previous_dirs"] or model.params["input_embedding_key"] != "no_embedding"):
        model.params["embedding_dropout"] = dropout
    for number in range(min(len(sizes), MAX_LAYERS)):
        weights.move(f"rnn_model.rnn_{number}.", f"rnn.layers.{number}.", model.state)
        weights.move(f"rnn_model.layer_norm_{number}.", f"rnn.norms.{number}.", model.state)
    add_direction_getter(given, weights, model)
    given.refuse_rest()
    weights.refuse_rest()
    if model.params["input_embedding_key"] == "no_embedding":
        _reorder_input(model, nb_directions)
    return model


def _add_previous_dirs(given: Given, weights: Weights, model: Translated) -> int:
    """Add the parameters and weights of the previous directions; return the number of columns that they have."""
    number, key = given.whole("nb_previous_dirs", 0), given.text("prev_dirs_embedding_key", None)
    size, normalizes = given.whole("prev_dirs_embedded_size", None), given.flag("normalize_prev_dirs", False)
    model.params |= {"nb_previous_dirs": number, "normalize_prev_dirs": normalizes}
    if not number:
        return 0
    model.params["prev_dirs_embedding_key"] = key
    if key != "nn_embedding":
        return 3 * int(number)
    model.params["prev_dirs_embedded_size"] = size
    weights.move("prev_dirs_embedding.linear.", "prev_dirs_embedding.linear.", model.state)
    return size or 0


def _reorder_input(model: Translated, nb_directions: int) -> None:
    """Put the columns of a neighborhood in dwiml's order, in all layers that receive the input itself."""
    first = "rnn.layers.0.weight_ih_l0"
    weight = model.state.get(first)
    if weight is None or weight.ndim != 2:
        return
    columns = axes_columns(model.params, weight.shape[1] - nb_directions)
    if columns is None:
        return
    sizes, args = model.params["rnn_layer_sizes"], model.params["rnn_args"]
    # The input follows the output of the layer below, or of all layers.
    starts = {first: 0}
    if model.params["use_skip_connection"]:
        starts |= {f"rnn.layers.{i}.weight_ih_l0": size for i, size in enumerate(sizes[:-1], start=1)}
    if args["skip_to_output"]:
        starts["direction_getter.layers.0.weight"] = sum(sizes)
    for name, start in starts.items():
        matrix = model.state.get(name)
        if matrix is None or matrix.ndim != 2 or matrix.shape[1] < start + len(columns):
            # The weights do not fit the model, which is reported when they are loaded.
            continue
        reordered = matrix.clone()
        reordered[:, start : start + len(columns)] = matrix[:, [start + column for column in columns]]
        model.state[name] = reordered
