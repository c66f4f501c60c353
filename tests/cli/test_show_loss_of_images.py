"""``dwiml show_loss --input``: someone who is in no HDF5 file, on an oblique grid of anisotropic voxels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scoring_support import save_lines, save_volume
from small_training import small_trainer
from tests_support import AFFINE, NB_FEATURES, SHAPE, curved_streamlines
from without_volume import trainer_without_volume

from dwiml import AutoencoderModel
from dwiml.cli import train
from dwiml.cli.main import main
from dwiml.hdf5.creator import create_hdf5

NAMES = ("training", "validation", "testing")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three subjects with other scales and masks, their HDF5 file, and an experiment."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(6)
    for number, name in enumerate(NAMES, start=1):
        folder = root / "subjects" / name
        folder.mkdir(parents=True)
        values = rng.normal(2.0, number, size=(*SHAPE, NB_FEATURES)).astype(np.float32)
        save_volume(folder / "input.nii.gz", values, AFFINE)
        mask = np.zeros(SHAPE, dtype=bool)
        mask[2:10, 2:8, number:7] = True
        save_volume(folder / "mask.nii.gz", mask, AFFINE)
        save_lines(folder / "lines.trk", curved_streamlines(rng, 12), AFFINE, SHAPE)
        (root / f"{name}.txt").write_text(f"{name}\n")
    config = {
        "input": {"type": "volume", "files": ["input.nii.gz"], "standardization": "all", "std_mask": ["mask.nii.gz"]},
        "streamlines": {"type": "streamlines", "files": ["lines.trk"]},
    }
    (root / "config.json").write_text(json.dumps(config))
    create_hdf5(root / "subjects", root / "data.hdf5", root / "config.json", *(root / f"{name}.txt" for name in NAMES))
    options = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--rnn_layer_sizes", "4"]
    options += ["--dg_key", "sphere-classification", "--seed", "1", "--max_epochs", "1", "--step_size", "2", "-q"]
    assert train.main(["learn2track", str(root / "data.hdf5"), str(root), "exp", *options]) == 0
    return root


def words(world: Path, subject: str = "testing") -> list[str]:
    folder = world / "subjects" / subject
    images = ["--input", str(folder / "input.nii.gz"), "--std_mask", str(folder / "mask.nii.gz")]
    return [*images, "--tractogram", str(folder / "lines.trk")]


def refused(command: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert not out.exists()
    return error


def test_the_errors_are_those_of_the_same_subject_in_the_hdf5_file(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    experiment = tmp_path / "exp"
    shutil.copytree(world / "exp", experiment)
    assert main(["show_loss", str(experiment), "testing", str(tmp_path / "hdf5"), "--batch_size", "5"]) == 0
    # The experiment's folder alone is enough.
    recorded = json.loads((experiment / "parameters.json").read_text())
    recorded["data"]["hdf5_file"] = str(tmp_path / "gone.hdf5")
    (experiment / "parameters.json").write_text(json.dumps(recorded))
    capsys.readouterr()
    command = ["show_loss", str(experiment), "someone", str(tmp_path / "images"), *words(world), "--sidecar"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("someone (images): mean loss ")
    assert printed.err == ""
    (warning,) = caplog.messages
    assert "Check the units and the normalization of the image." in warning
    files = [nib.streamlines.load(tmp_path / name / "loss.trk").tractogram for name in ("hdf5", "images")]
    expected, found = (file.data_per_point for file in files)
    assert set(expected) == set(found) == {"loss", "displacement_mm", "eos_probability", "eos_error", "color"}
    for name in set(expected) - {"color"}:
        np.testing.assert_allclose(found[name].get_data(), expected[name].get_data(), rtol=2e-5, atol=2e-6)
        assert np.ptp(found[name].get_data()) > 0.01 * found[name].get_data().max()
    np.testing.assert_allclose(files[1].streamlines.get_data(), files[0].streamlines.get_data(), atol=1e-5)
    summary = json.loads((tmp_path / "images" / "summary.json").read_text())
    assert summary["input"] == [str(world / "subjects/testing/input.nii.gz")]
    assert summary["subject"] == "someone"
    assert "subset" not in summary
    sidecar = json.loads((tmp_path / "images" / "loss.json").read_text())
    assert [Path(name).name for name in sidecar["Sources"]] == ["exp", "lines.trk", "input.nii.gz", "mask.nii.gz"]


def test_standardization_is_that_of_the_training_unless_given(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def mean_loss(name: str, *options: str) -> Any:
        command = ["show_loss", str(world / "exp"), "someone", str(tmp_path / name), *options]
        assert main(command) == 0, capsys.readouterr().err
        return json.loads((tmp_path / name / "summary.json").read_text())["mean_loss"]

    own = mean_loss("own", *words(world))
    assert mean_loss("like", *words(world), "--standardize_like", str(world / "exp")) == own
    without_mask = [word for word in words(world) if word != "--std_mask" and "mask.nii.gz" not in word]
    assert mean_loss("none", *without_mask, "--standardization", "none") != pytest.approx(own, rel=1e-4)
    command = ["show_loss", str(world / "exp"), "someone", str(tmp_path / "out")]
    error = refused([*command, *without_mask], tmp_path / "out", capsys)
    assert "was standardized within a mask ('mask.nii.gz' of each subject)" in error
    both = ["--standardization", "none", "--standardize_like", str(world / "exp")]
    assert "exclude each other" in refused([*command, *words(world), *both], tmp_path / "out", capsys)


def test_images_that_cannot_be_used(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, subject = tmp_path / "out", world / "subjects" / "testing"
    lines = ["--tractogram", str(subject / "lines.trk")]
    command = ["show_loss", str(world / "exp"), "someone", str(out)]

    def sentence(*options: str) -> str:
        return refused([*command, *options], out, capsys)

    assert "--input needs --tractogram: images have no streamlines." in sentence(*words(world)[:-2])
    assert "--subset is for a subject of the HDF5 file" in sentence(*words(world), "--subset", "testing")
    assert "--std_mask is for --input" in sentence(*lines, "--std_mask", str(subject / "mask.nii.gz"))
    assert "--input: 'no.nii.gz' was not found" in sentence("--input", "no.nii.gz", *lines)
    assert "'none.trk' was not found" in sentence(*words(world)[:-1], "none.trk")
    few = tmp_path / "few.nii.gz"
    save_volume(few, np.ones((*SHAPE, 3), np.float32), AFFINE)
    error = sentence("--input", str(few), "--standardization", "none", *lines)
    assert f"The model was trained on {NB_FEATURES} features per voxel, but the images have 3." in error
    far = tmp_path / "far.tck"
    nib.streamlines.save(nib.streamlines.Tractogram([np.full((3, 3), 9e4, np.float32)], affine_to_rasmm=np.eye(4)), far)
    assert "check the space of the tractogram, and remove this streamline." in sentence(*words(world)[:-1], str(far))
    everyone = ["show_loss", str(world / "exp"), "all", str(out), *words(world)]
    assert "--input has the data of one subject: give its name instead of 'all'" in refused(everyone, out, capsys)


def test_no_result_replaces_an_image(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(world / "subjects" / "testing", tmp_path / "out")
    (tmp_path / "out" / "summary.json").hardlink_to(tmp_path / "out" / "input.nii.gz")
    folder = tmp_path / "out"
    images = ["--input", str(folder / "input.nii.gz"), "--std_mask", str(folder / "mask.nii.gz")]
    command = ["show_loss", str(world / "exp"), "someone", str(folder), *images, "-f"]
    assert main([*command, "--tractogram", str(folder / "lines.trk")]) == 2
    assert "is an input" in capsys.readouterr().err


def test_a_model_without_a_volume_needs_no_images(
    world: Path, tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer_without_volume(tiny_hdf5, tmp_path, model_class=AutoencoderModel, max_epochs=1).train_and_validate()
    command = ["show_loss", str(tmp_path / "exp"), "someone", str(tmp_path / "out"), *words(world)]
    error = refused(command, tmp_path / "out", capsys)
    assert "was trained without a volume and needs no images: leave out --input." in error
    command = ["show_loss", str(tmp_path / "exp"), "sub-d", str(tmp_path / "out")]
    error = refused([*command, "--color_by", "displacement_mm"], tmp_path / "out", capsys)
    assert error == "error: The model has no displacement_mm; give --color_by loss.\n"
    assert main(command) == 0
    found = nib.streamlines.load(tmp_path / "out" / "loss.trk").tractogram.data_per_point
    assert set(found) == {"loss", "color"}
    assert not [name for name in json.loads((tmp_path / "out" / "summary.json").read_text()) if "displacement" in name]


def test_colors_and_their_range_are_recorded(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    command = ["show_loss", str(tmp_path / "exp"), "sub-d", str(tmp_path / "out"), "--color_by", "displacement_mm"]
    assert main([*command, "--color_range", "0", "2"]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["color_by"], summary["color_range"]) == ("displacement_mm", [0, 2])
    assert summary["mean_displacement_mm"] > 0
