"""The voxels that lines cross: against samples, closed forms, and dipy."""

from __future__ import annotations

import numpy as np
import pytest
from dipy.tracking.utils import density_map, target_line_based
from scoring_support import joined, random_lines, sampled_voxels

from dwiml.ops.ragged import slabs
from dwiml.scoring import voxels as module
from dwiml.scoring.voxels import chunks, crossed_voxels, flat_voxels

GRID = (5, 4, 6)
SIZES = np.array([1.0, 2.5, 0.7])
# dipy's affines map the centre of a voxel, dwiml's coordinates begin at the corner of the first.
CORNER = np.eye(4)
CORNER[:3, 3] = 0.5


def mm_of(line: np.ndarray | list, shape: tuple[int, int, int] = GRID, sizes: object = SIZES) -> dict:
    """Return {voxel: mm} of one line."""
    points, lengths = joined([line])
    mm = crossed_voxels(points, lengths, shape, sizes).mm
    row = mm.toarray()[0].reshape(shape)
    return {tuple(voxel): row[tuple(voxel)] for voxel in np.argwhere(row).tolist()}


def test_lengths_in_voxels_equal_those_of_dense_samples() -> None:
    lines = random_lines(np.random.default_rng(0), 60, GRID, reach=2)
    points, lengths = joined(lines)
    crossings = crossed_voxels(points, lengths, GRID, SIZES)
    inside = 0
    for line, row, total in zip(lines, crossings.mm.toarray(), crossings.total_mm, strict=True):
        sampled = sampled_voxels(line, SIZES)
        assert total == pytest.approx(np.linalg.norm(np.diff(line, axis=0) * SIZES, axis=1).sum(), rel=1e-6)
        expected = np.zeros(GRID)
        for voxel, mm in sampled.items():
            if all(0 <= index < size for index, size in zip(voxel, GRID, strict=True)):
                expected[voxel] = mm
        np.testing.assert_array_equal(row.reshape(GRID) > 0, expected > 0)
        np.testing.assert_allclose(row.reshape(GRID), expected, atol=0.05)
        inside += bool(expected.any())
    assert inside > 40


@pytest.mark.parametrize("reverse", [False, True])
def test_a_line_along_an_axis(reverse: bool) -> None:
    line = np.array([[0.25, 1.5, 2.5], [1.5, 1.5, 2.5], [3.5, 1.5, 2.5]])
    found = mm_of(line[::-1] if reverse else line, sizes=(2.0, 1.0, 1.0))
    assert found == pytest.approx({(0, 1, 2): 1.5, (1, 1, 2): 2, (2, 1, 2): 2, (3, 1, 2): 1})


def test_a_slope() -> None:
    # From (0, 0) to (4, 2) in x and y: it is in each voxel for a length of sqrt(5) / 2.
    found = mm_of([[0, 0.25, 0.5], [4, 2.25, 0.5]], sizes=np.ones(3))
    # The planes are met at x = 1, 1.5, 2, 3, 3.5.
    slope = np.sqrt(1.25)
    pieces = {(0, 0, 0): 1, (1, 0, 0): 0.5, (1, 1, 0): 0.5, (2, 1, 0): 1, (3, 1, 0): 0.5, (3, 2, 0): 0.5}
    assert found == pytest.approx({voxel: slope * x for voxel, x in pieces.items()})


def test_a_diagonal_crosses_no_voxel_that_it_only_touches() -> None:
    found = mm_of([[0, 0, 0], [4, 4, 4]], sizes=np.ones(3))
    assert found == pytest.approx({(i, i, i): np.sqrt(3) for i in range(4)})
    assert set(mm_of([[0, 3, 0.5], [3, 0, 0.5]])) == {(0, 2, 0), (1, 1, 0), (2, 0, 0)}


def test_rounding_beside_a_corner_crosses_nothing() -> None:
    # Through the corners at (1, 3) and (2, 6), but for the rounding of tenths.
    for start, end in (([0.1, 0.3, 0.5], [2.1, 6.3, 0.5]), ([0.9, 2.7, 0.5], [2.3, 6.9, 0.5])):
        voxels = {(0, 0, 0), (0, 1, 0), (0, 2, 0), (1, 3, 0), (1, 4, 0), (1, 5, 0), (2, 6, 0)}
        assert set(mm_of([start, end], shape=(4, 7, 1))) == {voxel for voxel in voxels if voxel[1] >= int(start[1])}


def test_a_voxel_is_crossed_from_a_total_of_a_ten_thousandth_of_a_mm() -> None:
    fine = np.linspace(0.9, 0.9 + 1 / 64, 100_001)[:, None] * [1, 0, 0] + [0, 0.5, 0.5]
    assert np.diff(fine[:, 0]).max() < 1e-6
    points, lengths = fine.astype(np.float64), np.array([len(fine)])
    assert crossed_voxels(points, lengths, GRID, np.ones(3)).mm.toarray().max() == pytest.approx(1 / 64)
    for beyond, is_crossed in ((0.9e-4, False), (1.1e-4, True)):
        points = np.array([[0.5, 0.5, 0.5], [1 + beyond, 0.5, 0.5]])
        crossings = crossed_voxels(points, np.array([2]), GRID, np.ones(3))
        assert crossings.mm.nnz == 1 + is_crossed
        np.testing.assert_allclose(crossings.total_mm, 0.5 + beyond * is_crossed, rtol=1e-12)


def test_a_line_on_a_plane_is_in_the_voxel_above() -> None:
    assert mm_of([[0.5, 2, 0.5], [0.75, 2, 0.5]]) == pytest.approx({(0, 2, 0): 0.25})
    assert mm_of([[0.5, 4, 0.5], [0.75, 4, 0.5]]) == {}


def test_length_outside_counts_in_the_total_only() -> None:
    points, lengths = joined([[[-3, 0.5, 0.5], [2, 0.5, 0.5]], [[-3, -1, 0], [-3, -1, 9]]])
    crossings = crossed_voxels(points, lengths, GRID, SIZES)
    np.testing.assert_allclose(crossings.total_mm, [5, 9 * 0.7])
    np.testing.assert_allclose(crossings.mm.sum(axis=1), [2, 0])


def test_a_distant_point_costs_nothing() -> None:
    found = mm_of([[2.5, 1.5, 2.5], [1e12, 1.5, 2.5]])
    assert found == pytest.approx({(2, 1, 2): 0.5, (3, 1, 2): 1, (4, 1, 2): 1}, abs=1e-3)


@pytest.mark.parametrize("lines", [[], [[]], [[[0.5, 0.5, 0.5]]], [[[0.5] * 3] * 4], [[], [[0.5] * 3], []]], ids=str)
def test_lines_of_no_length_cross_nothing(lines: list) -> None:
    points, lengths = joined(lines)
    crossings = crossed_voxels(points, lengths, GRID, SIZES)
    assert crossings.mm.shape == (len(lines), 120)
    assert crossings.mm.nnz == 0
    np.testing.assert_array_equal(crossings.total_mm, np.zeros(len(lines)))


def test_voxels_and_lines_agree_with_dipy() -> None:
    lines = random_lines(np.random.default_rng(1), 80, GRID, reach=0)
    points, lengths = joined(lines)
    crossed = crossed_voxels(points, lengths, GRID, SIZES).mm.toarray() > 0
    for voxel in range(crossed.shape[1]):
        mask = np.zeros(GRID)
        mask.flat[voxel] = 1
        hit = [id(line) for line in target_line_based(lines, CORNER, mask)]
        assert hit == [id(line) for line, flag in zip(lines, crossed[:, voxel], strict=True) if flag]


def test_density_of_a_finely_sampled_line_agrees_with_dipy() -> None:
    t = np.linspace(0, 1, 20_000)[:, None]
    ends = [line[:2] for line in random_lines(np.random.default_rng(2), 50, GRID, reach=0)]
    lines = [start + t * (end - start) for start, end in ends]
    points, lengths = joined([line[[0, -1]] for line in lines])
    counts = (crossed_voxels(points, lengths, GRID, SIZES).mm > 0).sum(axis=0).reshape(GRID)
    np.testing.assert_array_equal(counts, density_map(lines, CORNER, GRID))
    assert counts.max() > 2


@pytest.mark.parametrize("block", [1, 7, 50])
def test_blocks_of_pieces_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points, lengths = joined(random_lines(np.random.default_rng(3), 20, GRID))
    expected = crossed_voxels(points, lengths, GRID, SIZES).mm
    monkeypatch.setattr(module, "_BLOCK_PIECES", block)
    found = crossed_voxels(points, lengths, GRID, SIZES).mm
    np.testing.assert_array_equal(found.toarray() > 0, expected.toarray() > 0)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), rtol=1e-12)


def test_blocks_hold_a_bounded_number_of_pieces() -> None:
    counts = np.random.default_rng(4).integers(1, 3_000_000, size=50)
    parts = [part for part, _ in slabs(counts, module._BLOCK_PIECES)]
    np.testing.assert_array_equal(np.concatenate([np.arange(50)[part] for part in parts]), np.arange(50))
    for part in parts:
        assert counts[part].sum() <= module._BLOCK_PIECES or part.stop - part.start == 1
    assert max(part.stop - part.start for part in parts) > 1


@pytest.mark.parametrize(("nb_points", "nb_lines"), [(10, 4), (1, 1), (30, 100)])
def test_chunks_cover_all_lines_and_are_bounded(nb_points: int, nb_lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_POINTS", nb_points)
    monkeypatch.setattr(module, "_CHUNK_LINES", nb_lines)
    lengths = np.array([0, 3, 0, 12, 1, 1, 1, 1, 1, 0, 0, 40, 2, 0])
    owners = np.repeat(np.arange(len(lengths)), lengths)
    parts = list(chunks(lengths))
    np.testing.assert_array_equal(np.concatenate([np.arange(len(lengths))[s] for s, _ in parts]), np.arange(14))
    np.testing.assert_array_equal(np.concatenate([np.arange(len(owners))[p] for _, p in parts]), np.arange(62))
    for lines, points in parts:
        assert set(owners[points]) <= set(range(lines.start, lines.stop))
        assert lines.stop - lines.start <= nb_lines
        assert points.stop - points.start <= nb_points or np.count_nonzero(lengths[lines]) == 1
    assert list(chunks(np.zeros(0, dtype=np.int64))) == []


def test_flat_voxels() -> None:
    rng = np.random.default_rng(5)
    points = rng.uniform(-1, 7, (500, 3))
    inside = ((points >= 0) & (points < GRID)).all(axis=1)
    expected = np.full(500, -1)
    expected[inside] = np.ravel_multi_index(tuple(points[inside].astype(int).T), GRID)
    np.testing.assert_array_equal(flat_voxels(points, GRID), expected)
    assert 50 < inside.sum() < 450
    edges = np.array([[0, 0, 0], [4.999, 3.999, 5.999], [5, 0, 0], [-1e-9, 0, 0], [1e300, 0, 0]])
    np.testing.assert_array_equal(flat_voxels(edges, GRID), [0, 119, -1, -1, -1])
