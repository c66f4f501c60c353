"""A volume that was extracted says in which convention it is, and can be given its original values back."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests_support import AFFINE

from dwiml.cli.main import main
from dwiml.hdf5.creator import create_hdf5
from dwiml.hdf5.inputs.directions import directions_as_trained, directions_of_image
from dwiml.inspection.extraction import extract_hdf5
from dwiml.ops.axes.conventions import Directions
from dwiml.tracking.sources import read_volumes

READ = {
    "sh": Directions(kind="sh", axes="rasmm", basis="tournier07"),
    "peaks": Directions(kind="peaks", axes="rasmm"),
    "tensor": Directions(kind="tensor", axes="rasmm", order="mrtrix"),
}
NB = {"sh": 15, "peaks": 6, "tensor": 6}


def created(folder: Path, directions: Directions | None, nb: int, standardization: str = "none") -> tuple[Path, Path]:
    """Return the HDF5 file, and the image that it was created from."""
    image = folder / "subjects/sub-1/a.nii.gz"
    image.parent.mkdir(parents=True)
    values = np.random.default_rng(0).normal(3, 2, (6, 5, 4, nb)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, AFFINE), image)
    entry = {"type": "volume", "files": ["a.nii.gz"], "standardization": standardization}
    if directions is not None:
        entry["directions"] = directions.as_dict()
    create_hdf5(folder / "subjects", folder / "a.hdf5", {"input": entry}, ["sub-1"])
    return folder / "a.hdf5", image


@pytest.mark.parametrize("kind", READ)
def test_it_is_read_again_as_the_same_features(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    read, nb = READ[kind], NB[kind]
    path, image = created(tmp_path, read, nb)
    out = tmp_path / "out.nii.gz"
    assert "its convention in out.json" in extract_hdf5(path, "sub-1", "input", out)
    assert directions_of_image(out, None, nb, AFFINE, "it") == read.stored
    # Tracking on either gives a model the same features.
    trained = [directions_as_trained(each, read, nb, AFFINE, "it") for each in (image, out)]
    original, extracted = (read_volumes([p], directions=[d])[0] for p, d in zip((image, out), trained, strict=True))
    np.testing.assert_allclose(extracted, original, atol=1e-6)
    # And a file that is created from it.
    (tmp_path / "again/sub-1").mkdir(parents=True)
    for name in ("out.nii.gz", "out.json"):
        (tmp_path / name).rename(tmp_path / "again/sub-1" / name)
    entry = {"input": {"type": "volume", "files": ["out.nii.gz"]}}
    create_hdf5(tmp_path / "again", tmp_path / "b.hdf5", entry, ["sub-1"])
    extract_hdf5(tmp_path / "b.hdf5", "sub-1", "input", tmp_path / "b.nii.gz")
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii.gz").get_fdata(), original, atol=1e-6)


def test_a_sidecar_of_another_image_does_not_stay(tmp_path: Path) -> None:
    path, _ = created(tmp_path, None, 15)
    out = tmp_path / "out.nii.gz"
    out.with_name("out.json").write_text('{"OrientationEncoding": {"Type": "sh"}}')
    with pytest.raises(FileExistsError, match="out.json"):
        extract_hdf5(path, "sub-1", "input", out)
    extract_hdf5(path, "sub-1", "input", out, overwrite=True)
    assert not out.with_name("out.json").exists()


@pytest.mark.parametrize("standardization", ["all", "independent", "per_file", "none"])
def test_original_values_come_back(tmp_path: Path, standardization: str) -> None:
    path, image = created(tmp_path, None, 3, standardization)
    out = tmp_path / "out.nii"
    assert main(["extract_hdf5", str(tmp_path), "sub-1", "input", str(out), "--original_values"]) == 0
    np.testing.assert_allclose(nib.load(out).get_fdata(), nib.load(image).get_fdata(), atol=1e-5)
    assert path.exists()


def test_original_values_of_streamlines_are_refused(tiny_hdf5: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="original_values=True is for volumes"):
        extract_hdf5(tiny_hdf5, "sub-a", "streamlines", tmp_path / "a.trk", original_values=True)


def test_it_says_more_than_the_proposal_of_bids_can(tmp_path: Path) -> None:
    path, _ = created(tmp_path, READ["sh"], 15)
    extract_hdf5(path, "sub-1", "input", tmp_path / "out.nii.gz")
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["OrientationEncoding"] == {
        "Type": "sh",
        "Reference": "ijk",
        "SphericalHarmonicBasis": "descoteaux",
        "SphericalHarmonicDegree": 4,
    }
    assert content["dwiml"]["directions"]["legacy"] is False
