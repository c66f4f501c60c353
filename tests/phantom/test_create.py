"""The folder of example subjects, read with nibabel and DIPY."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.io.gradients import read_bvals_bvecs
from dipy.io.streamline import load_tractogram
from dipy.reconst.dti import TensorModel

from dwiml.phantom import create as create_module
from dwiml.phantom.anatomy import draw_subject
from dwiml.phantom.create import create_phantom, simulate_subject
from dwiml.phantom.geometry import template_bundles
from dwiml.phantom.simulate import make_protocol
from dwiml.phantom.voxelize import map_fibers

BUNDLES = [bundle.name for bundle in template_bundles()]
ANISOTROPIC, OBLIQUE = "sub-02", "sub-03"
FILES = {
    *("dwi/dwi.nii.gz", "dwi/dwi.bval", "dwi/dwi.bvec", "metrics/fa.nii.gz", "metrics/sh.nii.gz"),
    *("masks/wm.nii.gz", "labels/endpoints.nii.gz", "ground_truth.json"),
    *(f"bundles/{name}.trk" for name in BUNDLES),
}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_phantom(tmp_path_factory.mktemp("phantom") / "made" / "ph", size="small", seed=5)


def subjects_of(folder: Path) -> list[Path]:
    return sorted((folder / "subjects").iterdir())


def volume(subject: Path, name: str) -> np.ndarray:
    return np.asarray(nib.load(subject / name).dataobj)


def affine_of(subject: Path) -> np.ndarray:
    return np.asarray(nib.load(subject / "dwi/dwi.nii.gz").affine)


def streamlines(subject: Path, bundle: str) -> list[np.ndarray]:
    """Streamlines of a bundle in voxel space, center origin, read by DIPY, which checks that all are in the volume."""
    tractogram = load_tractogram(str(subject / f"bundles/{bundle}.trk"), str(subject / "dwi/dwi.nii.gz"))
    tractogram.to_vox()
    tractogram.to_center()
    return list(tractogram.streamlines)


def test_layout_subject_lists_and_config_suit_create_hdf5(phantom: Path) -> None:
    assert {path.name for path in phantom.iterdir()} == {
        *("config.json", "training.txt", "validation.txt", "testing.txt", "README.txt", "phantom.json", "subjects"),
    }
    listed = {phase: (phantom / f"{phase}.txt").read_text().split() for phase in ("training", "validation", "testing")}
    assert listed == {
        "training": ["sub-01", "sub-02", "sub-03", "sub-04"],
        "validation": ["sub-05"],
        "testing": ["sub-06"],
    }
    config = json.loads((phantom / "config.json").read_text())
    assert {name: group["type"] for name, group in config.items()} == {
        "input": "volume",
        "wm_mask": "volume",
        "streamlines": "streamlines",
    }
    for subject in subjects_of(phantom):
        assert {path.relative_to(subject).as_posix() for path in subject.rglob("*") if path.is_file()} == FILES
        for group in config.values():
            for pattern in [*group["files"], *group.get("std_mask", [])]:
                assert list(subject.glob(pattern)), f"{pattern} matches nothing"
    assert "dwiml create_hdf5 subjects" in (phantom / "README.txt").read_text()


def test_volumes_of_a_subject_share_one_grid_and_have_plausible_values(phantom: Path) -> None:
    for subject in subjects_of(phantom):
        images = {name: nib.load(subject / name) for name in FILES if name.endswith(".nii.gz")}
        for image in images.values():
            np.testing.assert_array_equal(image.affine, images["dwi/dwi.nii.gz"].affine)
            np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
            assert image.shape[:3] == images["dwi/dwi.nii.gz"].shape[:3]
            assert np.isfinite(np.asarray(image.dataobj)).all()
        assert images["dwi/dwi.nii.gz"].shape[3] == 55
        assert images["metrics/sh.nii.gz"].shape[3] == 28
        fa, wm = volume(subject, "metrics/fa.nii.gz"), volume(subject, "masks/wm.nii.gz").astype(bool)
        assert 0 <= fa.min() <= fa.max() <= 1
        assert np.median(fa[wm]) > 0.5 > 0.2 > np.median(fa[(fa > 0) & ~wm])
        assert set(np.unique(volume(subject, "labels/endpoints.nii.gz"))) == set(range(2 * len(BUNDLES) + 1))


def test_one_subject_is_anisotropic_one_oblique_and_all_are_different(phantom: Path) -> None:
    folders = subjects_of(phantom)
    affines = {folder.name: affine_of(folder) for folder in folders}
    assert {name for name, a in affines.items() if np.ptp(nib.affines.voxel_sizes(a)) > 0.1} == {ANISOTROPIC}
    assert {name for name, a in affines.items() if nib.affines.obliquity(a).max() > 0.1} == {OBLIQUE}
    middles = [np.mean(nib.streamlines.load(f / "bundles/arch.trk").streamlines[0], axis=0) for f in folders]
    distances = np.linalg.norm(np.subtract.outer(middles, middles)[:, [0, 1, 2], :, [0, 1, 2]], axis=0)
    assert distances[~np.eye(len(folders), dtype=bool)].min() > 1


@pytest.mark.parametrize("name", ["sub-01", ANISOTROPIC, OBLIQUE])
def test_tensors_of_the_files_follow_the_streamlines(phantom: Path, name: str) -> None:
    subject = phantom / "subjects" / name
    affine = affine_of(subject)
    bvals, bvecs = read_bvals_bvecs(str(subject / "dwi/dwi.bval"), str(subject / "dwi/dwi.bvec"))
    # The FSL rule, implemented independently: x is mirrored when the determinant is positive.
    directions = bvecs * [-1 if np.linalg.det(affine) > 0 else 1, 1, 1]
    wm = volume(subject, "masks/wm.nii.gz").astype(bool)
    fit = TensorModel(gradient_table(bvals, bvecs=directions)).fit(volume(subject, "dwi/dwi.nii.gz"), mask=wm)
    points, tangents, bundle_of = [], [], []
    for k, bundle in enumerate(BUNDLES):
        for line in streamlines(subject, bundle):
            points.append(line[1:-1])
            # From voxels to mm along the voxel axes, as for the gradient directions.
            tangents.append((line[2:] - line[:-2]) * nib.affines.voxel_sizes(affine))
            bundle_of.append(np.full(len(line) - 2, k))
    voxels = tuple(np.floor(np.concatenate(points) + 0.5).astype(int).T)
    owners = np.concatenate(bundle_of)
    count = np.zeros((*wm.shape, len(BUNDLES)), dtype=int)
    np.add.at(count, (*voxels, owners), 1)
    single = ((count > 0).sum(axis=-1) == 1) & (fit.fa > 0.6)
    alone = single[voxels]
    assert alone.sum() > 5000

    def degrees(principal: np.ndarray) -> np.ndarray:
        unit = np.concatenate(tangents) / np.linalg.norm(np.concatenate(tangents), axis=1, keepdims=True)
        return np.degrees(np.arccos(np.abs((principal[voxels] * unit).sum(axis=1)).clip(0, 1)))[alone]

    principal = fit.evecs[..., 0]
    assert np.median(degrees(principal)) < 4
    assert np.percentile(degrees(principal), 90) < 10
    for axis in range(3):
        mirror = np.where(np.arange(3) == axis, -1, 1)
        assert np.median(degrees(principal * mirror)) > 10, f"axis {axis} could be mirrored without being noticed"


def test_streamlines_stay_in_white_matter_and_end_on_their_labels(phantom: Path) -> None:
    for subject in subjects_of(phantom):
        wm, labels = volume(subject, "masks/wm.nii.gz"), volume(subject, "labels/endpoints.nii.gz")
        in_wm, on_start, on_end = [], [], []
        for k, bundle in enumerate(BUNDLES):
            lines = streamlines(subject, bundle)
            assert len(lines) == 40
            voxels = [tuple(np.floor(line + 0.5).astype(int).T) for line in lines]
            in_wm += [wm[v].mean() for v in voxels]
            on_start += [labels[v][0] == 2 * k + 1 for v in voxels]
            on_end += [labels[v][-1] == 2 * k + 2 for v in voxels]
        assert np.mean(in_wm) > 0.95
        assert np.mean(on_start) > 0.95
        assert np.mean(on_end) > 0.95


def test_ground_truth_has_the_endpoint_labels_of_each_bundle(phantom: Path) -> None:
    for subject in subjects_of(phantom):
        truth = json.loads((subject / "ground_truth.json").read_text())
        assert list(truth) == BUNDLES
        for name, entry in truth.items():
            assert entry["tractogram"] == f"bundles/{name}.trk"
            for side, index in (("head", 0), ("tail", -1)):
                labels = volume(subject, entry[side]["file"])
                ends = [tuple(np.floor(line[index] + 0.5).astype(int)) for line in streamlines(subject, name)]
                assert np.mean([labels[end] == entry[side]["label"] for end in ends]) > 0.95


@pytest.mark.first(1)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_bundles_cross_and_kiss(index: int) -> None:
    bundles = template_bundles()
    column = {bundle.name: k for k, bundle in enumerate(bundles)}
    subject = draw_subject(index, 2.0, np.random.default_rng(index))
    fiber_map = map_fibers(subject, bundles, np.eye(3))

    def shared(first: str, second: str) -> np.ndarray:
        pair = fiber_map.fractions[:, [column[first], column[second]]]
        voxels = fiber_map.voxels[(pair > 0.2).all(axis=1)]
        return np.stack(np.unravel_index(voxels, fiber_map.shape), axis=1)

    for side in ("left", "right"):
        for crossing in (("arch", f"fan_{side}"), ("arch", f"hook_{side}"), ("sling", f"fan_{side}")):
            assert len(shared(*crossing)) > 15, crossing
    # They touch along the midline only: a patch that is thin from left to right.
    kissing = shared("kiss_left", "kiss_right")
    assert len(kissing) > 3
    assert np.ptp(kissing[:, 0]) <= 3


@pytest.mark.slow
def test_same_seed_gives_same_files_whatever_the_number_of_subjects(phantom: Path, tmp_path: Path) -> None:
    again = create_phantom(tmp_path / "again", size="small", seed=5, nb_subjects=3)
    for subject in subjects_of(again):
        for name in FILES:
            assert (subject / name).read_bytes() == (phantom / "subjects" / subject.name / name).read_bytes(), name
    assert (again / "training.txt").read_text().split() == ["sub-01"]


def test_another_seed_gives_other_subjects(phantom: Path) -> None:
    other = simulate_subject(0, seed=6, size="small", bundles=template_bundles(), protocol=make_protocol())
    first = phantom / "subjects/sub-01"
    assert not np.array_equal(other.dwi, volume(first, "dwi/dwi.nii.gz"))
    assert not np.allclose(other.streamlines[0][0][0], streamlines(first, "arch")[0][0], atol=0.5)


def test_snr_changes_only_the_noise(phantom: Path, tmp_path: Path) -> None:
    noisy = create_phantom(tmp_path / "noisy", size="small", seed=5, nb_subjects=3, snr=6)
    depends_on_noise = {"dwi/dwi.nii.gz", "metrics/fa.nii.gz", "metrics/sh.nii.gz"}
    for subject in subjects_of(noisy):
        clean = phantom / "subjects" / subject.name
        for name in FILES:
            assert ((subject / name).read_bytes() == (clean / name).read_bytes()) == (name not in depends_on_noise)
        # The five images at b = 0 differ by their noise only.
        stds = [
            np.median(volume(each, "dwi/dwi.nii.gz")[volume(each, "masks/wm.nii.gz") > 0][:, :5].std(axis=1, ddof=1))
            for each in (subject, clean)
        ]
        assert 25 / 6 < stds[0] / stds[1] < 35 / 6
    assert json.loads((noisy / "phantom.json").read_text())["snr"] == [6, 6]
    assert "--size small --snr 6 OUT_DIR" in (noisy / "README.txt").read_text()
    assert "snr" not in json.loads((phantom / "phantom.json").read_text())


def test_each_subject_has_its_own_snr_in_a_range() -> None:
    drawn = [draw_subject(0, 2.0, np.random.default_rng(seed), (10.0, 20.0)).snr for seed in range(20)]
    assert 10 < min(drawn) < 13 < 17 < max(drawn) < 20


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"snr": 0}, r"snr must be one or two positive numbers, got 0\."),
        ({"snr": (10, float("inf"))}, r"snr must be one or two positive numbers, got \(10, inf\)\."),
        ({"snr": (5, 6, 7)}, r"snr must be one or two positive numbers, got \(5, 6, 7\)\."),
        ({"snr": (20, 10)}, r"snr must be the lowest value and then the highest one, got 20 and 10\."),
        ({"nb_subjects": 2}, r"nb_subjects must be at least 3 \(training, validation, testing\), got 2\."),
        ({"seed": -1}, r"seed must be 0 or more, got -1\."),
        ({"size": "huge"}, r"Unknown size 'huge'; choose one of: 'small', 'medium', 'large'\."),
    ],
)
def test_invalid_parameters_are_reported_before_any_work(tmp_path: Path, arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        create_phantom(tmp_path / "ph", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_on_second(index: int, **options: object) -> create_module.SimulatedSubject:
        if index == 1:
            raise RuntimeError("no more disk")
        return simulate_subject(index, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(create_module, "simulate_subject", fail_on_second)
    with pytest.raises(RuntimeError, match="no more disk"):
        create_phantom(tmp_path / "ph", size="small")
    assert not list(tmp_path.iterdir())
