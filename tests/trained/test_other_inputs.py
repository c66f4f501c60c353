"""Input that is far from that of the training is told before tracking; the phantom's own subjects are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests_support import edited

import dwiml
from dwiml.cli import train
from dwiml.hdf5.creator import create_hdf5
from dwiml.ops.axes.conventions import parse_directions
from dwiml.ops.axes.conversion import conversion_matrix
from dwiml.phantom.create import create_phantom

CONVENTION = {"kind": "sh", "axes": "voxel", "basis": "descoteaux07", "legacy": False, "full_basis": False}
TRAINING = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--rnn_layer_sizes", "4"]
TRAINING += ["--step_size", "1.5", "--max_epochs", "1", "--max_batches_per_epoch_training", "1", "--seed", "1", "-q"]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experiments on SH and FA, standardized in the white matter or not; sub-02 is anisotropic, sub-03 is oblique."""
    root = tmp_path_factory.mktemp("inputs")
    create_phantom(root / "phantom", nb_subjects=4, size="small")
    config = json.loads((root / "phantom/config.json").read_text())
    config["input"]["files"] = ["metrics/sh.nii.gz", "metrics/fa.nii.gz"]
    config["input"]["directions"] = [CONVENTION, {"kind": "none"}]
    for kind in ("per_file", "none", "independent"):
        config["input"]["standardization"] = kind
        three = ["sub-01", "sub-02", "sub-03"]
        sets = (["sub-01"], ["sub-02"], ["sub-03"]) if kind == "per_file" else (three, ["sub-04"])
        create_hdf5(root / "phantom/subjects", root / f"{kind}.hdf5", config, *sets)
        assert train.main(["learn2track", str(root / f"{kind}.hdf5"), str(root), kind, *TRAINING]) == 0
    return root


def files_of(phantom: Path, subject: str) -> dict[str, Path]:
    folder = phantom / "phantom/subjects" / subject
    return {"sh": folder / "metrics/sh.nii.gz", "fa": folder / "metrics/fa.nii.gz", "mask": folder / "masks/wm.nii.gz"}


def saved(path: Path, image: Any, values: Any = None, affine: Any = None) -> Path:
    values = image.get_fdata(dtype=np.float32) if values is None else values
    nib.save(nib.Nifti1Image(values, image.affine if affine is None else affine), path)
    return path


def warned(caplog: pytest.LogCaptureFixture, experiment: Path, *images: Path, mask: Path, **options: Any) -> list[str]:
    caplog.clear()
    if options.get("standardization") != "none" and experiment.name != "none":
        options["std_mask"] = mask
    dwiml.track(experiment, images, tracking_mask=mask, nb_seeds=3, **options)
    return [each.getMessage() for each in caplog.records if each.name.startswith("dwiml.tracking.input")]


def test_the_subjects_of_the_phantom_are_not(phantom: Path, caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("per_file", "none", "independent"):
        for name in ("sub-01", "sub-02", "sub-03", "sub-04"):
            files = files_of(phantom, name)
            assert not warned(caplog, phantom / kind, files["sh"], files["fa"], mask=files["mask"])
    for kind in ("per_file", "independent"):
        for name in ("sub-01", "sub-02", "sub-03"):
            dwiml.track(phantom / kind, name, tracking_mask="wm_mask", nb_seeds=3)
    assert not caplog.messages


def test_spherical_harmonics_of_another_scale(phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Those of degree 6 are larger, and hardly change the file as a whole."""
    files = files_of(phantom, "sub-04")
    image = nib.load(files["sh"])
    values = image.get_fdata(dtype=np.float32)
    values[..., 15:] *= 6
    scaled = saved(tmp_path / "sh.nii.gz", image, values)
    for kind in ("per_file", "none"):
        (text,) = warned(caplog, phantom / kind, scaled, files["fa"], mask=files["mask"])
        assert text.startswith("The values that the model reads from the input are far from those of the training")
        assert "the SH of degree 6 of 'metrics/sh.nii.gz' (a standard deviation " in text
        assert text.count("degree") == 1
        assert "fa.nii.gz" not in text
    # All of them: the standardization undoes it, but the units are other ones.
    scaled = saved(tmp_path / "sh.nii.gz", image, image.get_fdata(dtype=np.float32) * 4.1)
    (text,) = warned(caplog, phantom / "per_file", scaled, files["fa"], mask=files["mask"])
    assert "has a mean of" in text
    # Not standardized as in the training.
    messages = warned(
        caplog, phantom / "per_file", files["sh"], files["fa"], mask=files["mask"], standardization="none"
    )
    assert any("the SH of degree 0 of 'metrics/sh.nii.gz' (a standard deviation 1/" in text for text in messages)


def test_a_map_that_is_not_fa(phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is in the units of FA, and almost constant."""
    files = files_of(phantom, "sub-04")
    image = nib.load(files["fa"])
    fa = image.get_fdata(dtype=np.float32)
    inside = nib.load(files["mask"]).get_fdata() > 0
    other = np.where(fa != 0, fa[inside].mean() + (fa - fa[inside].mean()) / 20, 0).astype(np.float32)
    path = saved(tmp_path / "fa.nii.gz", image, other)
    (text,) = warned(caplog, phantom / "none", files["sh"], path, mask=files["mask"])
    assert f"'{path}' has a mean of" in text


def test_features_that_are_standardized_one_by_one(
    phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After the standardization, they are the same as in the training, whatever they were before it."""
    files = files_of(phantom, "sub-04")
    image, fa = nib.load(files["sh"]), nib.load(files["fa"])
    values = image.get_fdata(dtype=np.float32)
    # Less anisotropic, as with a lower b-value.
    values[..., 1:] /= 4.5
    path = saved(tmp_path / "sh.nii.gz", image, values)
    (text,) = warned(caplog, phantom / "independent", path, files["fa"], mask=files["mask"])
    assert text.startswith("Before the standardization, the values of the input are far from those of the training")
    assert "the SH of degree 2 of 'metrics/sh.nii.gz' (a standard deviation 1/" in text
    assert "degree 0" not in text
    assert text.endswith("Check the acquisition, and the contrast and the normalization of the images.")
    # FA of another acquisition, and SH that are not divided by the b=0 image.
    path = saved(tmp_path / "fa.nii.gz", fa, fa.get_fdata(dtype=np.float32) / 4)
    (text,) = warned(caplog, phantom / "independent", files["sh"], path, mask=files["mask"])
    assert text.startswith(f"'{path}' has a mean of ")
    path = saved(tmp_path / "sh.nii.gz", image, 800 * image.get_fdata(dtype=np.float32))
    (text,) = warned(caplog, phantom / "independent", path, files["fa"], mask=files["mask"])
    assert text.startswith(f"'{path}' has a mean of ")


def mirrored(harmonics: Any) -> Any:
    """Return SH with y mirrored, as of gradient directions with a wrong sign."""
    matrix = conversion_matrix(parse_directions(CONVENTION, ""), 28, np.diag([1.0, -1.0, 1.0]))
    return (harmonics @ matrix.T).astype(np.float32)


def test_gradient_directions_with_a_wrong_sign(phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = files_of(phantom, "sub-04")
    image = nib.load(files["sh"])
    path = saved(tmp_path / "sh.nii.gz", image, mirrored(image.get_fdata()))
    for kind in ("per_file", "none", "independent"):
        (text,) = warned(caplog, phantom / kind, path, files["fa"], mask=files["mask"])
        assert text.startswith("The main directions of the input lead farther from voxel to voxel with y mirrored: ")
        assert text.endswith("check the gradient directions (bvecs) from which they were computed, and the affine.")


def hdf5_of(folder: Path, phantom: Path, **changed: Any) -> Path:
    """Write an HDF5 file of one subject, sub-04, some of whose files were changed."""
    config = json.loads((phantom / "phantom/config.json").read_text())
    config["input"] |= {"files": ["sh.nii.gz", "fa.nii.gz"], "std_mask": ["mask.nii.gz"]}
    config["input"]["directions"] = [CONVENTION, {"kind": "none"}]
    config = {"input": config["input"], "wm_mask": {**config["wm_mask"], "files": ["mask.nii.gz"]}}
    subject = folder / "subjects/sub-04"
    subject.mkdir(parents=True)
    for name, path in files_of(phantom, "sub-04").items():
        image = nib.load(path)
        change = changed.get(name, changed.get("every", lambda values, affine: (values, affine)))
        saved(subject / f"{name}.nii.gz", image, *change(image.get_fdata(dtype=np.float32), image.affine))
    create_hdf5(folder / "subjects", folder / "one.hdf5", config, ["sub-04"])
    return folder / "one.hdf5"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        (
            {"sh": lambda values, affine: (800 * values, affine)},
            ["'sh.nii.gz' of group 'input' of subject 'sub-04' has a mean of "],
        ),
        (
            {"fa": lambda values, affine: (values / 4, affine)},
            ["'fa.nii.gz' of group 'input' of subject 'sub-04' has a mean of "],
        ),
        (
            {"sh": lambda values, affine: (values / np.r_[1, np.full(27, 4.5)].astype(np.float32), affine)},
            ["Before the standardization, the values of group 'input' of subject 'sub-04' are far from those of the "],
        ),
        (
            {"every": lambda values, affine: (values, affine @ np.diag([-1, 1, 1, 1]))},
            ["The voxel grid of group 'input' of subject 'sub-04' differs from those of the training subjects: its "],
        ),
        (
            {"sh": lambda values, affine: (mirrored(values), affine)},
            ["The main directions of group 'input' of subject 'sub-04' lead farther from voxel to voxel with y mirror"],
        ),
    ],
)
def test_a_subject_of_an_hdf5_file(
    phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: Any, expected: list[str]
) -> None:
    hdf5 = hdf5_of(tmp_path, phantom, **changed)
    caplog.clear()
    dwiml.track(phantom / "independent", "sub-04", hdf5_file=hdf5, tracking_mask="wm_mask", nb_seeds=3)
    # Not those about the names of the files.
    messages = [each.getMessage() for each in caplog.records if each.name != "dwiml.tracking.inputs.order"]
    assert len(messages) == len(expected)
    assert all(message.startswith(start) for message, start in zip(messages, expected, strict=True))


def test_a_flipped_affine(phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = files_of(phantom, "sub-01")
    images = {name: nib.load(path) for name, path in files.items()}
    affine = images["sh"].affine @ np.diag([-1, 1, 1, 1])
    flipped = {name: saved(tmp_path / f"{name}.nii.gz", each, affine=affine) for name, each in images.items()}
    (text,) = warned(caplog, phantom / "none", flipped["sh"], flipped["fa"], mask=flipped["mask"])
    assert "its voxel order is RAS instead of 'LAS' (the brain is mirrored)" in text
    larger = images["sh"].affine @ np.diag([2, 2, 2, 1])
    flipped = {name: saved(tmp_path / f"{name}.nii.gz", each, affine=larger) for name, each in images.items()}
    (text,) = warned(caplog, phantom / "none", flipped["sh"], flipped["fa"], mask=flipped["mask"])
    assert "its voxel sizes are " in text
    # Trained before grids were recorded: those of the HDF5 file, if it is still there.
    parameters = phantom / "none/parameters.json"
    before = parameters.read_text()
    recorded = json.loads(before)
    del recorded["groups_config"]["input"]["grids"]
    try:
        parameters.write_text(json.dumps(recorded))
        assert warned(caplog, phantom / "none", flipped["sh"], flipped["fa"], mask=flipped["mask"]) == [text]
        recorded["data"]["hdf5_file"] = str(tmp_path / "nowhere.hdf5")
        parameters.write_text(json.dumps(recorded))
        assert not warned(caplog, phantom / "none", flipped["sh"], flipped["fa"], mask=flipped["mask"])
    finally:
        parameters.write_text(before)


def test_a_subject_of_another_hdf5_file(phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = json.loads((phantom / "phantom/config.json").read_text())
    config["input"] |= {"files": ["metrics/sh.nii.gz", "metrics/fa.nii.gz"], "standardization": "none"}
    config["input"]["directions"] = [CONVENTION, {"kind": "none"}]
    create_hdf5(phantom / "phantom/subjects", tmp_path / "other.hdf5", config, ["sub-04"])
    with edited(tmp_path / "other.hdf5") as handle:
        group = handle["sub-04/input"].attrs
        record = json.loads(group["dwiml_provenance"])
        record["files"][1]["features"]["std"] = [99.0]
        group["dwiml_provenance"] = json.dumps(record)
    dwiml.track(phantom / "none", "sub-04", hdf5_file=tmp_path / "other.hdf5", tracking_mask="wm_mask", nb_seeds=3)
    (text,) = [each for each in caplog.messages if "far from those" in each]
    assert text.startswith("The values that the model reads from group 'input' of subject 'sub-04' are far from those")
    assert "feature 0 of 'metrics/fa.nii.gz' (a standard deviation " in text
