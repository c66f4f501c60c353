from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from dipy.tracking.streamline import set_number_of_points
from scipy.ndimage import map_coordinates
from tests_support import NB_FEATURES, VOXEL_SIZES, write_hdf5

from dwiml import DWIMLBatchIDSampler, DWIMLBatchLoaderOneInput, Learn2TrackModel, MultiSubjectDataset, TensorSequence
from dwiml.batching.fetcher import BatchSlices
from dwiml.batching.sampler import BatchIds
from dwiml.ops.neighborhood import neighborhood_offsets
from dwiml.ops.randomness import BatchKey


def model(**kwargs: object) -> SimpleNamespace:
    values = {"step_size": None, "nb_points": None, "compress_lines": None, "nb_features": NB_FEATURES}
    return SimpleNamespace(**{**values, "neighborhood_offsets": None, **kwargs})


def dataset(path: Path, **kwargs: bool) -> MultiSubjectDataset:
    data = MultiSubjectDataset(path, **kwargs)  # type: ignore[arg-type]
    data.load_data()
    return data


def loader(data: MultiSubjectDataset, net: SimpleNamespace | None = None, **kwargs: object) -> DWIMLBatchLoaderOneInput:
    return DWIMLBatchLoaderOneInput(data, net or model(), "input", "streamlines", **{"seed": 3, **kwargs})


def batches(
    load: DWIMLBatchLoaderOneInput, phase: str = "training", nb_cpu_processes: int = 0, **kwargs: object
) -> list[tuple[TensorSequence, BatchSlices]]:
    sampler = DWIMLBatchIDSampler(load.dataset, "streamlines", batch_size_training=17, seed=2)
    sampler.set_position(phase, 1, **kwargs)  # type: ignore[arg-type]
    return list(load.data_loader(phase, sampler, nb_cpu_processes=nb_cpu_processes))


def originals(load: DWIMLBatchLoaderOneInput, phase: str = "training") -> list[list[torch.Tensor]]:
    """Return, for each batch, its original streamlines in the file."""
    sampler = DWIMLBatchIDSampler(load.dataset, "streamlines", batch_size_training=17, seed=2)
    sampler.set_position(phase, 1)
    subset = load.dataset.subset(phase)
    return [[line for s, ids in batch for line in subset[s].streamlines["streamlines"].get(ids)] for batch in sampler]


def test_without_resampling_points_are_those_of_the_file(tiny_hdf5: Path) -> None:
    load = loader(dataset(tiny_hdf5))
    for (got, slices), wanted in zip(batches(load), originals(load), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
        assert sum(own.stop - own.start for own in slices.values()) == len(got)
        assert got.data.dtype == torch.float32


def test_step_size_is_in_mm_on_anisotropic_voxels(tiny_hdf5: Path) -> None:
    load = loader(dataset(tiny_hdf5), model(step_size=1.25))
    for (got, _), wanted in zip(batches(load), originals(load), strict=True):
        for line, original in zip(got, wanted, strict=True):
            reference = set_number_of_points((original.numpy() * VOXEL_SIZES).astype(np.float32), len(line))
            assert np.abs(line.numpy() - reference / VOXEL_SIZES).max() < 1e-3
            length_mm = np.linalg.norm(np.diff(original.numpy() * VOXEL_SIZES, axis=0), axis=1).sum()
            assert len(line) == max(1, round(length_mm / 1.25)) + 1


def test_number_of_points_and_compression(tiny_hdf5: Path) -> None:
    data = dataset(tiny_hdf5)
    assert {len(line) for got, _ in batches(loader(data, model(nb_points=9))) for line in got} == {9}
    load = loader(data, model(compress_lines=0.2))
    for (got, _), wanted in zip(batches(load), originals(load), strict=True):
        assert got.total_points < sum(len(line) for line in wanted)


def test_augmentation_in_training_only(tiny_hdf5: Path) -> None:
    augmentation = {
        "split_ratio": 1.0,
        "reverse_ratio": 1.0,
        "noise_gaussian_size_forward": 0.3,
        "noise_gaussian_size_loss": 0.3,
    }
    load = loader(dataset(tiny_hdf5), **augmentation)
    for (got, slices), wanted in zip(batches(load, "validation"), originals(load, "validation"), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
        assert load.preparer().add_noise_forward(got, slices) is got
        assert load.preparer().add_noise_loss(got, slices) is got
    for (got, slices), wanted in zip(batches(load), originals(load), strict=True):
        assert len(got) == 2 * len(wanted)
        # The concatenated halves are all points, in reverse order.
        joined = torch.cat([torch.cat([got[2 * i], got[2 * i + 1]]).flip(0) for i in range(len(wanted))])
        assert torch.equal(joined, torch.cat(wanted))
        assert load.preparer().add_noise_forward(got, slices) is not got


def test_slices_follow_a_split(tiny_hdf5: Path) -> None:
    load = loader(dataset(tiny_hdf5), split_ratio=0.5)
    subset = load.dataset.training_set
    for got, slices in batches(load):
        for subject, own in slices.items():
            known = {tuple(p) for p in subset[subject].streamlines["streamlines"].get().data.tolist()}
            assert all(tuple(point) in known for line in got[own] for point in line.tolist())


def test_noise_is_truncated_and_keyed(tiny_hdf5: Path) -> None:
    load = loader(dataset(tiny_hdf5), noise_gaussian_size_forward=0.2, noise_gaussian_size_loss=0.2)
    lines = TensorSequence(torch.zeros(3000, 3), torch.tensor([1000, 2000]))

    def noise(epoch: int, batch: int) -> torch.Tensor:
        slices = BatchSlices({0: slice(0, 2)}, BatchKey("training", epoch, batch))
        return load.preparer().add_noise_forward(lines, slices).data

    assert noise(0, 0).abs().max() <= 0.4
    # Variance of a standard normal truncated at two sigma: 0.77374.
    assert float(noise(0, 0).var()) == pytest.approx(0.04 * 0.77374, rel=0.05)
    assert torch.equal(noise(0, 1), noise(0, 1))
    for other in (noise(0, 0), noise(1, 1)):
        assert not torch.equal(noise(0, 1), other)
    slices = BatchSlices({0: slice(0, 2)}, BatchKey("training", 0, 1))
    assert not torch.equal(noise(0, 1), load.preparer().add_noise_loss(lines, slices).data)


def test_correlated_noise_is_keyed_and_in_training_only(tiny_hdf5: Path) -> None:
    learns = Learn2TrackModel(nb_features=4, step_size=1.0)
    load = loader(dataset(tiny_hdf5), learns, noise_correlated_size=0.5, nb_recovery_steps=3)
    lines = TensorSequence(torch.zeros(3000, 3), torch.full((100,), 30))

    def slices(phase: str, batch: int = 1) -> BatchSlices:
        return BatchSlices({0: slice(0, 100)}, BatchKey(phase, 0, batch))

    seen = load.preparer().add_noise_forward(lines, slices("training"))
    assert float(seen.data.var()) == pytest.approx(0.25 * 4 / 3, rel=0.15)
    assert torch.equal(seen.data, load.preparer().add_noise_forward(lines, slices("training")).data)
    assert not torch.equal(seen.data, load.preparer().add_noise_forward(lines, slices("training", 2)).data)
    assert load.preparer().recovery_target(seen, slices("training")) == {"seen": seen, "nb_recovery_steps": 3}
    assert load.preparer().add_noise_forward(lines, slices("validation")) is lines
    assert load.preparer().recovery_target(lines, slices("validation")) == {}
    assert loader(dataset(tiny_hdf5)).preparer().recovery_target(lines, slices("training")) == {}


def test_correlated_noise_needs_a_model_that_learns_to_recover(tiny_hdf5: Path) -> None:
    class Own(Learn2TrackModel):
        def compute_loss(self, outputs: Any, targets: Any, average_results: bool = True) -> Any:  # type: ignore[override]
            return super().compute_loss(outputs, targets, average_results)

    own = Own(nb_features=4, step_size=1.0)
    with pytest.raises(ValueError, match="compute_loss of Own has no parameter 'seen': make it a subclass of"):
        loader(dataset(tiny_hdf5), own, noise_correlated_size=0.5)
    loader(dataset(tiny_hdf5), own)


def same_batches(
    some: list[tuple[TensorSequence, BatchSlices]], others: list[tuple[TensorSequence, BatchSlices]]
) -> None:
    assert len(some) == len(others) > 0
    for (a, slices_a), (b, slices_b) in zip(some, others, strict=True):
        assert torch.equal(a.data, b.data)
        assert torch.equal(a.lengths, b.lengths)
        assert slices_a == slices_b
        assert slices_a.key == slices_b.key
        assert slices_a.data_per_streamline.keys() == slices_b.data_per_streamline.keys() == {"id"}
        assert torch.equal(slices_a.data_per_streamline["id"], slices_b.data_per_streamline["id"])


# torch warns about more workers than cores.
@pytest.mark.first(8)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize(
    ("nb_cpu_processes", "start_method"),
    [
        (0, None),
        (1, "fork"),
        (2, "fork"),
        (4, "fork"),
        (2, "spawn"),
        pytest.param(1, "spawn", marks=pytest.mark.slow),
        pytest.param(4, "spawn", marks=pytest.mark.slow),
        pytest.param(2, "forkserver", marks=pytest.mark.slow),
    ],
)
def test_batches_do_not_depend_on_how_they_are_loaded(
    tiny_hdf5: Path, lazy: bool, nb_cpu_processes: int, start_method: str | None
) -> None:
    settings = {"split_ratio": 0.4, "reverse_ratio": 0.5}
    reference = batches(loader(dataset(tiny_hdf5), model(step_size=1.0), **settings))
    load = loader(dataset(tiny_hdf5, lazy=lazy), model(step_size=1.0), **settings)
    sampler = DWIMLBatchIDSampler(load.dataset, "streamlines", batch_size_training=17, seed=2)
    data = load.data_loader("training", sampler, nb_cpu_processes=nb_cpu_processes, start_method=start_method)
    sampler.set_position("training", 1)
    same_batches(list(data), reference)
    # From the middle of the epoch, as after a resume; with the same workers.
    sampler.set_position("training", 1, first_batch=2)
    same_batches(list(data), reference[2:])


@pytest.mark.parametrize("nb_ranks", [2, 3, 20])
def test_ranks_together_load_the_batches_of_one_process(tiny_hdf5: Path, nb_ranks: int) -> None:
    load = loader(dataset(tiny_hdf5), model(step_size=1.0), split_ratio=0.4, reverse_ratio=0.5)
    sampler = DWIMLBatchIDSampler(load.dataset, "streamlines", batch_size_training=17, seed=2)
    whole = list(load.data_loader("training", sampler))
    shares = []
    for rank in range(nb_ranks):
        sampler.set_rank(rank, nb_ranks)
        shares.append(list(load.data_loader("training", sampler)))
    for index, (streamlines, slices) in enumerate(whole):
        of_ranks = [ranks[index] for ranks in shares]
        assert torch.cat([lines.lengths for lines, _ in of_ranks]).tolist() == streamlines.lengths.tolist()
        assert torch.allclose(torch.cat([lines.data for lines, _ in of_ranks]), streamlines.data, atol=1e-5)
        ids = [own.data_per_streamline["id"] for _, own in of_ranks if len(own)]
        assert torch.equal(torch.cat(ids), slices.data_per_streamline["id"])
        for lines, own in of_ranks:
            assert load.load_batch_inputs(lines, own).total_points == lines.total_points
    if nb_ranks == 20:
        # More processes than streamlines: some shares are empty.
        assert min(len(lines) for lines, _ in (ranks[0] for ranks in shares)) == 0


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_data_per_streamline_stay_with_their_streamline(tiny_hdf5: Path, lazy: bool) -> None:
    load = loader(dataset(tiny_hdf5, lazy=lazy), split_ratio=0.6, reverse_ratio=0.5)
    for got, slices in batches(load):
        ids = slices.data_per_streamline["id"]
        assert ids.shape == (len(got), 1)
        assert ids.dtype == torch.float32
        for subject, own in slices.items():
            streamlines = load.dataset.training_set[subject].streamlines["streamlines"]
            for line, of_file in zip(got[own], ids[own, 0].long().tolist(), strict=True):
                known = {tuple(point) for point in streamlines.get(of_file).data.tolist()}
                assert {tuple(point) for point in line.tolist()} <= known


def test_data_per_streamline_missing_in_a_subject_are_excluded(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 5, "sub-b": 6})
    with h5py.File(path, "r+") as handle:
        for subject, columns in (("sub-a", 2), ("sub-b", 3)):
            group = handle[subject]["streamlines"]["data_per_streamline"]
            group["of_other_size"] = np.zeros((len(group["id"]), columns), dtype=np.float32)
        handle["sub-b/streamlines/data_per_streamline/of_one"] = np.zeros((6, 1), dtype=np.float32)
    (_, slices), *_ = batches(loader(dataset(path)))
    assert slices.data_per_streamline.keys() == {"id"}


def test_subjects_without_streamlines_do_not_affect_data_per_streamline(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 0, "sub-b": 9, "sub-c": 0})
    with h5py.File(path, "r+") as handle:
        handle["sub-b/streamlines/data_per_streamline/wide"] = np.arange(27, dtype=np.float32).reshape(9, 3)
        handle["sub-b/streamlines/data_per_streamline/flat"] = np.arange(9)
        del handle["sub-c/streamlines/data_per_streamline"]
    load = loader(dataset(path))
    (_, slices), *_ = batches(load)
    assert {key: rows.shape for key, rows in slices.data_per_streamline.items()} == {
        "id": (9, 1),
        "wide": (9, 3),
        "flat": (9, 1),
    }
    sampler = DWIMLBatchIDSampler(load.dataset, "streamlines", seed=2)
    sampler.set_rank(0, 50)
    (_, empty), *_ = load.data_loader("training", sampler)
    assert {key: rows.shape for key, rows in empty.data_per_streamline.items()} == {
        "id": (0, 1),
        "wide": (0, 3),
        "flat": (0, 1),
    }


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_text_per_streamline_is_excluded_with_a_warning(
    tmp_path: Path, lazy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 3})
    with h5py.File(path, "r+") as handle:
        group = handle["sub-a/streamlines/data_per_streamline"]
        group.create_dataset("bundle", data=["AF", "CST", "CC"], dtype=h5py.string_dtype())
        group["code"] = np.array([b"AF", b"CST", b"CC"])
    (_, slices), *_ = batches(loader(dataset(path, lazy=lazy)))
    assert slices.data_per_streamline.keys() == {"id"}
    assert "'bundle' of the streamlines group 'streamlines' of subject 'sub-a' is ignored" in caplog.text
    assert "'code'" in caplog.text


@pytest.mark.parametrize("nb_cpu_processes", [0, 2])
def test_the_position_is_fixed_when_an_iteration_starts(tiny_hdf5: Path, nb_cpu_processes: int) -> None:
    load = loader(dataset(tiny_hdf5))
    sampler = DWIMLBatchIDSampler(load.dataset, "streamlines", batch_size_training=17, seed=2)
    loaders = {
        phase: load.data_loader(phase, sampler, nb_cpu_processes=nb_cpu_processes)
        for phase in ("training", "validation")
    }
    iterations = {}
    for phase, data in loaders.items():
        sampler.set_position(phase, 1)
        iterations[phase] = iter(data)
    sampler.set_rank(1, 2)
    for phase, iteration in iterations.items():
        streamlines, slices = next(iteration)
        assert slices.key == BatchKey(phase, 1, 0)
        assert len(streamlines) == min(17, load.dataset.subset(phase).total_nb_streamlines["streamlines"])


def test_batches_of_another_set_are_rejected(tiny_hdf5: Path) -> None:
    load = loader(dataset(tiny_hdf5))
    sampler = DWIMLBatchIDSampler(load.dataset, "streamlines", seed=2)
    with pytest.raises(ValueError, match="The fetcher of the validation set got a batch of the training set: call"):
        next(iter(load.data_loader("validation", sampler)))
    for wrong in ({"epoch": -1}, {"first_batch": -1}, {"max_batches": 1.5}):
        with pytest.raises(ValueError, match="must be a whole number of at least 0"):
            sampler.set_position("training", **{"epoch": 0, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("subject", [-1, 3, 10**30, np.int64(3), 0.0, 1.0, True, "sub-1", None, ()])
def test_a_subject_that_does_not_exist_is_one_sentence(tiny_hdf5: Path, subject: Any) -> None:
    load = loader(dataset(tiny_hdf5), model(forward_uses_last_point=True))
    assert len(load.dataset.training_set) == 3
    if isinstance(subject, int | np.integer) and not isinstance(subject, bool):
        error: type[Exception] = IndexError
        sentence = r"^Subject -?\d* of a batch does not exist: the training set has 3 subjects, numbered from 0\.$"
    else:
        error = TypeError
        sentence = r"^A subject of a batch must be a whole number, its index in the training set, got .*\.$"
    ids, key = np.arange(3), BatchKey("training", 0, 0)
    with pytest.raises(error, match=sentence):
        load.load_batch_streamlines(BatchIds([(0, ids), (subject, ids)], key))
    streamlines, _ = load.load_batch_streamlines(BatchIds([(np.int64(1), ids)], key))
    slices = BatchSlices({subject: slice(0, 3)}, key)
    for read in (load.load_batch_inputs, load.model_batch):
        with pytest.raises(error, match=sentence):
            read(streamlines, slices)


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_a_streamline_that_does_not_exist_is_one_sentence(tiny_hdf5: Path, lazy: bool) -> None:
    load, key = loader(dataset(tiny_hdf5, lazy=lazy)), BatchKey("training", 0, 0)
    first = load.dataset.training_set[0]
    streamlines = first.streamlines["streamlines"]
    nb, largest = len(streamlines), np.iinfo(np.uint64).max
    for ids, wrong in (([nb], nb), ([0, -1], -1), ([-1, 0], -1), (np.array([largest]), largest)):
        sentence = (
            rf"^Streamline {wrong} of a batch does not exist: subject '{first.subject_id}' of the training set has "
            rf"{nb} streamlines, numbered from 0\.$"
        )
        with pytest.raises(IndexError, match=sentence):
            load.load_batch_streamlines(BatchIds([(0, ids)], key))  # type: ignore[list-item]
    # The streamlines of a subject are indexed as an array is.
    assert torch.equal(streamlines.get([-1]).data, streamlines.get([nb - 1]).data)
    with pytest.raises(IndexError, match=f"^Streamline {largest} is out of range"):
        streamlines.get(np.array([largest]))


def test_ids_of_a_batch_that_are_not_ids_are_one_sentence(tiny_hdf5: Path) -> None:
    load, key = loader(dataset(tiny_hdf5)), BatchKey("training", 0, 0)
    nb = len(load.dataset.training_set[0].streamlines["streamlines"])
    for ids in (0, slice(2), None, np.ones(nb, dtype=bool), [0.5], [[0, 1]], [[0], [1, 2]]):
        with pytest.raises(TypeError, match=r"^An item of BatchIds must be \(subject index, ids\), with a one-dim"):
            load.load_batch_streamlines(BatchIds([(0, ids)], key))  # type: ignore[list-item]
    with pytest.raises(TypeError, match="^An item of BatchIds must be"):
        load.load_batch_streamlines(BatchIds([0], key))  # type: ignore[list-item]
    with pytest.raises(
        ValueError, match=r"^A subject must be in a batch once, with all its ids; got the subjects \[0, 0\]"
    ):
        load.load_batch_streamlines(BatchIds([(0, np.arange(2)), (np.int64(0), np.arange(2, 4))], key))
    with pytest.raises(ValueError, match=r"^phase must be one of \('training', .*\), got 'train'\.$"):
        load.load_batch_streamlines(BatchIds([(0, np.arange(2))], BatchKey("train", 0, 0)))


@pytest.mark.parametrize("own", [3, None, slice(None, 3), slice(0, None), slice(0, 3, 2), slice(0.0, 3.0)])
def test_slices_of_a_batch_that_are_not_slices_are_one_sentence(tiny_hdf5: Path, own: Any) -> None:
    load, key = loader(dataset(tiny_hdf5)), BatchKey("training", 0, 0)
    streamlines, _ = load.load_batch_streamlines(BatchIds([(0, np.arange(3))], key))
    with pytest.raises(ValueError, match="^The slices of ids_per_subj must follow each other without gap, starting at"):
        load.load_batch_inputs(streamlines, BatchSlices({0: own}, key))


def test_workers_receive_no_volume(tiny_hdf5: Path) -> None:
    load = loader(dataset(tiny_hdf5))
    points = sum(s.streamlines["streamlines"].gather()[0].nbytes for s in load.dataset.training_set)
    volumes = sum(s.volumes["input"].as_tensor().numpy().nbytes for s in load.dataset.training_set)
    assert len(pickle.dumps(load.fetcher("training"))) < points + volumes / 2


def test_drawn_augmentation_is_returned_and_can_be_reapplied(tiny_hdf5: Path) -> None:
    load = loader(dataset(tiny_hdf5), model(step_size=1.0), split_ratio=0.4, reverse_ratio=0.5)
    ids = next(iter(DWIMLBatchIDSampler(load.dataset, "streamlines", batch_size_training=17, seed=2)))
    streamlines, slices = load.load_batch_streamlines(ids)
    assert slices.drawn is not None
    assert len(slices.drawn) == 17
    # Another loader, with other ratios and another seed.
    other = loader(load.dataset, load.model, seed=99)
    plain, plain_slices = other.load_batch_streamlines(ids)
    assert plain_slices.drawn is None
    assert len(plain) == 17
    again, again_slices = other.load_batch_streamlines(ids, slices.drawn)
    same_batches([(again, again_slices)], [(streamlines, slices)])
    with pytest.raises(ValueError, match="drawn for 5 streamlines, the batch has 17"):
        load.load_batch_streamlines(ids, slices.drawn[:5])


@pytest.mark.parametrize(("volume_dtype", "tolerance"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_volumes_in_half_precision(tiny_hdf5: Path, volume_dtype: str, tolerance: float) -> None:
    load = loader(dataset(tiny_hdf5), volume_dtype=volume_dtype)
    assert load.params["volume_dtype"] == volume_dtype
    streamlines, slices = batches(load)[0]
    inputs = load.load_batch_inputs(streamlines, slices)
    expected = loader(load.dataset).load_batch_inputs(streamlines, slices)
    assert inputs.data.dtype == torch.float32
    assert 0 < (inputs.data - expected.data).abs().max() < tolerance
    assert {volume.dtype for _, volume in load.volumes._cache.values()} == {getattr(torch, volume_dtype)}


def test_values_out_of_range_of_half_precision_are_rejected(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 5})
    with h5py.File(path, "r+") as handle:
        handle["sub-a/input/data"][0, 0, 0, 0] = 70_000
    load = loader(dataset(path), volume_dtype="float16")
    streamlines, slices = batches(load)[0]
    with pytest.raises(ValueError, match=r"'sub-a'.*values up to 7e\+04, which float16 cannot represent"):
        load.load_batch_inputs(streamlines, slices)
    with pytest.raises(ValueError, match="volume_dtype must be one of float32, float16, bfloat16, got 'half'"):
        loader(load.dataset, volume_dtype="half")


def test_augmentation_differs_between_epochs(tiny_hdf5: Path) -> None:
    load = loader(dataset(tiny_hdf5), split_ratio=0.5)
    ids = DWIMLBatchIDSampler(load.dataset, "streamlines", seed=2)
    lengths = []
    for epoch in (0, 1):
        batch = next(iter(ids))
        batch.key = BatchKey("training", epoch, 0)
        lengths.append(load.load_batch_streamlines(batch)[0].lengths.tolist())
    assert lengths[0] != lengths[1]


@pytest.mark.parametrize("lazy", [False, True])
def test_inputs_equal_scipys(tiny_hdf5: Path, lazy: bool) -> None:
    load = loader(dataset(tiny_hdf5, lazy=lazy))
    for streamlines, slices in batches(load):
        assert len(slices) > 1
        inputs = load.load_batch_inputs(streamlines, slices)
        assert inputs.lengths.tolist() == streamlines.lengths.tolist()
        for subject, own in slices.items():
            volume = load.dataset.training_set[subject].volumes["input"].as_tensor().numpy()
            coords = streamlines[own].data.numpy().T.astype(np.float64) - 0.5
            for feature in range(NB_FEATURES):
                expected = map_coordinates(volume[..., feature].astype(np.float64), coords, order=1, mode="nearest")
                assert np.abs(inputs[own].data[:, feature].numpy() - expected).max() < 1e-5


def test_a_model_without_neighborhood_offsets_is_told_what_to_do(tiny_hdf5: Path) -> None:
    net = model()
    del net.neighborhood_offsets
    sentence = (
        "SimpleNamespace has no attribute 'neighborhood_offsets': make it a subclass of ModelWithOneInput, or set it "
        "to None if the model reads the volume at the points only."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        loader(dataset(tiny_hdf5), net)


def test_neighborhood_columns(tiny_hdf5: Path) -> None:
    offsets = neighborhood_offsets("axes", 1, 0.8)
    load = loader(dataset(tiny_hdf5), model(neighborhood_offsets=offsets))
    streamlines, slices = batches(load)[0]
    inputs = load.load_batch_inputs(streamlines, slices)
    assert inputs.data.shape[1] == 7 * NB_FEATURES
    plain = loader(load.dataset)
    for place, offset in enumerate(offsets):
        moved = plain.load_batch_inputs(streamlines.mapped(streamlines.data + offset), slices)
        columns = inputs.data[:, place * NB_FEATURES : (place + 1) * NB_FEATURES]
        assert torch.allclose(columns, moved.data, atol=1e-5)


def test_volumes_of_a_batch_stay_in_the_cache(tiny_hdf5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Three subjects per batch and cache_size=1 must not read the disk at every batch.
    load = loader(dataset(tiny_hdf5, lazy=True))
    reads = []
    for subject in load.dataset.training_set:
        volume = subject.volumes["input"]
        monkeypatch.setattr(
            volume, "as_tensor", lambda volume=volume: (reads.append(volume), type(volume).as_tensor(volume))[1]
        )
    for _ in range(3):
        for streamlines, slices in batches(load):
            load.load_batch_inputs(streamlines, slices)
    assert len(reads) == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"split_ratio": 1.2}, "split_ratio must be a number from 0 to 1, got 1.2"),
        ({"reverse_ratio": -0.1}, "reverse_ratio must be a number from 0 to 1"),
        ({"noise_gaussian_size_forward": -1}, "noise_gaussian_size_forward must be a number from 0 to 100"),
        ({"noise_gaussian_size_loss": float("nan")}, "noise_gaussian_size_loss must be a number"),
        ({"split_ratio": "0.5"}, "split_ratio must be a number from 0 to 1, got '0.5'"),
        ({"reverse_ratio": None}, "reverse_ratio must be a number from 0 to 1, got None"),
        ({"noise_gaussian_size_loss": True}, "noise_gaussian_size_loss must be a number from 0 to 100, got True"),
        ({"noise_correlated_size": -0.1}, "noise_correlated_size must be a number from 0 to 100"),
        ({"noise_correlated_nb_points": 0}, "noise_correlated_nb_points must be"),
        ({"nb_recovery_steps": 0.5}, "nb_recovery_steps must be"),
        ({"seed": -1}, "seed must be an integer"),
    ],
)
def test_bad_arguments(tiny_hdf5: Path, arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        loader(dataset(tiny_hdf5), **arguments)


def test_model_and_volume_must_fit(tiny_hdf5: Path) -> None:
    data = dataset(tiny_hdf5)
    with pytest.raises(ValueError, match="expects nb_features=9, but volume group 'input' has 4 features"):
        loader(data, model(nb_features=9))
    with pytest.raises(ValueError, match="Volume group 'dwi' not found .*; it has: 'input', 'wm_mask'"):
        DWIMLBatchLoaderOneInput(data, model(), "dwi", "streamlines")
    net = model()
    del net.nb_features
    with pytest.raises(ValueError, match="takes no volume as input"):
        loader(data, net)


def test_another_affine_is_rejected(tiny_hdf5: Path, tmp_path: Path) -> None:
    path = tmp_path / "moved.hdf5"
    path.write_bytes(tiny_hdf5.read_bytes())
    with h5py.File(path, "a") as handle:
        attributes = handle["sub-b/input"].attrs
        attributes["affine"] = attributes["affine"] + np.array([0, 0, 0, 5.0])
    with pytest.raises(ValueError, match="Subject 'sub-b': volume group 'input' and streamlines group .* different"):
        loader(dataset(path))


def test_an_affine_rounded_by_a_header_is_accepted(tiny_hdf5: Path, tmp_path: Path) -> None:
    """Creation, tracking and scoring accept a difference of 0.02 voxel at the farthest corner."""
    path = tmp_path / "rounded.hdf5"
    path.write_bytes(tiny_hdf5.read_bytes())
    with h5py.File(path, "a") as handle:
        attributes = handle["sub-b/input"].attrs
        attributes["affine"] = attributes["affine"] + 0.02 * np.array([0, 0, 0, 1])[None] * [[1], [0], [0], [0]]
    loader(dataset(path))


def test_another_grid_is_rejected(tiny_hdf5: Path, tmp_path: Path) -> None:
    path = tmp_path / "cropped.hdf5"
    path.write_bytes(tiny_hdf5.read_bytes())
    with h5py.File(path, "a") as handle:
        handle["sub-b/streamlines"].attrs["dimensions"] = (3, 4, 5)
    with pytest.raises(ValueError, match=r"Subject 'sub-b': volume group 'input' and .* shapes, .* \(3, 4, 5\) voxels"):
        loader(dataset(path))
    with h5py.File(path, "a") as handle:
        handle["sub-b/streamlines"].attrs["dimensions"] = (0, 0, 0)
    loader(dataset(path))


def test_groups_that_were_not_loaded(tiny_hdf5: Path) -> None:
    data = MultiSubjectDataset(tiny_hdf5)
    for arguments, named in (({"streamline_groups": []}, "'streamlines'"), ({"volume_groups": "wm_mask"}, "'input'")):
        data.load_data(**arguments)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=rf"group {named} was not loaded; give it to dataset.load_data\(\)"):
            loader(data)


def test_wrong_types_of_dataset_and_model(tiny_hdf5: Path) -> None:
    with pytest.raises(TypeError, match=r"needs a MultiSubjectDataset .* got .*tiny\.hdf5"):
        loader(tiny_hdf5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="needs a model with an attribute .*, got the class Learn2TrackModel"):
        loader(dataset(tiny_hdf5), Learn2TrackModel)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="needs a model with an attribute .*, got an object of type str"):
        loader(dataset(tiny_hdf5), "model")  # type: ignore[arg-type]


def test_reloading_clears_the_volume_cache(tiny_hdf5: Path) -> None:
    data = dataset(tiny_hdf5)
    load = loader(data)
    device = torch.device("cpu")
    load.volumes._volume("training", 0, device, at_least=3)
    data.load_data(subj_id="sub-b")
    again = load.volumes._volume("training", 0, device, at_least=3)
    assert torch.equal(again, data.training_set[0].volumes["input"].as_tensor())
    assert len(load.volumes._cache) == 1


@pytest.mark.parametrize("net", [model(), model(step_size=1.0)], ids=["as it is", "step_size"])
def test_lazy_nan_coordinates_are_named(tiny_hdf5: Path, tmp_path: Path, net: SimpleNamespace) -> None:
    path = tmp_path / "nan.hdf5"
    path.write_bytes(tiny_hdf5.read_bytes())
    with h5py.File(path, "a") as handle:
        group = handle["sub-b/streamlines"]
        group["data"][int(group["offsets"][4]) + 1, 2] = np.nan
    with pytest.raises(ValueError, match=r"Streamline 4 of the .*'streamlines' of subject 'sub-b' holds NaN"):
        batches(loader(dataset(path, lazy=True), net))


MANY_STREAMLINES_FEW_FILES = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from test_loader import batches, dataset, loader
resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
load = loader(dataset(sys.argv[1]))
held = [streamlines for streamlines, _ in batches(load, nb_cpu_processes=2)]
print(sum(map(len, held)))
"""


@pytest.mark.slow
def test_a_batch_opens_no_file_per_streamline(tmp_path: Path) -> None:
    # One descriptor per streamline would fail with "Too many open files".
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 90}, {"sub-b": 1})
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, "-c", MANY_STREAMLINES_FEW_FILES, str(path), str(here.parent)],
        env={**os.environ, "PYTHONPATH": str(here.parents[1] / "support")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "90", done.stderr


def test_workers_receive_no_model_and_no_open_file(tiny_hdf5: Path) -> None:
    load = loader(dataset(tiny_hdf5, lazy=True), model(step_size=1.0, weights=lambda: None), split_ratio=0.5)
    # The lambda in the model could not be pickled.
    fetcher = pickle.loads(pickle.dumps(load.fetcher("training")))
    ids = next(iter(DWIMLBatchIDSampler(load.dataset, "streamlines", seed=2)))
    assert torch.equal(fetcher[ids][0].data, load.load_batch_streamlines(ids)[0].data)
