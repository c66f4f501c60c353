"""Models that receive scanner space: the points of a batch, beside the conversion of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tests_support import AFFINE, write_hdf5, write_subject

from dwiml import AutoencoderModel, DWIMLBatchIDSampler, DWIMLStreamlinesBatchLoader, MultiSubjectDataset
from dwiml.models.protocols import check_tracks
from dwiml.ops.spaces import from_vox_corner

OTHER = np.array([[-1.0, 0, 0, 80], [0, 1.5, 0, -60], [0, 0, 2, 5], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def two_grids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training subjects on different grids: an oblique one, and one with flipped x axis."""
    path = write_hdf5(tmp_path_factory.mktemp("grids") / "data.hdf5", {"sub-a": 7, "sub-b": 5}, {"sub-c": 3})
    with h5py.File(path, "r+") as handle:
        del handle["sub-b"]
        write_subject(handle, "sub-b", np.random.default_rng(8), 5, affine=OTHER)
    return path


class AnyModel(AutoencoderModel):
    """Without a fixed number of points."""

    same_nb_points = False


def loader_of(path: Path, *, lazy: bool = False, space: str = "rasmm", **options: Any) -> Any:
    dataset = MultiSubjectDataset(path, lazy=lazy)
    dataset.load_data()
    model = AnyModel(nb_points=16, nb_channels=(2, 2), latent_size=2)
    model.streamlines_space = space
    loader = DWIMLStreamlinesBatchLoader(dataset, model, "streamlines", seed=1, **options)
    sampler = DWIMLBatchIDSampler(dataset, "streamlines", seed=1)
    sampler.set_position("training", 0)
    return loader, loader.load_batch_streamlines(next(iter(sampler)))


@pytest.mark.parametrize("lazy", [True, False])
def test_points_are_those_of_the_conversion_of_files(two_grids: Path, lazy: bool) -> None:
    loader, (targets, ids) = loader_of(two_grids, lazy=lazy)
    batch = loader.model_batch(targets, ids)
    assert len(ids) == 2
    for subject, rows in ids.items():
        affine = AFFINE if loader.dataset.training_set[subject].subject_id == "sub-a" else OTHER
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        expected = from_vox_corner(
            targets[rows].data.numpy(), space="rasmm", origin="center", affine=affine, voxel_sizes=sizes
        )
        for got in (batch.streamlines, batch.targets):
            np.testing.assert_allclose(got[rows].data.numpy(), expected, atol=3e-5)
    assert torch.equal(targets.lengths, batch.targets.lengths)


def test_half_precision_does_not_round_the_points(two_grids: Path) -> None:
    loader, (targets, ids) = loader_of(two_grids)
    exact = loader.model_batch(targets, ids).targets.data
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loader.model_batch(targets, ids).targets.data, exact)


def test_noise_is_that_of_voxel_space(two_grids: Path) -> None:
    options = {"noise_gaussian_size_forward": 0.3, "noise_gaussian_size_loss": 0.1}
    loader, (targets, ids) = loader_of(two_grids, **options)
    of_voxels, _ = loader_of(two_grids, space="vox", **options)
    got, noisy = loader.model_batch(targets, ids), of_voxels.model_batch(targets, ids)
    expected = loader._to_model_space(noisy.streamlines, ids)
    assert torch.equal(got.streamlines.data, expected.data)
    assert torch.equal(got.targets.data, loader._to_model_space(noisy.targets, ids).data)
    assert not torch.equal(got.streamlines.data, got.targets.data)


def test_an_empty_batch(two_grids: Path) -> None:
    loader, (targets, ids) = loader_of(two_grids)
    none = type(ids)({}, ids.key)
    assert len(loader.model_batch(targets[:0], none).targets) == 0


def test_an_unknown_space_is_refused(two_grids: Path) -> None:
    with pytest.raises(ValueError, match="streamlines_space of AnyModel must be 'vox' or 'rasmm', got 'voxmm'"):
        loader_of(two_grids, space="voxmm")


def test_streamlines_are_not_split_if_all_points_are_needed(two_grids: Path) -> None:
    dataset = MultiSubjectDataset(two_grids)
    dataset.load_data()
    model = AutoencoderModel(nb_points=16, nb_channels=(2, 2))
    with pytest.raises(ValueError, match="AutoencoderModel needs streamlines of 16 points, .*leave split_ratio at 0"):
        DWIMLStreamlinesBatchLoader(dataset, model, "streamlines", split_ratio=0.1)


def test_no_model_tracks_in_scanner_space() -> None:
    from dwiml import Learn2TrackModel

    model = Learn2TrackModel(nb_features=2, rnn_layer_sizes=[4])
    check_tracks(model, "Tracker")
    model.streamlines_space = "rasmm"
    with pytest.raises(ValueError, match="Learn2TrackModel receives scanner space"):
        check_tracks(model, "Tracker")
