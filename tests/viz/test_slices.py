"""Slices of images in the scanner's space, held against values that are known from the affine alone."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from tests_support import AFFINE, SHAPE

from dwiml.viz.slices import ENDS, VIEWS, Background, slice_of

# Turned about all three axes, voxels of 1.5 x 2 x 2.5 mm.
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


def pixel_centres(pixels: np.ndarray, extent: tuple[float, float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    left, right, bottom, top = extent
    height, width = pixels.shape
    return (
        left + (right - left) * (np.arange(width) + 0.5) / width,
        bottom + (top - bottom) * (np.arange(height) + 0.5) / height,
    )


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_light_voxel_is_where_the_affine_says(name: str, view: object) -> None:
    affine = AFFINES[name]
    data = np.ones(SHAPE, dtype=np.float32)
    data[7, 3, 5] = 100
    center = nib.affines.apply_affine(affine, [7, 3, 5])
    pixels, extent = slice_of(Background(data, affine), view, float(center[view.across]))
    right, up = (center[axis] for axis in view.axes)
    row, column = pixel_at(pixels, extent, right, up)
    # Trilinear, and the pixel's centre is at most a quarter of a voxel away along each axis.
    assert pixels[row, column] > 30
    brightest = np.unravel_index(np.nanargmax(pixels), pixels.shape)
    x, y = (centres[index] for centres, index in zip(pixel_centres(pixels, extent), brightest[::-1], strict=True))
    assert np.hypot(x - right, y - up) < 1


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_the_whole_slice_equals_nibabels_resampling(name: str, view: object) -> None:
    data, affine = volume(np.random.default_rng(0)), AFFINES[name]
    background = Background(data, affine)
    position = float(nib.affines.apply_affine(affine, [6, 5, 4])[view.across]) + 0.3
    pixels, extent = slice_of(background, view, position)
    x, y = pixel_centres(pixels, extent)
    # One voxel thick: the slice's pixels as voxels of a grid along the scanner's axes.
    shape, target = np.ones(3, dtype=int), np.eye(4)
    for axis, centres in zip(view.axes, (x, y), strict=True):
        shape[axis], target[axis, axis], target[axis, 3] = len(centres), centres[1] - centres[0], centres[0]
    target[view.across, 3] = position
    expected = resample_from_to(nib.Nifti1Image(data, affine), (tuple(shape), target), order=1, cval=np.nan)
    expected = np.moveaxis(np.asarray(expected.dataobj), view.axes, (1, 0)).reshape(len(y), len(x))
    inside = np.isfinite(expected)
    assert inside.sum() > 100
    np.testing.assert_allclose(pixels[inside], expected[inside], atol=1e-4)


def test_pixels_are_square_and_outside_is_nothing() -> None:
    background = Background(volume(np.random.default_rng(1)), OBLIQUE)
    pixels, (left, right, bottom, top) = slice_of(background, VIEWS["axial"], 0.0)
    assert (right - left) / pixels.shape[1] == pytest.approx((top - bottom) / pixels.shape[0]) == pytest.approx(0.75)
    assert np.isnan(pixels[0, 0])
    far, _ = slice_of(background, VIEWS["axial"], 1000.0)
    assert np.isnan(far).all()


def test_a_huge_image_has_a_bounded_slice() -> None:
    data = np.ones((3000, 2, 2), dtype=np.float32)
    data[0, 0, 0] = 0
    pixels, _ = slice_of(Background(data, np.eye(4)), VIEWS["axial"], 0.0)
    assert pixels.shape[1] == 1000


def test_the_outermost_half_voxel_is_shown() -> None:
    data = np.zeros((2, 2, 2), dtype=np.float32)
    data[1] = 1
    pixels, extent = slice_of(Background(data, np.diag([2.0, 2.0, 2.0, 1.0])), VIEWS["axial"], 0.0)
    # Only the light voxels are shown: x from 1 to 3 mm.
    assert extent == (1.0, 3.0, -1.0, 3.0)
    assert pixels[0, -1] == 1


def test_the_box_is_around_what_is_light() -> None:
    data = np.zeros(SHAPE, dtype=np.float32)
    light = np.random.default_rng(2).integers(2, 7, (200, 3))
    data[tuple(light.T)] = 1
    # Brute force: all corners of all light voxels.
    corners = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), axis=-1).reshape(-1, 1, 3) + light
    points = nib.affines.apply_affine(OBLIQUE, corners.reshape(-1, 3))
    low, high = Background(data, OBLIQUE).box()
    np.testing.assert_allclose(low, points.min(axis=0))
    np.testing.assert_allclose(high, points.max(axis=0))


def test_an_image_of_one_value_is_shown_whole() -> None:
    background = Background(np.full(SHAPE, 3, dtype=np.float32), np.eye(4))
    low, high = background.box()
    np.testing.assert_allclose([low, high], [[-0.5] * 3, np.array(SHAPE) - 0.5])
    assert background.window() == (3.0, 4.0)


def test_the_window_leaves_out_extremes_and_nan() -> None:
    data = np.linspace(0, 1, 1000, dtype=np.float32).reshape(10, 10, 10)
    data[0, 0, 0], data[9, 9, 9] = np.nan, 1e6
    low, high = Background(data, np.eye(4)).window()
    assert low == pytest.approx(0.01, abs=2e-3)
    assert high == pytest.approx(0.995, abs=2e-3)
    assert Background(np.full((2, 2, 2), np.nan, dtype=np.float32), np.eye(4)).window() == (0.0, 1.0)
    # A mask of few voxels.
    mask = np.zeros((10, 10, 10), dtype=np.float32)
    mask[5, 5, 5] = 1
    assert Background(mask, np.eye(4)).window() == (0.0, 1.0)


def test_points_in_the_image() -> None:
    background = Background(np.ones(SHAPE, dtype=np.float32), OBLIQUE)
    voxels = np.array([[-0.4, 0, 0], [11.4, 9.4, 8.4], [-0.6, 0, 0], [0, 9.6, 0]])
    points = nib.affines.apply_affine(OBLIQUE, voxels)
    assert background.contains(points).tolist() == [True, True, False, False]
    np.testing.assert_allclose(background.voxels_of(points), voxels, atol=1e-9)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_what_is_right_and_up_is_as_seen_from_there(view: object) -> None:
    """The line of sight is up x right, in axes to the right, to the front and up."""
    right, up = np.eye(3)[list(view.axes)]
    sight = np.cross(up, right)
    np.testing.assert_array_equal(sight, -view.nearest * np.eye(3)[view.across])
    # Whoever looks along it stands at the end that it comes from.
    stands = ENDS[view.across][0 if view.nearest == -1 else 1]
    assert view.seen == {"S": "from above", "P": "from behind", "R": "from the right"}[stands]
