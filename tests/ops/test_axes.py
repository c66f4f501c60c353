"""Conventions of directional features, against DIPY, scipy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.core.sphere import Sphere
from dipy.data import get_sphere
from dipy.reconst.dti import TensorModel, from_lower_triangular, lower_triangular
from dipy.reconst.shm import (
    convert_sh_descoteaux_tournier,
    convert_sh_from_legacy,
    convert_sh_to_full_basis,
    sf_to_sh,
    sh_to_sf,
)
from scipy.spatial.transform import Rotation
from scipy.special import factorial, lpmv

from dwiml.ops.axes.conventions import Directions, parse_directions, sh_order
from dwiml.ops.axes.conversion import axes_matrix, convert_features, sh_matrix

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
SPHERE = get_sphere(name="repulsion724")
# Oblique, first axis to the left, second to the back: the axes of an LPS image.
OBLIQUE = Rotation.from_euler("xyz", [20, -15, 35], degrees=True).as_matrix() @ np.diag([-1.0, -1.0, 1.0])


def affine_of(axes, sizes=(1.5, 2.0, 2.5)):
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(sizes)
    affine[:3, 3] = [40, -20, 7]
    return affine


AFFINES = {
    "oblique": affine_of(OBLIQUE),
    "oblique, mirrored": affine_of(OBLIQUE @ np.diag([-1.0, 1.0, 1.0])),
    "permuted": affine_of(np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])),
    "identity": affine_of(np.eye(3)),
}


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES.keys())
def test_the_axes_of_the_scanner_are_those_of_steps_in_mm(affine):
    steps = np.random.default_rng(0).normal(size=(20, 3))
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    along_voxel_axes = steps * sizes
    in_rasmm = steps @ affine[:3, :3].T
    np.testing.assert_allclose(along_voxel_axes @ axes_matrix("rasmm", affine).T, in_rasmm, atol=1e-12)
    np.testing.assert_array_equal(axes_matrix("voxel", affine), np.eye(3))


def test_fsl_mirrors_x_when_the_determinant_is_positive():
    positive, negative = affine_of(np.eye(3)), affine_of(np.diag([-1.0, 1, 1]))
    np.testing.assert_array_equal(axes_matrix("fsl", positive), np.diag([-1, 1, 1]))
    np.testing.assert_array_equal(axes_matrix("fsl", negative), np.eye(3))


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES.keys())
@pytest.mark.parametrize("axes", ["voxel", "rasmm", "fsl"])
@pytest.mark.parametrize("full_basis", [False, True])
@pytest.mark.parametrize(("basis", "legacy"), [(b, k) for b in ("descoteaux07", "tournier07") for k in (True, False)])
def test_converted_harmonics_have_the_same_amplitudes(affine, axes, basis, legacy, full_basis):
    """Any function: its amplitude along a direction is the same before and after, each computed by DIPY."""
    order = 6
    nb = 49 if full_basis else 28
    coefficients = np.random.default_rng(1).normal(size=(4, 5, nb))
    read = Directions(kind="sh", axes=axes, basis=basis, legacy=legacy, full_basis=full_basis)
    converted = coefficients.copy()
    convert_features(converted, read, affine)

    turned = Sphere(xyz=SPHERE.vertices @ axes_matrix(axes, affine).T)
    kept = {"sh_order_max": order, "full_basis": full_basis}
    before = sh_to_sf(coefficients, turned, basis_type=basis, legacy=legacy, **kept)
    after = sh_to_sf(converted, SPHERE, basis_type="descoteaux07", legacy=False, **kept)
    np.testing.assert_allclose(after, before, atol=1e-9)


def test_without_a_rotation_the_conversion_is_that_of_dipy():
    coefficients = np.random.default_rng(2).normal(size=(7, 45))
    of_mrtrix = coefficients.copy()
    assert convert_features(of_mrtrix, Directions(kind="sh", basis="tournier07"), np.eye(4))
    expected = convert_sh_from_legacy(convert_sh_descoteaux_tournier(coefficients), "descoteaux07")
    np.testing.assert_allclose(of_mrtrix, expected, atol=1e-12)
    of_legacy = coefficients.copy()
    assert convert_features(of_legacy, Directions(kind="sh", basis="descoteaux07", legacy=True), np.eye(4))
    np.testing.assert_allclose(of_legacy, convert_sh_from_legacy(coefficients, "descoteaux07"), atol=1e-12)


def test_a_full_basis_without_odd_degrees_is_converted_as_a_symmetric_one():
    coefficients = np.random.default_rng(3).normal(size=(3, 15))
    full = convert_sh_to_full_basis(coefficients)
    read = {"kind": "sh", "axes": "rasmm", "basis": "descoteaux07", "legacy": False}
    convert_features(coefficients, Directions(**read), AFFINES["oblique"])
    convert_features(full, Directions(**read, full_basis=True), AFFINES["oblique"])
    np.testing.assert_allclose(full, convert_sh_to_full_basis(coefficients), atol=1e-12)


def test_nothing_changes_in_the_stored_convention():
    data = np.random.default_rng(4).normal(size=(3, 4, 5, 15)).astype(np.float32)
    before = data.copy()
    assert not convert_features(data, Directions(kind="sh", basis="descoteaux07"), AFFINES["oblique"])
    assert not convert_features(data, Directions(kind="none"), AFFINES["oblique"])
    assert not convert_features(data, Directions(kind="peaks", axes="fsl"), affine_of(np.diag([-1.0, 1, 1])))
    np.testing.assert_array_equal(data, before)


def test_a_mirrored_axis_only_changes_signs():
    data = np.random.default_rng(5).normal(size=(6, 45)).astype(np.float32)
    mirrored = data.copy()
    read = Directions(kind="sh", axes="fsl", basis="descoteaux07")
    assert convert_features(mirrored, read, np.eye(4))
    np.testing.assert_array_equal(np.abs(mirrored), np.abs(data))
    assert (mirrored != data).any()


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES.keys())
def test_peaks_are_rotated_and_keep_their_lengths(affine):
    along_voxel_axes = np.random.default_rng(6).normal(size=(4, 3, 2, 9))
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    vectors = along_voxel_axes.reshape(-1, 3) / sizes @ affine[:3, :3].T
    peaks = vectors.reshape(along_voxel_axes.shape)
    convert_features(peaks, Directions(kind="peaks", axes="rasmm"), affine)
    np.testing.assert_allclose(peaks, along_voxel_axes, atol=1e-12)


def test_tensors_are_those_of_dipy_fitted_in_voxel_axes():
    """The same signal fitted with gradients in voxel axes, and with the same gradients in scanner axes."""
    rng = np.random.default_rng(7)
    bvecs = np.concatenate([np.zeros((1, 3)), get_sphere(name="repulsion100").vertices[:50]])
    bvals = np.where(np.arange(51) == 0, 0.0, 1000.0)
    signal = rng.uniform(200, 900, (3, 51))
    affine = AFFINES["oblique"]
    in_voxels = TensorModel(gradient_table(bvals, bvecs=bvecs)).fit(signal).quadratic_form
    turned = bvecs @ axes_matrix("rasmm", affine).T
    in_scanner = TensorModel(gradient_table(bvals, bvecs=turned)).fit(signal).quadratic_form
    expected = lower_triangular(in_voxels)
    orders = {
        "dipy": lower_triangular(in_scanner),
        "mrtrix": np.stack([in_scanner[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))], -1),
        "fsl": np.stack([in_scanner[:, i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))], -1),
    }
    for order, coefficients in orders.items():
        convert_features(coefficients, Directions(kind="tensor", axes="rasmm", order=order), affine)
        np.testing.assert_allclose(coefficients, expected, atol=1e-6 * np.abs(expected).max())
        np.testing.assert_allclose(from_lower_triangular(coefficients), in_voxels, atol=1e-6 * np.abs(expected).max())


def test_harmonics_fitted_in_mrtrix_convention_equal_those_fitted_in_voxel_axes():
    values = np.random.default_rng(8).uniform(size=(10, 724))
    affine = AFFINES["oblique"]
    scanner = Sphere(xyz=SPHERE.vertices @ axes_matrix("rasmm", affine).T)
    expected = sf_to_sh(values, SPHERE, sh_order_max=8, basis_type="descoteaux07", legacy=False)
    coefficients = sf_to_sh(values, scanner, sh_order_max=8, basis_type="tournier07", legacy=False)
    convert_features(coefficients, Directions(kind="sh", axes="rasmm", basis="tournier07"), affine)
    np.testing.assert_allclose(coefficients, expected, atol=1e-9)


def test_numbers_of_coefficients():
    assert [sh_order(nb) for nb in (1, 6, 15, 28, 45, 7, 3, 10, 0)] == [0, 2, 4, 6, 8, None, None, None, None]
    assert [sh_order(nb, full_basis=True) for nb in (1, 4, 9, 81, 15)] == [0, 1, 2, 8, None]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("voxel", "must be an object"),
        ({"axes": "voxel"}, "has no 'kind'"),
        (
            {"kind": "fodf", "axes": "voxel"},
            "'kind' of 'directions' must be one of 'sh', 'peaks', 'tensor', 'none', got",
        ),
        ({"kind": "none", "axes": "voxel"}, "unknown key 'axes'; those of kind 'none' are: 'kind'"),
        ({"kind": "peaks"}, "has no 'axes'; give one of 'voxel', 'rasmm', 'fsl'"),
        ({"kind": "peaks", "axes": "RAS"}, "'axes' of 'directions' must be one of"),
        ({"kind": "sh", "axes": "voxel"}, "has no 'basis'"),
        ({"kind": "sh", "axes": "voxel", "basis": "descoteaux07"}, "has no 'legacy'"),
        ({"kind": "sh", "axes": "voxel", "basis": "tournier07", "legacy": 0}, "'legacy' of 'directions' must be true"),
        ({"kind": "tensor", "axes": "voxel"}, "has no 'order'; give one of 'dipy', 'mrtrix', 'fsl'"),
        ({"kind": ["sh"]}, "'kind' of 'directions' must be one of"),
    ],
)
def test_what_is_no_convention_is_refused(value, sentence):
    with pytest.raises(ValueError, match=f"^Group 'a': .*{sentence}"):
        parse_directions(value, "Group 'a'")


@pytest.mark.parametrize(
    ("value", "nb"),
    [
        ({"kind": "sh", "axes": "voxel", "basis": "tournier07"}, 27),
        ({"kind": "sh", "axes": "voxel", "basis": "tournier07", "full_basis": True}, 45),
        ({"kind": "peaks", "axes": "voxel"}, 10),
        ({"kind": "tensor", "axes": "voxel", "order": "fsl"}, 9),
    ],
)
def test_impossible_numbers_of_features_are_refused(value, nb):
    with pytest.raises(ValueError, match=f"x.nii has {nb} features, but .*; correct 'directions'"):
        parse_directions(value, "").check_nb_features(nb, "x.nii")


def test_tournier07_is_the_basis_that_mrtrix_documents():
    """sqrt(2) Im(Y_l^|m|) for m < 0 and sqrt(2) Re(Y_l^m) for m > 0, with scipy's Legendre functions."""
    theta, phi = np.arccos(SPHERE.vertices[:, 2]), np.arctan2(SPHERE.vertices[:, 1], SPHERE.vertices[:, 0])
    columns = []
    for degree in (0, 2, 4):
        for m in range(-degree, degree + 1):
            k = abs(m)
            norm = np.sqrt((2 * degree + 1) / (4 * np.pi) * factorial(degree - k) / factorial(degree + k))
            wave = np.ones_like(phi) if m == 0 else np.sqrt(2) * (np.sin(k * phi) if m < 0 else np.cos(k * phi))
            columns.append(norm * lpmv(k, degree, np.cos(theta)) * wave)
    found = sh_matrix(SPHERE.vertices, 4, basis="tournier07", legacy=False)
    np.testing.assert_allclose(found, np.stack(columns, axis=1), atol=1e-9)
