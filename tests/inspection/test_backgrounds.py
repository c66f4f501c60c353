"""The image behind streamlines may be a group of an HDF5 file."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from matplotlib.pyplot import imread
from tests_support import write_hdf5

from dwiml.cli.main import main
from dwiml.inspection.backgrounds import background_from, image_file
from dwiml.inspection.extraction import extract_hdf5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_hdf5(tmp_path / "a:b.hdf5", {"sub-a": 20})


def test_a_feature_or_all_of_them_together(path: Path) -> None:
    with h5py.File(path) as handle:
        values = handle["sub-a/input/data"][()]
        affine = handle["sub-a/input"].attrs["affine"]
    third = background_from(f"{path}:sub-a/input", 2)
    np.testing.assert_array_equal(third.data, values[..., 2])
    np.testing.assert_allclose(third.affine, affine)
    every = background_from(f"{path}:sub-a/input")
    corners = np.median(
        values[:: len(values) - 1, :: values.shape[1] - 1, :: values.shape[2] - 1].reshape(8, -1), axis=0
    )
    expected = np.sqrt(((values - corners) ** 2).mean(axis=-1))
    np.testing.assert_allclose(every.data, expected, rtol=1e-5)
    assert background_from(f"{path}:sub-a/wm_mask").data.max() == 1
    assert image_file(f"{path}:sub-a/input") == path


@pytest.mark.parametrize(
    ("name", "volume", "message"),
    [
        ("sub-b/input", None, "Subject 'sub-b' not found in .*; it has: 'sub-a'"),
        ("sub-a/streamlines", None, "Volume group 'streamlines' of subject 'sub-a' not found in"),
        ("sub-a/input", 9, "background_volume must be from 0 to 3"),
    ],
)
def test_what_the_file_has_not(path: Path, name: str, volume: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        background_from(f"{path}:{name}", volume)


def test_the_picture_is_that_of_the_extracted_image(path: Path, tmp_path: Path) -> None:
    lines, image = tmp_path / "lines.trk", tmp_path / "mask.nii.gz"
    extract_hdf5(path, "sub-a", "streamlines", lines)
    extract_hdf5(path, "sub-a", "wm_mask", image)
    pictures = []
    for number, background in enumerate((str(image), f"{path}:sub-a/wm_mask")):
        out = tmp_path / f"{number}.png"
        assert main(["show_tractogram", str(lines), str(out), "--background", background]) == 0
        pictures.append(imread(out))
    # NIfTI rounds the affine to float32.
    assert np.abs(pictures[0] - pictures[1]).mean() < 1e-3
    assert main(["show_tractogram", str(lines), str(path), "-f", "--background", f"{path}:sub-a/wm_mask"]) == 2
