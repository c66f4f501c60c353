"""Directional features through the whole way: whatever their axes, the file has the same numbers."""

from __future__ import annotations

import json
import logging

import h5py
import numpy as np
import pytest
from dipy.core.sphere import Sphere
from dipy.data import get_sphere
from dipy.reconst.shm import sf_to_sh
from scipy.spatial.transform import Rotation

from dwiml import MultiSubjectDataset
from dwiml.hdf5.inputs.standalone import read_mask, read_volumes
from dwiml.hdf5.stored import open_hdf5
from dwiml.hdf5.stored.layout import groups_config
from dwiml.ops.axes.conventions import parse_directions
from dwiml.tracking.inputs.order import check_same_making, trained_directions

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
SHAPE = (8, 7, 6)
SIZES = np.array([1.5, 2.0, 2.5])
LPS = Rotation.from_euler("xyz", [20, -15, 35], degrees=True).as_matrix() @ np.diag([-1.0, -1.0, 1.0])
AFFINE = np.eye(4)
AFFINE[:3, :3] = LPS * SIZES
AFFINE[:3, 3] = [61.0, 80.0, -43.0]
SPHERE = get_sphere(name="repulsion724")
VOXEL = {"kind": "sh", "axes": "voxel", "basis": "descoteaux07", "legacy": False}
MRTRIX = {"kind": "sh", "axes": "rasmm", "basis": "tournier07"}


def fibers(seed=0):
    """One direction in each voxel, unit vectors along the voxel axes."""
    vectors = np.random.default_rng(seed).normal(size=(*SHAPE, 3))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def harmonics(directions, to_axes, *, basis="descoteaux07", legacy=False):
    """Fit a lobe around each direction, sampled on a sphere that is expressed in the given axes."""
    lobes = (directions @ SPHERE.vertices.T) ** 4
    sphere = Sphere(xyz=SPHERE.vertices @ to_axes.T)
    return sf_to_sh(lobes, sphere, sh_order_max=4, basis_type=basis, legacy=legacy).astype(np.float32)


def add_subject(subjects, name, affine=AFFINE, seed=0):
    """Write the same anatomy in several conventions."""
    rotation = affine[:3, :3] / SIZES
    directions = fibers(seed)
    mirror = np.diag([-1.0 if np.linalg.det(affine[:3, :3]) > 0 else 1.0, 1, 1])
    images = {
        "voxel": harmonics(directions, np.eye(3)),
        "legacy": harmonics(directions, np.eye(3), legacy=True),
        "mrtrix": harmonics(directions, rotation, basis="tournier07"),
        "scanner": harmonics(directions, rotation),
        "fsl": harmonics(directions, mirror, legacy=True),
        "fa": np.random.default_rng(seed).uniform(size=SHAPE).astype(np.float32),
        "peaks": (0.4 * directions).astype(np.float32),
        "scanner_peaks": (0.4 * directions @ rotation.T).astype(np.float32),
    }
    for image, values in images.items():
        subjects.volume(name, f"{image}.nii.gz", values, affine)
    lines = [np.array([[2.0, 3.0, 3.0], [4.0, 3.5, 3.0], [6.0, 4.0, 3.2]])]
    subjects.tractogram(name, "wb.trk", lines, affine=affine, shape=SHAPE)


def create(subjects, **groups):
    """Create the file; {group: (files, directions or None)}."""
    entries = {}
    for name, (files, directions) in groups.items():
        entries[name] = {"type": "volume", "files": files}
        if directions is not None:
            entries[name]["directions"] = directions
    entries["streamlines"] = {"type": "streamlines", "files": ["wb.trk"]}
    return subjects.create(entries, overwrite=True)


def read(subjects, group, subject="a"):
    with h5py.File(subjects.out) as handle:
        return handle[subject][group]["data"][()], dict(handle[subject][group].attrs)


def sidecar(subjects, image, subject="a", **encoding):
    path = subjects.folder / subject / f"{image}.json"
    path.write_text(json.dumps({"Description": "any", "OrientationEncoding": encoding}))
    return path


@pytest.mark.parametrize("mirror", [1.0, -1.0], ids=["left-handed", "right-handed"])
def test_all_conventions_give_the_same_features_on_an_oblique_subject(subjects, mirror):
    affine = AFFINE.copy()
    affine[:3, 0] *= mirror
    add_subject(subjects, "a", affine)
    create(
        subjects,
        voxel=(["voxel.nii.gz"], VOXEL),
        legacy=(["legacy.nii.gz"], {**VOXEL, "legacy": True}),
        scanner=(["scanner.nii.gz"], {**VOXEL, "axes": "rasmm"}),
        mrtrix=(["mrtrix.nii.gz"], MRTRIX),
        fsl=(["fsl.nii.gz"], {**VOXEL, "axes": "fsl", "legacy": True}),
        peaks=(["peaks.nii.gz"], {"kind": "peaks", "axes": "voxel"}),
        scanner_peaks=(["scanner_peaks.nii.gz"], {"kind": "peaks", "axes": "rasmm"}),
        unknown=(["scanner.nii.gz"], None),
    )
    expected = harmonics(fibers(), np.eye(3))
    for group in ("voxel", "legacy", "scanner", "mrtrix", "fsl"):
        np.testing.assert_allclose(read(subjects, group)[0], expected, atol=1e-4)
    np.testing.assert_array_equal(read(subjects, "voxel")[0], expected)
    for group in ("peaks", "scanner_peaks"):
        np.testing.assert_allclose(read(subjects, group)[0], 0.4 * fibers(), atol=1e-4)
    unknown, attributes = read(subjects, "unknown")
    assert np.abs(unknown - expected).max() > 0.1
    assert "directions" not in attributes


def test_what_is_stored_and_what_was_read_are_recorded(subjects):
    add_subject(subjects, "a")
    create(subjects, input=(["mrtrix.nii.gz", "fa.nii.gz"], [MRTRIX, {"kind": "none"}]), fa=(["fa.nii.gz"], None))
    data, attributes = read(subjects, "input")
    np.testing.assert_allclose(data[..., :15], harmonics(fibers(), np.eye(3)), atol=1e-4)
    full = {"nb_features": 15, "kind": "sh", "full_basis": False}
    assert json.loads(attributes["directions"]) == {
        "stored": [
            {**full, "axes": "voxel", "basis": "descoteaux07", "legacy": False},
            {"nb_features": 1, "kind": "none"},
        ],
        "read": [{**full, "axes": "rasmm", "basis": "tournier07", "legacy": False}, {"nb_features": 1, "kind": "none"}],
    }
    assert "directions" not in read(subjects, "fa")[1]
    MultiSubjectDataset(subjects.out).load_data()


def test_a_pattern_has_one_entry_for_all_its_files_and_null_leaves_a_file_alone(subjects):
    add_subject(subjects, "a")
    create(subjects, input=(["m*.nii.gz", "s*r.nii.gz"], [MRTRIX, None]))
    data, attributes = read(subjects, "input")
    np.testing.assert_allclose(data[..., :15], harmonics(fibers(), np.eye(3)), atol=1e-4)
    np.testing.assert_array_equal(data[..., 15:], harmonics(fibers(), AFFINE[:3, :3] / SIZES))
    assert json.loads(attributes["directions"])["stored"][1] == {"nb_features": 15}


def test_missing_peaks_of_mrtrix_are_zero(subjects):
    add_subject(subjects, "a")
    peaks = np.concatenate([fibers(), fibers(1)], axis=-1).astype(np.float32)
    peaks[1, 2, 3, 3:] = np.nan
    subjects.volume("a", "two.nii.gz", peaks, AFFINE)
    create(subjects, input=(["two.nii.gz"], {"kind": "peaks", "axes": "voxel"}))
    np.testing.assert_array_equal(read(subjects, "input")[0], np.nan_to_num(peaks))
    with pytest.raises(ValueError, match="holds 3 NaN"):
        create(subjects, input=(["two.nii.gz"], None))
    peaks[1, 2, 3, 3] = 1
    subjects.volume("a", "two.nii.gz", peaks, AFFINE)
    with pytest.raises(ValueError, match="holds 2 NaN"):
        create(subjects, input=(["two.nii.gz"], {"kind": "peaks", "axes": "voxel"}))


def test_a_sidecar_is_read_when_the_config_is_silent(subjects):
    add_subject(subjects, "a")
    sidecar(subjects, "mrtrix", Type="sh", SphericalHarmonicBasis="MRtrix3", SphericalHarmonicDegree=4, Reference="xyz")
    sidecar(subjects, "scanner_peaks", Type="3vector", Reference="xyz")
    sidecar(subjects, "fa", Type="scalar")
    create(
        subjects,
        input=(["mrtrix.nii.gz", "fa.nii.gz"], None),
        peaks=(["scanner_peaks.nii.gz"], None),
        fa=(["fa.nii.gz"], None),
    )
    np.testing.assert_allclose(read(subjects, "input")[0][..., :15], harmonics(fibers(), np.eye(3)), atol=1e-4)
    np.testing.assert_allclose(read(subjects, "peaks")[0], 0.4 * fibers(), atol=1e-4)
    assert json.loads(read(subjects, "input")[1]["directions"])["read"][0]["basis"] == "tournier07"
    assert "directions" not in read(subjects, "fa")[1]


def test_a_sidecar_that_agrees_with_the_config_completes_nothing_and_one_that_does_not_is_an_error(subjects):
    add_subject(subjects, "a")
    sidecar(subjects, "legacy", Type="sh", SphericalHarmonicBasis="descoteaux", Reference="ijk")
    create(subjects, input=(["legacy.nii.gz"], {**VOXEL, "legacy": True}))
    # The determinant is positive, so the bvecs are mirrored; with a negative one, they are along the voxel axes.
    for axes, reference in (("rasmm", "ijk"), ("voxel", "xyz"), ("voxel", "bvec")):
        sidecar(subjects, "legacy", Type="sh", SphericalHarmonicBasis="descoteaux", Reference=reference)
        with pytest.raises(
            ValueError, match=f"the groups config states axes '{axes}', but '.*legacy.json' states axes"
        ):
            create(subjects, input=(["legacy.nii.gz"], {**VOXEL, "legacy": True, "axes": axes}))
    sidecar(subjects, "legacy", Type="sh", SphericalHarmonicBasis="mrtrix3", Reference="ijk")
    with pytest.raises(ValueError, match="the groups config states basis 'descoteaux07', legacy True, but"):
        create(subjects, input=(["legacy.nii.gz"], {**VOXEL, "legacy": True}))
    with pytest.raises(ValueError, match="the groups config states kind 'none', but .* states kind 'sh'"):
        create(subjects, input=(["legacy.nii.gz"], {"kind": "none"}))


def test_bvec_and_voxel_axes_are_the_same_where_the_determinant_is_negative(subjects):
    affine = AFFINE.copy()
    affine[:3, 0] *= -1
    add_subject(subjects, "a", affine)
    sidecar(subjects, "legacy", Type="sh", SphericalHarmonicBasis="descoteaux", Reference="bvec")
    create(subjects, input=(["legacy.nii.gz"], {**VOXEL, "legacy": True}))
    np.testing.assert_allclose(read(subjects, "input")[0], harmonics(fibers(), np.eye(3)), atol=1e-4)


@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [
        ({"Type": "sh", "SphericalHarmonicBasis": "descoteaux", "Reference": "ijk"}, "'directions' has no 'legacy'"),
        ({"Type": "sh", "SphericalHarmonicBasis": "mrtrix3"}, "'directions' has no 'axes'"),
        ({"Type": "sh", "Reference": "xyz"}, "'directions' has no 'basis'"),
        ({"Type": "tensor", "Reference": "xyz"}, "'directions' has no 'order'"),
        ({"Type": "sh", "SphericalHarmonicBasis": "mrtrix3", "Reference": "RAS"}, "Reference must be one of 'bvec'"),
        (
            {"Type": "sh", "SphericalHarmonicBasis": "mrtrix3", "Reference": "xyz", "SphericalHarmonicDegree": 8},
            "SphericalHarmonicDegree is 8, but the image has 15 coefficients",
        ),
    ],
)
def test_an_incomplete_sidecar_is_told_before_the_work(subjects, encoding, sentence):
    add_subject(subjects, "a")
    sidecar(subjects, "mrtrix", **encoding)
    with pytest.raises(ValueError, match=f"^Group 'input' of subject 'a': .*mrtrix.json.*{sentence}"):
        create(subjects, input=(["mrtrix.nii.gz"], None))


def test_subjects_of_different_conventions_are_refused(subjects):
    add_subject(subjects, "a")
    add_subject(subjects, "b", seed=1)
    encoding = {"Type": "sh", "SphericalHarmonicBasis": "mrtrix3", "Reference": "xyz"}
    sidecar(subjects, "mrtrix", **encoding)
    with pytest.raises(ValueError, match="'input': the convention of .*'.*b/mrtrix.nii.gz' is unknown, but that of"):
        create(subjects, input=(["mrtrix.nii.gz"], None))
    sidecar(subjects, "mrtrix", "b", **encoding)
    create(subjects, input=(["mrtrix.nii.gz"], None))
    MultiSubjectDataset(subjects.out)
    with h5py.File(subjects.out, "r+") as handle:
        for name in ("a", "b", "/"):
            handle[name if name == "/" else f"{name}/input"].attrs.pop("dwiml_digest", None)
        del handle["b/input"].attrs["directions"]
    with pytest.raises(ValueError, match="'input' is unknown for subject 'b' and .* for subject 'a'"):
        MultiSubjectDataset(subjects.out)
    with h5py.File(subjects.out, "r+") as handle:
        handle["b/input"].attrs["directions"] = '{"stored": [{"nb_features": 15, "kind": "sh"}], "read": []}'
    with pytest.raises(
        ValueError, match="attribute 'directions' of the volume group 'input' of subject 'b' is damaged"
    ):
        MultiSubjectDataset(subjects.out)


@pytest.mark.parametrize(
    ("directions", "sentence"),
    [
        ([VOXEL], "'directions' has 1 entries and 'files' has 2"),
        ({**VOXEL, "axis": 1}, "unknown key 'axis'"),
        ([VOXEL, VOXEL], "fa.nii.gz' has 1 features"),
    ],
)
def test_a_wrong_config_is_refused(subjects, directions, sentence):
    add_subject(subjects, "a")
    if directions == [VOXEL, VOXEL]:
        directions = [VOXEL, {"kind": "peaks", "axes": "voxel"}]
    with pytest.raises(ValueError, match=f"Group 'input' of .*{sentence}"):
        create(subjects, input=(["voxel.nii.gz", "fa.nii.gz"], directions))
    subjects.assert_nothing_written()


def recorded_entry(subjects, group="input"):
    with open_hdf5(subjects.out) as file:
        return groups_config(file)[group]


def test_images_to_track_on_are_converted_as_those_of_the_training(subjects, caplog):
    add_subject(subjects, "a")
    create(subjects, input=(["mrtrix.nii.gz", "fa.nii.gz"], [MRTRIX, {"kind": "none"}]))
    entry = recorded_entry(subjects)
    directions = trained_directions(entry, 2, "input")
    assert directions == [parse_directions(MRTRIX, ""), parse_directions({"kind": "none"}, "")]
    folder = subjects.folder / "a"
    values, _ = read_volumes([folder / "mrtrix.nii.gz", folder / "fa.nii.gz"], directions=directions)
    np.testing.assert_array_equal(values, read(subjects, "input")[0])
    with pytest.raises(ValueError, match="created from 2 images, .* and the input has 1; give the images one by one"):
        trained_directions(entry, 1, "input")
    # An image whose sidecar states another convention is converted from that one.
    sidecar(subjects, "scanner_peaks", Type="3vector", Reference="xyz")
    with pytest.raises(ValueError, match="the images of the training had kind 'sh', but '.*scanner_peaks.json'"):
        read_volumes([folder / "scanner_peaks.nii.gz"], directions=directions[:1])
    in_voxels, _ = read_volumes(
        [folder / "scanner_peaks.nii.gz"], directions=[parse_directions({"kind": "peaks", "axes": "voxel"}, "")]
    )
    np.testing.assert_allclose(in_voxels, 0.4 * fibers(), atol=1e-4)
    assert "scanner_peaks.json' states axes 'rasmm', which is used" in caplog.text


def test_nothing_is_converted_for_a_model_of_an_unknown_convention(subjects):
    add_subject(subjects, "a")
    create(subjects, input=(["mrtrix.nii.gz"], None))
    assert trained_directions(recorded_entry(subjects), 1, "input") == []
    path = sidecar(subjects, "mrtrix", Type="sh", SphericalHarmonicBasis="mrtrix3", Reference="xyz").with_suffix(
        ".nii.gz"
    )
    np.testing.assert_array_equal(read_volumes([path])[0], read(subjects, "input")[0])
    sidecar(subjects, "fa", Type="nonsense")
    assert read_mask(subjects.folder / "a/fa.nii.gz")[1].shape == SHAPE


def test_another_convention_than_that_of_the_training_is_told(subjects, caplog):
    add_subject(subjects, "a")
    create(subjects, input=(["mrtrix.nii.gz"], MRTRIX))
    of_mrtrix = recorded_entry(subjects)
    create(subjects, input=(["voxel.nii.gz"], VOXEL))
    with caplog.at_level(logging.WARNING):
        check_same_making(of_mrtrix, recorded_entry(subjects), "input", subjects.out)
    assert "the convention of its directional features" not in caplog.text
    create(subjects, input=(["voxel.nii.gz"], None))
    check_same_making(of_mrtrix, recorded_entry(subjects), "input", subjects.out)
    assert "the convention of its directional features is [None] instead of" in caplog.text
