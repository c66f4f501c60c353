"""Inputs of the model and targets of its loss, for one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dwiml import (
    DWIMLBatchIDSampler,
    DWIMLBatchLoaderOneInput,
    DWIMLStreamlinesBatchLoader,
    Learn2TrackModel,
    MultiSubjectDataset,
    TensorSequence,
)
from dwiml.batching.fetcher import BatchSlices
from dwiml.ops.randomness import BatchKey

NOISE = {"noise_gaussian_size_forward": 0.1, "noise_gaussian_size_loss": 0.1, "noise_correlated_size": 0.3}


def a_batch(
    path: Path, phase: str = "training", *, augment: bool | None = None, **model_args: Any
) -> tuple[DWIMLBatchLoaderOneInput, TensorSequence, BatchSlices]:
    dataset = MultiSubjectDataset(path)
    dataset.load_data()
    model = Learn2TrackModel(nb_features=4, rnn_layer_sizes=[8], step_size=2.0, dropout=0.0, **model_args)
    loader = DWIMLBatchLoaderOneInput(dataset, model, "input", "streamlines", seed=3, **NOISE)
    sampler = DWIMLBatchIDSampler(dataset, "streamlines", batch_size_training=17, seed=2)
    sampler.set_position(phase, 1)
    targets, ids_per_subj = loader.fetcher(phase, augment=augment)[next(iter(sampler))]
    return loader, targets, ids_per_subj


def test_in_training_inputs_are_noisy_and_the_loss_receives_them(tiny_hdf5: Path) -> None:
    loader, targets, ids_per_subj = a_batch(tiny_hdf5)
    batch = loader.model_batch(targets, ids_per_subj)
    # Regression ignores last points.
    assert batch.streamlines.lengths.tolist() == (targets.lengths - 1).tolist()
    assert (batch.streamlines.data - targets.trimmed_last().data).abs().min() > 0
    assert 0 < (batch.targets.data - targets.data).abs().max() <= 0.2
    assert batch.ids_per_subj is ids_per_subj
    assert batch.inputs is not None
    assert torch.equal(batch.inputs.data, loader.load_batch_inputs(batch.streamlines, ids_per_subj).data)
    assert batch.recovery_target == {"seen": batch.streamlines, "nb_recovery_steps": 3.0}
    outputs = batch.run(loader.model)
    assert torch.equal(outputs, loader.model(batch.inputs, batch.streamlines))
    expected, n = loader.model.compute_loss(outputs, batch.targets, seen=batch.streamlines, nb_recovery_steps=3.0)
    loss, counted = batch.loss(loader.model, outputs)
    assert torch.equal(loss, expected)
    assert counted == n == batch.streamlines.total_points
    assert batch.loss(loader.model, outputs, average_results=False)[0].shape == (n,)


@pytest.mark.parametrize(("phase", "augment"), [("validation", None), ("training", False)])
def test_no_noise_without_augmentation(tiny_hdf5: Path, phase: str, augment: bool | None) -> None:
    loader, targets, ids_per_subj = a_batch(tiny_hdf5, phase, augment=augment)
    batch = loader.model_batch(targets, ids_per_subj.to("cpu"))
    assert batch.targets is targets
    assert torch.equal(batch.streamlines.data, targets.trimmed_last().data)
    assert batch.recovery_target == {}


def test_a_model_that_uses_last_points_receives_them(tiny_hdf5: Path) -> None:
    ends = {"dg_key": "sphere-classification", "dg_args": {"add_eos": True}}
    loader, targets, ids_per_subj = a_batch(tiny_hdf5, "validation", **ends)
    batch = loader.model_batch(targets, ids_per_subj)
    assert batch.streamlines is targets
    assert batch.inputs is not None
    assert batch.inputs.total_points == targets.total_points


def test_without_a_volume_the_only_input_is_streamlines(tiny_hdf5: Path) -> None:
    of_volume, targets, ids_per_subj = a_batch(tiny_hdf5, "validation")
    loader = DWIMLStreamlinesBatchLoader(of_volume.dataset, of_volume.model, "streamlines")
    batch = loader.model_batch(targets, ids_per_subj)
    assert batch.inputs is None
    assert batch.run(lambda *given: given) == (batch.streamlines,)


def test_a_compute_loss_without_average_results_can_be_used_in_training(tiny_hdf5: Path) -> None:
    class Own:
        def compute_loss(self, outputs: Any, targets: Any) -> Any:
            return torch.tensor(1.0), len(targets)

    loader, targets, ids_per_subj = a_batch(tiny_hdf5, "validation")
    assert loader.model_batch(targets, ids_per_subj).loss(Own(), None) == (torch.tensor(1.0), len(targets))


def test_a_batch_without_key_is_rejected(tiny_hdf5: Path) -> None:
    loader, targets, ids_per_subj = a_batch(tiny_hdf5)
    plain: Any = dict(ids_per_subj)
    for call in (
        loader.model_batch,
        loader.load_batch_inputs,
        loader.preparer().add_noise_forward,
        loader.preparer().add_noise_loss,
        loader.preparer().recovery_target,
    ):
        with pytest.raises(TypeError, match=r"ids_per_subj must be the BatchSlices .* got an object of type dict\."):
            call(targets, plain)
    with pytest.raises(TypeError, match="The slices of a batch need the batch's BatchKey, got None"):
        BatchSlices(plain, None)  # type: ignore[arg-type]
    assert BatchSlices(plain, BatchKey("training", 0, 0)).augment


def test_ids_without_key_are_rejected(tiny_hdf5: Path) -> None:
    loader, *_ = a_batch(tiny_hdf5)
    plain: Any = [(0, [1, 2])]
    for call in (loader.load_batch_streamlines, loader.fetcher("training").fetch):
        with pytest.raises(TypeError, match="A sampler must yield BatchIds, .* got an object of type list: BatchIds"):
            call(plain)


def test_slices_that_do_not_fit_the_streamlines_are_rejected(tiny_hdf5: Path) -> None:
    loader, targets, ids_per_subj = a_batch(tiny_hdf5)
    nb = len(targets)
    for call in (loader.model_batch, loader.load_batch_inputs):
        sentence = f"^ids_per_subj is for a batch of {nb} streamlines, but {nb - 3} were given: give all streamlines"
        with pytest.raises(ValueError, match=sentence):
            call(targets[3:], ids_per_subj)
    swapped = BatchSlices({0: slice(9, nb), 1: slice(0, 9)}, ids_per_subj.key)
    with pytest.raises(ValueError, match=r"^The slices of ids_per_subj must follow .* got \{0: slice\(9, \d+, None\)"):
        loader.load_batch_inputs(targets, swapped)


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (torch.tensor(1.0), r"a tensor of shape \(\)"),
        ((torch.zeros(4), 4), r"\(a tensor of shape \(4,\), 4\)"),
        (None, "None"),
    ],
)
def test_a_compute_loss_that_returns_something_else_is_named(tiny_hdf5: Path, result: Any, got: str) -> None:
    class Own:
        def compute_loss(self, outputs: Any, targets: Any, **options: Any) -> Any:
            return result

    loader, targets, ids_per_subj = a_batch(tiny_hdf5)
    with pytest.raises(TypeError, match=rf"^Own\.compute_loss must return \(mean_loss, n\), .* it returned {got}\.$"):
        loader.model_batch(targets, ids_per_subj).loss(Own(), None)


@pytest.mark.parametrize(
    ("cls", "given", "sentence"),
    [
        (DWIMLBatchLoaderOneInput, {"split_ration": 1}, "DWIMLBatchLoaderOneInput .* mean 'split_ratio'"),
        (DWIMLBatchIDSampler, {"batch_size": 1}, "DWIMLBatchIDSampler .* mean .*'batch_size_training'"),
        (MultiSubjectDataset, {"cachesize": 1}, "MultiSubjectDataset .* mean 'cache_size'"),
    ],
)
def test_misspelled_parameters_are_suggested(cls: Any, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        cls(*[None] * (4 if cls is DWIMLBatchLoaderOneInput else 2 if cls is DWIMLBatchIDSampler else 1), **given)


def test_a_loader_with_custom_inputs_gives_them_to_the_model(tiny_hdf5: Path) -> None:
    class Own(DWIMLBatchLoaderOneInput):
        def load_batch_inputs(self, streamlines: TensorSequence, ids_per_subj: BatchSlices) -> TensorSequence:
            inputs = super().load_batch_inputs(streamlines, ids_per_subj)
            return inputs.mapped(2 * inputs.data)

    loader, targets, ids_per_subj = a_batch(tiny_hdf5, "validation")
    own = Own(loader.dataset, loader.model, "input", "streamlines")
    doubled, plain = (each.model_batch(targets, ids_per_subj).inputs for each in (own, loader))
    assert doubled is not None
    assert plain is not None
    assert torch.equal(doubled.data, 2 * plain.data)
