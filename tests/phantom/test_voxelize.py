"""Fractions and directions of fibers in voxels, on tubes with known closed-form values."""

from __future__ import annotations

import numpy as np
import pytest

from dwiml.phantom.anatomy import Deformation, Subject
from dwiml.phantom.geometry import Bundle
from dwiml.phantom.voxelize import FiberMap, map_fibers

AXES = np.eye(3)
DIAGONAL = np.array([0.6, 0.0, 0.8])


def identity() -> Deformation:
    return Deformation(np.zeros((1, 3)), np.zeros((1, 3)), np.zeros(1), np.eye(3), np.ones(3), np.zeros(3))


def subject(voxel_sizes: tuple[float, float, float] = (2.0, 2.0, 2.0)) -> Subject:
    shape = tuple(round(60 / size) for size in voxel_sizes)
    affine = np.diag([*voxel_sizes, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * np.array(voxel_sizes)
    return Subject("sub-01", identity(), affine, shape, 30.0)  # type: ignore[arg-type]


def straight(direction: np.ndarray, radius: float, fan_axis: np.ndarray, half_length: float = 20.0) -> Bundle:
    center = np.outer([-half_length, 0.0, half_length], direction)
    return Bundle("tube", center, np.full((3, 2), radius), fan_axis)


def total(fiber_map: FiberMap, bundle: int, shape: tuple[int, ...]) -> np.ndarray:
    volume = np.zeros(shape)
    volume.flat[fiber_map.voxels] = fiber_map.fractions[:, bundle]
    return volume


@pytest.mark.parametrize("voxel_sizes", [(2.0, 2.0, 2.0), (1.5, 2.0, 3.0)])
def test_fractions_add_up_to_the_volume_of_the_tube(voxel_sizes: tuple[float, float, float]) -> None:
    grid = subject(voxel_sizes)
    fiber_map = map_fibers(grid, [straight(AXES[2], 8.0, AXES[0])], AXES)
    volume = fiber_map.fractions.sum() * np.prod(voxel_sizes)
    # Subvoxels partly in the tube count as filled, so the tube is slightly too thick.
    assert volume == pytest.approx(np.pi * 8**2 * 40, rel=0.12)
    centers = (np.stack(np.unravel_index(fiber_map.voxels, grid.shape), axis=1) + 0.5) * voxel_sizes - 30
    distance = np.linalg.norm(centers[:, :2], axis=1)
    core = (distance < 8 - np.linalg.norm(voxel_sizes)) & (np.abs(centers[:, 2]) < 17)
    assert core.sum() > 50
    np.testing.assert_allclose(fiber_map.fractions[core], 1.0, atol=1e-12)
    assert distance.max() < 8 + np.linalg.norm(voxel_sizes[:2])


def test_crossing_bundles_share_the_voxels_where_they_cross() -> None:
    grid = subject()
    fiber_map = map_fibers(grid, [straight(AXES[2], 5.0, AXES[0]), straight(AXES[0], 5.0, AXES[1])], AXES)
    up, across = (total(fiber_map, bundle, grid.shape) for bundle in (0, 1))
    np.testing.assert_allclose(up[14:16, 14:16, 14:16], 0.5)
    np.testing.assert_allclose(across[14:16, 14:16, 14:16], 0.5)
    np.testing.assert_allclose(up[14:16, 14:16, 8:10], 1.0)
    np.testing.assert_allclose(across[8:10, 14:16, 14:16], 1.0)
    assert fiber_map.fractions.sum(axis=1).max() <= 1 + 1e-9
    np.testing.assert_allclose(fiber_map.orientations.sum(axis=1), fiber_map.fractions.sum(axis=1), atol=1e-9)
    middle = np.flatnonzero(fiber_map.voxels == np.ravel_multi_index((14, 14, 14), grid.shape))[0]
    np.testing.assert_allclose(fiber_map.orientations[[middle]].toarray()[0], [0.5, 0, 0.5], atol=1e-9)


def test_direction_is_in_mm_along_the_voxel_axes_on_an_anisotropic_grid() -> None:
    # In voxels of 3 mm by 1.5 mm, the direction (0.6, 0, 0.8) is (0.2, 0, 0.53): much closer to z.
    wrong = np.array([0.6 / 3, 0.0, 0.8 / 1.5])
    directions = np.stack([DIAGONAL, wrong / np.linalg.norm(wrong), AXES[0], AXES[1]])
    fiber_map = map_fibers(subject((3.0, 2.0, 1.5)), [straight(-DIAGONAL, 4.0, AXES[1])], directions)
    weights = np.asarray(fiber_map.orientations.sum(axis=0))
    assert weights[0] == pytest.approx(fiber_map.fractions.sum())


def test_labels_cover_both_ends_and_nothing_else() -> None:
    grid = subject()
    labels = map_fibers(grid, [straight(AXES[2], 5.0, AXES[0], half_length=19.0)], AXES).labels
    assert labels.dtype == np.int16
    # From 2 mm before the start at z = -19 to 3.5 mm after it: voxels floor((-21 + 30) / 2) to floor((-15.5 + 30) / 2).
    start, end = (np.unique(np.nonzero(labels == label)[2]) for label in (1, 2))
    np.testing.assert_array_equal(start, [4, 5, 6, 7])
    np.testing.assert_array_equal(end, [22, 23, 24, 25])
    assert (labels[14:16, 14:16, 5] == 1).all()
    assert set(np.unique(labels)) == {0, 1, 2}
