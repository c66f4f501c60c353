"""Connectivity against loops that look at one streamline at a time, and against DIPY."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from dipy.tracking.utils import connectivity_matrix

from dwiml.ops.connectivity_matrix import (
    JOINS_CONNECTED,
    JOINS_NONE,
    JOINS_UNCONNECTED,
    ConnectivityMatrix,
    connection_status,
    count_connections,
    joins_unconnected,
)
from dwiml.ops.regions import NO_REGION, BlocRegions, LabelRegions

# Unlike numbers everywhere, so that an axis taken for another is seen.
SHAPE = (11, 7, 5)
BLOCS = (4, 3, 2)


def points(nb: int, seed: int, margin: float = 2.0) -> np.ndarray:
    """Return points inside the volume and around it."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-margin, np.array(SHAPE) + margin, (nb, 3)).astype(np.float32)


def labels(seed: int = 0) -> np.ndarray:
    """Return labels that are neither neighbours nor in order of place."""
    return np.random.default_rng(seed).choice([0, 7, 3, 1005, 40], SHAPE)


def bloc_by_loop(point: np.ndarray) -> int:
    index = []
    for value, size, nb in zip(point.astype(float), SHAPE, BLOCS, strict=True):
        edges = [i * size / nb for i in range(nb + 1)]
        found = [i for i in range(nb) if edges[i] <= value < edges[i + 1]]
        if not found:
            return NO_REGION
        index.append(found[0])
    return int(np.arange(np.prod(BLOCS)).reshape(BLOCS)[tuple(index)])


def label_by_loop(point: np.ndarray, volume: np.ndarray) -> int:
    voxel = [int(np.floor(value)) for value in point]
    if any(i < 0 or i >= size for i, size in zip(voxel, SHAPE, strict=True)):
        return NO_REGION
    label = int(volume[tuple(voxel)])
    return sorted({int(value) for value in volume.flat} - {0}).index(label) if label else NO_REGION


def counts_by_loop(first: list[int], last: list[int], nb_regions: int) -> np.ndarray:
    matrix = np.zeros((nb_regions, nb_regions), dtype=np.int64)
    for a, b in zip(first, last, strict=True):
        if NO_REGION in (a, b):
            continue
        matrix[a, b] += 1
        if a != b:
            matrix[b, a] += 1
    return matrix


def test_blocs_of_points():
    given = points(2000, 0)
    expected = [bloc_by_loop(point) for point in given]
    assert BlocRegions(SHAPE, BLOCS).of_points(given).tolist() == expected
    assert set(expected) == {NO_REGION, *range(24)}


def test_edges_of_blocs_belong_to_the_next_one_and_the_volumes_end_to_none():
    regions = BlocRegions((6, 6, 6), (3, 1, 1))
    x = [0.0, np.nextafter(2.0, 0), 2.0, 4.0, np.nextafter(6.0, 0), 6.0, -1e-9, np.nan]
    assert regions.of_points(np.array([[value, 1, 1] for value in x])).tolist() == [0, 0, 1, 2, 2, -1, -1, -1]


def test_just_before_the_end_of_any_volume_is_the_last_bloc():
    for size in range(1, 200):
        end = np.nextafter(float(size), 0)
        for nb in (3, 7, 20):
            regions = BlocRegions((size, size, size), (nb, nb, nb))
            assert regions.of_points(np.full((1, 3), end))[0] == nb**3 - 1


def test_labels_of_points():
    given, volume = points(2000, 1), labels()
    regions = LabelRegions.from_volume(volume)
    expected = [label_by_loop(point, volume) for point in given]
    assert regions.of_points(given).tolist() == expected
    assert set(expected) == {NO_REGION, 0, 1, 2, 3}
    assert regions.values.tolist() == [3, 7, 40, 1005]
    assert [regions.name(i) for i in range(4)] == ["3", "7", "40", "1005"]


def test_labels_without_background_and_of_one_volume_in_four_axes():
    regions = LabelRegions.from_volume(np.full((2, 3, 4, 1), 9.0))
    assert regions.of_points([[1.5, 2.5, 3.5], [1.5, 2.5, 4.5]]).tolist() == [0, NO_REGION]


@pytest.mark.parametrize(
    ("volume", "sentence"),
    [
        (np.full((2, 2, 2), 0.5), "whole numbers, 0 .no region. or more, got 0.5"),
        (np.full((2, 2, 2), -3), "got -3"),
        (np.full((2, 2, 2), np.nan), "got nan"),
        (np.zeros((2, 2, 2)), "All labels are 0"),
        (np.ones((2, 2)), r"got shape \(2, 2\)"),
        (np.ones((2, 2, 2), dtype=complex), "whole numbers"),
    ],
)
def test_what_labels_may_not_be(volume, sentence):
    with pytest.raises(ValueError, match=sentence):
        LabelRegions.from_volume(volume)


@pytest.mark.parametrize("kind", ["blocs", "labels"])
def test_counts_are_those_of_a_loop(kind):
    volume = labels()
    regions = BlocRegions(SHAPE, BLOCS) if kind == "blocs" else LabelRegions.from_volume(volume)
    first, last = points(3000, 2), points(3000, 3)
    of_point = bloc_by_loop if kind == "blocs" else lambda point: label_by_loop(point, volume)
    expected = counts_by_loop([of_point(p) for p in first], [of_point(p) for p in last], regions.nb_regions)
    found = count_connections(first, last, regions)
    assert np.array_equal(found.to_dense(), expected)
    assert found.values.sum() == np.triu(expected).sum()
    # No direction: the same for streamlines turned around.
    assert np.array_equal(count_connections(last, first, regions).to_dense(), expected)


def test_counts_are_those_of_dipy():
    """DIPY takes the centre of voxel 0 as origin here (affine: identity), and its row 0 is the background."""
    volume = np.random.default_rng(4).integers(0, 6, SHAPE)
    first, last = points(500, 5, margin=-0.01), points(500, 6, margin=-0.01)
    lines = [np.stack(ends) - 0.5 for ends in zip(first, last, strict=True)]
    expected = connectivity_matrix(lines, np.eye(4), volume, symmetric=True)[1:, 1:]
    found = count_connections(first, last, LabelRegions.from_volume(volume)).to_dense()
    assert np.array_equal(found, expected)
    assert found.sum() > 300


def test_chunks_change_nothing(monkeypatch):
    regions = BlocRegions(SHAPE, BLOCS)
    first, last = points(1000, 7), points(1000, 8)
    whole = count_connections(first, last, regions)
    status = connection_status(first, last, regions, whole)
    monkeypatch.setattr("dwiml.ops.connectivity_matrix._CHUNK", 7)
    monkeypatch.setattr("dwiml.ops.connectivity_matrix._BLOCK_VALUES", 50)
    again = count_connections(first, last, regions)
    assert np.array_equal(again.keys, whole.keys)
    assert np.array_equal(again.values, whole.values)
    assert np.array_equal(connection_status(first, last, regions, whole), status)
    assert np.array_equal(np.concatenate(list(whole.dense_rows())), whole.to_dense())
    assert np.array_equal(ConnectivityMatrix.from_dense(whole.to_dense()).keys, whole.keys)


@pytest.mark.parametrize("part", [np.asarray, np.triu, np.tril])
def test_a_matrix_and_its_triangles_say_the_same(part):
    rng = np.random.default_rng(9)
    dense = rng.integers(0, 4, (30, 30)) * (rng.random((30, 30)) < 0.3)
    dense = np.triu(dense) + np.triu(dense, 1).T
    assert np.array_equal(ConnectivityMatrix.from_dense(part(dense)).to_dense(), dense)


def test_status_is_that_of_a_loop():
    regions = BlocRegions(SHAPE, BLOCS)
    rng = np.random.default_rng(10)
    matrix = np.triu(rng.random((24, 24)) < 0.4)
    first, last = points(3000, 11, margin=0.5), points(3000, 12, margin=0.5)
    expected = []
    for a, b in zip(map(bloc_by_loop, first), map(bloc_by_loop, last), strict=True):
        if NO_REGION in (a, b):
            expected.append(JOINS_NONE)
        else:
            expected.append(JOINS_CONNECTED if matrix[a, b] or matrix[b, a] else JOINS_UNCONNECTED)
    connections = ConnectivityMatrix.from_dense(matrix)
    assert connection_status(first, last, regions, connections).tolist() == expected
    assert min(expected.count(each) for each in (JOINS_NONE, JOINS_CONNECTED, JOINS_UNCONNECTED)) > 300
    wrong = joins_unconnected(first, last, regions, connections)
    assert wrong.tolist() == [each == JOINS_UNCONNECTED for each in expected]


def test_tensors_are_taken_too_with_gradients():
    regions = BlocRegions(SHAPE, BLOCS)
    first, last = points(50, 13), points(50, 14)
    connections = count_connections(first[:20], last[:20], regions)
    tensors = [torch.from_numpy(each).requires_grad_() for each in (first, last)]
    found = connection_status(*tensors, regions, connections)
    assert np.array_equal(found, connection_status(first, last, regions, connections))
    assert (found[:20] != JOINS_UNCONNECTED).all()


def test_no_streamline_and_no_connection():
    regions = BlocRegions(SHAPE, BLOCS)
    nothing = count_connections(np.zeros((0, 3)), np.zeros((0, 3)), regions)
    assert len(nothing.keys) == 0
    assert not nothing.to_dense().any()
    assert nothing.pairs.shape == (0, 2)
    inside = np.ones((2, 3))
    assert connection_status(inside, inside, regions, nothing).tolist() == [JOINS_UNCONNECTED] * 2
    assert connection_status(inside[:0], inside[:0], regions, nothing).shape == (0,)


def test_thousands_of_blocs_take_no_dense_matrix():
    regions = BlocRegions((200, 200, 200), (20, 20, 20))
    rng = np.random.default_rng(15)
    first, last = rng.uniform(0, 200, (2, 20_000, 3)).astype(np.float32)
    tracemalloc.start()
    connections = count_connections(first, last, regions)
    status = connection_status(first, last, regions, connections)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (status == JOINS_CONNECTED).all()
    # 64 million values of one byte.
    assert peak < 16e6
    assert connections.keys.max() > 8000**2 * 0.9


def test_a_matrix_too_large_to_hold_is_refused_and_given_by_rows():
    connections = ConnectivityMatrix(9000, np.array([5 * 9000 + 8000]), np.array([3]))
    with pytest.raises(ValueError, match="9000 x 9000 regions is too large"):
        connections.to_dense()
    sums = np.concatenate([rows.sum(axis=1) for rows in connections.dense_rows(np.uint8)])
    assert np.flatnonzero(sums).tolist() == [5, 8000]


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (np.zeros((2, 3)), r"must be square, got shape \(2, 3\)"),
        (np.zeros(4), r"must be square, got shape \(4,\)"),
        (np.full((2, 2), np.nan), "no NaN"),
        (np.full((2, 2), -1), "numbers of 0 or more"),
        (np.full((2, 2), "a"), "numbers of 0 or more"),
    ],
)
def test_what_a_matrix_may_not_be(matrix, sentence):
    with pytest.raises(ValueError, match=sentence):
        ConnectivityMatrix.from_dense(matrix)


def test_a_matrix_of_other_regions_is_refused():
    known, inside = ConnectivityMatrix.from_dense(np.eye(5)), np.ones((1, 3))
    with pytest.raises(ValueError, match="has 5 rows but 4 x 3 x 2 blocs are 24 regions"):
        connection_status(inside, inside, BlocRegions(SHAPE, BLOCS), known)
    with pytest.raises(ValueError, match="has 5 rows but there are 4 labels other than 0 .*from 3 to 1005"):
        connection_status(inside, inside, LabelRegions.from_volume(labels()), known)


def test_shapes_that_are_refused():
    regions = BlocRegions(SHAPE, BLOCS)
    with pytest.raises(ValueError, match=r"shape \(S, 3\), got \(3,\)"):
        regions.of_points(np.zeros(3))
    with pytest.raises(ValueError, match="2 first points and 1 last points"):
        count_connections(np.zeros((2, 3)), np.zeros((1, 3)), regions)
    with pytest.raises(ValueError, match=r"number of blocs must be three whole numbers of at least 1, got \(2, 0, 1\)"):
        BlocRegions(SHAPE, (2, 0, 1))
