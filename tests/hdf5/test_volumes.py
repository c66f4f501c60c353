"""Volumes through the whole way, from NIfTI files to the HDF5 file."""

from __future__ import annotations

import errno
import gzip
import os

import h5py
import nibabel as nib
import numpy as np
import pytest

from dwiml.tractograms.grid import read_image_grid


def read(subjects, group="input", subject="a"):
    with h5py.File(subjects.out) as handle:
        return handle[subject][group]["data"][()], dict(handle[subject][group].attrs)


def test_layout_and_attributes(subjects, grid):
    subjects.plain("a")
    subjects.create()
    data, attrs = read(subjects)
    source = nib.load(subjects.folder / "a/dwi.nii.gz")
    np.testing.assert_array_equal(data, source.get_fdata(dtype=np.float32))
    assert data.dtype == np.float32
    assert attrs["type"] == "volume"
    assert attrs["nb_features"] == 3
    np.testing.assert_array_equal(attrs["affine"], source.affine)
    np.testing.assert_allclose(attrs["affine"], grid["affine"], rtol=1e-6)
    np.testing.assert_allclose(attrs["voxres"], grid["voxel_sizes"], rtol=1e-6)
    with h5py.File(subjects.out) as handle:
        dataset = handle["a/input/data"]
        assert (dataset.chunks, dataset.compression) == (None, None)
        assert dataset.id.get_offset() is not None


def test_files_are_concatenated_on_the_last_axis_in_order(subjects, grid):
    rng = np.random.default_rng(0)
    fa = rng.uniform(size=grid["shape"]).astype(np.float32)
    peaks = rng.integers(-9, 9, (*grid["shape"], 3)).astype(np.int16)
    md = rng.uniform(size=(*grid["shape"], 1))
    for name, values in (("m/fa.nii.gz", fa), ("peaks.nii", peaks), ("m/md.nii.gz", md)):
        subjects.volume("a", name, values)
    subjects.create({"input": {"type": "volume", "files": ["peaks.nii", "m/*.nii.gz"]}})
    expected = np.concatenate([peaks, fa[..., None], md], axis=-1).astype(np.float32)
    np.testing.assert_array_equal(read(subjects)[0], expected)


def test_a_volume_of_three_axes_gets_a_fourth(subjects, grid):
    subjects.plain("a")
    subjects.create({"mask": {"type": "volume", "files": ["mask.nii.gz"]}})
    data, attrs = read(subjects, "mask")
    assert data.shape == (*grid["shape"], 1)
    assert attrs["nb_features"] == 1


def test_the_scaling_of_the_header_is_applied(subjects, grid):
    subjects.plain("a")
    image = nib.Nifti1Image(np.full(grid["shape"], 7, dtype=np.int16), grid["affine"])
    image.header.set_slope_inter(0.5, 2)
    # nibabel divides what it writes by the slope.
    nib.save(image, subjects.folder / "a/scaled.nii")
    subjects.create({"s": {"type": "volume", "files": ["scaled.nii"]}})
    np.testing.assert_array_equal(
        read(subjects, "s")[0], nib.load(subjects.folder / "a/scaled.nii").get_fdata()[..., None]
    )


def test_standardization_in_the_union_of_masks(subjects, grid):
    subjects.plain("a")
    one, two = np.zeros((2, *grid["shape"]), dtype=np.uint8)
    one[1:3], two[2:5] = 1, 3
    subjects.volume("a", "one.nii.gz", one)
    subjects.volume("a", "two.nii.gz", two[..., None])
    group = {"type": "volume", "files": ["dwi.nii.gz"], "std_mask": ["one.nii.gz", "two.nii.gz"]}
    subjects.create({"input": {**group, "standardization": "independent"}})
    raw = nib.load(subjects.folder / "a/dwi.nii.gz").get_fdata()
    inside = raw[1:5].reshape(-1, 3)
    np.testing.assert_allclose(
        read(subjects)[0], (raw - inside.mean(axis=0)) / inside.std(axis=0), rtol=1e-4, atol=1e-5
    )


def test_a_map_of_probabilities_as_std_mask_is_thresholded_and_told(subjects, grid, caplog):
    subjects.plain("a")
    probabilities = np.full(grid["shape"], 1e-4, dtype=np.float32)
    probabilities[2:6, 2:6, 1:5] = 0.9
    probabilities[2] = 0.5
    subjects.volume("a", "pve.nii.gz", probabilities)
    group = {"type": "volume", "files": ["dwi.nii.gz"], "standardization": "independent"}
    subjects.create({"input": {**group, "std_mask": "pve.nii.gz"}})
    raw = nib.load(subjects.folder / "a/dwi.nii.gz").get_fdata()
    inside = raw[probabilities >= 0.5]
    np.testing.assert_allclose(
        read(subjects)[0], (raw - inside.mean(axis=0)) / inside.std(axis=0), rtol=1e-4, atol=1e-5
    )
    assert "'a': the mask '" in caplog.text
    assert (
        "pve.nii.gz' is not a 0/1 mask (values from 0.0001 to 0.9): voxels of at least 0.5 are inside." in caplog.text
    )


def test_a_wrong_checksum_is_refused(subjects):
    subjects.plain("a")
    path = subjects.folder / "a/dwi.nii.gz"
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="'a': the file '.*dwi.nii.gz' is damaged .CRC check failed"):
        subjects.create()
    subjects.assert_nothing_written()


def test_each_subject_has_its_own_mean(subjects):
    subjects.plain("a", seed=1)
    subjects.plain("b", seed=2)
    group = {"type": "volume", "files": ["dwi.nii.gz"], "standardization": "all", "std_mask": "mask.nii.gz"}
    subjects.create({"input": group})
    for subject in "ab":
        raw = nib.load(subjects.folder / subject / "dwi.nii.gz").get_fdata()
        inside = raw[2:6, 2:6, 1:5]
        np.testing.assert_allclose(
            read(subjects, subject=subject)[0], (raw - inside.mean()) / inside.std(), rtol=1e-4, atol=1e-5
        )


def test_a_constant_feature_is_told(subjects, grid, caplog):
    subjects.plain("a")
    values = np.random.default_rng(0).normal(size=(*grid["shape"], 3)).astype(np.float32)
    values[..., 1] = 4
    subjects.volume("a", "flat.nii.gz", values)
    subjects.create({"input": {"type": "volume", "files": ["flat.nii.gz"], "standardization": "independent"}})
    assert "Group 'input' of subject 'a': features '1' are constant in the mask" in caplog.text
    assert (read(subjects)[0][..., 1] == 0).all()


def test_an_almost_constant_feature_and_a_small_mask_are_told(subjects, grid, caplog):
    subjects.plain("a")
    values = np.random.default_rng(0).normal(size=(*grid["shape"], 2)).astype(np.float32)
    values[..., 1] = 0.3
    values[::2, ..., 1] = np.nextafter(np.float32(0.3), np.float32(1))
    subjects.volume("a", "flat.nii.gz", values)
    mask = np.zeros(grid["shape"], dtype=np.uint8)
    mask[2:4, 2:5, 2:4] = 1
    subjects.volume("a", "small.nii.gz", mask)
    group = {"type": "volume", "files": ["flat.nii.gz"], "standardization": "independent"}
    subjects.create({"input": {**group, "std_mask": "small.nii.gz"}})
    assert "Group 'input' of subject 'a': features '1' are constant in the mask, up to rounding" in caplog.text
    assert "Group 'input' of subject 'a': a mean and a std were computed from only 12 voxels" in caplog.text
    assert np.abs(read(subjects)[0][..., 1]).max() < 1e-6


def test_a_mask_without_standardization_is_told(subjects, caplog):
    subjects.plain("a")
    subjects.create({"input": {"type": "volume", "files": ["dwi.nii.gz"], "std_mask": "mask.nii.gz"}})
    assert "Group 'input': std_mask is ignored" in caplog.text


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_is_refused_with_subject_group_and_file(subjects, grid, bad):
    subjects.plain("a")
    subjects.plain("b")
    values = np.ones((*grid["shape"], 2), dtype=np.float32)
    values[1, 2, 3, 0] = bad
    subjects.volume("b", "dwi.nii.gz", values)
    subjects.volume("a", "dwi.nii.gz", np.ones_like(values))
    with pytest.raises(ValueError, match="Group 'input' of subject 'b': '.*b/dwi.nii.gz' holds 1 NaN or infinite"):
        subjects.create()
    subjects.assert_nothing_written()


def test_an_empty_mask_is_refused(subjects, grid):
    subjects.plain("a")
    subjects.volume("a", "mask.nii.gz", np.zeros(grid["shape"], dtype=np.uint8))
    group = {"type": "volume", "files": ["dwi.nii.gz"], "standardization": "all", "std_mask": "mask.nii.gz"}
    with pytest.raises(ValueError, match="Group 'input' of subject 'a': there is no voxel .*mask.nii.gz'"):
        subjects.create({"input": group})
    subjects.assert_nothing_written()


def test_unlike_affines_are_refused_with_both_files(subjects, grid):
    subjects.plain("a")
    shifted = grid["affine"].copy()
    shifted[0, 3] += 0.5
    subjects.volume("a", "fa.nii.gz", np.ones(grid["shape"], dtype=np.float32), shifted)
    groups = {"input": {"type": "volume", "files": ["dwi.nii.gz", "fa.nii.gz"]}}
    with pytest.raises(ValueError, match="'a': '.*dwi.nii.gz' and '.*fa.nii.gz' have different affines, up to 0.5 mm"):
        subjects.create(groups)
    groups = {"i": {"type": "volume", "files": ["dwi.nii.gz"]}, "fa": {"type": "volume", "files": ["fa.nii.gz"]}}
    with pytest.raises(ValueError, match="different affines"):
        subjects.create(groups)
    group = {"type": "volume", "files": ["dwi.nii.gz"], "standardization": "all", "std_mask": "fa.nii.gz"}
    with pytest.raises(ValueError, match="different affines"):
        subjects.create({"input": group})
    subjects.assert_nothing_written()


def test_affines_that_differ_by_rounding_are_alike(subjects, grid):
    subjects.plain("a")
    rounded = np.round(grid["affine"], 4)
    subjects.volume("a", "fa.nii.gz", np.ones(grid["shape"], dtype=np.float32), rounded)
    subjects.create({"input": {"type": "volume", "files": ["dwi.nii.gz", "fa.nii.gz"]}})


def test_a_small_rotation_is_not_alike(subjects, grid):
    subjects.plain("a")
    # 5 degrees about the first voxel: its own place is the same, and that of the volume's end is not.
    angle = np.deg2rad(5)
    rotated = grid["affine"].copy()
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    rotated[:3, :3] = turn @ rotated[:3, :3]
    subjects.volume("a", "fa.nii.gz", np.ones(grid["shape"], dtype=np.float32), rotated)
    with pytest.raises(ValueError, match="different affines"):
        subjects.create({"input": {"type": "volume", "files": ["dwi.nii.gz", "fa.nii.gz"]}})


def test_unlike_grids_are_refused_with_both_files(subjects):
    subjects.plain("a")
    subjects.volume("a", "fa.nii.gz", np.ones((8, 7, 5), dtype=np.float32))
    with pytest.raises(
        ValueError, match=r"dwi.nii.gz' and '.*fa.nii.gz' have different shapes, \(8, 7, 6\) and \(8, 7, 5\)"
    ):
        subjects.create({"input": {"type": "volume", "files": ["dwi.nii.gz", "fa.nii.gz"]}})


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("flat.nii", np.ones((8, 7), dtype=np.float32), r"flat.nii' has shape \(8, 7\)"),
        ("five.nii", np.ones((8, 7, 6, 1, 3), dtype=np.float32), "five.nii' has shape"),
        ("complex.nii", np.ones((8, 7, 6), dtype=np.complex64), "complex.nii' holds complex64 values"),
    ],
)
def test_what_is_no_volume_is_refused(subjects, name, values, sentence):
    subjects.plain("a")
    subjects.volume("a", name, values)
    with pytest.raises(ValueError, match=sentence):
        subjects.create({"input": {"type": "volume", "files": [name]}})


def test_a_mask_of_many_volumes_is_refused(subjects):
    subjects.plain("a")
    group = {"type": "volume", "files": ["dwi.nii.gz"], "standardization": "all", "std_mask": "dwi.nii.gz"}
    with pytest.raises(ValueError, match="the mask '.*dwi.nii.gz' must be a single volume, got 3"):
        subjects.create({"input": group})


def test_damaged_files_are_refused(subjects, grid):
    subjects.plain("a")
    path = subjects.folder / "a/dwi.nii.gz"
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(
        ValueError, match="'a': the file '.*dwi.nii.gz' is not an image in a format that nibabel reads, or is damaged"
    ):
        subjects.create()
    path.write_bytes(gzip.compress(b"no image at all" * 100))
    with pytest.raises(ValueError, match="dwi.nii.gz' is not an image"):
        subjects.create()
    path.write_text("neither gzip nor NIfTI")
    with pytest.raises(ValueError, match="dwi.nii.gz' is damaged"):
        subjects.create()
    subjects.assert_nothing_written()


def test_subjects_must_have_the_same_number_of_features(subjects, grid):
    subjects.plain("a")
    subjects.plain("b")
    subjects.volume("b", "dwi.nii.gz", np.ones((*grid["shape"], 4), dtype=np.float32))
    with pytest.raises(ValueError, match="'input' has 4 features for subject 'b' and 3 for subject 'a'"):
        subjects.create()
    subjects.assert_nothing_written()


def test_a_missing_volume_is_told_before_the_work_even_if_tractograms_may_be_missing(subjects):
    subjects.plain("a")
    subjects.plain("b")
    (subjects.folder / "b/dwi.nii.gz").unlink()
    calls = []
    with pytest.raises(FileNotFoundError, match="b/dwi.nii.gz' was not found; '.*b' has: 'mask.nii.gz', 'wb.trk'"):
        subjects.create(allow_missing=True, on_progress=lambda *call: calls.append(call))
    assert calls == []


def with_dimensions(path, *dimensions):
    """Write other dimensions into the header of a .nii or .nii.gz."""
    content = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    content[40:56] = np.array([len(dimensions), *dimensions, *[1] * (7 - len(dimensions))], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))


@pytest.mark.parametrize("name", ["big.nii", "big.nii.gz"])
def test_voxels_that_are_announced_and_cannot_be_there(subjects, grid, name):
    """32 767 cubed: 141 TB were asked of the memory."""
    subjects.plain("a")
    path = subjects.volume("a", name, np.ones(grid["shape"], dtype=np.float32))
    with_dimensions(path, 32767, 32767, 32767)
    with pytest.raises(ValueError, match=f"{name}' is damaged .its header announces 1.41e.08 MB of voxels"):
        subjects.create({"input": {"type": "volume", "files": [name]}})
    subjects.assert_nothing_written()


def test_a_volume_that_unpacks_to_more_than_the_memory(subjects, grid, monkeypatch):
    subjects.plain("a")
    subjects.volume("a", "zeros.nii.gz", np.zeros((60, 60, 60), dtype=np.uint8))
    monkeypatch.setattr("dwiml.files.sizes.machine_memory", lambda: 10**5)
    with pytest.raises(ValueError, match=r"zeros.nii.gz' cannot be read: .* .its voxels would need"):
        subjects.create({"input": {"type": "volume", "files": ["zeros.nii.gz"]}})


def test_an_image_that_goes_on_after_its_voxels_is_not_read_to_its_end(subjects, grid):
    """A .gz of some kilobytes that unpacks to gigabytes of zeros."""
    subjects.plain("a")
    path = subjects.volume("a", "bomb.nii.gz", np.ones(grid["shape"], dtype=np.float32))
    bomb = gzip.compress(bytes(2**24))
    path.write_bytes(path.read_bytes() + bomb * 8)
    with pytest.raises(
        ValueError, match="bomb.nii.gz' is damaged .it continues long after the voxels that its header announces"
    ):
        subjects.create({"input": {"type": "volume", "files": ["bomb.nii.gz"]}})


def test_the_true_reason_is_told(subjects, monkeypatch):
    subjects.plain("a")
    opened = os.open

    def refusing(path, *arguments, **options):
        if str(path).endswith("dwi.nii.gz"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(PermissionError, match="'a': the file '.*dwi.nii.gz' cannot be read: permission denied"):
        subjects.create()


@pytest.mark.parametrize("name", ["less.nii", "less.nii.gz"])
def test_voxels_that_the_header_leaves_out_are_told(subjects, grid, name, caplog):
    """A damaged dimension would leave out features in silence."""
    subjects.plain("a")
    path = subjects.volume("a", name, np.ones((*grid["shape"], 3), dtype=np.float32))
    groups = {"input": {"type": "volume", "files": [name]}}
    subjects.create(groups)
    assert "bytes after the voxels" not in caplog.text
    with_dimensions(path, *grid["shape"], 2)
    subjects.create(groups, overwrite=True)
    assert f"{name}' holds {8 * 7 * 6 * 4} bytes after the voxels that its header announces" in caplog.text


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fod.mif", r"'.*fod.mif' is an MRtrix image, .* run 'mrconvert fod.mif fod.nii.gz' and give"),
        ("fod.MIF.GZ", r"'.*fod.MIF.GZ' is an MRtrix image, .* run 'mrconvert fod.MIF.GZ fod.nii.gz' and give"),
        ("dwi.nrrd", r"'.*dwi.nrrd' is an NRRD image, which nibabel does not read; convert it to NIfTI"),
        ("dwi.mha", r"'.*dwi.mha' is a MetaImage, which nibabel does not read; convert it to NIfTI"),
    ],
)
def test_images_of_other_tools_are_told_how_to_convert(subjects, name, sentence):
    subjects.plain("a")
    (subjects.folder / "a" / name).write_bytes(b"mrtrix image\n")
    for group in ({"files": [name]}, {"files": ["dwi.nii.gz"], "standardization": "all", "std_mask": [name]}):
        with pytest.raises(ValueError, match=f"'input' of subject 'a'.*: the file {sentence}"):
            subjects.create({"input": {"type": "volume", **group}})
    with pytest.raises(ValueError, match=f"The image: the file {sentence}"):
        read_image_grid(subjects.folder / "a" / name)


def test_an_mgz_is_read(subjects, grid):
    """FreeSurfer's format, written and read by nibabel."""
    values = np.random.default_rng(0).normal(size=grid["shape"]).astype(np.float32)
    subjects.plain("a")
    nib.save(nib.MGHImage(values, grid["affine"].astype(np.float32)), subjects.folder / "a/t1.mgz")
    subjects.create({"input": {"type": "volume", "files": ["t1.mgz"]}})
    with h5py.File(subjects.out) as file:
        np.testing.assert_array_equal(file["a/input/data"][..., 0], values)
