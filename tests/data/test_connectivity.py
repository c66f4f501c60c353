"""Connectivity read from the HDF5 file, held against loops over a dense matrix."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tests_support import SHAPE, write_hdf5

from dwiml import MultiSubjectDataset
from dwiml.data.connectivity import Connectivity, read_connectivity
from dwiml.data.streamlines import SubjectStreamlines
from dwiml.ops.connectivity_matrix import connection_status
from dwiml.ops.regions import BlocRegions, LabelRegions

# Unlike along each axis: [x, y, y] for [x, y, z] is seen.
BLOCS = (4, 3, 2)
LABELS = (3, 7, 40, 1005)


def random_matrix(nb_regions: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    matrix = np.triu(rng.integers(1, 9, (nb_regions, nb_regions)) * (rng.uniform(size=(nb_regions, nb_regions)) < 0.3))
    return matrix + np.triu(matrix, 1).T


def label_volume() -> np.ndarray:
    return np.random.default_rng(0).choice([0, *LABELS], SHAPE).astype(np.int32)


def write_matrix(path: Path, matrix: Any, subject: str = "sub-a", **kinds: Any) -> Path:
    with h5py.File(path, "a") as handle:
        group = handle[f"{subject}/streamlines"]
        group.create_dataset("connectivity_matrix", data=matrix, compression="gzip")
        labels = kinds.pop("connectivity_label_volume", None)
        if labels is not None:
            group["connectivity_label_volume"] = labels
        group.attrs.update(kinds)
    return path


@pytest.fixture
def blocs_hdf5(tmp_path: Path) -> Path:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 40, "sub-b": 4})
    return write_matrix(
        path, random_matrix(24), connectivity_matrix_type="from_blocs", connectivity_nb_blocs=np.array(BLOCS)
    )


@pytest.fixture
def labels_hdf5(tmp_path: Path) -> Path:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 40, "sub-b": 4})
    return write_matrix(
        path, random_matrix(4), connectivity_matrix_type="from_labels", connectivity_label_volume=label_volume()
    )


def streamlines_of(path: Path, lazy: bool, subject: int = 0) -> SubjectStreamlines:
    dataset = MultiSubjectDataset(path, lazy=lazy)
    dataset.load_data()
    streamlines: SubjectStreamlines = dataset.training_set[subject].streamlines["streamlines"]
    return streamlines


def ends_of(streamlines: SubjectStreamlines) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of all streamlines, and of three more that begin outside the volume."""
    points, lengths = streamlines.gather()
    after = np.cumsum(lengths)
    # A bare lookup would take label -1 from the other side, or fail.
    outside = np.array([[-0.5, 2, 2], [5, SHAPE[1] + 0.5, 2], [5, 5, SHAPE[2]]], dtype=np.float32)
    return np.concatenate([points[after - lengths], outside]), np.concatenate([points[after - 1], points[:3]])


def bloc_of(point: np.ndarray) -> int | None:
    if (point < 0).any() or (point >= SHAPE).any():
        return None
    i, j, k = (int(value * nb / size) for value, nb, size in zip(point.astype(float), BLOCS, SHAPE, strict=True))
    return int(np.arange(24).reshape(BLOCS)[i, j, k])


def label_of(point: np.ndarray) -> int | None:
    if (point < 0).any() or (point >= SHAPE).any():
        return None
    label = label_volume()[tuple(int(value) for value in point)]
    return LABELS.index(label) if label else None


def status_by_loop(ends: tuple[np.ndarray, np.ndarray], region_of: Any, matrix: np.ndarray) -> list[int]:
    status = []
    for first, last in zip(*ends, strict=True):
        a, b = region_of(first), region_of(last)
        status.append(-1 if a is None or b is None else int(matrix[a, b] > 0))
    return status


@pytest.mark.parametrize("lazy", [False, True])
def test_blocs(blocs_hdf5: Path, lazy: bool) -> None:
    streamlines = streamlines_of(blocs_hdf5, lazy)
    assert streamlines.has_connectivity
    found = streamlines.connectivity
    assert found is not None
    assert found.regions == BlocRegions(SHAPE, BLOCS)
    assert np.array_equal(found.connections.to_dense(), random_matrix(24))
    ends = ends_of(streamlines)
    expected = status_by_loop(ends, bloc_of, random_matrix(24))
    assert connection_status(*ends, found.regions, found.connections).tolist() == expected
    assert set(expected) == {-1, 0, 1}
    assert expected[-3:] == [-1, -1, -1]


@pytest.mark.parametrize("lazy", [False, True])
def test_labels(labels_hdf5: Path, lazy: bool) -> None:
    streamlines = streamlines_of(labels_hdf5, lazy)
    found = streamlines.connectivity
    assert found is not None
    assert isinstance(found.regions, LabelRegions)
    assert found.regions.values.tolist() == list(LABELS)
    assert np.array_equal(found.connections.to_dense(), random_matrix(4))
    ends = ends_of(streamlines)
    expected = status_by_loop(ends, label_of, random_matrix(4))
    assert connection_status(*ends, found.regions, found.connections).tolist() == expected
    assert set(expected) == {-1, 0, 1}
    assert expected[-3:] == [-1, -1, -1]


@pytest.mark.parametrize("lazy", [False, True])
def test_no_matrix_is_none(blocs_hdf5: Path, lazy: bool) -> None:
    streamlines = streamlines_of(blocs_hdf5, lazy, subject=1)
    assert not streamlines.has_connectivity
    # Nothing is opened to find out.
    blocs_hdf5.unlink()
    assert streamlines.connectivity is None


@pytest.mark.parametrize("lazy", [False, True])
def test_read_once_when_it_is_asked_for_and_again_after_pickling(
    blocs_hdf5: Path, lazy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    def counted(*place: Any) -> Connectivity | None:
        reads.append(place)
        return read_connectivity(*place)

    monkeypatch.setattr("dwiml.data.streamlines.read_connectivity", counted)
    streamlines = streamlines_of(blocs_hdf5, lazy)
    assert reads == []
    assert streamlines.connectivity is streamlines.connectivity
    assert reads == [(blocs_hdf5.resolve(), "sub-a", "streamlines")]
    # Another process may work in another folder.
    monkeypatch.chdir("/")
    copy = pickle.loads(pickle.dumps(streamlines))
    assert len(reads) == 1
    assert copy.connectivity.regions == BlocRegions(SHAPE, BLOCS)
    assert len(reads) == 2
    assert np.array_equal(copy.gather()[0], streamlines.gather()[0])


@pytest.mark.parametrize(
    ("kinds", "blocs"),
    [
        ({"connectivity_matrix_type": b"from_blocs", "connectivity_nb_blocs": 2}, (2, 2, 2)),
        ({"connectivity_matrix_type": np.bytes_("from_blocs"), "connectivity_nb_blocs": np.int32(2)}, (2, 2, 2)),
        ({"connectivity_matrix_type": "from_blocs", "connectivity_nb_blocs": [4, 2, 1]}, (4, 2, 1)),
        ({"connectivity_matrix_type": "from_blocs", "connectivity_nb_blocs": np.array([2.0])}, (2, 2, 2)),
    ],
)
@pytest.mark.parametrize("on_the_matrix", [False, True])
def test_the_spellings_of_files_of_the_existing_tool(
    tmp_path: Path, kinds: dict[str, Any], blocs: tuple[int, int, int], on_the_matrix: bool
) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 4})
    write_matrix(path, np.triu(np.ones((8, 8))), **({} if on_the_matrix else kinds))
    if on_the_matrix:
        with h5py.File(path, "a") as handle:
            handle["sub-a/streamlines/connectivity_matrix"].attrs.update(kinds)
    found = streamlines_of(path, lazy=True).connectivity
    assert found is not None
    assert found.regions == BlocRegions(SHAPE, blocs)
    # Half a matrix is the whole one.
    assert np.array_equal(found.connections.to_dense(), np.ones((8, 8)))


@pytest.mark.parametrize("lazy", [False, True])
def test_the_background_row_of_dwi_ml_is_left_out(
    labels_hdf5: Path, lazy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """There, the rows are all labels of the volume, 0 among them."""
    expected = streamlines_of(labels_hdf5, lazy).connectivity
    assert expected is not None
    with h5py.File(labels_hdf5, "r+") as handle:
        group = handle["sub-a/streamlines"]
        without = group["connectivity_matrix"][()]
        matrix = np.full((len(LABELS) + 1,) * 2, 5, dtype=without.dtype)
        matrix[1:, 1:] = without
        del group["connectivity_matrix"]
        group["connectivity_matrix"] = matrix
    found = streamlines_of(labels_hdf5, lazy).connectivity
    assert found is not None
    assert np.array_equal(found.connections.keys, expected.connections.keys)
    assert np.array_equal(found.connections.values, expected.connections.values)
    assert found.connections.nb_regions == len(LABELS)
    assert "is the background (label 0); it is ignored" in caplog.text
    # Without a voxel of label 0 there is no such row.
    with h5py.File(labels_hdf5, "r+") as handle:
        group = handle["sub-a/streamlines"]
        volume = group["connectivity_label_volume"][()]
        group["connectivity_label_volume"][...] = np.where(volume == 0, LABELS[0], volume)
    with pytest.raises(ValueError, match="the connectivity matrix has 5 rows but there are 4 labels other than 0"):
        _ = streamlines_of(labels_hdf5, lazy).connectivity


DAMAGES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no type": (np.eye(8), {"connectivity_nb_blocs": 2}, "the group has no 'connectivity_matrix_type'"),
    "unknown type": (
        np.eye(8),
        {"connectivity_matrix_type": "blocs"},
        "its type is 'blocs', but must be 'from_blocs'",
    ),
    "no blocs": (np.eye(8), {"connectivity_matrix_type": "from_blocs"}, "the group has no 'connectivity_nb_blocs'"),
    "no labels": (
        np.eye(8),
        {"connectivity_matrix_type": "from_labels"},
        "has no 'connectivity_label_volume'",
    ),
    "two blocs": (
        np.eye(8),
        {"connectivity_matrix_type": "from_blocs", "connectivity_nb_blocs": [2, 4]},
        r"the number of blocs must be three whole numbers of at least 1, got \(2, 4\)",
    ),
    "other rows": (
        np.eye(9),
        {"connectivity_matrix_type": "from_blocs", "connectivity_nb_blocs": 2},
        "the connectivity matrix has 9 rows but 2 x 2 x 2 blocs are 8 regions",
    ),
    "not square": (
        np.ones((8, 7)),
        {"connectivity_matrix_type": "from_blocs", "connectivity_nb_blocs": 2},
        r"a connectivity matrix must be square, got shape \(8, 7\)",
    ),
    "nan": (
        np.full((8, 8), np.nan),
        {"connectivity_matrix_type": "from_blocs", "connectivity_nb_blocs": 2},
        "must hold numbers of 0 or more",
    ),
    "labels of another volume": (
        np.eye(4),
        {"connectivity_matrix_type": "from_labels", "connectivity_label_volume": label_volume()[1:]},
        r"the labels have shape \(11, 10, 9\), but the volume of the streamlines \(12, 10, 9\)",
    ),
    "labels of no volume": (
        np.eye(4),
        {"connectivity_matrix_type": "from_labels", "connectivity_label_volume": np.ones((3, 3))},
        r"labels must be one volume",
    ),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("matrix", "kinds", "sentence"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_gets_one_sentence(
    tmp_path: Path, lazy: bool, matrix: np.ndarray, kinds: dict[str, Any], sentence: str
) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 4})
    write_matrix(path, matrix, **kinds)
    streamlines = streamlines_of(path, lazy)
    with pytest.raises(ValueError, match=sentence) as caught:
        _ = streamlines.connectivity
    where = "the connectivity matrix of streamlines group 'streamlines' of subject 'sub-a' is damaged: "
    assert str(caught.value).startswith(f"'{path}': {where}")
    assert str(caught.value).endswith("; recreate the HDF5 file.")
    assert "\n" not in str(caught.value)


def test_bytes_that_do_not_decompress_get_one_sentence(blocs_hdf5: Path) -> None:
    with h5py.File(blocs_hdf5) as handle:
        chunk = handle["sub-a/streamlines/connectivity_matrix"].id.get_chunk_info(0)
    with blocs_hdf5.open("r+b") as stream:
        stream.seek(chunk.byte_offset)
        stream.write(bytes(chunk.size))
    streamlines = streamlines_of(blocs_hdf5, lazy=True)
    with pytest.raises(
        ValueError,
        match=r"^'sub-a/streamlines/connectivity_matrix' of the HDF5 file '.*' is damaged",
    ):
        _ = streamlines.connectivity


@pytest.mark.parametrize(("subject", "group"), [("sub-x", "streamlines"), ("sub-a", "wb"), ("sub-a", "input")])
def test_a_place_that_is_none_is_named(blocs_hdf5: Path, subject: str, group: str) -> None:
    with pytest.raises(ValueError, match=f"has no streamlines group '{group}' for the subject '{subject}'"):
        read_connectivity(blocs_hdf5, subject, group)
