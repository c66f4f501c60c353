"""Slices of images along the rasmm axes, compared with values derived from the affine."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from tests_support import AFFINE, SHAPE

from dwiml.viz.slices import ENDS, VIEWS, Background, resample_slice

# Rotated about all three axes, with voxels of 1.5 x 2 x 2.5 mm.
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.4, -0.3, 0.2) @ np.diag([-1.5, 2.0, 2.5]), [20.0, -11.0, -7.0]
)
AFFINES = {"anisotropic": np.diag([-1.5, 2.0, 2.5, 1.0]), "turned about z": AFFINE, "oblique": OBLIQUE}


def volume(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(1, 2, SHAPE).astype(np.float32)


def pixel_at(pixels: np.ndarray, extent: tuple[float, float, float, float], right: float, up: float) -> tuple[int, int]:
    left, right_edge, bottom, top = extent
    height, width = pixels.shape
    return int((up - bottom) / (top - bottom) * height), int((right - left) / (right_edge - left) * width)


def pixel_centers(pixels: np.ndarray, extent: tuple[float, float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    left, right, bottom, top = extent
    height, width = pixels.shape
    return (
        left + (right - left) * (np.arange(width) + 0.5) / width,
        bottom + (top - bottom) * (np.arange(height) + 0.5) / height,
    )


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_bright_voxel_is_at_the_position_given_by_the_affine(name: str, view: object) -> None:
    affine = AFFINES[name]
    data = np.ones(SHAPE, dtype=np.float32)
    data[7, 3, 5] = 100
    center = nib.affines.apply_affine(affine, [7, 3, 5])
    pixels, extent = resample_slice(Background(data, affine), view, float(center[view.across]))
    right, up = (center[axis] for axis in view.axes)
    row, column = pixel_at(pixels, extent, right, up)
    # Interpolated, at most a quarter of a voxel away from the center of the voxel along each axis.
    assert pixels[row, column] > 30
    brightest = np.unravel_index(np.nanargmax(pixels), pixels.shape)
    x, y = (centers[index] for centers, index in zip(pixel_centers(pixels, extent), brightest[::-1], strict=True))
    assert np.hypot(x - right, y - up) < 1


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_the_whole_slice_equals_nibabels_resampling(name: str, view: object) -> None:
    data, affine = volume(np.random.default_rng(0)), AFFINES[name]
    background = Background(data, affine)
    position = float(nib.affines.apply_affine(affine, [6, 5, 4])[view.across]) + 0.3
    pixels, extent = resample_slice(background, view, position)
    x, y = pixel_centers(pixels, extent)
    # The pixels of the slice as voxels of a grid along the rasmm axes, one voxel thick.
    shape, target = np.ones(3, dtype=int), np.eye(4)
    for axis, centers in zip(view.axes, (x, y), strict=True):
        shape[axis], target[axis, axis], target[axis, 3] = len(centers), centers[1] - centers[0], centers[0]
    target[view.across, 3] = position
    expected = resample_from_to(nib.Nifti1Image(data, affine), (tuple(shape), target), order=1, cval=np.nan)
    expected = np.moveaxis(np.asarray(expected.dataobj), view.axes, (1, 0)).reshape(len(y), len(x))
    inside = np.isfinite(expected)
    assert inside.sum() > 100
    np.testing.assert_allclose(pixels[inside], expected[inside], atol=1e-4)


def test_pixels_are_square_and_nan_outside_the_image() -> None:
    background = Background(volume(np.random.default_rng(1)), OBLIQUE)
    pixels, (left, right, bottom, top) = resample_slice(background, VIEWS["axial"], 0.0)
    assert (right - left) / pixels.shape[1] == pytest.approx((top - bottom) / pixels.shape[0]) == pytest.approx(0.75)
    assert np.isnan(pixels[0, 0])
    far, _ = resample_slice(background, VIEWS["axial"], 1000.0)
    assert np.isnan(far).all()


def test_a_huge_image_has_a_bounded_slice() -> None:
    data = np.ones((3000, 2, 2), dtype=np.float32)
    data[0, 0, 0] = 0
    pixels, _ = resample_slice(Background(data, np.eye(4)), VIEWS["axial"], 0.0)
    assert pixels.shape[1] == 1000


def test_the_outermost_half_voxel_is_shown() -> None:
    data = np.zeros((2, 2, 2), dtype=np.float32)
    data[1] = 1
    pixels, extent = resample_slice(Background(data, np.diag([2.0, 2.0, 2.0, 1.0])), VIEWS["axial"], 0.0)
    # Only the bright voxels are shown: x from 1 to 3 mm.
    assert extent == (1.0, 3.0, -1.0, 3.0)
    assert pixels[0, -1] == 1


def test_the_box_contains_the_bright_voxels() -> None:
    data = np.zeros(SHAPE, dtype=np.float32)
    light = np.random.default_rng(2).integers(2, 7, (200, 3))
    data[tuple(light.T)] = 1
    # Brute force: all corners of all bright voxels.
    corners = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), axis=-1).reshape(-1, 1, 3) + light
    points = nib.affines.apply_affine(OBLIQUE, corners.reshape(-1, 3))
    low, high = Background(data, OBLIQUE).box()
    np.testing.assert_allclose(low, points.min(axis=0))
    np.testing.assert_allclose(high, points.max(axis=0))


def test_the_box_of_a_constant_image_contains_all_voxels() -> None:
    background = Background(np.full(SHAPE, 3, dtype=np.float32), np.eye(4))
    low, high = background.box()
    np.testing.assert_allclose([low, high], [[-0.5] * 3, np.array(SHAPE) - 0.5])
    assert background.window() == (3.0, 4.0)


def test_the_window_ignores_extreme_values_and_nan() -> None:
    data = np.linspace(0, 1, 1000, dtype=np.float32).reshape(10, 10, 10)
    data[0, 0, 0], data[9, 9, 9] = np.nan, 1e6
    low, high = Background(data, np.eye(4)).window()
    assert low == pytest.approx(0.01, abs=2e-3)
    assert high == pytest.approx(0.995, abs=2e-3)
    assert Background(np.full((2, 2, 2), np.nan, dtype=np.float32), np.eye(4)).window() == (0.0, 1.0)
    # A mask with few voxels.
    mask = np.zeros((10, 10, 10), dtype=np.float32)
    mask[5, 5, 5] = 1
    assert Background(mask, np.eye(4)).window() == (0.0, 1.0)


def test_points_in_the_image() -> None:
    background = Background(np.ones(SHAPE, dtype=np.float32), OBLIQUE)
    voxels = np.array([[-0.4, 0, 0], [11.4, 9.4, 8.4], [-0.6, 0, 0], [0, 9.6, 0]])
    points = nib.affines.apply_affine(OBLIQUE, voxels)
    assert background.contains(points).tolist() == [True, True, False, False]
    np.testing.assert_allclose(background.to_voxels(points), voxels, atol=1e-9)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_right_and_up_agree_with_the_position_of_the_viewer(view: object) -> None:
    """The direction of view is up x right, in rasmm axes."""
    right, up = np.eye(3)[list(view.axes)]
    sight = np.cross(up, right)
    np.testing.assert_array_equal(sight, -view.nearest * np.eye(3)[view.across])
    # The viewer is at the end where this direction starts.
    stands = ENDS[view.across][0 if view.nearest == -1 else 1]
    assert view.seen == {"S": "from above", "P": "from behind", "R": "from the right"}[stands]
