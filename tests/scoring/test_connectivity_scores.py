"""Scores of connectivity against a loop over streamlines."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from dwiml.ops.connectivity_matrix import JOINS_CONNECTED, JOINS_NONE, JOINS_UNCONNECTED, ConnectivityMatrix
from dwiml.ops.regions import BlocRegions, LabelRegions
from dwiml.scoring.connectivity_scores import ends_of, score_connectivity

SHAPE = (9, 7, 5)
LABELS = (3, 7, 40, 1005)


def lines(nb: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 6, nb)
    return rng.uniform(-1, np.array(SHAPE) + 1, (lengths.sum(), 3)).astype(np.float32), lengths


def test_ends() -> None:
    points = np.arange(18.0).reshape(6, 3)
    first, last = ends_of(points, np.array([0, 2, 1, 0, 3, 0]))
    np.testing.assert_array_equal(first[[1, 2, 4]], points[[0, 2, 3]])
    np.testing.assert_array_equal(last[[1, 2, 4]], points[[1, 2, 5]])
    assert np.isnan(first[[0, 3, 5]]).all()
    assert np.isnan(last[[0, 3, 5]]).all()
    assert [len(end) for end in ends_of(np.zeros((0, 3)), np.zeros(0, int))] == [0, 0]
    with pytest.raises(ValueError, match="lengths add up to 5 points, but points has 6 rows"):
        ends_of(points, np.array([2, 3]))


def test_score_by_a_loop() -> None:
    volume = np.random.default_rng(1).choice([0, *LABELS], SHAPE)
    regions = LabelRegions.from_volume(volume)
    matrix = np.array([[1, 2, 0, 0], [2, 0, 0, 5], [0, 0, 1, 0], [0, 5, 0, 0]])
    points, lengths = lines(400)
    score = score_connectivity(points, lengths, regions, ConnectivityMatrix.from_dense(matrix))

    status, joined, after = [], Counter[tuple[int, int]](), 0
    for length in lengths:
        line, after = points[after : after + length], after + length
        found = []
        for point in (line[0], line[-1]) if length else ():
            if (point >= 0).all() and (point < SHAPE).all() and volume[tuple(point.astype(int))]:
                found.append(LABELS.index(volume[tuple(point.astype(int))]))
        if len(found) < 2:
            status.append(JOINS_NONE)
            continue
        joined[min(found), max(found)] += 1
        status.append(JOINS_CONNECTED if matrix[tuple(found)] else JOINS_UNCONNECTED)
    assert score.status.tolist() == status
    assert set(status) == {-1, 0, 1}
    for value in (-1, 0, 1):
        assert score.count(value) == status.count(value)
        assert score.share(value) == pytest.approx(status.count(value) / 400)
    wrong = {pair: count for pair, count in joined.items() if not matrix[pair]}
    assert {(a, b): count for a, b, count in score.unconnected} == wrong
    assert [count for *_, count in score.unconnected] == sorted(wrong.values(), reverse=True)
    assert score.nb_pairs_connected == 4
    assert score.nb_pairs_found == sum(1 for pair in joined if matrix[pair])

    summary = json.loads(json.dumps(score.summary(regions), allow_nan=False))
    assert summary["nb_streamlines"] == 400
    assert summary["nb_joining_connected"] == status.count(1)
    assert summary["share_joining_unconnected"] == pytest.approx(status.count(0) / 400)
    assert summary["nb_ending_in_no_region"] == status.count(-1)
    (a, b), count = max(wrong.items(), key=lambda item: item[1])
    assert summary["unconnected_pairs"][0] == {"regions": [str(LABELS[a]), str(LABELS[b])], "nb_streamlines": count}


def test_nothing_to_score() -> None:
    regions = BlocRegions(SHAPE, (2, 1, 1))
    nothing = ConnectivityMatrix.from_dense(np.zeros((2, 2)))
    score = score_connectivity(np.zeros((0, 3)), np.zeros(0, int), regions, nothing)
    assert (score.nb_streamlines, score.share(1), score.unconnected) == (0, None, [])
    assert (score.nb_pairs_connected, score.nb_pairs_found) == (0, 0)
    json.dumps(score.summary(regions), allow_nan=False)


def test_other_numbers_of_regions_are_refused() -> None:
    with pytest.raises(ValueError, match="has 3 rows but 2 x 1 x 1 blocs are 2 regions"):
        score_connectivity(*lines(), BlocRegions(SHAPE, (2, 1, 1)), ConnectivityMatrix.from_dense(np.eye(3)))
