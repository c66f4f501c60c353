from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from dipy.io.stateful_tractogram import Origin, Space, StatefulTractogram
from scipy.spatial.transform import Rotation

from dwiml.ops.spaces import from_vox_corner, parse_origin, parse_space, to_vox_corner, voxel_sizes_of

SHAPE = (10, 12, 8)
SIZES = np.array([1.0, 2.0, 3.5])
AFFINE = np.eye(4)
AFFINE[:3, :3] = Rotation.from_euler("xyz", [20, -15, 40], degrees=True).as_matrix() * SIZES * [-1, 1, 1]
AFFINE[:3, 3] = [30.0, -42.0, 11.0]


@pytest.mark.parametrize(
    ("spelling", "space"),
    [
        ("vox", "vox"), ("VOX", "vox"), ("Space.VOX", "vox"), (b"Space.VOX", "vox"), (Space.VOX, "vox"),
        ("voxmm", "voxmm"), ("Space.VOXMM", "voxmm"), (" VoxMM ", "voxmm"), (Space.VOXMM, "voxmm"),
        ("rasmm", "rasmm"), ("space.rasmm", "rasmm"), (np.str_("Space.RASMM"), "rasmm"), (Space.RASMM, "rasmm"),
    ],
)  # fmt: skip
def test_every_spelling_of_a_space(spelling, space):
    assert parse_space(spelling) == space


@pytest.mark.parametrize(
    ("spelling", "origin"),
    [
        ("center", "center"), ("centre", "center"), ("Origin.NIFTI", "center"), ("nifti", "center"),
        (b"NIFTI", "center"), (Origin.NIFTI, "center"), (Origin.NIFTI.value, "center"),
        ("corner", "corner"), ("Corner", "corner"), ("Origin.TRACKVIS", "corner"), ("trackvis", "corner"),
        (Origin.TRACKVIS, "corner"), (Origin.TRACKVIS.value, "corner"),
    ],
)  # fmt: skip
def test_every_spelling_of_an_origin(spelling, origin):
    assert parse_origin(spelling) == origin


@pytest.mark.parametrize("text", ["", "mm", "lpsmm", "Space", None, 3, "corner"])
def test_unknown_space_is_refused(text):
    with pytest.raises(ValueError, match="is unknown; expected one of vox, voxmm, rasmm"):
        parse_space(text)


@pytest.mark.parametrize("text", ["", "edge", None, "vox"])
def test_unknown_origin_is_refused(text):
    with pytest.raises(ValueError, match="is unknown; expected center"):
        parse_origin(text)


@pytest.mark.parametrize("space", list(Space)[:3])
@pytest.mark.parametrize("origin", list(Origin))
def test_same_as_dipy_in_every_space_and_origin(space, origin):
    points = np.random.default_rng(3).uniform(0.5, np.array(SHAPE) - 1.5, (50, 3)).astype(np.float32)
    image = nib.Nifti1Image(np.zeros(SHAPE), AFFINE)
    tractogram = StatefulTractogram([points], image, Space.VOX, origin=Origin.NIFTI)
    tractogram.to_space(space)
    tractogram.to_origin(origin)
    stored = np.array(tractogram.streamlines.get_data())
    result = to_vox_corner(stored, space=str(space), origin=str(origin), affine=AFFINE, voxel_sizes=SIZES)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, points + 0.5, atol=2e-5)
    # dipy's own way back, without our knowledge of where the points came from
    tractogram.to_vox()
    tractogram.to_corner()
    np.testing.assert_allclose(result, tractogram.streamlines.get_data(), atol=2e-5)


def test_float64_is_used_on_the_way_and_float32_comes_out():
    far = np.array([[4000.000123, -3000.000456, 2000.000789]])
    vox = nib.affines.apply_affine(np.linalg.inv(AFFINE), far) + 0.5
    result = to_vox_corner(far, space="rasmm", origin="center", affine=AFFINE, voxel_sizes=SIZES)
    np.testing.assert_array_equal(result, vox.astype(np.float32))


def test_no_points_and_nothing_to_convert():
    points = np.zeros((0, 3), dtype=np.float32)
    assert to_vox_corner(points, space="rasmm", origin="center", affine=AFFINE, voxel_sizes=SIZES).shape == (0, 3)
    points = np.ones((2, 3), dtype=np.float32)
    assert to_vox_corner(points, space="vox", origin="corner", affine=AFFINE, voxel_sizes=SIZES) is points


def test_voxel_sizes_as_nibabel():
    np.testing.assert_allclose(voxel_sizes_of(AFFINE), SIZES)
    np.testing.assert_allclose(voxel_sizes_of(AFFINE), nib.affines.voxel_sizes(AFFINE))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"points": np.zeros(3)}, r"Points must have shape \(N, 3\), got \(3,\)"),
        ({"affine": np.eye(3)}, r"affine must have shape \(4, 4\), got \(3, 3\)"),
        ({"affine": np.zeros((4, 4))}, "not finite or not invertible"),
        ({"affine": np.full((4, 4), np.nan)}, "not finite or not invertible"),
        ({"voxel_sizes": (1, 1)}, r"Voxel sizes must have shape \(3,\), got \(2,\)"),
        ({"voxel_sizes": (1, 0, 1)}, "Voxel sizes must be positive"),
        ({"space": "mm"}, "Space 'mm' is unknown"),
        ({"origin": "edge"}, "Origin 'edge' is unknown"),
    ],
)
def test_what_does_not_fit_is_refused(changes, sentence):
    good = {"points": np.zeros((1, 3)), "space": "vox", "origin": "center", "affine": AFFINE, "voxel_sizes": SIZES}
    arguments = good | changes
    with pytest.raises(ValueError, match=sentence):
        to_vox_corner(arguments.pop("points"), **arguments)


def test_coordinates_that_are_not_finite_stay_so_without_a_warning():
    points = np.array([[np.nan, 1.0, 2.0], [np.inf, -np.inf, 0.0], [3e38, 3e38, 3e38]], dtype=np.float32)
    for convert in (to_vox_corner, from_vox_corner):
        converted = convert(
            points, space="rasmm", origin="center", affine=np.diag([2e-3, 1.0, 1.0, 1.0]), voxel_sizes=np.ones(3)
        )
        assert not np.isfinite(converted[:2]).all(axis=1).any()
