"""Every model with every direction getter and every embedding: it learns, is saved and loaded, and tracks."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import logs

from dwiml import (
    DWIMLBatchIDSampler,
    DWIMLBatchLoaderOneInput,
    DWIMLTrainerOneInput,
    ModelWithDirectionGetter,
    MultiSubjectDataset,
)
from dwiml.models.catalog import MODELS
from dwiml.models.direction_getters import DIRECTION_GETTERS
from dwiml.models.embeddings import EMBEDDINGS
from dwiml.tracking.propagation import PropagationRules
from dwiml.tracking.seeds import Seeds
from dwiml.tracking.tracker import Tracker, TrackingSubject

STEP_MM = 3.0
TRANSFORMER: dict[str, Any] = {"nb_heads": 4, "nb_layers_encoder": 1, "dropout": 0.0, "input_embedded_size": 16}
SIZES: dict[str, dict[str, Any]] = {
    "learn2track": {"rnn_layer_sizes": [16], "nb_previous_dirs": 1},
    "transformer-src-only": TRANSFORMER,
    "transformer-src-and-tgt": TRANSFORMER | {"nb_layers_decoder": 1},
    "transformer-src-tgt-concat": TRANSFORMER | {"target_embedded_size": 8},
}
CLASSES: dict[str, Any] = {name: pkgutil.resolve_name(path) for name, path in MODELS.items()}
TRACKING = sorted(name for name, cls in CLASSES.items() if issubclass(cls, ModelWithDirectionGetter))
EMBEDDED: dict[str, dict[str, Any]] = {
    "no_embedding": {"input_embedded_size": None},
    "nn_embedding": {"input_embedded_size": 16},
    "mlp_embedding": {"input_embedded_size": 16, "input_embedding_args": {"hidden_sizes": [16], "dropout": 0.1}},
    "cnn_embedding": {
        "input_embedded_size": 16,
        "input_embedding_args": {"nb_filters": [8]},
        "neighborhood_type": "grid",
        "neighborhood_radius": 1,
    },
}


def embedded_pairs() -> list[Any]:
    """All pairs of a model and an embedding; in the default suite each of them once."""
    keys = sorted(EMBEDDINGS)
    quick = {(name, keys[i % len(keys)]) for i, name in enumerate(TRACKING)}
    every = [(name, key) for key in keys for name in TRACKING]
    return [pytest.param(*pair, marks=[] if pair in quick else pytest.mark.slow) for pair in every]


@pytest.fixture(scope="module")
def dataset(phantom_hdf5: Path) -> MultiSubjectDataset:
    loaded = MultiSubjectDataset(phantom_hdf5)
    loaded.load_data()
    return loaded


def trained(dataset: MultiSubjectDataset, folder: Path, name: str, **options: Any) -> Any:
    """A model after 24 steps; its loss has fallen, on another subject too."""
    torch.manual_seed(1)
    chosen = {"nb_features": dataset.nb_features["input"], "step_size": STEP_MM, **SIZES[name], **options}
    model = CLASSES[name](**chosen)
    sampler = DWIMLBatchIDSampler(dataset, "streamlines", batch_size_training=40, seed=2)
    loader = DWIMLBatchLoaderOneInput(dataset, model, "input", "streamlines", seed=2, reverse_ratio=0.5)
    trainer = DWIMLTrainerOneInput(
        model,
        folder,
        name,
        sampler,
        loader,
        max_epochs=3,
        max_batches_per_epoch_training=8,
        max_batches_per_epoch_validation=2,
        learning_rates=0.01,
        seed=2,
        verbose=False,
    )
    trainer.train_and_validate()
    epochs = logs(folder / name)
    for metric in ("train_loss", "valid_loss"):
        assert epochs[-1][metric] < 0.95 * epochs[0][metric]
    return model


def check_tracks(model: Any, folder: Path, dataset: MultiSubjectDataset) -> None:
    """Save and load the model; both track the same streamlines on the oblique subject, whose steps are of 3 mm."""
    model.save(folder / "saved")
    loaded = type(model).load(folder / "saved")
    assert loaded.params == model.params
    tested = dataset.testing_set[0]
    volume, mask = tested.volumes["input"], tested.volumes["wm_mask"].as_tensor()[..., 0] > 0
    subject = TrackingSubject(volume.as_tensor(), torch.from_numpy(volume.voxel_sizes), mask)
    for algo in ("det", "prob") if model.direction_getter.has_distribution else ("det",):
        rules = PropagationRules(step_size=STEP_MM, theta=80.0, max_length=36.0, algo=algo, seed=3)
        found = []
        for each in (model, loaded):
            tracker = Tracker(each, subject, rules, min_length=0.0)
            (group,) = tracker.track(Seeds(mask, total=20, seed=4))
            found.append(group.streamlines)
        assert torch.equal(found[0].data, found[1].data)
        steps = torch.linalg.vector_norm(found[0].diff().data * subject.voxel_sizes, dim=1)
        torch.testing.assert_close(steps, torch.full_like(steps, STEP_MM), atol=1e-3, rtol=0)
        assert len(found[0]) >= 15
        assert len(steps) > len(found[0])


@pytest.mark.parametrize(
    ("name", "dg_key"),
    [
        pytest.param(name, key, marks=[] if name == "learn2track" or key == "gaussian" else [pytest.mark.slow])
        for name in TRACKING
        for key in sorted(DIRECTION_GETTERS)
    ],
)
def test_each_model_learns_and_tracks_with_each_direction_getter(
    name: str, dg_key: str, dataset: MultiSubjectDataset, tmp_path: Path
) -> None:
    options = {"sphere": "repulsion100"} if "sphere" in dg_key else {}
    check_tracks(trained(dataset, tmp_path, name, dg_key=dg_key, dg_args=options), tmp_path, dataset)


@pytest.mark.first(2)
@pytest.mark.parametrize(("name", "key"), embedded_pairs())
def test_each_model_learns_and_tracks_with_each_embedding(
    name: str, key: str, dataset: MultiSubjectDataset, tmp_path: Path
) -> None:
    model = trained(dataset, tmp_path, name, **{"input_embedding_key": key, **EMBEDDED[key]})
    assert type(model.input_embedding) is EMBEDDINGS[key]
    check_tracks(model, tmp_path, dataset)
