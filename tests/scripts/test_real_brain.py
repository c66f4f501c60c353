"""The pure parts of the real brain's preparation, on tiny synthetic arrays; nothing is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dwiml.scoring.ground_truth_files import read_ground_truth

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import prepare_real_brain  # noqa: E402
from real_brain import archive, bundles, diffusion, mirroring, streamlines, subjects  # noqa: E402

# 2.5 mm voxels, first axis to the left, as the real image.
LAS = np.array([[-2.5, 0, 0, 25], [0, 2.5, 0, -10], [0, 0, 2.5, -5], [0, 0, 0, 1.0]])


def test_seeds_lie_in_the_voxels_of_the_mask_and_depend_on_the_seed_only():
    mask = np.zeros((8, 9, 7), dtype=bool)
    mask[2, 3, 4] = mask[6, 1, 2] = True
    seeds = streamlines.draw_seeds(mask, LAS, per_voxel=50, seed=3)
    voxels = np.rint((seeds - LAS[:3, 3]) / np.diag(LAS)[:3]).astype(int)
    found, counts = np.unique(voxels, axis=0, return_counts=True)
    np.testing.assert_array_equal(found, [[2, 3, 4], [6, 1, 2]])
    np.testing.assert_array_equal(counts, [50, 50])
    np.testing.assert_array_equal(seeds, streamlines.draw_seeds(mask, LAS, per_voxel=50, seed=3))
    assert not np.array_equal(seeds, streamlines.draw_seeds(mask, LAS, per_voxel=50, seed=4))


@pytest.mark.parametrize("degrees", [0.0, 20.0, 75.0])
def test_angle_to_peaks_is_the_angle_to_the_closest_peak_whatever_its_sign_and_norm(degrees):
    line = np.array([[20.0, -5, 0], [18, -5, 0], [16, -5, 0], [14, -5, 0]])
    away = np.deg2rad(degrees)
    peaks = np.zeros((10, 9, 7, 9))
    peaks[..., 0:3] = [0, 0, 3.0]
    peaks[..., 3:6] = 0.2 * np.array([np.cos(away), np.sin(away), 0])
    peaks[..., 6:9] = np.nan
    assert streamlines.median_angle_to_peaks([line], peaks, LAS) == pytest.approx(degrees, abs=1e-4)


def test_angle_to_peaks_skips_repeated_points_and_voxels_without_peak():
    line = np.array([[20.0, -5, 0], [20, -5, 0], [18, -5, 0], [18, 30, 0]])
    peaks = np.zeros((10, 4, 7, 3))
    peaks[2:, :, :] = [1.0, 0, 0]
    assert streamlines.median_angle_to_peaks([line], peaks, LAS) == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="No streamline passes"):
        streamlines.median_angle_to_peaks([line], np.zeros((10, 4, 7, 3)), LAS)
    with pytest.raises(ValueError, match="No streamline passes"):
        streamlines.median_angle_to_peaks([], peaks, LAS)


def test_a_flipped_axis_is_refused():
    diagonal = np.cumsum(np.ones((8, 3)), axis=0) + [0, -10, -5]
    peaks = np.zeros((12, 9, 9, 3))
    peaks[...] = [1.0, 1.0, 1.0]
    right = streamlines.median_angle_to_peaks([diagonal], peaks, LAS)
    wrong = streamlines.median_angle_to_peaks([diagonal], peaks * [-1, 1, 1], LAS)
    assert wrong == pytest.approx(np.degrees(np.arccos(1 / 3)), abs=1e-4)
    streamlines.check_orientation(right, 15)
    with pytest.raises(ValueError, match=r"70\.5 degrees, expected at most 15"):
        streamlines.check_orientation(wrong, 15)
    with pytest.raises(ValueError, match="nan degrees"):
        streamlines.check_orientation(float("nan"), 15)


@pytest.mark.parametrize("first", [2, 3, 5])
@pytest.mark.parametrize("width", [6, 7])
def test_midline_is_the_middle_of_a_symmetric_mask(first, width):
    mask = np.zeros((20, 6, 6), dtype=bool)
    mask[first : first + width, 1:5, 2:4] = True
    midline, overlap = streamlines.find_midline(mask, LAS)
    assert midline == pytest.approx(25 - 2.5 * (first + (width - 1) / 2))
    assert overlap == 1


def test_midline_bears_a_dent_on_one_side():
    mask = np.zeros((20, 6, 6), dtype=bool)
    mask[4:15] = True
    mask[13:15, :1] = False
    midline, overlap = streamlines.find_midline(mask, LAS)
    assert midline == pytest.approx(25 - 2.5 * 9)
    assert overlap == pytest.approx((7 + 4 * 5 / 6) / (9 + 2 * 5 / 6))


def test_midline_needs_a_brain_and_a_left_right_axis():
    with pytest.raises(ValueError, match="empty"):
        streamlines.find_midline(np.zeros((4, 4, 4), dtype=bool), LAS)
    with pytest.raises(ValueError, match="oblique"):
        streamlines.find_midline(np.ones((4, 4, 4), dtype=bool), LAS[[1, 0, 2, 3]])


@pytest.mark.parametrize("index", [4.0, 4.5])
@pytest.mark.parametrize("affine", [LAS, LAS * [[-1], [1], [1], [1]]], ids=["L", "R"])
def test_hemisphere_masks_share_the_voxels_that_the_plane_cuts(index, affine):
    mask = np.ones((10, 2, 2), dtype=bool)
    mask[:, 1] = False
    midline = affine[0, 0] * index + affine[0, 3]
    left, right = streamlines.hemisphere_masks(mask, affine, midline)
    np.testing.assert_array_equal(left | right, mask)
    assert np.count_nonzero((left & right)[:, 0, 0]) == (1 if index == 4 else 0)
    centres = affine[0, 0] * np.arange(10) + affine[0, 3]
    assert (centres[left[:, 0, 0]] <= midline).all()
    assert (centres[right[:, 0, 0]] >= midline).all()


@pytest.mark.parametrize(("millimetres", "plausible"), [(19, False), (20, True), (250, True), (251, False), (0, False)])
def test_only_lengths_of_20_to_250_mm_are_plausible(millimetres, plausible):
    along = np.arange(millimetres + 1)[:, None] * np.array([[0.6, 0, 0.8]])
    assert streamlines.has_plausible_length(along) is plausible


@pytest.fixture(scope="module")
def fibre():
    """Return an acquisition whose fibres all lie along (1, 2, 0) of the voxel axes, and that direction."""
    from dipy.core.gradients import gradient_table
    from dipy.core.sphere import HemiSphere, disperse_charges

    rng = np.random.default_rng(0)
    start = rng.normal(size=(32, 3))
    directions, _ = disperse_charges(HemiSphere(xyz=start / np.linalg.norm(start, axis=1, keepdims=True)), 200)
    bvecs = np.vstack([[0, 0, 0], directions.vertices])
    bvals = np.r_[0, np.full(32, 1000.0)]
    axis = np.array([1, 2, 0]) / np.sqrt(5)
    parallel = (bvecs @ axis) ** 2
    signal = 100 * np.exp(-bvals * (1.7e-3 * parallel + 0.3e-3 * (1 - parallel)))
    data = np.tile(signal.astype(np.float32), (12, 16, 6, 1))
    mask = np.ones(data.shape[:3], dtype=bool)
    mask[0, 0, 0] = False
    gradients = gradient_table(bvals, bvecs=bvecs)
    return diffusion.Acquisition(data=data, gradients=gradients, affine=LAS, mask=mask), axis


def test_signal_sh_gives_the_attenuation_back(fibre):
    from dipy.core.sphere import HemiSphere, Sphere
    from dipy.reconst.shm import sh_to_sf

    acquisition, axis = fibre
    sh = diffusion.fit_signal_sh(acquisition)
    assert sh.shape == (12, 16, 6, 28)
    assert sh.dtype == np.float32
    assert not sh[0, 0, 0].any()
    # The closed form of the attenuation, in directions that were not measured.
    directions = HemiSphere(phi=np.linspace(0, 6, 25), theta=np.linspace(0.1, 1.5, 25)).vertices
    parallel = (directions @ axis) ** 2
    expected = np.exp(-1.7 * parallel - 0.3 * (1 - parallel))
    got = sh_to_sf(sh[5, 5, 3], Sphere(xyz=directions), sh_order_max=6, basis_type="descoteaux07", legacy=False)
    # The regularisation smooths a little.
    np.testing.assert_allclose(got, expected, atol=0.05)


def test_fa_is_that_of_the_tensor(fibre):
    acquisition, _ = fibre
    fa = diffusion.fit_fa(acquisition)
    # Eigenvalues a, b, b: FA = (a - b) / sqrt(a^2 + 2 b^2).
    expected = (1.7 - 0.3) / np.sqrt(1.7**2 + 2 * 0.3**2)
    assert fa[5, 5, 3] == pytest.approx(expected, abs=1e-3)
    assert fa[0, 0, 0] == 0


def test_a_b0_of_zero_gives_zeros_and_no_nan(fibre):
    acquisition, _ = fibre
    empty = diffusion.Acquisition(
        data=np.zeros_like(acquisition.data), gradients=acquisition.gradients, affine=LAS, mask=acquisition.mask
    )
    assert not diffusion.fit_signal_sh(empty).any()


# dipy's own deconvolution model has no other basis.
@pytest.mark.filterwarnings("ignore:The legacy descoteaux07:PendingDeprecationWarning")
def test_streamlines_follow_the_fibres_in_ras(fibre):
    acquisition, axis = fibre
    fa = diffusion.fit_fa(acquisition)
    fodf = diffusion.fit_fodf(acquisition, fa > 0.5)
    seeds = streamlines.draw_seeds(fa > 0.5, LAS, per_voxel=1, seed=1)[:40]
    lines = streamlines.track(seeds, fodf, fa, LAS, seed=1)
    assert lines
    assert all(np.linalg.norm(np.diff(line, axis=0), axis=1).sum() >= 20 - 1e-3 for line in lines)
    steps = np.concatenate([np.linalg.norm(np.diff(line, axis=0), axis=1) for line in lines])
    np.testing.assert_allclose(steps, 1, atol=1e-4)
    # The first voxel axis goes to the left: the voxel direction (1, 2, 0) is (-1, 2, 0) in RAS.
    peaks = np.broadcast_to(axis * [-1, 1, 1], (*fa.shape, 3))
    # dipy's sphere has a direction at most 5 degrees away.
    assert streamlines.median_angle_to_peaks(lines, peaks, LAS) < 6
    assert streamlines.median_angle_to_peaks(lines, peaks * [-1, 1, 1], LAS) > 45
    again = streamlines.track(seeds, fodf, fa, LAS, seed=1)
    assert len(again) == len(lines)
    for one, other in zip(lines, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("midline", [0.0, 7.3])
def test_a_mirrored_brain_has_its_values_where_its_mirror_image_is(fibre, midline):
    from dipy.core.sphere import HemiSphere, Sphere
    from dipy.reconst.shm import sh_to_sf

    acquisition, _ = fibre
    data = acquisition.data * np.linspace(1, 2, 12, dtype=np.float32)[:, None, None, None]
    brain = diffusion.Acquisition(data=data, gradients=acquisition.gradients, affine=LAS, mask=acquisition.mask)
    mirror = mirroring.mirrored(brain, midline)
    for voxel in ([0, 0, 0], [3, 4, 5], [11, 15, 2]):
        there = [11 - voxel[0], *voxel[1:]]
        place = (brain.affine @ [*voxel, 1])[:3]
        np.testing.assert_allclose((mirror.affine @ [*there, 1])[:3], place * [-1, 1, 1] + [2 * midline, 0, 0])
        np.testing.assert_array_equal(mirror.data[tuple(there)], brain.data[tuple(voxel)])
        assert mirror.mask[tuple(there)] == brain.mask[tuple(voxel)]
        np.testing.assert_allclose(
            mirroring.positions((12, 16, 6), mirror.affine)[tuple(there)],
            [2 * midline - place[0], *place[1:]],
            atol=1e-5,
        )
    # The attenuation in a direction is that of the brain in the mirrored direction.
    directions = HemiSphere(phi=np.linspace(0, 6, 25), theta=np.linspace(0.1, 1.5, 25)).vertices
    of_brain, of_mirror = (diffusion.fit_signal_sh(each) for each in (brain, mirror))
    options = {"sh_order_max": 6, "basis_type": "descoteaux07", "legacy": False}
    np.testing.assert_allclose(
        sh_to_sf(of_mirror[8, 5, 3], Sphere(xyz=directions * [-1, 1, 1]), **options),
        sh_to_sf(of_brain[3, 5, 3], Sphere(xyz=directions), **options),
        atol=1e-5,
    )
    line = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)
    (found,) = mirroring.mirrored_streamlines([line], midline)
    np.testing.assert_allclose(found, [[2 * midline - 1, 2, 3], [2 * midline - 4, 5, 6]], rtol=1e-6)


def test_subjects_share_the_curated_streamlines(fibre, unpacked, tmp_path):
    """Streamlines along bundle one are kept; eleven of twelve are for training, and the same ones mirrored."""
    acquisition, _ = fibre
    data = np.tile(acquisition.data[:1, :1, :1], (20, 10, 6, 1))
    mask = np.ones((20, 10, 6), dtype=bool)
    brain = diffusion.Acquisition(data=data, gradients=acquisition.gradients, affine=LAS, mask=mask)
    bundles.write_ground_truth(tmp_path / "subjects" / "left", ["one"], unpacked, LAS, mask)
    inside = np.linspace([4.5, 1, 2.5], [4.5, 9, 2.5], 30)
    lines = [(inside + [k / 40, 0, 0]) @ LAS[:3, :3].T + LAS[:3, 3] for k in range(24)]
    outside = [line + [10, 0, 0] for line in lines[:5]]
    candidates = [line.astype(np.float32) for line in (*lines, *outside)]
    sides = {"left": mask, "right": mask}
    fa = np.full(mask.shape, 0.5, np.float32)
    counts = subjects.write_subjects(tmp_path, brain, fa, sides, candidates, midline=5.0, seed=1)
    numbers = {"curated": {"training": 22, "validation": 2}, "labelled": {"training": 27, "validation": 2}}
    assert counts == {"streamlines": numbers}
    found = {
        name: nib.streamlines.load(tmp_path / "subjects" / name / "tractograms" / "curated.trk").tractogram
        for name in ("left", "left_mirrored", "left_validation")
    }
    assert [len(each.streamlines) for each in found.values()] == [22, 22, 2]
    for one, other in zip(found["left"].streamlines, found["left_mirrored"].streamlines, strict=True):
        np.testing.assert_allclose(other, one * [-1, 1, 1] + [10, 0, 0], atol=1e-4)
    assert not np.any(found["left"].data_per_streamline["bundle_id"])
    labels = {}
    for name in ("left", "left_mirrored", "left_validation"):
        saved = nib.streamlines.load(tmp_path / "subjects" / name / "tractograms" / "labelled.trk").tractogram
        assert {len(line) for line in saved.streamlines} == {32}
        labels[name] = saved.data_per_streamline["valid"][:, 0]
        is_inside = [bool((abs(line[:, 0] - lines[0][0, 0]) < 3).all()) for line in saved.streamlines]
        if name != "left_mirrored":
            np.testing.assert_array_equal(labels[name], is_inside)
    np.testing.assert_array_equal(labels["left_mirrored"], labels["left"])
    assert labels["left"].sum() + labels["left_validation"].sum() == 24
    for name in ("left", "left_mirrored", "left_validation", "right"):
        for volume in ("sh", "positions", "fa"):
            assert (tmp_path / "subjects" / name / "metrics" / f"{volume}.nii.gz").is_file()


def test_bundles_are_those_of_the_two_sides_and_the_commissural_ones():
    left, right = bundles.bundles_of("left"), bundles.bundles_of("right")
    assert len(left) == len(right) == 31
    assert [name.replace("left", "right") for name in left] == list(right)
    assert sorted({*bundles.BUNDLES} - {*left, *right}) == ["CA", *(f"CC_{i}" for i in range(1, 8)), "MCP"]
    files = bundles.bundle_files()
    assert len(files) == len(set(files.values())) == 3 * len(bundles.BUNDLES) == 213
    folder = "tests/reference_files"
    assert files["AF_left_mask.nii.gz"] == f"{folder}/bundle_segmentations/AF_left.nii.gz"
    assert files["AF_left_head.nii.gz"] == f"{folder}/endings_segmentations/AF_left_b.nii.gz"
    assert files["AF_left_tail.nii.gz"] == f"{folder}/endings_segmentations/AF_left_e.nii.gz"
    assert not set(files) & set(archive.NEEDED)


@pytest.fixture
def unpacked(tmp_path):
    """Return two bundles' files, as they are unpacked; both run front to back, the second across the plane x = 5."""
    paths = {}
    for name, first in (("one", 6), ("two", 9)):
        for part, ys in (("mask", slice(2, 9)), ("head", slice(0, 3)), ("tail", slice(8, 10))):
            volume = np.zeros((20, 10, 6), dtype=np.int32)
            volume[first : first - 4 : -1, ys, 2:4] = 1
            file = f"{name}_{part}.nii.gz"
            paths[file] = tmp_path / file
            nib.save(nib.Nifti1Image(volume, LAS), paths[file])
    return paths


def test_ground_truths_are_cut_and_read_by_dwiml_score(unpacked, tmp_path):
    # x = 25 - 2.5 i: voxel 8 is cut by the plane.
    _, right = streamlines.hemisphere_masks(np.ones((20, 10, 6), dtype=bool), LAS, 5.0)
    folder = tmp_path / "right"
    bundles.write_ground_truth(folder, ["two", "one"], unpacked, LAS, right)
    truth = read_ground_truth(folder)
    assert truth.names == ("two", "one")
    np.testing.assert_array_equal(truth.has_ends, True)
    np.testing.assert_allclose(truth.grid.affine, LAS)
    expected = np.zeros((20, 10, 6), dtype=bool)
    expected[6:9, 2:9, 2:4] = True
    np.testing.assert_array_equal(truth.masks.toarray()[:, 0].reshape(expected.shape) > 0, expected)
    assert truth.mask_sizes.tolist() == [3 * 7 * 2, 4 * 7 * 2]
    assert len(truth.regions) == 4
    assert read_ground_truth(folder / "ground_truth" / "masks").names == ("one", "two")
    assert sorted(path.name for path in (folder / "ground_truth").iterdir()) == ["heads", "masks", "tails"]


def test_bundles_that_cannot_be_used_are_named(unpacked, tmp_path):
    everywhere = np.ones((20, 10, 6), dtype=bool)
    moved = LAS + np.eye(4)
    with pytest.raises(ValueError, match="The mask of bundle one is not on the grid of the example image"):
        bundles.write_ground_truth(tmp_path, ["one"], unpacked, moved, everywhere)
    with pytest.raises(ValueError, match="is not on the grid"):
        bundles.write_ground_truth(tmp_path, ["one"], unpacked, LAS, everywhere[1:])
    everywhere[:, 6:] = False
    with pytest.raises(ValueError, match="Nothing is left of the tail of bundle one"):
        bundles.write_ground_truth(tmp_path, ["one"], unpacked, LAS, everywhere)


def test_a_folder_of_an_older_version_is_told_from_a_complete_one(tmp_path, capsys):
    arguments = [str(tmp_path), "--archive", str(tmp_path / "none")]
    assert prepare_real_brain.main(arguments) == 2
    assert (
        "exists already with other subjects or streamlines (an older version's); remove it" in capsys.readouterr().err
    )
    newest = tmp_path / "subjects" / "left_mirrored" / "tractograms" / "labelled.trk"
    newest.parent.mkdir(parents=True)
    newest.touch()
    assert prepare_real_brain.main(arguments) == 2
    assert "exists already; remove it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{tmp}", "--archive", "{tmp}/none"], "; remove it to prepare the data again"),
        (["{tmp}/new", "--archive", "{tmp}/none"], "none not found"),
        (["{tmp}/new", "--archive", "{tmp}/wrong"], "damaged or another file"),
        (["{tmp}/new", "--archive", "{tmp}/wrong", "--seeds_per_voxel", "0"], "must be at least 1, got 0"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(tmp_path, capsys, options, message):
    (tmp_path / "wrong").write_bytes(b"no archive")
    assert prepare_real_brain.main([option.format(tmp=tmp_path) for option in options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["wrong"]
