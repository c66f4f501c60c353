"""What any way of reading must give: run on eager data, on a memory map, and on a chunked and compressed file."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dwiml import MultiSubjectDataset
from dwiml.data.dataset import SubjectData


@pytest.fixture(scope="module")
def chunked_hdf5(tiny_hdf5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny file's content, chunked and compressed, in float64."""
    path = tmp_path_factory.mktemp("chunked") / "chunked.hdf5"
    with h5py.File(tiny_hdf5) as source, h5py.File(path, "w") as target:
        target.attrs.update(source.attrs)
        for name, subject in source.items():
            for group in subject:
                source.copy(subject[group], target.require_group(name))
                node = target[name][group]
                values = node["data"][()].astype(np.float64)
                del node["data"]
                node.create_dataset("data", data=values, compression="gzip", chunks=True)
    return path


@pytest.fixture(params=["eager", "mapped", "chunked"], scope="module")
def subject(request: pytest.FixtureRequest, tiny_hdf5: Path, chunked_hdf5: Path) -> SubjectData:
    dataset = MultiSubjectDataset(
        chunked_hdf5 if request.param == "chunked" else tiny_hdf5, lazy=request.param != "eager"
    )
    dataset.load_data()
    subject: SubjectData = dataset.training_set[1]
    assert subject.streamlines["streamlines"]._points.is_mapped == (request.param == "mapped")
    return subject


@pytest.fixture(scope="module")
def truth(tiny_hdf5: Path) -> list[np.ndarray]:
    with h5py.File(tiny_hdf5) as handle:
        group = handle["sub-b/streamlines"]
        points, offsets, lengths = (group[name][()] for name in ("data", "offsets", "lengths"))
    return [points[start : start + length] for start, length in zip(offsets, lengths, strict=True)]


IDS = {
    "all": None,
    "empty": np.array([], dtype=np.int64),
    "one": 3,
    "negative": -1,
    "many": [0, 4, 5],
    "unsorted, repeated": np.array([7, 2, 7, 0]),
    "slice": slice(3, 9, 2),
    "empty slice": slice(5, 5),
    "past the end": slice(15, 400),
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
def test_gathers_any_ids(subject: SubjectData, truth: list[np.ndarray], ids: object) -> None:
    streamlines = subject.streamlines["streamlines"]
    if ids is None or isinstance(ids, slice):
        wanted = truth[ids or slice(None)]
    else:
        wanted = [truth[i] for i in np.atleast_1d(ids)]  # type: ignore[arg-type]
    got = streamlines.get(ids)  # type: ignore[arg-type]
    assert got.data.dtype == torch.float32
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert np.array_equal(a.numpy(), b)


@pytest.mark.parametrize("ids", [IDS["empty"], IDS["unsorted, repeated"], 3], ids=["empty", "unsorted", "one"])
def test_data_per_streamline_follows_the_ids(subject: SubjectData, ids: object) -> None:
    got = subject.streamlines["streamlines"].gather_data_per_streamline("id", ids)  # type: ignore[arg-type]
    assert got[:, 0].tolist() == np.atleast_1d(ids).tolist()  # type: ignore[arg-type]


def test_unknown_data_per_streamline_is_named(subject: SubjectData) -> None:
    with pytest.raises(KeyError, match="'weight' not found in .* 'sub-b'; it has: 'id'"):
        subject.streamlines["streamlines"].gather_data_per_streamline("weight")


def test_id_out_of_range(subject: SubjectData) -> None:
    with pytest.raises(IndexError, match="Streamline 20 is out of range"):
        subject.streamlines["streamlines"].get(20)


def test_lengths_are_mm_along_the_curve(subject: SubjectData, truth: list[np.ndarray]) -> None:
    streamlines = subject.streamlines["streamlines"]
    sizes = np.linalg.norm(streamlines.affine[:3, :3], axis=0)
    expected = [np.linalg.norm(np.diff(line, axis=0) * sizes, axis=1).sum() for line in truth]
    assert streamlines.lengths_mm == pytest.approx(expected, rel=1e-5)
    assert streamlines.lengths.tolist() == [len(line) for line in truth]


def test_volume(subject: SubjectData, tiny_hdf5: Path) -> None:
    volume = subject.volumes["input"]
    with h5py.File(tiny_hdf5) as handle:
        expected = handle["sub-b/input/data"][()]
    assert volume.as_tensor().dtype == torch.float32
    assert np.array_equal(volume.as_tensor().numpy(), expected)
    assert volume.nb_features == 4
    assert volume.voxel_sizes == pytest.approx([1.5, 2.0, 2.5])


def test_what_is_read_can_be_changed_without_harm(subject: SubjectData) -> None:
    streamlines = subject.streamlines["streamlines"]
    first = streamlines.get(0)
    before = first.data.clone()
    first.data += 1
    assert torch.equal(streamlines.get(0).data, before)


def test_reads_the_same_after_pickling(subject: SubjectData) -> None:
    subject.streamlines["streamlines"].get(0)  # opens a handle, where there is one
    again: SubjectData = pickle.loads(pickle.dumps(subject))
    for ids in (None, [5, 1]):
        assert torch.equal(
            again.streamlines["streamlines"].get(ids).data, subject.streamlines["streamlines"].get(ids).data
        )
    assert torch.equal(again.volumes["input"].as_tensor(), subject.volumes["input"].as_tensor())
