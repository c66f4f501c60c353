"""Connectivity matrices on their way into the HDF5 file."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

from dwiml.hdf5 import file_writer
from dwiml.hdf5.inputs.connectivity import check_labels_file, labels_path, read_connections, write_matrix
from dwiml.ops import connectivity_matrix as connectivity
from dwiml.ops.connectivity_matrix import ConnectivityMatrix
from dwiml.ops.regions import BlocRegions, LabelRegions

BLOCS = (4, 3, 2)
LABELS = (7, 3, 1005, 40)


def label_volume(shape):
    return np.random.default_rng(3).choice([0, *LABELS], shape).astype(np.int16)


@pytest.fixture
def with_matrix(subjects):
    """A subject, and a maker of its config; the matrix is random."""
    subjects.plain("a")
    folder = subjects.folder / "a"

    def config(matrix=None, **keys):
        if matrix is not None:
            np.save(folder / "m.npy", matrix)
        keys = {"connectivity_matrix": "m.npy", "connectivity_nb_blocs": list(BLOCS)} | keys
        return {
            "input": {"type": "volume", "files": ["dwi.nii.gz"]},
            "lines": {"type": "streamlines", "files": ["wb.trk"], **{k: v for k, v in keys.items() if v is not None}},
        }

    subjects.with_connectivity = config
    return subjects


def by_labels(subjects, labels):
    """The config's keys for labels, once they are written."""
    subjects.volume("a", "labels.nii.gz", labels)
    return {"connectivity_nb_blocs": None, "connectivity_labels": "labels.nii.gz"}


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.bool_, ">u2", np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_matrix_of_blocs(with_matrix, dtype, order):
    matrix = np.random.default_rng(0).integers(0, 3, (24, 24)).astype(dtype, order=order)
    with_matrix.create(with_matrix.with_connectivity(matrix))
    with h5py.File(with_matrix.out) as handle:
        group = handle["a/lines"]
        assert group.attrs["connectivity_matrix_type"] == "from_blocs"
        assert group.attrs["connectivity_nb_blocs"].tolist() == [4, 3, 2]
        assert "connectivity_label_volume" not in group
        assert group["connectivity_matrix"].dtype == np.dtype(dtype).newbyteorder("=")
        assert np.array_equal(group["connectivity_matrix"][()], matrix)


def test_one_number_of_blocs_is_three(with_matrix):
    with_matrix.create(with_matrix.with_connectivity(np.eye(8), connectivity_nb_blocs=2))
    with h5py.File(with_matrix.out) as handle:
        assert handle["a/lines"].attrs["connectivity_nb_blocs"].tolist() == [2, 2, 2]


@pytest.mark.parametrize("largest", [1005, 2**31 + 5])
def test_matrix_of_labels(with_matrix, grid, largest):
    labels = label_volume(grid["shape"]).astype(np.int64)
    labels[labels == 1005] = largest
    # NIfTI of 64-bit integers is asked for by name.
    keys = {"connectivity_nb_blocs": None, "connectivity_labels": "l*.nii"}
    nib.save(nib.Nifti1Image(labels, grid["affine"], dtype=np.int64), with_matrix.folder / "a" / "labels.nii")
    with_matrix.create(with_matrix.with_connectivity(np.eye(4), **keys))
    with h5py.File(with_matrix.out) as handle:
        group = handle["a/lines"]
        assert group.attrs["connectivity_matrix_type"] == "from_labels"
        assert "connectivity_nb_blocs" not in group.attrs
        assert np.array_equal(group["connectivity_label_volume"][()], labels)
        assert group["connectivity_label_volume"].dtype == (np.int32 if largest < 2**31 else np.int64)


def test_a_group_without_matrix_has_nothing_of_it(with_matrix):
    with_matrix.create(with_matrix.with_connectivity(connectivity_matrix=None, connectivity_nb_blocs=None))
    with h5py.File(with_matrix.out) as handle:
        assert not [name for name in (*handle["a/lines"], *handle["a/lines"].attrs) if "connectivity" in name]


def test_a_large_matrix_is_copied_some_rows_at_a_time(with_matrix):
    side = 12**3
    matrix = np.lib.format.open_memmap(with_matrix.folder / "a" / "m.npy", "w+", np.float64, (side, side))
    first, last = np.random.default_rng(0).integers(0, side, (2, 500))
    matrix[first, last] = 2
    matrix.flush()
    tracemalloc.start()
    with_matrix.create(with_matrix.with_connectivity(connectivity_nb_blocs=12))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with h5py.File(with_matrix.out) as handle:
        dataset = handle["a/lines/connectivity_matrix"]
        assert np.array_equal(dataset[()], matrix)
        # Each chunk was compressed once: what is stored is all that the file grew by.
        assert dataset.id.get_storage_size() < 2**18
    assert with_matrix.out.stat().st_size < 2**19
    assert peak < matrix.nbytes


@pytest.mark.parametrize(
    ("matrix", "keys", "sentence"),
    [
        (np.eye(23), {}, r"m.npy': The connectivity matrix has 23 rows but 4 x 3 x 2 blocs are 24 regions"),
        (np.ones((24, 25)), {}, r"m.npy' must hold a square matrix, got shape \(24, 25\)"),
        (np.ones(24), {}, r"m.npy' must hold a square matrix, got shape \(24,\)"),
        (np.eye(24, dtype=np.complex64), {}, "m.npy' holds complex64 values; real numbers are expected"),
        (np.full((24, 24), "a"), {}, "m.npy' holds <U1 values; real numbers are expected"),
        (np.full((24, 24), None), {}, "m.npy' is damaged .*Python objects"),
        (np.eye(24), {"connectivity_matrix": "x.npy"}, "x.npy' was not found; .* has: 'dwi.nii.gz'"),
        (np.eye(24), {"connectivity_labels": "l.nii", "connectivity_nb_blocs": None}, "l.nii' was not found; .* has:"),
    ],
)
def test_faults_that_are_told_before_the_work_starts(with_matrix, monkeypatch, matrix, keys, sentence):
    monkeypatch.setattr(file_writer, "write_root", lambda *args: pytest.fail("the work has started"))
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as caught:
        with_matrix.create(with_matrix.with_connectivity(matrix, **keys))
    assert str(caught.value).startswith("Group 'lines' of subject 'a'")
    assert "\n" not in str(caught.value)
    with_matrix.assert_nothing_written()


def test_a_matrix_that_is_cut_off_is_told_before_the_work_starts(with_matrix, monkeypatch):
    monkeypatch.setattr(file_writer, "write_root", lambda *args: pytest.fail("the work has started"))
    config = with_matrix.with_connectivity(np.eye(24))
    path = with_matrix.folder / "a" / "m.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="m.npy' is damaged"):
        with_matrix.create(config)


def test_another_kind_of_file_is_told_before_the_work_starts(with_matrix, monkeypatch):
    monkeypatch.setattr(file_writer, "write_root", lambda *args: pytest.fail("the work has started"))
    config = with_matrix.with_connectivity()
    path = with_matrix.folder / "a" / "m.npy"
    for content in (b"", b"1 2 3\n", pickle.dumps([1, 2])):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="m.npy' is damaged"):
            with_matrix.create(config)
    with path.open("wb") as stream:
        np.savez(stream, np.eye(24))
    with pytest.raises(ValueError, match="m.npy' is damaged"):
        with_matrix.create(config)


def test_two_matrices_are_not_one(with_matrix):
    config = with_matrix.with_connectivity(np.eye(24), connectivity_matrix="*.npy")
    np.save(with_matrix.folder / "a" / "n.npy", np.eye(24))
    with pytest.raises(
        ValueError, match=r"'\*.npy' must match one file, but matches 2, such as '.*m.npy' and '.*n.npy'"
    ):
        with_matrix.create(config)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda labels: labels[1:], "have different shapes"),
        (lambda labels: labels * 0, "labels.nii.gz': All labels are 0"),
        (lambda labels: labels - 1, "labels.nii.gz': Labels must be whole numbers, 0 .no region. or more, got -1"),
        (lambda labels: np.stack([labels] * 2, axis=-1), "labels.nii.gz': Labels must be one volume"),
        (lambda labels: np.minimum(labels, 7), "has 4 rows but there are 2 labels other than 0 .*from 3 to 7"),
    ],
)
def test_labels_that_do_not_go_with_the_matrix(with_matrix, grid, monkeypatch, change, sentence):
    monkeypatch.setattr(file_writer, "write_root", lambda *args: pytest.fail("the work has started"))
    keys = by_labels(with_matrix, change(label_volume(grid["shape"])))
    with pytest.raises(ValueError, match=sentence) as caught:
        with_matrix.create(with_matrix.with_connectivity(np.eye(4), **keys))
    assert "\n" not in str(caught.value)


def test_labels_of_another_space(with_matrix, grid):
    affine = grid["affine"].copy()
    affine[:3, 3] += 3
    with_matrix.volume("a", "labels.nii.gz", label_volume(grid["shape"]), affine)
    keys = {"connectivity_nb_blocs": None, "connectivity_labels": "labels.nii.gz"}
    with pytest.raises(ValueError, match=r"'.*dwi.nii.gz' and '.*labels.nii.gz' have different affines"):
        with_matrix.create(with_matrix.with_connectivity(np.eye(4), **keys))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1])
def test_values_that_count_nothing_leave_no_file(with_matrix, bad):
    matrix = np.eye(24)
    matrix[20, 3] = bad
    with pytest.raises(ValueError, match="subject 'a': '.*m.npy': A connectivity matrix must hold numbers of"):
        with_matrix.create(with_matrix.with_connectivity(matrix))
    with_matrix.assert_nothing_written()


FULL_DISK = """
import resource, sys
from dwiml.hdf5 import creator, file_writer

# A limit on the size of files plays the full disk; there is room for the first of three chunks.
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
file_writer._ROOM_FOR_METADATA = 6000
try:
    creator.create_hdf5(*sys.argv[1:4], ["a"])
except OSError as error:
    print(error)
"""


def test_a_full_disk_in_the_midst_of_a_matrix_gets_one_sentence(with_matrix):
    # Such that gzip hardly makes it smaller.
    matrix = np.random.default_rng(0).integers(1, 2**62, (432, 432))
    config = with_matrix.config(with_matrix.with_connectivity(matrix, connectivity_nb_blocs=[432, 1, 1]))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(with_matrix.folder), str(with_matrix.out), str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith(f"'{with_matrix.root}/.out.hdf5.parts' has no space for another ")
    assert done.stdout.count("\n") == 1
    with_matrix.assert_nothing_written()


@pytest.fixture
def random_connections():
    rng = np.random.default_rng(0)
    matrix = np.triu(rng.integers(1, 9, (24, 24)) * (rng.uniform(size=(24, 24)) < 0.2))
    return matrix + np.triu(matrix, 1).T


def test_a_written_matrix_is_read_by_numpy_and_by_us(tmp_path, random_connections):
    regions = BlocRegions((8, 7, 6), BLOCS)
    path = tmp_path / "m.npy"
    write_matrix(path, ConnectivityMatrix.from_dense(random_connections), regions)
    written = np.load(path)
    assert written.dtype == np.int32
    np.testing.assert_array_equal(written, random_connections)
    np.testing.assert_array_equal(read_connections(path, regions, "The matrix").to_dense(), random_connections)
    write_matrix(path, ConnectivityMatrix.from_dense(random_connections), regions, binary=True)
    written = np.load(path)
    assert written.dtype == np.uint8
    np.testing.assert_array_equal(written, random_connections > 0)


def test_a_background_row_is_left_out_and_told(tmp_path, random_connections, caplog):
    """dwi_ml counts label 0 as a region, the first."""
    small = random_connections[:4, :4]
    matrix = np.pad(small, ((1, 0), (1, 0)), constant_values=7)
    np.save(tmp_path / "m.npy", matrix)
    regions = LabelRegions.from_volume(label_volume((8, 7, 6)))
    found = read_connections(tmp_path / "m.npy", regions, "The matrix")
    np.testing.assert_array_equal(found.to_dense(), small)
    assert "the first row is the background (label 0); it is ignored" in caplog.text
    without_background = LabelRegions.from_volume(np.maximum(label_volume((8, 7, 6)), min(LABELS)))
    with pytest.raises(ValueError, match="has 5 rows but there are 4 labels other than 0"):
        read_connections(tmp_path / "m.npy", without_background, "The matrix")


def test_a_large_matrix_is_written_some_rows_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(connectivity, "_BLOCK_VALUES", 2**20)
    n = 4000
    pairs = np.random.default_rng(0).integers(0, n, (200, 2))
    keys = np.unique(pairs.min(axis=1) * n + pairs.max(axis=1))
    connections = ConnectivityMatrix(n, keys, np.full(len(keys), 3))
    tracemalloc.start()
    write_matrix(tmp_path / "m.npy", connections, BlocRegions((20, 20, 20), (20, 20, 10)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n**2
    matrix = np.load(tmp_path / "m.npy", mmap_mode="r")
    first, last = np.nonzero(matrix)
    assert np.unique(np.minimum(first, last) * n + np.maximum(first, last)).tolist() == keys.tolist()


def test_labels_stand_beside_the_matrix_and_never_beside_another(tmp_path, monkeypatch):
    path = tmp_path / "m.npy"
    labels = LabelRegions.from_volume(label_volume((8, 7, 6)))
    write_matrix(path, ConnectivityMatrix.from_dense(np.eye(4)), labels)
    assert np.loadtxt(labels_path(path), dtype=int).tolist() == sorted(LABELS)
    check_labels_file(labels_path(path))
    # An error leaves both as they were.
    monkeypatch.setattr(ConnectivityMatrix, "dense_rows", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_matrix(path, ConnectivityMatrix.from_dense(np.eye(8)), BlocRegions((8, 7, 6), (2, 2, 2)))
    monkeypatch.undo()
    assert np.load(path).tolist() == np.eye(4).tolist()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.npy", "m_labels.txt"]
    write_matrix(path, ConnectivityMatrix.from_dense(np.eye(8)), BlocRegions((8, 7, 6), (2, 2, 2)))
    assert [file.name for file in tmp_path.iterdir()] == ["m.npy"]


@pytest.mark.parametrize("regions", [BlocRegions((8, 7, 6), (2, 2, 1)), None], ids=["blocs", "labels"])
def test_a_file_of_the_users_own_in_the_place_of_the_labels_stays(tmp_path, regions):
    regions = regions or LabelRegions.from_volume(label_volume((8, 7, 6)))
    path = tmp_path / "m.npy"
    for content in ("precortical\npostcortical\n", ""):
        labels_path(path).write_text(content)
        with pytest.raises(
            FileExistsError, match="m_labels.txt' would be replaced, but it was not written together with a matrix"
        ):
            write_matrix(path, ConnectivityMatrix.from_dense(np.eye(4)), regions)
        assert labels_path(path).read_text() == content
        assert not path.exists()


def test_a_matrix_that_no_disk_holds_is_refused_before_it_is_written(tmp_path: Path) -> None:
    nothing = ConnectivityMatrix(200**3, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    with pytest.raises(ValueError, match=r"8000000 x 8000000 regions needs 256 000.0 GB, .* left; use fewer regions"):
        write_matrix(tmp_path / "m.npy", nothing, BlocRegions((9, 9, 9), (200, 200, 200)))
    assert not list(tmp_path.iterdir())


OTHER_LABELS = {
    "shifted": (lambda labels: np.where(labels == sorted(LABELS)[1], 77, labels), "row 1 of '.*m.npy' is label"),
    "one more": (lambda labels: labels + (labels == 0), "must have|rows"),
}


@pytest.mark.parametrize(("change", "sentence"), OTHER_LABELS.values(), ids=OTHER_LABELS)
def test_other_labels_than_those_beside_the_matrix_are_refused(with_matrix, grid, change, sentence):
    """As many labels, but others: a streamline would be looked for in the rows of other regions."""
    labels = label_volume(grid["shape"])
    keys = by_labels(with_matrix, labels)
    with_matrix.with_connectivity(np.eye(4))
    path = with_matrix.folder / "a/m.npy"
    write_matrix(path, ConnectivityMatrix.from_dense(np.eye(4)), LabelRegions.from_volume(labels))
    config = with_matrix.with_connectivity(None, **keys)
    np.save(path, np.eye(4))
    with_matrix.create(config)
    regions = LabelRegions.from_volume(labels)
    assert read_connections(path, regions, "The matrix").nb_regions == 4
    with_matrix.out.unlink()
    by_labels(with_matrix, change(labels))
    with pytest.raises(ValueError, match=sentence):
        with_matrix.create(config)
    with pytest.raises(ValueError, match=sentence):
        read_connections(path, LabelRegions.from_volume(change(labels)), "The matrix")
    with_matrix.assert_nothing_written()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("# labels\n3\n", "lists 1 labels, but '.*m.npy' has 8 rows; use the labels"),
        (
            "\n".join(map(str, range(1, 9))),
            "the rows of '.*m.npy' are labels according to '.*m_labels.txt', not blocs",
        ),
    ],
)
def test_labels_beside_a_matrix_of_blocs_are_refused(tmp_path, content, sentence):
    np.save(tmp_path / "m.npy", np.eye(8))
    labels_path(tmp_path / "m.npy").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        read_connections(tmp_path / "m.npy", BlocRegions((8, 7, 6), (2, 2, 2)), "The matrix")


def test_labels_in_another_form_are_read_and_another_text_is_told(tmp_path, caplog):
    regions = LabelRegions.from_volume(label_volume((8, 7, 6)))
    path = tmp_path / "m.npy"
    np.save(path, np.eye(4))
    labels_path(path).write_text(str(sorted(LABELS)))
    read_connections(path, regions, "The matrix")
    assert not caplog.text
    labels_path(path).write_text(str(sorted(LABELS)[::-1]))
    with pytest.raises(ValueError, match="row 0 of"):
        read_connections(path, regions, "The matrix")
    labels_path(path).write_text("precentral\npostcentral\n")
    read_connections(path, regions, "The matrix")
    assert "m_labels.txt' is not a list of labels, so the rows of" in caplog.text
    # With a row for the background.
    np.save(path, np.eye(5))
    labels_path(path).write_text("\n".join(map(str, [0, *sorted(LABELS)])))
    assert read_connections(path, regions, "The matrix").nb_regions == 4


def test_a_matrix_that_holds_more_than_its_header_says_is_refused(tmp_path):
    path = tmp_path / "m.npy"
    np.save(path, np.eye(4))
    path.write_bytes(path.read_bytes() + bytes(8))
    with pytest.raises(
        ValueError, match="m.npy' is damaged .it holds 8 bytes after the array that its header announces"
    ):
        read_connections(path, LabelRegions.from_volume(label_volume((8, 7, 6))), "The matrix")
