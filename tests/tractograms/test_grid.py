"""Which voxel grids are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import dwiml
from dwiml.tractograms.grid import Grid

SHAPE = (10, 12, 8)
SIZES = np.array([1.0, 2.0, 3.5])
AFFINE = np.eye(4)
AFFINE[:3, :3] = Rotation.from_euler("xyz", [20, -15, 40], degrees=True).as_matrix() * SIZES * [-1, 1, 1]
AFFINE[:3, 3] = [30.0, -42.0, 11.0]


def moved(mm: float) -> np.ndarray:
    return AFFINE + np.outer([1, 0, 0, 0], [0, 0, 0, mm])


def difference(affine: np.ndarray, shape: tuple[int, int, int], other_affine: np.ndarray, other_shape=None) -> str:
    return Grid(affine, shape).difference(Grid(other_affine, other_shape or shape))


def test_the_same_grid_is_told_by_its_corners():
    assert difference(AFFINE, SHAPE, AFFINE) == ""
    # The smallest voxel size is 1 mm: 0.05 mm is the limit.
    assert difference(AFFINE, SHAPE, moved(0.049)) == ""
    assert difference(AFFINE, SHAPE, moved(0.051)) == "different affines, up to 0.051 mm apart"
    # What np.allclose with a tolerance of 1e-3 called another grid, and what it took for the same.
    rounded = np.round(AFFINE, 2)
    assert not np.allclose(rounded, AFFINE, atol=1e-3)
    assert difference(AFFINE, (3, 3, 3), rounded) == ""
    stretched = AFFINE.copy()
    stretched[0, 0] += 9e-4
    assert np.allclose(stretched, AFFINE, atol=1e-3)
    assert difference(AFFINE, (512, 5, 5), stretched).startswith("different affines, up to 0.46 mm")
    assert difference(AFFINE, SHAPE, AFFINE, (10, 12, 9)) == "different shapes, (10, 12, 8) and (10, 12, 9) voxels"
    # A header whose axes are turned has the same corners of another volume.
    assert difference(AFFINE, SHAPE, AFFINE @ np.diag([-1, 1, 1, 1])).startswith("different affines")
    with pytest.raises(ValueError, match="not finite or not invertible"):
        difference(AFFINE, SHAPE, np.zeros((4, 4)))


def test_how_another_grid_is_resampled_is_said():
    with pytest.raises(ValueError, match=r"one to the grid of the other, .*nibabel.* 'mrgrid A.*OUT.nii.gz'"):
        Grid(AFFINE, SHAPE, "a.nii").check_same(Grid(moved(1), SHAPE, "b.nii"), "Subject 'a'")


def test_a_grid_of_a_header():
    grid = Grid.from_header(AFFINE.astype(np.float32), np.array([10.0, 12.0, 8.0]), Path("a.trk"))
    assert (grid.shape, grid.affine.dtype, grid.voxel_order) == (SHAPE, np.float64, "LAS")
    np.testing.assert_allclose(grid.voxel_sizes, SIZES, rtol=1e-6)
    with pytest.raises(ValueError, match=r"The header of 'a.trk' is wrong: The affine is not finite"):
        Grid.from_header(np.zeros((4, 4)), SHAPE, Path("a.trk"))


def test_there_is_one_definition_of_the_same_grid():
    root = Path(dwiml.__file__).parent
    for path in [*root.rglob("*.py"), *(root.parent / "scripts").rglob("*.py")]:
        for line in path.read_text().splitlines():
            assert not ("allclose(" in line and "affine, " in line and "of_affine" not in line), f"{path}: {line}"
