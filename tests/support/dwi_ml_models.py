"""The models of dwi_ml 1.0, rebuilt with plain layers of torch.nn, and the files of its experiments.

dwi_ml itself is not a dependency. The names of the modules are those of its weights files; what the layers compute is
written here from its documentation, not with layers of dwiml.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dipy.data import get_sphere
from torch import Tensor, nn

NB_FEATURES = 5
L2T: dict[str, Any] = {
    "experiment_name": "theirs",
    "step_size": 1.0,
    "nb_points": None,
    "compress_lines": False,
    "neighborhood_type": None,
    "neighborhood_radius": None,
    "neighborhood_resolution": None,
    "nb_previous_dirs": 0,
    "prev_dirs_embedding_key": "no_embedding",
    "prev_dirs_embedded_size": None,
    "normalize_prev_dirs": False,
    "input_embedding_key": "no_embedding",
    "input_embedded_size": None,
    "kernel_size": None,
    "nb_cnn_filters": None,
    "dg_key": "cosine-regression",
    "dg_args": {"dropout": 0.0, "add_eos": False},
    "nb_features": NB_FEATURES,
    "rnn_key": "lstm",
    "rnn_layer_sizes": [9, 7],
    "use_skip_connection": False,
    "use_layer_normalization": False,
    "start_from_copy_prev": False,
    "dropout": 0.0,
}
TRANSFORMER: dict[str, Any] = {
    name: L2T[name]
    for name in ("experiment_name", "step_size", "compress_lines", "kernel_size", "nb_cnn_filters", "nb_features")
} | {
    "input_embedding_key": "nn_embedding",
    "input_embedded_size": 12,
    "max_len": 40,
    "n_layers_e": 2,
    "positional_encoding_key": "sinusoidal",
    "dropout_rate": 0.1,
    "activation": "relu",
    "nheads": 2,
    "ffnn_hidden_size": None,
    "norm_first": False,
    "dg_key": "cosine-regression",
    "dg_args": {"dropout": 0.1},
}
TARGETS = {"sos_token_type": "as_label", "target_embedding_key": "nn_embedding", "start_from_copy_prev": False}


class Embedding(nn.Module):
    def __init__(self, nb_in: int, nb_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(nb_in, nb_out)

    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.relu(self.linear(rows))


class ConvolutionEmbedding(nn.Module):
    def __init__(self, nb_features: int, filters: list[int], kernels: list[int], around: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.names: list[str] = []
        for i, (before, after, kernel) in enumerate(zip([nb_features, *filters], filters, kernels, strict=False)):
            self.names.append(f"cnn_{i}")
            self.add_module(self.names[-1], nn.Conv3d(before, after, kernel))
        self.offsets, self.nb_features = around, nb_features

    def forward(self, rows: Tensor) -> Tensor:
        radius = max(max(offset) for offset in self.offsets)
        side = 2 * radius + 1
        images = rows.new_zeros(len(rows), self.nb_features, side, side, side)
        for block, (x, y, z) in zip(rows.split(self.nb_features, dim=1), self.offsets, strict=True):
            images[:, :, x + radius, y + radius, z + radius] = block
        for name in self.names:
            images = nn.functional.relu(getattr(self, name)(images))
        return images.permute(0, 2, 3, 4, 1).flatten(1)


class Getter(nn.Module):
    def __init__(self, size: int, key: str, args: dict[str, Any]) -> None:
        super().__init__()
        self.key, hidden = key, math.ceil(size / 2)

        def two(nb_out: int) -> nn.ModuleList:
            return nn.ModuleList([nn.Linear(size, hidden), nn.Linear(hidden, nb_out)])

        if key == "gaussian":
            self.layers_mean, self.layers_sigmas = two(3 + bool(args.get("add_eos"))), two(3)
            return
        nb_out = 3 if "regression" in key else len(get_sphere(name=args.get("sphere", "symmetric724")).vertices)
        self.layers = two(nb_out + bool(args.get("add_eos")))

    def forward(self, rows: Tensor) -> Tensor:
        def run(layers: nn.ModuleList) -> Tensor:
            result: Tensor = layers[1](nn.functional.relu(layers[0](rows)))
            return result

        if self.key != "gaussian":
            return run(self.layers)
        mean, sigmas = run(self.layers_mean), run(self.layers_sigmas)
        # The probability of the end, after the mean in dwi_ml, is put last.
        return torch.cat([mean[:, :3], sigmas, mean[:, 3:]], 1)


def offsets(kind: str | None, radius: int | None) -> list[tuple[int, ...]]:
    """The neighbors in the order of dwi_ml, the point itself first."""
    if kind is None:
        return [(0, 0, 0)]
    assert radius is not None
    if kind == "axes":
        rings = [np.eye(3, dtype=int) * r for r in range(1, radius + 1)]
        return [(0, 0, 0), *(tuple(row) for ring in rings for row in np.concatenate([ring, -ring]).tolist())]
    cube = itertools.product(range(-radius, radius + 1), repeat=3)
    return [(0, 0, 0), *(each for each in cube if any(each))]


def make_embedding(params: dict[str, Any]) -> tuple[nn.Module, int]:
    around = offsets(params.get("neighborhood_type"), params.get("neighborhood_radius"))
    nb_in, key = params["nb_features"] * len(around), params["input_embedding_key"]
    if key == "no_embedding":
        return nn.Identity(), nb_in
    if key == "nn_embedding":
        return Embedding(nb_in, params["input_embedded_size"]), params["input_embedded_size"]
    filters, kernels = params["nb_cnn_filters"], params["kernel_size"]
    side = 2 * params["neighborhood_radius"] + 1 - sum(kernels) + len(kernels)
    return ConvolutionEmbedding(params["nb_features"], filters, kernels, around), side**3 * filters[-1]


class Recurrent(nn.Module):
    def __init__(self, params: dict[str, Any], size: int) -> None:
        super().__init__()
        self.params, below = params, size
        for i, units in enumerate(params["rnn_layer_sizes"]):
            self.add_module(
                f"rnn_{i}", {"lstm": nn.LSTM, "gru": nn.GRU}[params["rnn_key"]](below, units, batch_first=True)
            )
            if params["use_layer_normalization"]:
                self.add_module(f"layer_norm_{i}", nn.LayerNorm(units))
            below = units + (size if params["use_skip_connection"] else 0)
        self.output_size = params["rnn_layer_sizes"][-1]
        if params["use_skip_connection"]:
            self.output_size = sum(params["rnn_layer_sizes"]) + size

    def forward(self, rows: Tensor) -> Tensor:
        """Of one streamline, (N, F)."""
        nb, outputs, below = len(self.params["rnn_layer_sizes"]), [], rows
        for i in range(nb):
            hidden = getattr(self, f"rnn_{i}")(below)[0]
            if self.params["use_layer_normalization"]:
                hidden = getattr(self, f"layer_norm_{i}")(hidden)
            if i < nb - 1:
                hidden = nn.functional.relu(hidden)
            outputs.append(hidden)
            below = torch.cat([hidden, rows], 1) if self.params["use_skip_connection"] else hidden
        return torch.cat([*outputs, rows], 1) if self.params["use_skip_connection"] else outputs[-1]


class Learn2Track(nn.Module):
    model_type = "Learn2TrackModel"

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__()
        self.params = params
        self.input_embedding_layer, size = make_embedding(params)
        nb, embeds = params["nb_previous_dirs"], params.get("prev_dirs_embedding_key") == "nn_embedding"
        if nb:
            nb_out = params["prev_dirs_embedded_size"] if embeds else 3 * nb
            self.prev_dirs_embedding = Embedding(3 * nb, nb_out) if embeds else nn.Identity()
            size += nb_out
        self.rnn_model = Recurrent(params, size)
        self.direction_getter = Getter(self.rnn_model.output_size, params["dg_key"], params["dg_args"])

    def forward(self, features: Tensor, line: Tensor) -> Tensor:
        """Of one streamline: features (N, F), points (N, 3)."""
        rows, nb = self.input_embedding_layer(features), self.params["nb_previous_dirs"]
        if nb:
            steps = line[1:] - line[:-1]
            if self.params["normalize_prev_dirs"]:
                steps = steps / steps.norm(dim=1, keepdim=True)
            before = [
                steps[i - 1 - back] if i - 1 - back >= 0 else line.new_zeros(3)
                for i in range(len(line))
                for back in range(nb)
            ]
            rows = torch.cat([rows, self.prev_dirs_embedding(torch.stack(before).reshape(len(line), 3 * nb))], 1)
        result: Tensor = self.direction_getter(self.rnn_model(rows))
        return result


class Positions(nn.Module):
    pos_emb: Tensor

    def __init__(self, size: int, max_len: int) -> None:
        super().__init__()
        rates = torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
        angles = torch.arange(max_len)[:, None] * rates
        self.register_buffer("pos_emb", torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[None])


class Transformer(nn.Module):
    def __init__(self, params: dict[str, Any], model_type: str) -> None:
        super().__init__()
        self.params, self.model_type = params, model_type
        self.input_embedding_layer, size = make_embedding(params)
        has_targets = model_type != "TransformerSrcOnlyModel"
        if has_targets:
            self.sphere = None if params["sos_token_type"] == "as_label" else self._vertices(params["sos_token_type"])
            nb_in = 4 if self.sphere is None else len(self.sphere) + 1
            nb_out = params["target_embedded_size"] if model_type == "TransformerSrcAndTgtModel" else size
            self.embedding_layer_t = Embedding(nb_in, nb_out)
            size += nb_out if model_type == "TransformerSrcAndTgtModel" else 0
        self.position_encoding_layer = Positions(size, params["max_len"])
        options = {
            "dim_feedforward": params["ffnn_hidden_size"] or size // 2,
            "dropout": 0.0,
            "activation": params["activation"],
            "batch_first": True,
            "norm_first": params["norm_first"],
        }
        layer = nn.TransformerEncoderLayer(size, params["nheads"], **options)
        encoder = nn.TransformerEncoder(layer, params["n_layers_e"], enable_nested_tensor=False)
        self.modified_torch_transformer: nn.Module = encoder
        if model_type == "OriginalTransformerModel":
            of_decoder = nn.TransformerDecoderLayer(size, params["nheads"], **options)
            both = {"encoder": encoder, "decoder": nn.TransformerDecoder(of_decoder, params["n_layers_d"])}
            self.modified_torch_transformer = nn.ModuleDict(both)
        self.direction_getter = Getter(size, params["dg_key"], params["dg_args"])

    @staticmethod
    def _vertices(name: str) -> Tensor:
        return torch.from_numpy(get_sphere(name=name).vertices).float()

    def forward(self, features: Tensor, line: Tensor) -> Tensor:
        """Of one streamline: features (N, F), points (N, 3)."""
        positions = self.position_encoding_layer.pos_emb[0, : len(line)]
        rows = self.input_embedding_layer(features)
        mask = torch.ones(len(line), len(line), dtype=torch.bool).triu(1)
        if self.model_type == "TransformerSrcOnlyModel":
            return self._out(self.modified_torch_transformer((rows + positions)[None], mask=mask))
        targets = self.embedding_layer_t(self._targets(line))
        if self.model_type == "TransformerSrcAndTgtModel":
            both = torch.cat([rows, targets], 1) + positions
            return self._out(self.modified_torch_transformer(both[None], mask=mask))
        parts: Any = self.modified_torch_transformer
        memory = parts["encoder"]((rows + positions)[None], mask=mask)
        return self._out(parts["decoder"]((targets + positions)[None], memory, tgt_mask=mask, memory_mask=mask))

    def _out(self, rows: Tensor) -> Tensor:
        result: Tensor = self.direction_getter(rows[0])
        return result

    def _targets(self, line: Tensor) -> Tensor:
        steps = line[1:] - line[:-1]
        if self.sphere is None:
            return torch.cat([torch.eye(4)[3:], nn.functional.pad(steps, (0, 1))])
        unit = steps / steps.norm(dim=1, keepdim=True)
        classes = [len(self.sphere), *(unit @ self.sphere.T).argmax(1).tolist()]
        return nn.functional.one_hot(torch.tensor(classes), len(self.sphere) + 1).float()


def learn2track(**options: Any) -> Learn2Track:
    torch.manual_seed(3)
    model = Learn2Track(L2T | options)
    for name, weights in model.named_parameters():
        # Those of a new normalization have no effect.
        if "layer_norm" in name:
            torch.nn.init.normal_(weights)
    return model


def transformer(kind: str, **options: Any) -> Transformer:
    torch.manual_seed(3)
    of_targets = {} if kind == "TransformerSrcOnlyModel" else dict(TARGETS)
    of_kind: dict[str, Any] = {
        "TransformerSrcOnlyModel": {},
        "OriginalTransformerModel": {"n_layers_d": 2},
        "TransformerSrcAndTgtModel": {"target_embedded_size": 6},
    }[kind]
    return Transformer(TRANSFORMER | of_targets | of_kind | options, kind)


class Autoencoder(nn.Module):
    model_type = "ModelAE"

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__()
        self.params = params
        widths = [3, 32, 64, 128, 256, 512, 1024]
        for i in range(1, 7):
            encoding = nn.Conv1d(widths[i - 1], widths[i], 3, stride=2 if i < 6 else 1)
            decoding = nn.Conv1d(widths[7 - i], widths[6 - i], 3)
            self.add_module(f"encod_conv{i}", nn.Sequential(nn.ReflectionPad1d(1), encoding))
            self.add_module(f"decod_conv{i}", nn.Sequential(nn.ReflectionPad1d(1), decoding))
        self.fc1, self.fc2 = nn.Linear(8192, 32), nn.Linear(32, 8192)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Latent vectors (N, 32), and reconstructed points (N, 256, 3), of points (N, 256, 3) in voxels."""
        rows = points.swapaxes(1, 2)
        for i in range(1, 7):
            rows = getattr(self, f"encod_conv{i}")(rows)
            rows = nn.functional.relu(rows) if i < 6 else rows
        latent = self.fc1(rows.reshape(len(rows), -1))
        rows = self.fc2(latent).reshape(rows.shape)
        for i in range(1, 7):
            rows = getattr(self, f"decod_conv{i}")(rows)
            if i < 6:
                rows = nn.functional.interpolate(nn.functional.relu(rows), scale_factor=2, mode="linear")
        return latent, rows.swapaxes(1, 2)


def autoencoder() -> Autoencoder:
    """An autoencoder of dwi_ml with weights that depend on nothing else."""
    torch.manual_seed(3)
    params = {"experiment_name": "theirs", "step_size": None, "nb_points": 256, "compress_lines": False}
    return Autoencoder(params)


def as_saved(model: nn.Module) -> dict[str, Tensor]:
    """The weights as dwi_ml names them: queries, keys and values of attention apart."""
    saved = {}
    for name, value in model.state_dict().items():
        if name.endswith("in_proj_weight"):
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                saved[name.replace("in_proj", f"{part}_proj")] = rows.clone()
        else:
            saved[name] = value.clone()
    return saved


def save_experiment(
    folder: Path,
    model: Any,
    *,
    logs: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    place: str = "best_model",
) -> Path:
    """Write the files that dwi_ml leaves of a training, and return the folder."""
    inside = folder / place
    inside.mkdir(parents=True)
    (inside / "model_type.txt").write_text(model.model_type)
    (inside / "parameters.json").write_text(json.dumps(model.params, indent=4, separators=(",", ": ")))
    torch.save(as_saved(model), inside / "model_state.pkl")
    if training is not None:
        # With Infinity, for a training without patience.
        (folder / "parameters_latest.json").write_text(json.dumps(training, indent=4))
    if logs is not None:
        (folder / "logs").mkdir()
        for name, values in logs.items():
            np.save(folder / "logs" / name, np.asarray(values))
    return folder
