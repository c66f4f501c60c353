"""The measurement of the axes of directional features, on the phantom and on features of known fibers."""

from __future__ import annotations

import logging
import shutil

import h5py
import nibabel as nib
import numpy as np
import pytest
from dipy.core.sphere import Sphere
from dipy.data import get_sphere
from dipy.reconst.shm import convert_sh_from_legacy, convert_sh_to_legacy, sf_to_sh
from scipy.spatial.transform import Rotation

from dwiml.data.checking import check_hdf5_file
from dwiml.hdf5.creator import create_hdf5
from dwiml.hdf5.directions.alignment import measure_subject
from dwiml.hdf5.stored import open_hdf5
from dwiml.hdf5.stored.layout import groups_config
from dwiml.ops.axes.alignment import kind_of_unknown, measure
from dwiml.ops.axes.conventions import Directions
from dwiml.ops.axes.conversion import axes_matrix, convert_features
from dwiml.phantom.create import create_phantom

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
SPHERE = get_sphere(name="repulsion724")
VOXEL = Directions(kind="sh", basis="descoteaux07")
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [20, -15, 35], degrees=True).as_matrix() * 2.0
LINES = {"type": "streamlines", "files": ["bundles/*.trk"]}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """Four subjects: sub-03 has an oblique grid, and all have their first axis to the left."""
    folder = tmp_path_factory.mktemp("phantom") / "phantom"
    create_phantom(folder, nb_subjects=4, size="small")
    return folder / "subjects"


def creation(phantom, out, directions=None, **keys):
    entry = {"type": "volume", "files": ["metrics/sh.nii.gz"], **keys}
    if directions is not None:
        entry["directions"] = directions.as_dict()
    names = sorted(path.name for path in phantom.iterdir())
    return create_hdf5(phantom, out, {"input": entry, "streamlines": LINES}, names, overwrite=True)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if "follow the streamlines" in record.getMessage()]


@pytest.mark.first(1)
@pytest.mark.parametrize("standardization", ["none", "all"])
def test_the_declared_axes_of_the_phantom_fit(phantom, tmp_path, caplog, standardization):
    summary = creation(phantom, tmp_path / "a.hdf5", VOXEL, standardization=standardization)
    assert [each.subject for each in summary.alignments] == ["sub-01", "sub-02", "sub-03", "sub-04"]
    for each in summary.alignments:
        assert each.features == (0, 28)
        assert each.measurement.alignment > 0.9
        assert each.measurement.best.directions == VOXEL
        assert each.sentence == ""
    assert warnings_of(caplog) == []


def test_processes_and_parts_of_a_stopped_creation_measure_the_same(phantom, tmp_path):
    entry = {"type": "volume", "files": ["metrics/sh.nii.gz"], "directions": VOXEL.as_dict()}
    config = {"input": entry, "streamlines": LINES}
    names = sorted(path.name for path in phantom.iterdir())[:3]
    expected = create_hdf5(phantom, tmp_path / "one.hdf5", config, names).alignments
    assert len(expected) == 3
    # The second subject cannot be read, so that only the first one is finished.
    stopped = tmp_path / "subjects"
    shutil.copytree(phantom, stopped)
    volume = stopped / names[2] / "metrics" / "sh.nii.gz"
    content = volume.read_bytes()
    volume.write_bytes(content[:-2000])
    with pytest.raises(ValueError, match=names[2]):
        create_hdf5(stopped, tmp_path / "two.hdf5", config, names, nbr_processes=2)
    volume.write_bytes(content)
    continued = create_hdf5(stopped, tmp_path / "two.hdf5", config, names, nbr_processes=2, resume=True)
    assert continued.nb_reused > 0
    assert continued.alignments == expected


@pytest.mark.first(1)
@pytest.mark.parametrize(
    "declared",
    [
        Directions(kind="sh", axes="rasmm", basis="descoteaux07"),
        Directions(kind="sh", basis="descoteaux07", legacy=True),
        Directions(kind="sh", basis="tournier07"),
    ],
    ids=["axes", "legacy", "basis"],
)
def test_a_wrong_declaration_is_told_for_each_subject(phantom, tmp_path, caplog, declared):
    summary = creation(phantom, tmp_path / "a.hdf5", declared)
    told = warnings_of(caplog)
    assert len(told) == 4
    for each, sentence in zip(summary.alignments, told, strict=True):
        assert each.measurement.best.directions == VOXEL
        assert each.measurement.best.alignment > 0.9
        assert each.measurement.alignment < 0.85
        assert sentence.startswith(f"Group 'input' of subject '{each.subject}': its spherical harmonics follow the")
        assert '"axes": "voxel", "basis": "descoteaux07", "legacy": false' in sentence


def test_features_in_scanner_axes_are_told_when_nothing_is_declared(phantom, tmp_path, caplog):
    """The oblique subject only: the file of each subject is replaced by one in scanner axes."""
    folder = tmp_path / "subjects"
    for name in ("sub-01", "sub-03"):
        image = nib.load(phantom / name / "metrics/sh.nii.gz")
        values = image.get_fdata()
        to_voxels = np.eye(4)
        to_voxels[:3, :3] = axes_matrix("rasmm", image.affine).T
        # From voxel axes to scanner axes: the inverse rotation.
        convert_features(values, Directions(kind="sh", axes="rasmm", basis="descoteaux07"), to_voxels)
        (folder / name / "metrics").mkdir(parents=True)
        (folder / name / "bundles").symlink_to(phantom / name / "bundles")
        nib.save(nib.Nifti1Image(values.astype(np.float32), image.affine), folder / name / "metrics/sh.nii.gz")
    summary = creation(folder, tmp_path / "a.hdf5")
    assert len(warnings_of(caplog)) == 2
    for each, sentence in zip(summary.alignments, warnings_of(caplog), strict=True):
        assert each.measurement.best.directions == Directions(kind="sh", axes="rasmm", basis="descoteaux07")
        assert "its features, if they are spherical harmonics, follow the streamlines better as" in sentence
    caplog.clear()
    creation(folder, tmp_path / "a.hdf5", Directions(kind="sh", axes="rasmm", basis="descoteaux07"))
    assert warnings_of(caplog) == []


def test_what_was_standardized_by_feature_without_a_record_is_not_measured(phantom, tmp_path, caplog):
    mask = {"standardization": "independent", "std_mask": ["masks/wm.nii.gz"]}
    creation(phantom, tmp_path / "a.hdf5", VOXEL, **mask)
    assert warnings_of(caplog) == []
    with h5py.File(tmp_path / "a.hdf5", "r+") as handle:
        for name in ("sub-03", "sub-03/input"):
            for key in ("dwiml_provenance", "dwiml_digest"):
                handle[name].attrs.pop(key, None)
    with open_hdf5(tmp_path / "a.hdf5") as file:
        (found,) = measure_subject(file.root.group("sub-03"), groups_config(file))
    assert found.measurement is None
    assert found.sentence.startswith(
        "Group 'input' of subject 'sub-03': the axes of its directional features could not"
    )


def fibers(nb=600, seed=0):
    """Directions along voxel axes, most of them near the first axis, and lobes around them, shape (nb, 724)."""
    directions = np.random.default_rng(seed).normal(size=(nb, 3)) * [2.0, 1.0, 0.7]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions, (directions @ SPHERE.vertices.T) ** 6


@pytest.mark.parametrize("axes", ["voxel", "rasmm", "fsl"])
@pytest.mark.parametrize("signal", [False, True], ids=["fodf", "signal"])
@pytest.mark.parametrize("full_basis", [False, True])
def test_harmonics_fitted_in_any_axes_are_recognized(axes, signal, full_basis):
    """A fit of DIPY in some axes, read as if it were in voxel axes."""
    directions, lobes = fibers()
    sphere = Sphere(xyz=SPHERE.vertices @ axes_matrix(axes, OBLIQUE).T)
    coefficients = sf_to_sh(
        1 - lobes if signal else lobes,
        sphere,
        sh_order_max=6,
        basis_type="descoteaux07",
        legacy=False,
        full_basis=full_basis,
        smooth=1e-8,
    )
    stated = Directions(kind="sh", basis="descoteaux07", full_basis=full_basis)
    found = measure(coefficients, -3 * directions, OBLIQUE, stated)
    assert found.best.directions.axes == axes
    assert found.best.alignment > 0.95
    assert found.is_suspicious == (axes != "voxel")
    assert found.nb_points == 600
    if axes == "voxel":
        assert found.alignment == pytest.approx(found.best.alignment, abs=1e-9)


@pytest.mark.parametrize("basis", ["descoteaux07", "tournier07"])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_basis_is_recognized_from_a_wrong_statement(basis, legacy):
    directions, lobes = fibers()
    true = Directions(kind="sh", axes="rasmm", basis=basis, legacy=legacy)
    sphere = Sphere(xyz=SPHERE.vertices @ axes_matrix("rasmm", OBLIQUE).T)
    coefficients = sf_to_sh(lobes, sphere, sh_order_max=8, basis_type=basis, legacy=legacy)
    wrong = Directions(kind="sh", axes="fsl", basis="descoteaux07", legacy=not legacy)
    convert_features(coefficients, wrong, OBLIQUE)
    found = measure(coefficients, directions, OBLIQUE, wrong)
    assert found.best.directions == true
    assert found.is_suspicious


def test_mirrored_gradients_are_told_though_no_axes_have_that_name():
    directions, lobes = fibers()
    mirrored = Sphere(xyz=SPHERE.vertices * [1, -1, 1])
    coefficients = sf_to_sh(lobes, mirrored, sh_order_max=6, basis_type="descoteaux07", legacy=False)
    found = measure(coefficients, directions, OBLIQUE, VOXEL)
    assert (found.best.directions, found.best.change) == (None, "y mirrored")
    exchanged = Sphere(xyz=SPHERE.vertices[:, [1, 0, 2]] * [1, -1, 1])
    coefficients = sf_to_sh(lobes, exchanged, sh_order_max=6, basis_type="descoteaux07", legacy=False)
    found = measure(coefficients, directions, OBLIQUE, VOXEL)
    assert found.best.directions is None
    # The signs of two axes together mean nothing for functions without orientation.
    assert found.best.change in ("x, y, z replaced by y, -x, z", "x, y, z replaced by -y, x, z")
    assert found.best.alignment > 0.95


def test_peaks_and_tensors_are_measured():
    directions, _ = fibers()
    rotation = axes_matrix("rasmm", OBLIQUE)
    in_scanner = directions @ rotation.T
    second = np.roll(directions, 1, axis=0) * 0.1
    peaks = np.concatenate([0.8 * in_scanner, second @ rotation.T, np.zeros_like(directions)], axis=1)
    for stated, axes in ((Directions(kind="peaks"), "rasmm"), (None, "rasmm")):
        found = measure(peaks, directions, OBLIQUE, stated)
        assert (found.kind, found.best.directions.axes, found.is_suspicious) == ("peaks", axes, True)
    convert_features(peaks, Directions(kind="peaks", axes="rasmm"), OBLIQUE)
    found = measure(peaks, directions, OBLIQUE, Directions(kind="peaks", axes="rasmm"))
    # Nine tenths of the length are along the streamline, the rest along unrelated directions.
    cosines = np.einsum("px,px->p", directions, np.roll(directions, 1, axis=0))
    expected = (0.8 + 0.1 * (3 * cosines**2 - 1) / 2).mean() / 0.9
    assert found.alignment == pytest.approx(expected, abs=1e-9)
    assert not found.is_suspicious

    tensors = 1e-3 * (0.3 * np.eye(3) + 1.4 * np.einsum("pi,pj->pij", in_scanner, in_scanner))
    mrtrix = np.stack([tensors[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))], axis=1)
    wrong, true = (Directions(kind="tensor", axes="rasmm", order=order) for order in ("dipy", "mrtrix"))
    converted = mrtrix.copy()
    convert_features(converted, wrong, OBLIQUE)
    found = measure(converted, directions, OBLIQUE, wrong)
    assert found.best.directions == true
    assert found.best.alignment == pytest.approx(1, abs=1e-6)
    assert found.is_suspicious


def test_features_that_are_not_directional_are_not_suspicious():
    directions, _ = fibers()
    noise = np.random.default_rng(3).normal(size=(600, 28))
    found = measure(noise, directions, OBLIQUE, None)
    assert abs(found.best.alignment) < 0.3
    assert not found.is_suspicious
    assert measure(noise[:, :7], directions, OBLIQUE, None) is None
    assert measure(noise[:50], directions[:50], OBLIQUE, None) is None
    assert measure(np.zeros_like(noise), directions, OBLIQUE, VOXEL) is None
    assert measure(noise, directions, OBLIQUE, Directions(kind="none")) is None
    assert [kind_of_unknown(nb) for nb in (1, 3, 6, 9, 15, 28, 45, 30)] == ["", "", "", "peaks", "sh", "sh", "sh", ""]


def test_the_bases_of_an_unknown_convention_are_all_tried():
    directions, lobes = fibers()
    coefficients = sf_to_sh(lobes, SPHERE, sh_order_max=6, basis_type="descoteaux07", legacy=True)
    found = measure(coefficients, directions, OBLIQUE, None)
    assert found.alignment == found.best.alignment > 0.95
    same = convert_sh_to_legacy(convert_sh_from_legacy(coefficients, "descoteaux07"), "descoteaux07")
    np.testing.assert_array_equal(same, coefficients)


def test_the_warning_is_logged_at_the_end_of_the_creation(phantom, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        creation(phantom, tmp_path / "a.hdf5", Directions(kind="sh", axes="rasmm", basis="descoteaux07"))
    (sentence,) = [text for text in warnings_of(caplog) if "'sub-03'" in text]
    assert "instead of" in sentence
    assert sentence.endswith("state this as 'directions' in the groups config, and recreate the HDF5 file.")


@pytest.mark.slow
def test_check_hdf5_remarks_on_wrong_axes_from_what_the_file_holds(phantom, tmp_path):
    creation(phantom, tmp_path / "a.hdf5", VOXEL, standardization="all")
    assert check_hdf5_file(tmp_path / "a.hdf5").all_remarks == []
    creation(phantom, tmp_path / "b.hdf5", Directions(kind="sh", axes="rasmm", basis="descoteaux07"))
    report = check_hdf5_file(tmp_path / "b.hdf5")
    assert report.all_faults == []
    for name, remark in zip(("sub-01", "sub-02", "sub-03", "sub-04"), report.all_remarks, strict=True):
        assert remark.startswith(f"{name}/input: its spherical harmonics follow the streamlines better as")


def test_damaged_streamlines_and_features_are_faults_of_their_groups(phantom, tmp_path):
    """The measurement ends with no error of its own."""
    path = tmp_path / "a.hdf5"
    creation(phantom, path, VOXEL)
    with h5py.File(path, "r+") as handle:
        for node in (handle, handle["sub-01/input"], handle["sub-02/streamlines"]):
            node.attrs.pop("dwiml_digest", None)
        del handle["sub-02/streamlines/lengths"].attrs["dwiml_digest"]
        handle["sub-02/streamlines/lengths"][-1] = 10**6
        text = handle["sub-01/input"].attrs["directions"].replace('"nb_features": 28', '"nb_features": 27')
        handle["sub-01/input"].attrs["directions"] = text
    report = check_hdf5_file(path)
    assert report.all_remarks == []
    assert [group.subject for group in report.groups if group.faults] == ["sub-02"]
    with open_hdf5(path) as file, pytest.raises(ValueError, match="'directions' is for other features"):
        measure_subject(file.root.group("sub-01"), groups_config(file))
