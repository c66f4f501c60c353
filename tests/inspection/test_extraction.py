"""What was put into an HDF5 file comes out of it: compared with the files it was created from, read by others."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from dipy.io.streamline import load_tractogram
from tests_support import AFFINE, SHAPE, edited, write_hdf5

from dwiml.cli.main import main
from dwiml.inspection.extraction import extract_hdf5

SUBJECTS = {"sub-01": "left-handed", "sub-02": "anisotropic", "sub-03": "oblique"}


@pytest.fixture
def path(tmp_path: Path, tiny_hdf5: Path) -> Path:
    return Path(shutil.copy(tiny_hdf5, tmp_path / "data.hdf5"))


def original_streamlines(hdf5: Path, subject: str) -> list[np.ndarray]:
    """Return the streamlines that the file was created from, in rasmm, as nibabel reads them."""
    files = sorted((hdf5.parent / "subjects" / subject / "bundles").glob("*.trk"))
    return [line for each in files for line in nib.streamlines.load(each).streamlines]


def read_by_others(out: Path) -> list[np.ndarray]:
    """Return the streamlines of a file in rasmm: read by nibabel, or by trx-python."""
    if out.suffix != ".trx":
        return list(nib.streamlines.load(out).streamlines)
    from trx.trx_file_memmap import load

    file = load(str(out))
    lines = [np.array(line) for line in file.streamlines]
    file.close()
    return lines


def test_the_grids_are_what_they_are_said_to_be(phantom_hdf5: Path) -> None:
    with h5py.File(phantom_hdf5) as handle:
        axes = {name: handle[name]["input"].attrs["affine"][:3, :3] for name in SUBJECTS}
    assert np.linalg.det(axes["sub-01"]) < 0
    sizes = np.linalg.norm(axes["sub-02"], axis=0)
    assert sizes.max() > 1.2 * sizes.min()
    assert np.abs(axes["sub-03"] - np.diag(np.diag(axes["sub-03"]))).max() > 0.1


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("suffix", [".trk", ".tck", ".trx"])
def test_streamlines_are_where_they_were(phantom_hdf5: Path, tmp_path: Path, subject: str, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    assert main(["extract_hdf5", str(phantom_hdf5), subject, "streamlines", str(out)]) == 0
    found, expected = read_by_others(out), original_streamlines(phantom_hdf5, subject)
    assert [len(line) for line in found] == [len(line) for line in expected]
    assert np.abs(np.concatenate(found) - np.concatenate(expected)).max() < 1e-3
    assert sorted(each.name for each in tmp_path.iterdir()) == [out.name]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_dipy_finds_the_voxel_space_of_the_hdf5_file(phantom_hdf5: Path, tmp_path: Path, subject: str) -> None:
    out = tmp_path / "out.trk"
    extract_hdf5(phantom_hdf5, subject, "streamlines", out)
    tractogram = load_tractogram(str(out), "same")
    tractogram.to_vox()
    tractogram.to_corner()
    with h5py.File(phantom_hdf5) as handle:
        points = handle[subject]["streamlines/data"][()]
        assert tuple(tractogram.dimensions) == handle[subject]["input/data"].shape[:3]
    assert np.abs(tractogram.streamlines.get_data() - points).max() < 1e-4


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_volumes_are_what_they_were(phantom_hdf5: Path, tmp_path: Path, subject: str, suffix: str) -> None:
    folder = phantom_hdf5.parent / "subjects" / subject
    for group, name in (("wm_mask", "masks/wm.nii.gz"), ("input", "metrics/sh.nii.gz")):
        out = tmp_path / f"{group}{suffix}"
        assert main(["extract_hdf5", str(phantom_hdf5), subject, group, str(out)]) == 0
        image, original = nib.load(out), nib.load(folder / name)
        assert image.shape == original.shape
        assert image.get_data_dtype() == np.float32
        for affine in (image.affine, image.header.get_qform()):
            assert np.abs(affine - original.affine).max() < 1e-3
        values, given = (np.asarray(each.dataobj, dtype=np.float64) for each in (image, original))
        if group == "input":
            # Standardized by feature in the white matter, as the phantom's config says.
            mask = np.asarray(nib.load(folder / "masks/wm.nii.gz").dataobj) > 0
            given = (given - given[mask].mean(axis=0)) / given[mask].std(axis=0)
        assert np.allclose(values, given, rtol=1e-5, atol=1e-4)


def test_the_same_data_give_the_same_bytes(path: Path, tmp_path: Path) -> None:
    for out in ("a.nii.gz", "b.nii.gz"):
        extract_hdf5(path, "sub-a", "input", tmp_path / out)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("suffix", [".trk", ".trx"])
def test_data_per_streamline_come_out(path: Path, tmp_path: Path, suffix: str) -> None:
    with edited(path) as handle:
        values = np.arange(60, dtype=np.float32).reshape(30, 2) / 7
        handle["sub-a/streamlines/data_per_streamline"]["pair"] = values
    out = tmp_path / f"out{suffix}"
    extract_hdf5(path, "sub-a", "streamlines", out)
    if suffix == ".trk":
        data = nib.streamlines.load(out).tractogram.data_per_streamline
    else:
        from trx.trx_file_memmap import load

        data = load(str(out)).data_per_streamline
    assert sorted(data) == ["id", "pair"]
    assert np.array_equal(np.asarray(data["pair"]), values)
    assert np.array_equal(np.ravel(data["id"]), np.arange(30))


def test_a_tck_is_written_without_data_per_streamline(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["extract_hdf5", str(path), "sub-a", "streamlines", str(tmp_path / "out.tck")]) == 0
    assert "A .tck file cannot hold data per streamline: 'id' not written." in caplog.messages
    assert len(nib.streamlines.load(tmp_path / "out.tck").streamlines) == 30


def test_a_group_without_streamlines(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", {"sub-a": 0})
    with edited(path) as handle:
        del handle["sub-a/streamlines/data_per_streamline"]
    assert extract_hdf5(path, "sub-a", "streamlines", tmp_path / "out.trk").endswith("0 streamlines, 0 points")
    assert len(nib.streamlines.load(tmp_path / "out.trk").streamlines) == 0


def test_a_file_without_dimensions_has_those_of_its_volumes(path: Path, tmp_path: Path) -> None:
    with edited(path) as handle:
        del handle["sub-a/streamlines"].attrs["dimensions"]
    extract_hdf5(path, "sub-a", "streamlines", tmp_path / "out.trk")
    assert tuple(nib.streamlines.load(tmp_path / "out.trk").header["dimensions"]) == SHAPE
    with edited(path) as handle:
        del handle["sub-a/input"], handle["sub-a/wm_mask"]
    with pytest.raises(ValueError, match="has no 'dimensions', and the subject no volume"):
        extract_hdf5(path, "sub-a", "streamlines", tmp_path / "other.trk")


def add_matrix(path: Path, **kinds: object) -> np.ndarray:
    matrix = np.random.default_rng(0).integers(0, 9, (3, 3))
    matrix = matrix + matrix.T
    with edited(path) as handle:
        group = handle["sub-a/streamlines"]
        group["connectivity_matrix"] = matrix
        labels = kinds.pop("connectivity_label_volume", None)
        if labels is not None:
            group["connectivity_label_volume"] = labels
        group.attrs.update(kinds)
    return matrix


def test_connectivity_of_labels(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.random.default_rng(0).choice([0, 3, 7, 1005], SHAPE).astype(np.int32)
    matrix = add_matrix(path, connectivity_matrix_type="from_labels", connectivity_label_volume=labels)
    out = tmp_path / "m.npy"
    command = ["extract_hdf5", str(path), "sub-a", "streamlines", str(out)]
    assert main(command) == 0
    assert np.array_equal(np.load(out), matrix)
    assert [int(row) for row in (tmp_path / "m_labels.txt").read_text().splitlines()[1:]] == [3, 7, 1005]
    image = nib.load(tmp_path / "m_labels.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), labels)
    assert image.get_data_dtype() == np.int16
    assert np.abs(image.affine - AFFINE).max() < 1e-5
    # The files can be used together.
    capsys.readouterr()
    extract_hdf5(path, "sub-a", "streamlines", tmp_path / "lines.trk")
    score = ["connectivity_score", str(tmp_path / "lines.trk"), str(out), "--labels", str(tmp_path / "m_labels.nii.gz")]
    assert main(score) == 0
    assert main(command) == 2
    assert "exists; replace it with -f" in capsys.readouterr().err
    out.unlink()
    assert main(command) == 2
    assert "m_labels.txt' exists; replace it with -f" in capsys.readouterr().err
    assert main([*command, "-f"]) == 0


def test_connectivity_of_blocs(path: Path, tmp_path: Path) -> None:
    matrix = add_matrix(path, connectivity_matrix_type="from_blocs", connectivity_nb_blocs=np.array([3, 1, 1]))
    line = extract_hdf5(path, "sub-a", "streamlines", tmp_path / "m.npy")
    assert line.endswith("m.npy: 3 x 3 blocs (3 x 1 x 1 in the volume)")
    assert np.array_equal(np.load(tmp_path / "m.npy"), matrix)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data.hdf5", "m.npy"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sub-x", "input", "o.nii"], "Subject 'sub-x' not found in '.*'; it has: 'sub-a', 'sub-b', "),
        (["sub-a", "dwi", "o.nii"], "Group 'dwi' of subject 'sub-a' not found in '.*'; it has: 'input', 'wm_mask', "),
        (["sub-a", "input", "o.trk"], "OUT must end in .nii.gz or .nii, because 'sub-a/input' is a volume group; got"),
        (["sub-a", "streamlines", "o.nii"], "OUT must end in .trk or .tck or .trx, or .npy for their connectivity"),
        (["sub-a", "streamlines", "o.npy"], "Streamlines group 'streamlines' .* has no connectivity matrix"),
        (["sub-a", "input", "nowhere/o.nii"], "OUT: the folder '.*nowhere' does not exist"),
    ],
)
def test_what_cannot_be_extracted(path: Path, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    *names, out = arguments
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ValueError, OSError), match=sentence):
        extract_hdf5(path, *names, tmp_path / out)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("group", "suffix"), [("input", ".nii.gz"), ("streamlines", ".trk")])
def test_neither_an_input_nor_a_file_is_lost(path: Path, tmp_path: Path, group: str, suffix: str) -> None:
    link = tmp_path / f"link{suffix}"
    link.symlink_to(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is an input"):
        extract_hdf5(path, "sub-a", group, link, overwrite=True)
    assert path.read_bytes() == before
    out = tmp_path / f"out{suffix}"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match="exists"):
        extract_hdf5(path, "sub-a", group, out)
    assert out.read_text() == "mine"


def test_damaged_values_are_not_extracted(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with edited(path) as handle:
        handle["sub-a/input/data"][0, 0, 0, 0] = np.nan
        handle["sub-a/streamlines/data"][100] = np.inf
    for group, out in (("input", "o.nii.gz"), ("streamlines", "o.trk")):
        assert main(["extract_hdf5", str(path), "sub-a", group, str(tmp_path / out)]) == 2
        error = capsys.readouterr().err
        assert "NaN or infinite" in error
        assert error.count("error: ") == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data.hdf5"]
