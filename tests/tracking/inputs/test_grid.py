"""Voxel grids of the input of tracking that are far from those of the training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dwiml.tracking.inputs.grid import warn_of_other_grid
from dwiml.tractograms.grid import Grid

TRAINED = {
    "grids": {"voxel_orders": ["LAS"], "obliquity": [0.0, 12.0], "voxel_sizes": [[1.8, 2.0], [2.0, 2.0], [2.0, 2.4]]}
}


def grid(directions: Any = (-1, 1, 1), sizes: Any = (2, 2, 2), angles: Any = (0, 0, 0)) -> Grid:
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = rotation @ np.diag(directions) @ np.diag(sizes)
    return Grid(affine, (5, 5, 5))


def message(caplog: pytest.LogCaptureFixture, found: Grid, trained: Any = TRAINED) -> str:
    caplog.clear()
    warn_of_other_grid("the input", found, trained)
    assert len(caplog.messages) <= 1
    return "".join(caplog.messages)


@pytest.mark.parametrize(
    "found",
    [
        grid(),
        grid(sizes=(1.21, 2.99, 1.34)),
        grid(sizes=(2.9, 1.4, 3.5)),
        grid(angles=(14, -9, 17)),
        grid(angles=(40, 0, 0)),
    ],
)
def test_grids_that_are_near(caplog: pytest.LogCaptureFixture, found: Grid) -> None:
    assert not message(caplog, found)


def test_a_flipped_axis_mirrors_the_brain(caplog: pytest.LogCaptureFixture) -> None:
    text = message(caplog, grid(directions=(1, 1, 1)))
    assert text == (
        "The voxel grid of the input differs from those of the training subjects: its voxel order is RAS instead of "
        "'LAS' (the brain is mirrored). The model reads the volume along voxel axes; reorient or resample the images "
        "as those of the training."
    )
    both = {"grids": {**TRAINED["grids"], "voxel_orders": ["LAS", "RAS"]}}
    assert not message(caplog, grid(directions=(1, 1, 1)), both)


@pytest.mark.parametrize("directions", [(1, -1, 1), (-1, -1, -1), (1, 1, -1)])
def test_two_flipped_axes_rotate_it(caplog: pytest.LogCaptureFixture, directions: Any) -> None:
    sign = int(np.prod(directions))
    text = message(caplog, grid(directions=directions))
    assert ("(the brain is rotated)" if sign < 0 else "(the brain is mirrored)") in text


def test_permuted_axes(caplog: pytest.LogCaptureFixture) -> None:
    affine = np.eye(4)
    affine[:3, :3] = [[0, -2, 0], [2, 0, 0], [0, 0, 2]]
    rotated = Grid(affine, (5, 5, 5))
    assert rotated.voxel_order == "ALS"
    assert "ALS instead of 'LAS' (the brain is mirrored)" in message(caplog, rotated)


def test_a_large_obliqueness(caplog: pytest.LogCaptureFixture) -> None:
    assert "it is oblique by 43 degrees instead of at most 12" in message(caplog, grid(angles=(43, 0, 0)))


@pytest.mark.parametrize("sizes", [(3.1, 2, 2), (1.19, 2, 2), (2, 2, 3.7), (2, 2, 1.3), (2, 1, 2)])
def test_voxel_sizes_that_are_far(caplog: pytest.LogCaptureFixture, sizes: Any) -> None:
    shown = " x ".join(f"{size:g}" for size in sizes)
    text = message(caplog, grid(sizes=sizes))
    assert f"its voxel sizes are {shown} mm instead of 1.8 to 2 x 2 x 2 to 2.4 mm." in text


@pytest.mark.parametrize(
    "trained",
    [
        {},
        {"grids": None},
        {"grids": {"voxel_orders": ["LAS"]}},
        {"grids": {**TRAINED["grids"], "voxel_sizes": [1, 2]}},
        {"grids": {**TRAINED["grids"], "voxel_orders": ["QQ"]}},
        {"grids": {**TRAINED["grids"], "obliquity": "high"}},
    ],
)
def test_what_is_not_recorded_is_not_compared(caplog: pytest.LogCaptureFixture, trained: Any) -> None:
    assert not message(caplog, grid(directions=(1, 1, 1), sizes=(9, 9, 9)), trained)
