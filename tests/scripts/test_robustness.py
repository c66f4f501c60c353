"""The changed versions of a subject, each checked against something that the script does not use; and the script."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

import dwiml
from dwiml.cli.main import main
from dwiml.ops.axes.alignment import Measurement, measure
from dwiml.ops.axes.conventions import Directions
from dwiml.tractograms.reading import open_tractogram

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from comparison import changed_images, changed_subject  # noqa: E402
from comparison.changed_images import Images  # noqa: E402

CONVENTION = Directions(kind="sh", axes="voxel", basis="descoteaux07", legacy=False, full_basis=False)


@pytest.fixture(scope="module")
def subject(phantom_hdf5: Path) -> Path:
    """Return the folder of a subject with an oblique grid."""
    return phantom_hdf5.parent / "subjects" / "sub-03"


@pytest.fixture(scope="module")
def images(subject: Path) -> Images:
    return changed_subject.read_images_of(subject)


def alignment(images: Images, folder: Path, subject: Path) -> Measurement:
    """Measure whether the recomputed SH follow the true streamlines, in the voxel axes of the images."""
    changed_subject.write_version(images, folder)
    harmonics = nib.load(folder / "metrics/sh.nii.gz")
    lines = open_tractogram(subject / "bundles/arch.trk").read(harmonics.affine)
    inner = np.delete(np.arange(len(lines.points) - 1), np.cumsum(lines.lengths)[:-1] - 1)
    steps = np.diff(lines.points, axis=0)[inner] * images.voxel_sizes
    voxels = np.floor(lines.points[inner]).astype(int)
    values = np.asarray(harmonics.dataobj)[tuple(voxels.T)]
    found = measure(values, steps, harmonics.affine, CONVENTION)
    assert found is not None
    return found


def center_mm(images: Images) -> np.ndarray:
    return nib.affines.apply_affine(images.affine, np.argwhere(images.in_head).mean(axis=0))


def volume_mm3(images: Images) -> float:
    return float(images.mask.sum() * np.prod(images.voxel_sizes))


def test_the_maps_are_those_of_the_phantom(images: Images, subject: Path, tmp_path: Path) -> None:
    changed_subject.write_version(images, tmp_path)
    for name in ("metrics/sh.nii.gz", "metrics/fa.nii.gz", "masks/wm.nii.gz"):
        found, own = nib.load(tmp_path / name), nib.load(subject / name)
        np.testing.assert_allclose(found.get_fdata(), own.get_fdata(), atol=1e-5)
        np.testing.assert_allclose(found.affine, own.affine, atol=1e-6)


def test_the_noise_that_is_added_is_what_lacks(images: Images) -> None:
    own = changed_images.signal_to_noise(images)
    # The phantom draws it from 25 to 35.
    assert 24 < own < 38
    noisy = changed_images.with_noise(images, 10, np.random.default_rng(3))
    signal = images.dwi[images.mask][:, images.bvals == 0].astype(float)
    change = noisy.dwi[images.mask][:, images.bvals == 0] - signal
    assert change.std() == pytest.approx(signal.mean() * np.sqrt(1 / 10**2 - 1 / own**2), rel=0.03)
    assert changed_images.signal_to_noise(noisy) == pytest.approx(10, rel=0.03)
    # The signal of the noise alone is not negative.
    assert noisy.dwi.min() >= 0
    with pytest.raises(ValueError, match="noise cannot change it to 60"):
        changed_images.with_noise(images, 60, np.random.default_rng(3))


@pytest.mark.parametrize(("share", "nb", "farthest"), [(0.5, 25, 22), (1 / 3, 17, 27)])
def test_the_directions_that_are_left_are_spread(images: Images, share: float, nb: int, farthest: float) -> None:
    fewer = changed_images.with_fewer_directions(images, share)
    assert np.count_nonzero(fewer.bvals == 0) == 5
    kept = fewer.directions[fewer.bvals > 0]
    assert kept.shape == (nb, 3)
    places = [int(np.flatnonzero((images.directions == each).all(axis=1))[0]) for each in kept]
    np.testing.assert_array_equal(fewer.dwi[..., 5:], images.dwi[..., places])
    # Every direction that was left out has one nearby.
    cosines = np.abs(images.directions[images.bvals > 0] @ kept.T).max(axis=1)
    assert np.degrees(np.arccos(cosines.clip(max=1))).max() < farthest
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        changed_images.with_fewer_directions(images, 1.5)


@pytest.mark.parametrize(("degrees", "loss"), [(20, 0.03), (60, 0.2)])
def test_a_rotated_head_keeps_its_place_and_its_fibers(
    images: Images, subject: Path, tmp_path: Path, degrees: float, loss: float
) -> None:
    rotated = changed_images.rotated(images, degrees)
    turn = rotated.affine[:3, :3] @ np.linalg.inv(images.affine[:3, :3])
    assert np.degrees(Rotation.from_matrix(turn).magnitude()) == pytest.approx(degrees)
    assert np.abs(Rotation.from_matrix(turn).as_rotvec()).min() > 0.05
    np.testing.assert_allclose(center_mm(rotated), center_mm(images), atol=0.1)
    assert volume_mm3(rotated) == pytest.approx(volume_mm3(images), rel=0.06)
    # At points of the white matter, both have the same images.
    points = nib.affines.apply_affine(images.affine, np.argwhere(images.mask)[::50])
    before, after = (
        map_coordinates(each.dwi[..., 9].astype(float), nib.affines.apply_affine(np.linalg.inv(each.affine), points).T)
        for each in (images, rotated)
    )
    assert np.corrcoef(before, after)[0, 1] > 0.9
    # The SH follow the streamlines, which do not move in the scanner.
    found = alignment(rotated, tmp_path, subject)
    assert found.alignment > alignment(images, tmp_path, subject).alignment - 0.02
    assert found.best.directions == CONVENTION
    kept = dataclasses.replace(rotated, directions=images.directions)
    assert alignment(kept, tmp_path, subject).alignment < found.alignment - loss


@pytest.mark.parametrize("size", [2.0, 3.75])
def test_another_voxel_size(images: Images, subject: Path, tmp_path: Path, size: float) -> None:
    resampled = changed_images.with_voxel_size(images, size)
    np.testing.assert_allclose(resampled.voxel_sizes, size)
    extents = [np.array(each.mask.shape) * each.voxel_sizes for each in (images, resampled)]
    assert ((extents[1] >= extents[0] - 1e-3) & (extents[1] < extents[0] + size)).all()
    np.testing.assert_allclose(center_mm(resampled), center_mm(images), atol=0.1)
    assert volume_mm3(resampled) == pytest.approx(volume_mm3(images), rel=0.06)
    own = alignment(images, tmp_path, subject).alignment
    assert alignment(resampled, tmp_path, subject).alignment > own - 0.02


def test_a_mask_of_fa_has_the_voxels_of_that_fa(images: Images, subject: Path) -> None:
    fa = nib.load(subject / "metrics/fa.nii.gz").get_fdata()
    for threshold in (0.15, 0.4):
        masked = changed_images.with_mask_of_fa(images, changed_subject.fa_of(images), threshold)
        assert abs(int(masked.mask.sum()) - np.count_nonzero(fa >= threshold)) <= 2
        assert masked.dwi is images.dwi
    with pytest.raises(ValueError, match="No voxel has an FA of 1.2 or more"):
        changed_images.with_mask_of_fa(images, fa, 1.2)


@pytest.mark.slow
def test_the_script(phantom_hdf5: Path, subject: Path, tmp_path: Path) -> None:
    options = "--input_group_name input --streamline_group_name streamlines --step_size 2 --rnn_layer_sizes 16 -q"
    options += " --max_epochs 2 --seed 1 --nb_previous_dirs 1"
    assert main(["train", "learn2track", str(phantom_hdf5), str(tmp_path), "exp", *options.split()]) == 0
    options = "--json rows.json --snr 10 --directions 0.5 --rotations --voxel_sizes 3.6 --fa_thresholds 0.2"
    options += " --min_length 5 --random_seeds 1 --dipy_order 6"
    command = [sys.executable, str(SCRIPTS / "robustness.py"), "exp", str(subject), *options.split()]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    names = ["unchanged", "noise to SNR 10", "50% of the directions", "voxels of 3.6 mm", "mask: FA of 0.2 or more"]
    assert [(row["change"], row["tracker"]) for row in rows] == [
        (name, tracker) for name in names for tracker in ("dwiml", "dipy prob")
    ]
    assert len({row["nb_seeds"] for row in rows}) == 1
    assert all(row["nb_streamlines"] > 0 for row in rows)
    assert rows[1]["valid_connections"] > 0.1
    # The subject of the HDF5 file gives the same streamlines as its recomputed maps.
    same = {"nb_seeds": rows[0]["nb_seeds"], "seed": 1, "min_length": 5, "max_length": 250, "theta": 45}
    lines = dwiml.track(
        tmp_path / "exp", "sub-03", tracking_mask="wm_mask", mask_interpolation="trilinear", **same
    ).streamlines
    assert rows[0]["nb_streamlines"] == pytest.approx(len(lines), abs=2)
    again = run()
    # Nothing is tracked twice.
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == rows
    assert again.stdout.strip() == done.stdout[done.stdout.index("\nsub-03, ") :].strip()
    other = run("--theta", "30")
    assert other.returncode == 2
    assert "was made with other options, data or weights" in other.stderr
