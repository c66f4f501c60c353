"""Embeddings of inputs and of previous directions, against scipy and torch on images shaped by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.signal import correlate
from scipy.special import erf
from small_transformers import KINDS, SMALL_OF, batch
from tests_support import NB_FEATURES, SHAPE, edited, write_hdf5
from torch import Tensor, nn

from dwiml import (
    DWIMLBatchIDSampler,
    DWIMLBatchLoaderOneInput,
    Learn2TrackModel,
    MultiSubjectDataset,
    check_track_step,
)
from dwiml.models.embeddings import EMBEDDINGS, CNNEmbedding, Embedding, build_embedding
from dwiml.ops.neighborhood import neighborhood_offsets

AROUND: dict[str, Any] = {"neighborhood_type": "grid", "neighborhood_radius": 1}
CHOICES: dict[str, dict[str, Any]] = {
    "no_embedding": {},
    "nn_embedding": {"input_embedded_size": 8},
    "mlp_embedding": {
        "input_embedded_size": 8,
        "input_embedding_args": {"hidden_sizes": [6, 5], "activation": "gelu", "dropout": 0.2},
    },
    "cnn_embedding": {"input_embedded_size": 8, "input_embedding_args": {"nb_filters": [3, 2], "kernel_sizes": [2, 2]}},
}
MODELS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "learn2track": (Learn2TrackModel, {"rnn_layer_sizes": [6], "nb_previous_dirs": 1}),
    **{kind: (KINDS[kind], SMALL_OF[kind]) for kind in KINDS},
}


def embedded_model(name: str, key: str, **more: Any) -> Any:
    """A small model over a grid of 27 points with 8 features each, so that 4 heads divide any size."""
    cls, options = MODELS[name]
    torch.manual_seed(3)
    chosen: dict[str, Any] = {"input_embedded_size": None, "input_embedding_key": key, **CHOICES[key]}
    return cls(**{**options, "nb_features": 8, **AROUND, **chosen, **more})


def images_by_hand(rows: Tensor, radius: int) -> Tensor:
    """Each neighbor's features at the place of its offset: (N, F, G, G, G)."""
    offsets = neighborhood_offsets("grid", radius).long().tolist()
    size, nb_features = 2 * radius + 1, rows.shape[1] // len(offsets)
    images = torch.full((len(rows), nb_features, size, size, size), torch.nan, dtype=rows.dtype)
    for p, (i, j, k) in enumerate(offsets):
        images[:, :, i + radius, j + radius, k + radius] = rows[:, p * nb_features : (p + 1) * nb_features]
    return images


def convolved(images: np.ndarray, convolution: Any) -> np.ndarray:
    """What a convolution and ReLU give, by scipy: (N, filters, ...)."""
    weights, biases = convolution.weight.detach().numpy(), convolution.bias.detach().numpy()

    def filtered(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return sum(correlate(channel, kernel, mode="valid") for channel, kernel in zip(image, weight, strict=True))

    rows = [[filtered(image, weight) for weight in weights] for image in images]
    return np.maximum(np.array(rows) + biases[:, None, None, None], 0)


def test_identity_and_linear_layer() -> None:
    rows = torch.randn(6, 4)
    assert build_embedding("no_embedding", 4, None)(rows) is rows
    linear: Any = build_embedding("nn_embedding", 4, 5)
    expected = np.maximum(
        rows.numpy() @ linear.linear.weight.detach().numpy().T + linear.linear.bias.detach().numpy(), 0
    )
    np.testing.assert_allclose(linear(rows).detach().numpy(), expected, atol=1e-6)
    assert (expected == 0).any()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_hidden_layers_are_those_of_numpy(activation: str) -> None:
    options = {"hidden_sizes": (np.int64(7), 3), "activation": activation, "dropout": 0.5}
    embedding: Any = build_embedding("mlp_embedding", 4, 5, options).double().eval()
    rows = torch.randn(6, 4, dtype=torch.float64)
    values = rows.numpy()
    for layer in embedding.hidden:
        values = values @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        values = np.maximum(values, 0) if activation == "relu" else values * (1 + erf(values / np.sqrt(2))) / 2
    values = values @ embedding.output.weight.detach().numpy().T + embedding.output.bias.detach().numpy()
    np.testing.assert_allclose(embedding(rows).detach().numpy(), values, atol=1e-12)
    assert [tuple(layer.weight.shape) for layer in embedding.hidden] == [(7, 4), (3, 7)]
    # Dropout acts on hidden values only, in training only.
    embedding.train()
    torch.manual_seed(0)
    assert not torch.allclose(embedding(rows), torch.from_numpy(values))


@pytest.mark.parametrize(
    ("radius", "filters", "kernels"), [(1, [4], 3), (1, [4, 2], 2), (2, [3, 4], [3, 2]), (2, [5], [1]), (3, [2], [4])]
)
@pytest.mark.parametrize("size", [None, 6])
def test_convolutions_are_those_of_scipy_and_torch(
    radius: int, filters: list[int], kernels: Any, size: int | None
) -> None:
    nb_neighbors = (2 * radius + 1) ** 3
    embedding: Any = build_embedding(
        "cnn_embedding",
        nb_neighbors * 3,
        size,
        {"nb_filters": filters, "kernel_sizes": kernels},
        neighborhood_type="grid",
        grid_size=2 * radius + 1,
    ).double()
    rows = torch.randn(5, nb_neighbors * 3, dtype=torch.float64)
    images = images_by_hand(rows, radius)
    by_torch, by_scipy = images, images.numpy()
    for layer in embedding.convolutions:
        by_torch = nn.functional.conv3d(by_torch, layer.weight, layer.bias).relu()
        by_scipy = convolved(by_scipy, layer)
    flat = by_torch.permute(0, 2, 3, 4, 1).reshape(5, -1)
    np.testing.assert_allclose(by_torch.detach().numpy(), by_scipy, atol=1e-12)
    expected = flat if size is None else flat @ embedding.linear.weight.T + embedding.linear.bias
    torch.testing.assert_close(embedding(rows), expected)
    assert embedding(rows).shape == (5, embedding.output_size)
    # A training step on no rows, as in a batch of empty streamlines.
    embedding(rows[:0]).sum().backward()


@pytest.mark.parametrize("key", sorted(CHOICES))
def test_lower_precision_is_near(key: str) -> None:
    model = embedded_model("learn2track", key).eval()
    inputs, _ = batch([4, 1, 7], nb_features=27 * 8)
    expected = model.embed_inputs(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.embed_inputs(inputs)
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)


def test_gradients_reach_all_neighbors() -> None:
    model = embedded_model("learn2track", "cnn_embedding")
    rows = torch.randn(9, 27 * 8, dtype=torch.float64, requires_grad=True)
    double = model.input_embedding.double()
    assert torch.autograd.gradcheck(lambda some: double(some)[:, :2], (rows[:2].detach().requires_grad_(),))
    double(rows).square().sum().backward()
    assert rows.grad is not None
    assert (rows.grad != 0).any(dim=0).all()


@pytest.mark.parametrize("resolution", [None, 0.5])
def test_a_kernel_sees_the_neighbor_along_its_own_axis(tmp_path: Path, resolution: float | None) -> None:
    """On an oblique grid of anisotropic voxels, with the volume's features being the coordinates themselves."""
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 20})
    indices = np.moveaxis(np.indices(SHAPE), 0, -1).astype(np.float32)
    with edited(path) as handle:
        handle["sub-a/input/data"][...] = np.concatenate([indices, np.ones((*SHAPE, NB_FEATURES - 3))], axis=-1)
    dataset = MultiSubjectDataset(path)
    dataset.load_data()
    model = Learn2TrackModel(
        nb_features=NB_FEATURES,
        rnn_layer_sizes=[4],
        input_embedding_key="cnn_embedding",
        input_embedding_args={"nb_filters": [9]},
        neighborhood_resolution=resolution,
        **AROUND,
    )
    loader = DWIMLBatchLoaderOneInput(dataset, model, "input", "streamlines")
    streamlines, slices = loader.load_batch_streamlines(
        next(iter(DWIMLBatchIDSampler(dataset, "streamlines", batch_size_training=20)))
    )
    inputs = loader.load_batch_inputs(streamlines, slices)
    # Filter 3 * axis + feature reads one feature at the next point along one axis.
    (convolution,) = model.input_embedding.convolutions  # type: ignore[misc]
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.bias.zero_()
        for axis in range(3):
            for feature in range(3):
                place = [1, 1, 1]
                place[axis] = 2
                convolution.weight[(3 * axis + feature, feature, *place)] = 1
    found = model.embed_inputs(inputs).detach().numpy().reshape(-1, 3, 3)
    points = streamlines.data.numpy().astype(np.float64) - 0.5
    for axis in range(3):
        neighbors = points + (resolution or 1.0) * np.eye(3)[axis]
        for feature in range(3):
            expected = map_coordinates(indices[..., feature].astype(np.float64), neighbors.T, order=1, mode="nearest")
            np.testing.assert_allclose(found[:, axis, feature], expected, atol=1e-4)


@pytest.mark.parametrize("key", sorted(CHOICES))
@pytest.mark.parametrize("name", MODELS)
def test_each_model_has_each_embedding(name: str, key: str, tmp_path: Path) -> None:
    model = embedded_model(name, key)
    size = 27 * 8 if key == "no_embedding" else 8
    assert model.embedded_input_size == size
    assert type(model.input_embedding) is EMBEDDINGS[key]
    check_track_step(model)
    inputs, lines = batch([4, 1, 7], nb_features=27 * 8)
    model.eval()
    model.save(tmp_path)
    loaded = type(model).load(tmp_path).eval()
    assert loaded.params == type(model)(**json.loads(json.dumps(model.params))).params == model.params
    assert torch.equal(loaded(inputs, lines), model(inputs, lines))
    assert (model.input_embedding in model.layers_by_point) is (key != "no_embedding")


@pytest.mark.parametrize("key", ["nn_embedding", "mlp_embedding"])
def test_previous_directions_have_the_same_choices(key: str) -> None:
    args = {"hidden_sizes": [5]} if key == "mlp_embedding" else {}
    model = Learn2TrackModel(
        nb_features=4,
        rnn_layer_sizes=[6],
        nb_previous_dirs=2,
        prev_dirs_embedding_key=key,
        prev_dirs_embedded_size=7,
        prev_dirs_embedding_args=args,
    )
    _, lines = batch([4, 1, 7])
    embedding = model.prev_dirs_embedding
    assert isinstance(embedding, EMBEDDINGS[key])
    directions = model.previous_dirs(lines)
    assert model.embed_previous_dirs(directions).shape == (12, model.embedded_prev_dirs_size) == (12, 7)
    assert torch.equal(model.embed_previous_dirs(directions), embedding(directions))
    assert Learn2TrackModel(**model.params).params == model.params
    check_track_step(model)


def test_sizes_that_are_not_given() -> None:
    sizes = {}
    for key in EMBEDDINGS:
        cls, options = MODELS["src-only"]
        model = cls(**{**options, "nb_features": 8, **AROUND, "input_embedding_key": key, "input_embedded_size": None})
        sizes[key] = model.embedded_input_size
    # The 32 filters of the only convolution have one value each.
    assert sizes == {"no_embedding": 216, "nn_embedding": 256, "mlp_embedding": 256, "cnn_embedding": 32}
    for key in ("nn_embedding", "mlp_embedding"):
        with pytest.raises(
            ValueError, match=f"^The embedded size of '{key}' must be a whole number of at least 1, got"
        ):
            Learn2TrackModel(nb_features=4, input_embedding_key=key)


MLP: dict[str, Any] = {"input_embedding_key": "mlp_embedding", "input_embedded_size": 8}
CNN: dict[str, Any] = {"input_embedding_key": "cnn_embedding", **AROUND}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"input_embedding_key": "nn"}, r"^input_embedding_key must be one of 'no_embedding', .*, got 'nn'\.$"),
        ({"input_embedding_key": None}, r"^input_embedding_key must be one of .*, got None\.$"),
        ({"input_embedded_size": 5}, "^'no_embedding' keeps the 4 features, got an embedded size of 5"),
        ({"input_embedding_args": {"dropout": 0.1}}, "of 'no_embedding' has no option 'dropout'; it has no options"),
        (
            MLP | {"input_embedding_args": [3]},
            r"args must be a dict of options such as \{'hidden_sizes': \[64\]\}, got",
        ),
        (
            MLP | {"input_embedding_args": {"sizes": 3}},
            r"has no option 'sizes'; it has: \['hidden_sizes', 'activation'",
        ),
        (MLP | {"input_embedding_args": {"output_size": 3}}, "has no option 'output_size'"),
        (MLP | {"input_embedding_args": {"hidden_sizes": []}}, "'mlp_embedding' must hold one positive size per layer"),
        (MLP | {"input_embedding_args": {"hidden_sizes": [10**9]}}, "at most 100000"),
        (MLP | {"input_embedding_args": {"hidden_sizes": [4] * 1001}}, "at most 1000 sizes"),
        (MLP | {"input_embedding_args": {"activation": "sin"}}, "activation of 'mlp_embedding' must be one of 'relu'"),
        (
            MLP | {"input_embedding_args": {"dropout": 1}},
            "dropout of 'mlp_embedding' must be at least 0 and less than 1",
        ),
        (MLP | {"input_embedded_size": 0}, "embedded size of 'mlp_embedding' must be a whole number of at least 1"),
        (CNN | {"neighborhood_type": "axes"}, "'cnn_embedding' needs neighborhood_type 'grid', got 'axes': set"),
        ({"input_embedding_key": "cnn_embedding"}, "'cnn_embedding' needs neighborhood_type 'grid', got None"),
        (CNN | {"input_embedded_size": "8"}, "embedded size of 'cnn_embedding' must be a whole number"),
        (CNN | {"input_embedding_args": {"grid_size": 3}}, "has no option 'grid_size'; it has: .*'kernel_sizes'"),
        (CNN | {"input_embedding_args": {"nb_filters": 32}}, r"per layer, got 32: give a list such as \[32, 32\]"),
        (
            CNN | {"input_embedding_args": {"kernel_sizes": 3.5}},
            "kernel_sizes of 'cnn_embedding' must hold one positive",
        ),
        (CNN | {"input_embedding_args": {"kernel_sizes": 22}}, "must be a whole number of at most 21, got 22"),
        (CNN | {"input_embedding_args": {"kernel_sizes": [1, 1]}}, "must be one number, or 1 as nb_filters, got 2"),
        (
            CNN | {"input_embedding_args": {"nb_filters": [4, 4]}},
            r"^The kernel_sizes of 'cnn_embedding', \[3, 3\], need a neighborhood of at least 5 points along each "
            "axis, got 3: choose a larger neighborhood_radius or smaller kernels",
        ),
        (
            {"nb_previous_dirs": 1, "prev_dirs_embedding_key": "cnn_embedding", **AROUND},
            "^prev_dirs_embedding_key cannot be 'cnn_embedding', which needs the neighborhood of a volume",
        ),
        (
            {"nb_previous_dirs": 1, "prev_dirs_embedding_args": {"dropout": 0.5}},
            "^prev_dirs_embedding_args of 'no_embedding' has no option 'dropout'",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        Learn2TrackModel(nb_features=4, **options)
    assert "\n" not in str(caught.value)


class Scaled(Embedding):
    """What a user adds: features times a trained number each."""

    def __init__(self, input_size: int, output_size: int | None = None, *, start: float = 1.0) -> None:
        super().__init__(input_size)
        self.factors = nn.Parameter(torch.full((input_size,), float(start)))

    def forward(self, features: Tensor) -> Tensor:
        return features * self.factors


class MeanOfGrid(Embedding):
    """The mean over the neighborhood."""

    needs_grid = True

    def __init__(self, input_size: int, output_size: int | None = None, *, grid_size: int) -> None:
        super().__init__(input_size // grid_size**3)

    def forward(self, features: Tensor) -> Tensor:
        return features.view(len(features), -1, self.output_size).mean(dim=1)


def test_an_embedding_of_the_user(tmp_path: Path) -> None:
    with mock.patch.dict(EMBEDDINGS, {"scaled": Scaled, "mean": MeanOfGrid, "none": nn.Identity}):  # type: ignore[dict-item]
        model = embedded_model(
            "learn2track", "no_embedding", input_embedding_key="scaled", input_embedding_args={"start": 2}
        )
        model.save(tmp_path)
        inputs, lines = batch([4, 1, 7], nb_features=27 * 8)
        assert torch.equal(Learn2TrackModel.load(tmp_path).embed_inputs(inputs), 2 * inputs.data)
        with pytest.raises(ValueError, match=r"of 'scaled' has no option 'stat'; it has: \['start'\]"):
            embedded_model("src-only", "no_embedding", input_embedding_key="scaled", input_embedding_args={"stat": 2})
        mean = embedded_model("src-only", "no_embedding", input_embedding_key="mean")
        torch.testing.assert_close(mean.embed_inputs(inputs), images_by_hand(inputs.data, 1).mean(dim=(2, 3, 4)))
        assert mean(inputs, lines).shape == (12, 3)
        with pytest.raises(TypeError, match=r"^EMBEDDINGS\['none'\] must be a subclass of Embedding, got <class"):
            embedded_model("src-only", "no_embedding", input_embedding_key="none")


def test_an_embedding_by_itself_checks_its_keywords() -> None:
    with pytest.raises(TypeError, match="CNNEmbedding has no parameter 'kernel'; did you mean 'kernel_sizes'"):
        CNNEmbedding(27, grid_size=3, kernel=3)  # type: ignore[call-arg]
