"""Streamlines through the whole way, from tractograms to the HDF5 file."""

from __future__ import annotations

import gzip
import zipfile

import h5py
import nibabel as nib
import numpy as np
import pytest
from dipy.io.stateful_tractogram import Origin, Space, StatefulTractogram
from dipy.tracking.streamline import set_number_of_points

from dwiml.tractograms.grid import Grid
from dwiml.tractograms.writing.writer import TractogramWriter

LINES_ONLY = {"streamlines": {"type": "streamlines", "files": ["*.t*"]}}


def group_of(subjects, subject="a", group="streamlines"):
    with h5py.File(subjects.out) as handle:
        node = handle[subject][group]
        arrays = {name: node[name][()] for name in ("data", "offsets", "lengths", "euclidean_lengths")}
        arrays["dps"] = {key: value[()] for key, value in node.get("data_per_streamline", {}).items()}
        return arrays, dict(node.attrs)


def lines_of(subjects, subject="a"):
    arrays, _ = group_of(subjects, subject)
    return np.split(arrays["data"], arrays["offsets"][1:])


@pytest.mark.parametrize("suffix", [".trk", ".tck"])
def test_points_are_those_of_dipy(subjects, grid, suffix):
    subjects.plain("a")
    (subjects.folder / "a/wb.trk").unlink()
    lines = grid["arcs"](20, seed=3)
    subjects.tractogram("a", f"wb{suffix}", lines)
    subjects.create({"input": {"type": "volume", "files": ["dwi.nii.gz"]}, **LINES_ONLY})

    reference = nib.load(subjects.folder / "a/dwi.nii.gz")
    dipy_lines = StatefulTractogram(grid["to_rasmm"](lines), reference, Space.RASMM, origin=Origin.NIFTI)
    dipy_lines.to_vox()
    dipy_lines.to_corner()
    found = lines_of(subjects)
    assert len(found) == len(lines)
    for line, of_dipy, drawn in zip(found, dipy_lines.streamlines, lines, strict=True):
        np.testing.assert_allclose(line, of_dipy, atol=1e-4)
        np.testing.assert_allclose(line, drawn, atol=1e-4)


def test_layout_and_attributes(subjects, grid):
    lines = grid["arcs"](9)
    subjects.tractogram("a", "wb.trk", lines)
    summary = subjects.create(LINES_ONLY)
    arrays, attrs = group_of(subjects)
    counts = np.array([len(line) for line in lines])
    assert arrays["data"].dtype == np.float32
    assert {arrays[name].dtype for name in ("lengths", "offsets")} == {np.dtype(np.int64)}
    np.testing.assert_array_equal(arrays["lengths"], counts)
    np.testing.assert_array_equal(arrays["offsets"], np.cumsum(counts) - counts)
    mm = [np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in grid["to_rasmm"](lines)]
    assert arrays["euclidean_lengths"].dtype == np.float32
    np.testing.assert_allclose(arrays["euclidean_lengths"], mm, rtol=1e-4)
    assert (attrs["type"], attrs["space"], attrs["origin"]) == ("streamlines", "vox", "corner")
    assert attrs["voxel_order"] == "".join(nib.aff2axcodes(grid["affine"]))
    np.testing.assert_array_equal(attrs["dimensions"], grid["shape"])
    np.testing.assert_allclose(attrs["voxel_sizes"], grid["voxel_sizes"], rtol=1e-6)
    np.testing.assert_allclose(attrs["affine"], grid["affine"], rtol=1e-6)
    assert summary.streamlines["streamlines"].nb_streamlines == 9
    assert summary.streamlines["streamlines"].nb_points == counts.sum()
    with h5py.File(subjects.out) as handle:
        dataset = handle["a/streamlines/data"]
        assert (dataset.chunks, dataset.compression) == (None, None)
        assert dataset.id.get_offset() % 4 == 0


def test_several_tractograms_are_put_together(subjects, grid):
    subjects.plain("a")
    (subjects.folder / "a/wb.trk").unlink()
    one, two, three = (grid["arcs"](4, seed) for seed in (1, 2, 3))
    subjects.tractogram("a", "t/b.trk", two)
    subjects.tractogram("a", "t/a.trk", one)
    subjects.tractogram("a", "c.tck", three)
    groups = {
        "streamlines": {"type": "streamlines", "files": ["t/*.trk", "c.tck"]},
        "input": {"type": "volume", "files": ["dwi.nii.gz"]},
    }
    subjects.create(groups)
    for found, drawn in zip(lines_of(subjects), one + two + three, strict=True):
        np.testing.assert_allclose(found, drawn, atol=1e-4)


def test_a_trx_gives_what_a_trk_gives(subjects, grid):
    lines, ids = grid["arcs"](8), np.arange(8.0)[:, None]
    subjects.tractogram("a", "wb.trk", lines, {"id": ids})
    groups = {"streamlines": {"type": "streamlines", "files": ["wb.trk"], "dps_keys": ["id"]}}
    subjects.create(groups)
    expected, expected_attributes = group_of(subjects)
    points, lengths = np.concatenate(lines), np.array([len(line) for line in lines])
    with TractogramWriter(
        subjects.folder / "a/wb.trx", grid=Grid(grid["affine"], grid["shape"]), data_per_streamline={"id": 1}
    ) as writer:
        writer.append(points, lengths, {"id": ids})
    groups["streamlines"]["files"] = ["wb.trx"]
    subjects.create(groups, overwrite=True)
    arrays, attributes = group_of(subjects)
    np.testing.assert_allclose(arrays.pop("data"), expected.pop("data"), atol=1e-4)
    np.testing.assert_allclose(arrays.pop("euclidean_lengths"), expected.pop("euclidean_lengths"), rtol=1e-5)
    np.testing.assert_equal(arrays, expected)
    assert attributes["voxel_order"] == expected_attributes["voxel_order"]
    np.testing.assert_allclose(attributes["affine"], expected_attributes["affine"], atol=1e-5)
    # The same file, unzipped.
    folder = subjects.folder / "a/unzipped.trx"
    zipfile.ZipFile(subjects.folder / "a/wb.trx").extractall(folder)
    groups["streamlines"]["files"] = ["unz*"]
    subjects.create(groups, overwrite=True, allow_missing=True)
    unzipped, _ = group_of(subjects)
    np.testing.assert_equal({name: unzipped[name] for name in arrays}, arrays)
    groups["streamlines"] |= {"files": ["wb.trx"], "dps_keys": ["w"]}
    with pytest.raises(ValueError, match=r"data per streamline 'w' not found in '.*wb.trx'; it has: 'id'"):
        subjects.create(groups, overwrite=True)


def test_data_per_streamline_is_kept(subjects, grid):
    ids, weights = np.arange(8.0)[:, None], np.arange(24.0).reshape(8, 3)
    lines = grid["arcs"](8)
    subjects.tractogram("a", "1.trk", lines[:5], {"id": ids[:5], "w": weights[:5], "other": ids[:5]})
    subjects.tractogram("a", "2.trk", lines[5:], {"w": weights[5:], "id": ids[5:]})
    subjects.create({"streamlines": {"type": "streamlines", "files": ["*.trk"], "dps_keys": ["id", "w"]}})
    dps = group_of(subjects)[0]["dps"]
    assert set(dps) == {"id", "w"}
    np.testing.assert_array_equal(dps["id"], ids)
    np.testing.assert_array_equal(dps["w"], weights)
    assert dps["w"].dtype == np.float32


def test_a_missing_key_is_told_with_those_that_exist(subjects, grid):
    subjects.plain("a")
    subjects.tractogram("a", "1.trk", grid["arcs"](3), {"id": np.zeros((3, 1)), "w": np.zeros((3, 1))})
    subjects.tractogram("a", "1.tck", grid["arcs"](3))
    volume = {"type": "volume", "files": ["dwi.nii.gz"]}
    for name, existing in (("1.trk", "'id', 'w'"), ("1.tck", "none")):
        lines = {"type": "streamlines", "files": [name], "dps_keys": ["id", "sift"]}
        missing = "'sift'" if name == "1.trk" else "'id', 'sift'"
        with pytest.raises(
            ValueError, match=f"data per streamline {missing} not found in '.*{name}'; it has: {existing}"
        ):
            subjects.create({"input": volume, "streamlines": lines})
    subjects.assert_nothing_written()


def test_step_size_is_in_mm_on_anisotropic_voxels(subjects, grid):
    subjects.plain("a", nb_streamlines=15)
    subjects.create(step_size=0.7)
    for found, drawn in zip(lines_of(subjects), grid["arcs"](15), strict=True):
        mm = np.linalg.norm(np.diff(drawn * grid["voxel_sizes"], axis=0), axis=1).sum()
        nb = max(round(mm / 0.7), 1) + 1
        of_dipy = set_number_of_points((drawn * grid["voxel_sizes"]).astype(np.float32), nb_points=nb)
        np.testing.assert_allclose(found, of_dipy / grid["voxel_sizes"], atol=1e-3)
    with h5py.File(subjects.out) as handle:
        assert handle.attrs["step_size"] == 0.7
        assert handle.attrs["nb_points"] == handle.attrs["compress"] == "Not defined by user"


def test_nb_points_and_compress(subjects, grid):
    subjects.plain("a", nb_streamlines=15)
    subjects.create(nb_points=9)
    assert (group_of(subjects)[0]["lengths"] == 9).all()
    subjects.create(compress=0.3, overwrite=True)
    arrays, _ = group_of(subjects)
    drawn = grid["arcs"](15)
    assert arrays["lengths"].sum() < sum(map(len, drawn))
    for line, source in zip(lines_of(subjects), drawn, strict=True):
        np.testing.assert_allclose(line[[0, -1]], source[[0, -1]], atol=1e-4)
    mm = [np.linalg.norm(np.diff(line * grid["voxel_sizes"], axis=0), axis=1).sum() for line in lines_of(subjects)]
    np.testing.assert_allclose(arrays["euclidean_lengths"], mm, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"step_size": 1, "nb_points": 3}, "At most one of step_size, nb_points and compress"),
        ({"step_size": 0}, "step_size must be a positive number of mm, got 0"),
        ({"step_size": float("nan")}, "step_size must be a positive number of mm, got nan"),
        ({"compress": -1.0}, "compress must be a positive number of mm, got -1.0"),
        ({"nb_points": 1}, "nb_points must be an integer from 2 to 100 000, got 1"),
        ({"step_size": 1e-300}, "step_size, .*, must be at least 0.001 mm, got 1e-300"),
        ({"step_size": 1e-6}, "step_size, .*, must be at least 0.001 mm, got 1e-06"),
        ({"nb_points": 10**9}, "nb_points must be an integer from 2 to 100 000, got 1000000000"),
        ({"nb_points": 2.5}, "nb_points must be an integer from 2 to 100 000, got 2.5"),
    ],
)
def test_bad_resampling_is_refused_first(subjects, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        subjects.create(training=["nobody"], **options)


def test_what_resampling_makes_of_streamlines_is_bounded_and_told(subjects, grid, caplog, monkeypatch):
    subjects.plain("a")
    long = [np.array([[0.5, 0.5, 0.5], [7.5, 6.5, 5.5]])] * 2
    subjects.tractogram("a", "wb.trk", long)
    # To and fro forty times.
    subjects.tractogram("a", "far.trk", [np.tile(line, (40, 1)) for line in long])
    with pytest.raises(ValueError, match="Group 'streamlines' of subject 'a': step_size=0.001 mm would make"):
        subjects.create({"streamlines": {"type": "streamlines", "files": ["far.trk"]}}, step_size=0.001)
    caplog.clear()
    subjects.create(step_size=500.0)
    assert (
        "Group 'streamlines': 2 of 2 streamlines were reduced to their two endpoints by the step size of 500 mm."
        in caplog.text
    )
    caplog.clear()
    subjects.create(step_size=1.0, overwrite=True)
    subjects.create(compress=0.1, overwrite=True)
    assert "only the two ends" not in caplog.text
    assert "more than a voxel" not in caplog.text
    subjects.create(compress=5.0, overwrite=True)
    assert "compression tolerance of 5 mm is larger than a voxel (1.5 mm)" in caplog.text
    monkeypatch.setattr("dwiml.files.sizes.machine_memory", lambda: 10**5)
    groups = {"streamlines": {"type": "streamlines", "files": ["wb.trk"]}}
    with pytest.raises(MemoryError, match="Group 'streamlines' of subject 'a', resampled to 100000 points, would need"):
        subjects.create(groups, nb_points=100_000, overwrite=True)


def with_faults(subjects, grid):
    """Ten streamlines of which five are bad, each in its way; those that are good have the ids 1, 3, 5, 7 and 9."""
    good = grid["arcs"](5)
    bad = [np.full((1, 3), 2.0), np.full((4, 3), 2.5), good[0] + [0, 0, 5], good[1].copy(), good[2] - [4, 0, 0]]
    bad[3][2, 1] = np.nan
    lines = [line for pair in zip(bad, good, strict=True) for line in pair]
    subjects.plain("a")
    subjects.tractogram("a", "wb.trk", lines, {"id": np.arange(10.0)[:, None]})
    lines_group = {"type": "streamlines", "files": ["wb.trk"], "dps_keys": ["id"]}
    return good, {"input": {"type": "volume", "files": ["dwi.nii.gz"]}, "streamlines": lines_group}


def test_invalid_streamlines_are_refused_and_counted(subjects, grid):
    _, groups = with_faults(subjects, grid)
    with pytest.raises(ValueError, match="subject 'a': 5 of the 10 streamlines in '.*wb.trk' are invalid") as caught:
        subjects.create(groups)
    for part in ("1 with NaN", "1 of one point", "1 whose points are all the same", "2 outside the volume"):
        assert part in str(caught.value)
    assert "remove them with remove_invalid=True" in str(caught.value)
    subjects.assert_nothing_written()


def test_invalid_streamlines_are_dropped_if_asked(subjects, grid, caplog):
    good, groups = with_faults(subjects, grid)
    summary = subjects.create(groups, remove_invalid=True)
    for found, drawn in zip(lines_of(subjects), good, strict=True):
        np.testing.assert_allclose(found, drawn, atol=1e-4)
    assert group_of(subjects)[0]["dps"]["id"].ravel().tolist() == [1, 3, 5, 7, 9]
    assert summary.streamlines["streamlines"].nb_removed == 5
    assert "5 of the 10 streamlines" in caplog.text


def test_points_on_the_border_are_inside(subjects, grid):
    x, y, z = grid["shape"]
    subjects.tractogram("a", "wb.trk", [np.array([[0, 0, 0], [x, y, z]], dtype=float)])
    subjects.create(LINES_ONLY)
    np.testing.assert_allclose(lines_of(subjects)[0], [[0, 0, 0], [x, y, z]], atol=1e-3)


def test_a_border_is_crossed_by_a_hundredth_of_a_voxel(subjects, grid):
    for corner in ([-0.01, 1, 1], [1, 1, grid["shape"][2] + 0.01]):
        subjects.tractogram("a", "wb.trk", [np.array([[1.0, 1, 1], corner])])
        with pytest.raises(ValueError, match="1 outside the volume"):
            subjects.create(LINES_ONLY)


def test_streamlines_without_points_are_counted(subjects, grid):
    path = subjects.tractogram("a", "wb.trk", grid["arcs"](3))
    content = bytearray(path.read_bytes())
    content += np.array([0], dtype="<i4").tobytes()
    content[988:992] = np.array([4], dtype="<i4").tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match="1 of the 4 streamlines in .* invalid .1 without any point"):
        subjects.create(LINES_ONLY)
    assert subjects.create(LINES_ONLY, remove_invalid=True).streamlines["streamlines"].nb_removed == 1


@pytest.mark.parametrize("suffix", [".trk", ".tck"])
def test_an_empty_tractogram(subjects, suffix):
    subjects.plain("a")
    (subjects.folder / "a/wb.trk").unlink()
    subjects.tractogram("a", f"wb{suffix}", [])
    groups = {
        "input": {"type": "volume", "files": ["dwi.nii.gz"]},
        "streamlines": {"type": "streamlines", "files": ["wb.*"], "dps_keys": ["id"]},
    }
    with pytest.raises(ValueError, match=f"subject 'a': the tractogram '.*wb{suffix}' is empty"):
        subjects.create(groups)
    subjects.create(groups, allow_missing=True, step_size=1.0)
    check_empty_group(subjects)


def test_a_missing_tractogram(subjects):
    subjects.plain("a")
    (subjects.folder / "a/wb.trk").unlink()
    with pytest.raises(
        FileNotFoundError, match="'a': '.*wb.trk' was not found; '.*a' has: 'dwi.nii.gz', 'mask.nii.gz'"
    ):
        subjects.create()
    subjects.create(allow_missing=True, compress=0.1)
    check_empty_group(subjects)


def check_empty_group(subjects):
    arrays, attrs = group_of(subjects)
    assert arrays["data"].shape == (0, 3)
    assert arrays["data"].dtype == np.float32
    assert all(arrays[name].shape == (0,) for name in ("lengths", "offsets", "euclidean_lengths"))
    assert all(values.shape == (0, 1) for values in arrays["dps"].values())
    assert attrs["space"] == "vox"


def test_nothing_left_is_refused(subjects):
    subjects.plain("a")
    subjects.tractogram("a", "wb.trk", [np.ones((1, 3))])
    with pytest.raises(ValueError, match="subject 'a' has no valid streamlines"):
        subjects.create(remove_invalid=True)
    subjects.create(remove_invalid=True, allow_missing=True, nb_points=4)
    check_empty_group(subjects)


def test_a_tractogram_of_another_space_is_refused(subjects, grid):
    subjects.plain("a")
    elsewhere = grid["affine"].copy()
    elsewhere[:3, 3] += 3
    subjects.tractogram("a", "wb.trk", grid["arcs"](3), affine=elsewhere)
    with pytest.raises(ValueError, match="dwi.nii.gz' and '.*wb.trk' have different affines, up to 5.2 mm apart"):
        subjects.create()
    subjects.tractogram("a", "wb.trk", grid["arcs"](3), shape=(8, 7, 9))
    with pytest.raises(ValueError, match="dwi.nii.gz' and '.*wb.trk' have different shapes"):
        subjects.create()
    subjects.assert_nothing_written()


def test_a_tck_without_a_volume_is_refused(subjects, grid):
    subjects.tractogram("a", "wb.tck", grid["arcs"](3))
    with pytest.raises(ValueError, match="wb.tck' does not give its voxel grid; add a group of type 'volume'"):
        subjects.create(LINES_ONLY)


def test_no_grid_at_all_is_refused(subjects):
    (subjects.folder / "a").mkdir()
    with pytest.raises(ValueError, match="Subject 'a' has no volume and no .trk file"):
        subjects.create(LINES_ONLY, allow_missing=True)


def test_unknown_and_damaged_tractograms_are_refused(subjects, grid):
    subjects.plain("a")
    groups = {"streamlines": {"type": "streamlines", "files": ["mask.nii.gz"]}}
    with pytest.raises(
        ValueError, match="mask.nii.gz' is not in a format that dwiml reads; convert it to .trk, .tck or .trx"
    ):
        subjects.create(groups)
    path = subjects.folder / "a/wb.trk"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        ValueError, match="'a': '.*wb.trk' is damaged or truncated: 5 streamlines can be read, but 6 are"
    ):
        subjects.create()
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="wb.trk' cannot be read"):
        subjects.create()
    path = subjects.tractogram("a", "wb.tck", grid["arcs"](3))
    path.write_bytes(path.read_bytes()[:-24])
    groups = {"input": {"type": "volume", "files": ["dwi.nii.gz"]}, "s": {"type": "streamlines", "files": ["wb.tck"]}}
    with pytest.raises(ValueError, match="wb.tck' is damaged"):
        subjects.create(groups)
    subjects.assert_nothing_written()


@pytest.mark.parametrize("cut", [False, True])
def test_a_tck_that_announces_more_than_it_holds(subjects, grid, cut):
    subjects.plain("a")
    path = subjects.tractogram("a", "wb.tck", grid["arcs"](6))
    content = path.read_bytes().replace(b"count: 0000000006", b"count: 0000000600")
    start = content.index(b"END") + 4
    path.write_bytes(content[:start] + content[-12:] if cut else content)
    groups = {
        "input": {"type": "volume", "files": ["dwi.nii.gz"]},
        "s": {"type": "streamlines", "files": ["wb.tck"]},
    }
    sentence = (
        "600 streamlines are announced, but it holds none"
        if cut
        else "600 streamlines are announced .count., but it holds 6"
    )
    for options in ({}, {"allow_missing": True}):
        with pytest.raises(ValueError, match=f"Group 's' of subject 'a': '.*wb.tck' is truncated.*{sentence}"):
            subjects.create(groups, **options)
    subjects.assert_nothing_written()


@pytest.mark.parametrize("suffix", [".trk", ".tck"])
def test_a_gzipped_tractogram_gives_the_same_file(subjects, grid, suffix):
    """QSIRecon writes .tck.gz."""
    subjects.plain("a")
    plain = subjects.tractogram("a", f"lines{suffix}", grid["arcs"](6))
    group = {"type": "streamlines", "files": [plain.name]}
    subjects.create({"input": {"type": "volume", "files": ["dwi.nii.gz"]}, "streamlines": group})
    with h5py.File(subjects.out) as file:
        expected = {name: values[()] for name, values in file["a/streamlines"].items()}
    plain.with_name(f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    group["files"] = [f"*{suffix}.gz"]
    subjects.create({"input": {"type": "volume", "files": ["dwi.nii.gz"]}, "streamlines": group}, overwrite=True)
    with h5py.File(subjects.out) as file:
        assert file["a/streamlines"].keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(file["a/streamlines"][name], values)
