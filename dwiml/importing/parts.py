"""The parts that the models of dwi_ml share: resampling, inputs, and direction getters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dwiml.arguments import MAX_LAYERS, check_choice, quoted
from dwiml.importing.given import Given, Translated, Weights

HALF_A_VOXEL = 0.5
"""dwi_ml reads the value of voxel i at the coordinate i of its corner, dwiml at that of its center, i + 0.5."""

EMBEDDINGS = ("no_embedding", "nn_embedding", "cnn_embedding")
REGRESSIONS = ("cosine-regression", "l2-regression", "cosine-plus-l2-regression")
SPHERES = ("sphere-classification", "smooth-sphere-classification")
GETTERS = (*REGRESSIONS, *SPHERES, "gaussian")
_LOSS_ONLY = ("compress_loss", "compress_eps", "weight_loss_with_angle")


def refuse_copy(given: Given) -> None:
    """Refuse the option that adds the previous direction to the output.

    Raises
    ------
    ValueError
        If it is on.
    """
    if given.flag("start_from_copy_prev", False):
        raise ValueError(
            f"'{given.path}': start_from_copy_prev, which adds the previous direction to the output, is an option of "
            "dwi_ml that dwiml does not have."
        )


def add_base(given: Given, model: Translated) -> None:
    """Add the parameters that all models have: the name of the experiment, and the resampling of streamlines."""
    model.params["experiment_name"] = given.text("experiment_name", "")
    for name in ("step_size", "nb_points", "compress_lines"):
        # Not asked for: null, false or 0.
        model.params[name] = given.number(name, None) or None


def add_input(given: Given, weights: Weights, model: Translated, *, shift: bool) -> None:
    """Add the parameters and the weights of the volume, its neighborhood and its embedding.

    Parameters
    ----------
    given, weights
        The parameters and the weights of dwi_ml.
    model
        Gets those of dwiml.
    shift
        Whether to read the volume where dwi_ml read it (see :data:`HALF_A_VOXEL`).

    Raises
    ------
    ValueError
        If a parameter or a weight is invalid.
    """
    nb_features = given.whole("nb_features")
    kind, radius = given.text("neighborhood_type", None), given.whole("neighborhood_radius", None)
    resolution = given.number("neighborhood_resolution", None)
    model.params["nb_features"] = nb_features
    if kind is not None:
        model.params |= {
            "neighborhood_type": kind,
            "neighborhood_radius": radius,
            "neighborhood_resolution": resolution,
        }
    if shift:
        model.params["volume_shift"] = HALF_A_VOXEL
    key, size = given.text("input_embedding_key"), given.whole("input_embedded_size", None)
    filters, kernels = given.sizes("nb_cnn_filters", None), given.sizes("kernel_size", None)
    check_choice(f"'{given.path}': input_embedding_key", key, EMBEDDINGS)
    model.params["input_embedding_key"] = key
    if key == "cnn_embedding":
        model.params["input_embedding_args"] = {"nb_filters": filters, "kernel_sizes": kernels}
        for number in range(min(len(filters or ()), MAX_LAYERS)):
            weights.move(f"input_embedding_layer.cnn_{number}.", f"input_embedding.convolutions.{number}.", model.state)
    elif key == "nn_embedding":
        model.params["input_embedded_size"] = size
        matrix = weights.matrix("input_embedding_layer.linear.weight")
        columns = axes_columns(model.params, matrix.shape[1])
        model.state["input_embedding.linear.weight"] = matrix if columns is None else matrix[:, columns]
        weights.move("input_embedding_layer.linear.", "input_embedding.linear.", model.state)


def add_direction_getter(given: Given, weights: Weights, model: Translated) -> None:
    """Add the parameters and the weights of the direction getter.

    Raises
    ------
    ValueError
        If dwiml does not have this direction getter with these options, or a weight is missing.
    """
    key, options = given.text("dg_key"), given.part("dg_args")
    if key not in GETTERS:
        raise ValueError(
            f"'{given.path}': the direction getter '{key}' of dwi_ml cannot be imported; those that can be are "
            f"{quoted(GETTERS)}."
        )
    args: dict[str, Any] = {"dropout": options.number("dropout", 0.0), "add_eos": options.flag("add_eos", False)}
    eos_weight = options.number("eos_weight", 1.0)
    model.params |= {"dg_key": key, "dg_args": args}
    if key in SPHERES:
        args["sphere"] = options.text("sphere", "symmetric724")
        if eos_weight != 1:
            raise ValueError(
                f"'{options.path}': eos_weight {eos_weight:g} cannot be imported: in sphere classification, the end is "
                "a class like the others."
            )
    else:
        args["eos_weight"] = eos_weight
        if args["add_eos"]:
            model.notes.append("The loss of dwi_ml includes a direction at the end of streamlines, dwiml's does not.")
    if key in REGRESSIONS:
        _add_regression(options, args, model, key)
    elif key == "gaussian":
        _add_gaussian(options, args, model)
    used = [name for name in _LOSS_ONLY if options.number(name, None)]
    if used:
        model.notes.append(f"dwiml does not have {quoted(used)}, which were used: losses cannot be compared.")
    options.refuse_rest()
    if key == "gaussian":
        _add_gaussian_weights(given, weights, model, args)
        return
    for theirs, ours in (("0", "0"), ("1", "3")):
        weights.move(f"direction_getter.layers.{theirs}.", f"direction_getter.layers.{ours}.", model.state)
    args["hidden_size"] = _nb_rows(model.state.get("direction_getter.layers.0.weight"))


def _add_regression(options: Given, args: dict[str, Any], model: Translated, key: str) -> None:
    targets, outputs = options.number("normalize_targets", 0), options.number("normalize_outputs", 0)
    if outputs and args["add_eos"]:
        raise ValueError(
            f"'{options.path}': normalize_outputs with add_eos cannot be imported: dwi_ml scales the probability of "
            "the end too."
        )
    if outputs:
        model.notes.append(f"The outputs have the same directions, but are not scaled to length {outputs:g}.")
    if key == "cosine-regression":
        return
    args |= {"squared": False, "normalize_targets": bool(targets), "normalize_outputs": bool(outputs and targets)}
    if targets not in (0, 1) or (outputs and outputs != targets):
        model.notes.append(
            f"Targets had length {targets:g} and outputs {outputs:g} (0: any); those of dwiml have length 1: losses "
            "cannot be compared."
        )


def _add_gaussian(options: Given, args: dict[str, Any], model: Translated) -> None:
    length = options.number("normalize_targets", 0)
    args["normalize_targets"] = bool(length)
    if length not in (0, 1):
        raise ValueError(f"'{options.path}': a Gaussian of steps of length {length:g} cannot be imported; only 1 can.")
    if options.number("entropy_weight", 0):
        model.notes.append("dwiml does not have the entropy_weight of a Gaussian: losses cannot be compared.")
    model.notes.append(
        "The standard deviations of dwiml are bounded smoothly (0.001 to 1000): they differ by about 0.001 from those "
        "of dwi_ml."
    )


def _add_gaussian_weights(given: Given, weights: Weights, model: Translated, args: dict[str, Any]) -> None:
    """Put the two networks of dwi_ml, of the mean (and the end) and of the standard deviations, side by side in one."""
    parts = [
        (
            weights.matrix(f"direction_getter.{name}.0.weight"),
            weights.take(f"direction_getter.{name}.0.bias"),
            weights.matrix(f"direction_getter.{name}.1.weight"),
            weights.take(f"direction_getter.{name}.1.bias"),
        )
        for name in ("layers_mean", "layers_sigmas")
    ]
    (mean, mean_bias, of_mean, last_mean_bias), (sigma, sigma_bias, of_sigma, last_sigma_bias) = parts
    nb_of_mean = 3 + args["add_eos"]
    if (
        mean.shape != sigma.shape
        or (mean_bias.shape, sigma_bias.shape) != ((len(mean),), (len(sigma),))
        or (of_mean.shape, of_sigma.shape) != ((nb_of_mean, len(mean)), (3, len(sigma)))
        or (last_mean_bias.shape, last_sigma_bias.shape) != ((nb_of_mean,), (3,))
    ):
        raise ValueError(f"The weights that belong to '{given.path}' are not those of a direction getter 'gaussian'.")
    last = torch.cat([functional.pad(of_mean, (0, len(sigma))), functional.pad(of_sigma, (len(mean), 0))])
    last_bias = torch.cat([last_mean_bias, last_sigma_bias])
    # In dwiml, the end is the last output.
    rows = [0, 1, 2, 4, 5, 6, 3] if args["add_eos"] else [0, 1, 2, 3, 4, 5]
    layers = {
        "0.weight": torch.cat([mean, sigma]),
        "0.bias": torch.cat([mean_bias, sigma_bias]),
        "3.weight": last[rows],
        "3.bias": last_bias[rows],
    }
    model.state |= {f"direction_getter.layers.{name}": value for name, value in layers.items()}
    args["hidden_size"] = 2 * len(mean)


def _nb_rows(weight: Tensor | None) -> int | None:
    return weight.shape[0] if weight is not None and weight.ndim else None


def axes_columns(params: Mapping[str, Any], nb_columns: int) -> list[int] | None:
    """Return which columns of the input of dwi_ml are those of dwiml, with a neighborhood of type 'axes'.

    At each distance, dwi_ml has the neighbors at +x, +y, +z, -x, -y, -z; dwiml at +x, -x, +y, -y, +z, -z.

    Parameters
    ----------
    params
        Parameters of the model in dwiml.
    nb_columns
        Number of columns of the input.

    Returns
    -------
    list of int or None
        None if the order is the same, or if there are not as many columns as the parameters say.
    """
    nb_features, radius = params["nb_features"], params.get("neighborhood_radius")
    if params.get("neighborhood_type") != "axes" or radius is None or radius < 1:
        return None
    if nb_columns != nb_features * (6 * radius + 1):
        # The model's own check says what is wrong; the list might be larger than any file.
        return None
    blocks = [0]
    for ring in range(radius):
        blocks += [6 * ring + 1 + theirs for theirs in (0, 3, 1, 4, 2, 5)]
    return [block * nb_features + feature for block in blocks for feature in range(nb_features)]
