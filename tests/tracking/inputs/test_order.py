"""Images given to ``dwiml track --input`` in another order than the model was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from dwiml.cli import train
from dwiml.cli.main import main
from dwiml.hdf5 import schema
from dwiml.hdf5.creator import create_hdf5
from dwiml.phantom.create import create_phantom
from dwiml.tracking.inputs.order import check_input_order, check_same_making


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """sh.nii.gz of 3 features; fa, md and old of one each."""
    for name, nb in (("sh", 3), ("fa", 1), ("md", 1), ("old", 1), ("sub-9__fa", 1), ("sub-9__md", 1)):
        values = np.ones((2, 2, 2, nb) if nb > 1 else (2, 2, 2), dtype=np.float32)
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
    return tmp_path


def entry(*files: tuple[str, int], patterns: list[str] | None = None) -> dict[str, Any]:
    found = [{schema.FILE: name, schema.NB_FEATURES: nb} for name, nb in files]
    return {"files": patterns or [name for name, _ in files], schema.FILES_FOUND: found}


def check(images: Path, given: list[str], recorded: dict[str, Any]) -> None:
    check_input_order([str(images / f"{name}.nii.gz") for name in given], recorded, "input")


def test_features_of_each_file_are_compared(images: Path) -> None:
    recorded = entry(("metrics/sh.nii.gz", 3), ("metrics/fa.nii.gz", 1))
    check(images, ["sh", "fa"], recorded)
    sentence = (
        r"trained on group 'input', which contains 'metrics/sh.nii.gz' \(3\), 'metrics/fa.nii.gz' \(1\), in this "
        r"order; the input is '.*fa.nii.gz' \(1\), '.*sh.nii.gz' \(3\). Give images with the same numbers of features"
    )
    with pytest.raises(ValueError, match=sentence):
        check(images, ["fa", "sh"], recorded)


@pytest.mark.parametrize("patterns", [["maps/fa.nii.gz", "maps/md.nii.gz"], ["*fa*", "*md*"]])
@pytest.mark.parametrize("found", [True, False])
def test_names_are_compared_where_features_are_alike(
    images: Path, caplog: pytest.LogCaptureFixture, patterns: list[str], found: bool
) -> None:
    recorded = entry(("maps/fa.nii.gz", 1), ("maps/md.nii.gz", 1), patterns=patterns)
    recorded = recorded if found else {"files": patterns}
    check(images, ["fa", "md"], recorded)
    assert not caplog.text
    with pytest.raises(ValueError, match="The names are in another order"):
        check(images, ["md", "fa"], recorded)
    check(images, ["md", "old"], recorded)
    assert "The order cannot be determined from these names: check it." in caplog.text


def test_the_subjects_name_in_a_name_is_any(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    patterns = ["{subject}__fa.nii.gz", "{subject}__md.nii.gz"]
    recorded = entry(("sub-1__fa.nii.gz", 1), ("sub-1__md.nii.gz", 1), patterns=patterns)
    check(images, ["sub-9__fa", "sub-9__md"], recorded)
    assert not caplog.text
    with pytest.raises(ValueError, match="The names are in another order"):
        check(images, ["sub-9__md", "sub-9__fa"], recorded)


def test_what_cannot_be_compared_is_told(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    check(images, ["fa"], entry(("metrics/md.nii.gz", 1)))
    check(images, ["fa"], {})
    assert not caplog.text
    check(images, ["fa", "md"], {})
    assert "It is not recorded which files the model was trained on" in caplog.text
    caplog.clear()
    check(images, ["fa", "sh"], entry(("all.nii.gz", 4)))
    assert "only the total number of features can be compared" in caplog.text


def test_an_hdf5_file_made_otherwise_than_that_of_the_training(caplog: pytest.LogCaptureFixture) -> None:
    recorded = {**entry(("sh.nii.gz", 28), ("fa.nii.gz", 1)), "standardization": "all"}
    check_same_making(recorded, recorded, "input", "data.hdf5")
    check_same_making({}, recorded, "input", "data.hdf5")
    check_same_making(recorded, {}, "input", "data.hdf5")
    assert not caplog.text
    other = {**entry(("fa.nii.gz", 1), ("sh.nii.gz", 28)), "standardization": "all"}
    with pytest.raises(ValueError, match=r"s 'sh.nii.gz' \(28\), 'fa.nii.gz' \(1\); in 'data.hdf5' it contains 'fa"):
        check_same_making(recorded, other, "input", "data.hdf5")
    check_same_making(recorded, {**recorded, "standardization": "none"}, "input", "data.hdf5")
    assert "differs from that of the training: its 'standardization' is 'none' instead of 'all'." in caplog.text


@pytest.mark.slow
def test_a_model_trained_on_two_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The number of all features is the same in either order: 286 streamlines became 68."""
    root = tmp_path / "phantom"
    create_phantom(root, nb_subjects=3, size="small")
    config = json.loads((root / "config.json").read_text())
    config["input"]["files"] = ["metrics/sh.nii.gz", "metrics/fa.nii.gz"]
    create_hdf5(root / "subjects", tmp_path / "data.hdf5", config, ["sub-01"], ["sub-02"])
    options = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--rnn_layer_sizes", "8"]
    options += ["--seed", "1", "--max_epochs", "1", "--max_batches_per_epoch_training", "2", "--step_size", "1.5", "-q"]
    assert train.main(["learn2track", str(tmp_path / "data.hdf5"), str(tmp_path), "exp", *options]) == 0
    recorded = json.loads((tmp_path / "exp/parameters.json").read_text())["groups_config"]["input"]
    trained = recorded["files_found"][1]
    assert (trained["file"], trained["nb_features"]) == ("metrics/fa.nii.gz", 1)
    inside = nib.load(root / "subjects/sub-01/masks/wm.nii.gz").get_fdata() > 0
    values = nib.load(root / "subjects/sub-01/metrics/fa.nii.gz").get_fdata(dtype=np.float32)[inside]
    assert trained["mean"] == pytest.approx([values.mean()] * 2, rel=1e-5)
    assert trained["std"] == pytest.approx([values.std()] * 2, rel=1e-5)
    # It is known without the HDF5 file.
    (tmp_path / "data.hdf5").unlink()
    folder = root / "subjects/sub-02"
    sh, fa, mask = (str(folder / name) for name in ("metrics/sh.nii.gz", "metrics/fa.nii.gz", "masks/wm.nii.gz"))
    command = ["track", str(tmp_path / "exp"), str(tmp_path / "out.trk"), "--nb_seeds", "5", "--tracking_mask", mask]
    command += ["--std_mask", mask]
    caplog.clear()
    assert main([*command, "--input", fa, sh]) == 2
    assert (
        "error: The model was trained on group 'input', which contains 'metrics/sh.nii.gz' (28)"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out.trk").exists()
    assert main([*command, "--input", sh, fa]) == 0
    assert not caplog.text
    # FA in per mill; another warning says that the older tractogram is replaced.
    image = nib.load(fa)
    nib.save(nib.Nifti1Image(1000 * image.get_fdata(dtype=np.float32), image.affine), tmp_path / "fa.nii.gz")
    assert main([*command, "-f", "--input", sh, str(tmp_path / "fa.nii.gz")]) == 0
    (message,) = [each.getMessage() for each in caplog.records if each.name == "dwiml.tracking.inputs.units"]
    assert message.startswith(f"'{tmp_path}/fa.nii.gz' has a mean of ")
    assert "in the training, 'metrics/fa.nii.gz' had means of 0." in message
    assert message.endswith("Check the units and the normalization of the image.")
