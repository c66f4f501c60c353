"""Imported models compute the outputs of dwi_ml, rebuilt here with plain layers of torch.nn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from dwi_ml_models import NB_FEATURES, learn2track, offsets, save_experiment, transformer
from scipy.ndimage import map_coordinates
from torch import Tensor

from dwiml import DWIMLBatchLoaderOneInput, MultiSubjectDataset, TensorSequence
from dwiml.batching.sampler import BatchIds
from dwiml.importing.experiment import import_dwi_ml
from dwiml.ops.interpolation import interpolate_at
from dwiml.ops.randomness import BatchKey

LENGTHS = [9, 2, 5, 14]
PREVIOUS = {"nb_previous_dirs": 2, "prev_dirs_embedded_size": 6}
AXES = {"neighborhood_type": "axes", "neighborhood_radius": 1, "neighborhood_resolution": 1.0}
EMBEDDED = {"input_embedding_key": "nn_embedding", "input_embedded_size": 11}
CNN = {
    **AXES,
    "neighborhood_type": "grid",
    "input_embedding_key": "cnn_embedding",
    "nb_cnn_filters": [4],
    "kernel_size": [2],
}
SKIP, NORM = {"use_skip_connection": True}, {"use_layer_normalization": True}


def imported(tmp_path: Path, theirs: Any, **options: Any) -> Any:
    source = save_experiment(tmp_path / "theirs", theirs)
    return import_dwi_ml(source, tmp_path / "ours", **options).model


def read_at(volume: Tensor, points: Tensor, around: Tensor) -> Tensor:
    """Features of a function of space, linear in it: as trilinear interpolation inside of a volume."""
    return ((points[:, None] + around) @ volume).flatten(1)


def check_same(ours: Any, theirs: Any, lengths: list[int] = LENGTHS) -> None:
    """Compare the outputs on the same streamlines; each reads its own neighborhood, in its own order."""
    generator = torch.Generator().manual_seed(1)
    lines = [torch.randn(nb, 3, generator=generator).cumsum(0) for nb in lengths]
    volume = torch.randn(3, NB_FEATURES, generator=generator)
    params = theirs.params
    around = torch.tensor(offsets(params.get("neighborhood_type"), params.get("neighborhood_radius"))).float()
    around = around * (params.get("neighborhood_resolution") or 1.0)
    with torch.no_grad():
        expected = torch.cat([theirs.eval()(read_at(volume, line, around), line) for line in lines])
        own = torch.zeros(1, 3) if ours.neighborhood_offsets is None else ours.neighborhood_offsets
        together = TensorSequence(torch.cat(lines), torch.tensor(lengths))
        inputs = together.mapped(read_at(volume, together.data, own))
        got = ours.eval()(inputs, together)
    assert got.shape == expected.shape
    assert expected.std() > 0.01
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rnn_key": "gru"},
        {"rnn_layer_sizes": [7]},
        {"rnn_layer_sizes": [7], **SKIP, **NORM, "dropout": 0.3},
        {"rnn_layer_sizes": [5, 8, 6], **SKIP},
        {"rnn_layer_sizes": [5, 8, 6], **NORM, "rnn_key": "gru"},
        {"rnn_layer_sizes": [5, 8, 6], **SKIP, **NORM, **PREVIOUS, "dropout": 0.4},
        {**SKIP, **NORM, **EMBEDDED, **PREVIOUS, "normalize_prev_dirs": True},
        {**PREVIOUS, "prev_dirs_embedding_key": "nn_embedding", "prev_dirs_embedded_size": 4, **EMBEDDED},
        {"rnn_layer_sizes": [2]},
        {"rnn_layer_sizes": [1, 1]},
        AXES,
        {**AXES, "neighborhood_radius": 2, "neighborhood_resolution": 0.5, **SKIP, **PREVIOUS},
        {**AXES, **EMBEDDED, **SKIP},
        {**AXES, "rnn_layer_sizes": [4, 6, 5], **SKIP, **NORM, "rnn_key": "gru"},
        {**AXES, "neighborhood_type": "grid", "rnn_layer_sizes": [6], **SKIP},
        {**CNN, **SKIP, **PREVIOUS},
        {**CNN, "neighborhood_radius": 2, "nb_cnn_filters": [3, 4], "kernel_size": [3, 2], "rnn_layer_sizes": [6]},
        {"dg_key": "cosine-regression", "dg_args": {"add_eos": True, "eos_weight": 2.0}},
        {"dg_key": "l2-regression", "dg_args": {"normalize_targets": 1.0}},
        {"dg_key": "cosine-plus-l2-regression", "dg_args": {"normalize_targets": None, "normalize_outputs": None}},
        {"dg_key": "sphere-classification", "dg_args": {}},
        {"dg_key": "sphere-classification", "dg_args": {"add_eos": True, "sphere": "repulsion100"}},
        {"dg_key": "smooth-sphere-classification", "dg_args": {"sphere": "repulsion100", "dropout": 0.2}},
        {"dg_key": "gaussian", "dg_args": {}},
        {"dg_key": "gaussian", "dg_args": {"add_eos": True, "normalize_targets": 1.0}},
    ],
    ids=str,
)
def test_learn2track(tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = learn2track(**options)
    ours = imported(tmp_path, theirs, volume_shift=False)
    check_same(ours, theirs)
    check_same(type(ours).load(tmp_path / "ours" / "best_model"), theirs)
    assert ours.direction_getter.add_eos == bool(theirs.params["dg_args"].get("add_eos"))


@pytest.mark.parametrize("kind", ["TransformerSrcOnlyModel", "OriginalTransformerModel", "TransformerSrcAndTgtModel"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_transformers(tmp_path: Path, kind: str, norm_first: bool) -> None:
    theirs = transformer(kind, norm_first=norm_first, activation="gelu" if norm_first else "relu")
    check_same(imported(tmp_path, theirs, volume_shift=False), theirs)


@pytest.mark.parametrize("kind", ["OriginalTransformerModel", "TransformerSrcAndTgtModel"])
@pytest.mark.parametrize("sos", ["repulsion100", "symmetric724"])
def test_transformers_with_classes_of_previous_directions(tmp_path: Path, kind: str, sos: str) -> None:
    theirs = transformer(kind, sos_token_type=sos, dg_key="sphere-classification", dg_args={"add_eos": True})
    check_same(imported(tmp_path, theirs, volume_shift=False), theirs)


@pytest.mark.parametrize(
    "options",
    [
        {**AXES, "ffnn_hidden_size": 7, "nheads": 3},
        {**AXES, "neighborhood_type": "grid", "dg_key": "gaussian", "dg_args": {}},
        {**CNN, "input_embedded_size": None, "nb_cnn_filters": [8], "kernel_size": [3]},
        {"nb_features": NB_FEATURES, "input_embedding_key": "nn_embedding", "input_embedded_size": 8, "n_layers_e": 1},
    ],
)
def test_inputs_of_transformers(tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = transformer("TransformerSrcOnlyModel", **options)
    check_same(imported(tmp_path, theirs, volume_shift=False), theirs)


def test_volumes_are_read_where_dwi_ml_read_them(tmp_path: Path) -> None:
    """Reading at a coordinate c of the corner, dwi_ml interpolates between the voxels around index c."""
    ours = imported(tmp_path, learn2track(**AXES))
    assert ours.volume_shift == 0.5
    generator = torch.Generator().manual_seed(2)
    volume = torch.randn(9, 8, 7, 1, generator=generator)
    points = 2 + 3 * torch.rand(20, 3, generator=generator)
    got = interpolate_at(volume, points, offsets=ours.neighborhood_offsets)
    at = points.numpy()[:, None] + torch.tensor(offsets("axes", 1)).numpy()[[0, 1, 4, 2, 5, 3, 6]]
    expected = map_coordinates(volume[..., 0].numpy(), at.reshape(-1, 3).T, order=1).reshape(20, 7)
    torch.testing.assert_close(got, torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


def test_a_model_without_neighborhood_reads_one_shifted_point(tmp_path: Path) -> None:
    ours = imported(tmp_path, learn2track())
    assert ours.neighborhood_offsets.tolist() == [[0.5, 0.5, 0.5]]
    assert ours.input_size == NB_FEATURES


def test_dropout_in_training_is_where_it_is_in_dwi_ml(tmp_path: Path) -> None:
    ours = imported(tmp_path, learn2track(**EMBEDDED, dropout=0.4))
    assert ours.rnn.dropout.p == 0.4
    assert ours.embedding_dropout.p == 0.4
    (tmp_path / "one").mkdir()
    ours = imported(tmp_path / "one", learn2track(rnn_layer_sizes=[8], dropout=0.4))
    assert ours.rnn.dropout.p == 0
    assert ours.embedding_dropout is None


def test_the_normalized_distance_is_not_squared(tmp_path: Path) -> None:
    theirs = learn2track(dg_key="l2-regression", dg_args={"normalize_targets": None})
    getter = imported(tmp_path, theirs).direction_getter
    outputs, steps = torch.randn(6, 3), torch.randn(6, 3)
    expected = torch.nn.PairwiseDistance()(outputs, steps)
    losses = getter.losses(outputs, steps, torch.zeros(6, dtype=torch.bool))
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)


def test_older_weights_without_the_input_of_the_direction_getter(tmp_path: Path) -> None:
    theirs = learn2track(**SKIP)
    getter = theirs.direction_getter
    getter.layers[0] = torch.nn.Linear(16, 8)
    getter.layers[1] = torch.nn.Linear(8, 3)
    theirs.rnn_model.output_size = 16
    ours = imported(tmp_path, theirs)
    assert ours.params["rnn_args"]["skip_to_output"] is False
    assert ours.rnn.output_size == 16


def test_the_loader_gives_the_inputs_of_dwi_ml(tmp_path: Path, tiny_hdf5: Path) -> None:
    """dwi_ml interpolates between the voxels around index c at a coordinate c of the corner."""
    dataset = MultiSubjectDataset(tiny_hdf5)
    dataset.load_data()
    nb_features = dataset.nb_features["input"]
    ours = imported(tmp_path, learn2track(nb_features=nb_features, step_size=None))
    loader = DWIMLBatchLoaderOneInput(dataset, ours, "input", "streamlines")
    points, slices = loader.load_batch_streamlines(BatchIds([(0, np.arange(4))], BatchKey("validation", 0, 0)))
    got = loader.load_batch_inputs(points, slices).data
    with h5py.File(tiny_hdf5) as file:
        volume = file["sub-d/input/data"][()]
    expected = [
        map_coordinates(volume[..., i], points.data.numpy().T, order=1, mode="nearest") for i in range(nb_features)
    ]
    torch.testing.assert_close(got, torch.from_numpy(np.stack(expected, axis=1)), rtol=1e-5, atol=1e-5)
