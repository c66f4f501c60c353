"""``dwiml show_loss``, run for real."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from dwiml.cli import train
from dwiml.cli.main import main
from dwiml.files import read_json


@pytest.fixture(scope="module")
def experiment(tiny_hdf5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiments")
    options = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--rnn_layer_sizes", "4"]
    options += ["--seed", "1", "--max_epochs", "1", "-q"]
    assert train.main(["learn2track", str(tiny_hdf5), str(folder), "exp", *options]) == 0
    return folder / "exp"


@pytest.mark.slow
def test_one_subject_of_any_subset(experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    out = tmp_path / "out"
    command = ["show_loss", str(experiment), "sub-b", str(out), "--percent", "20", "--batch_size", "7"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("sub-b (training set): mean loss ")
    assert printed.out.endswith(f" of 20 streamlines; results in {out}\n")
    assert printed.err == ""
    names = ["best_20_percent.trk", "histograms.png", "loss.trk", "summary.json", "worst_20_percent.trk"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert len(nib.streamlines.load(out / "loss.trk").streamlines) == 20
    assert len(nib.streamlines.load(out / "worst_20_percent.trk").streamlines) == 4
    assert (out / "histograms.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["subject"], summary["subset"], summary["nb_best"]) == ("sub-b", "training", 4)
    assert main(command) == 2
    assert "exists; replace" in capsys.readouterr().err
    assert main([*command, "-f", "--color_range", "0", "1"]) == 0
    assert json.loads((out / "summary.json").read_text())["color_range"] == [0, 1]


@pytest.mark.slow
def test_all_subjects_of_a_subset(experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show_loss", str(experiment), "all", str(tmp_path), "--subset", "training"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert sorted(path.parent.name for path in tmp_path.glob("*/summary.json")) == ["sub-a", "sub-b", "sub-c"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["sub-x"], "Subject 'sub-x' not found in"),
        (["sub-a", "--subset", "testing"], "it has: testing: sub-e."),
        (["all", "--subset", "test"], "--subset must be one of 'training', 'validation', 'testing', got 'test'."),
        (["sub-a", "--percent", "0"], "--percent must be above 0 and at most 100, got 0.0."),
        (["sub-a", "--batch_size", "0"], "--batch_size must be a whole number of at least 1, got 0."),
        (
            ["sub-a", "--color_range", "1", "1"],
            "color_range must be two finite numbers, the lower one first, got 1 and 1.",
        ),
        (["sub-a", "--hdf5_file", "none.hdf5"], "none.hdf5"),
    ],
)
def test_bad_input_is_one_sentence(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    subject, *others = options
    assert main(["show_loss", str(experiment), subject, str(tmp_path / "out"), *others]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_missing_data(experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(experiment, tmp_path / "copy")
    path = tmp_path / "copy" / "parameters.json"
    recorded = json.loads(path.read_text())
    place, recorded["data"]["hdf5_file"] = recorded["data"]["hdf5_file"], str(tmp_path / "gone.hdf5")
    path.write_text(json.dumps(recorded))
    command = ["show_loss", str(tmp_path / "copy"), "sub-d", str(tmp_path / "out")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"gone.hdf5', the HDF5 file of experiment '{tmp_path / 'copy'}', was not found; give its new path" in error
    assert main([*command, "--hdf5_file", place]) == 0


def test_an_out_dir_that_is_a_file(experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert main(["show_loss", str(experiment), "sub-a", str(tmp_path / "out"), "-f"]) == 2
    assert "is a file; give a folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_any_tractogram_of_a_subject(
    experiment: Path, tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def losses(name: str, *options: str) -> tuple[dict[str, Any], Any]:
        command = ["show_loss", str(experiment), "sub-b", str(tmp_path / name), "--percent", "20", *options]
        assert main(command) == 0, capsys.readouterr().err
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        return summary, nib.streamlines.load(tmp_path / name / "loss.trk").tractogram

    # The true streamlines, from a file: the same losses, whatever the format.
    true = tmp_path / "true.trk"
    assert main(["extract_hdf5", str(tiny_hdf5), "sub-b", "streamlines", str(true)]) == 0
    expected, of_hdf5 = losses("hdf5")
    for name in ("true.trk", "true.tck"):
        path = tmp_path / name
        if not path.exists():
            lines = nib.streamlines.load(true).streamlines
            nib.streamlines.save(nib.streamlines.Tractogram(lines, affine_to_rasmm=np.eye(4)), path)
        found, tractogram = losses(f"of_{path.suffix[1:]}", "--tractogram", str(path))
        assert found["mean_loss"] == pytest.approx(expected["mean_loss"], rel=1e-3)
        assert found["tractogram"] == str(path)
        assert found["nb_streamlines"] == expected["nb_streamlines"]
        for own, other in zip(tractogram.streamlines, of_hdf5.streamlines, strict=True):
            np.testing.assert_allclose(own, other, atol=1e-3)
    # Some of them, in another order.
    some = nib.streamlines.load(true).tractogram[[5, 2]]
    nib.streamlines.save(nib.streamlines.Tractogram(some.streamlines, affine_to_rasmm=np.eye(4)), tmp_path / "some.tck")
    found, tractogram = losses("some", "--tractogram", str(tmp_path / "some.tck"))
    np.testing.assert_allclose(
        tractogram.data_per_streamline["mean_loss"][:, 0],
        of_hdf5.data_per_streamline["mean_loss"][[5, 2], 0],
        rtol=1e-3,
    )


def test_a_tractogram_on_another_grid_is_told(
    experiment: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def told(name: str, affine: np.ndarray) -> str:
        header = {"voxel_to_rasmm": affine, "dimensions": (8, 7, 6), "voxel_sizes": (1, 1, 1), "voxel_order": "RAS"}
        lines = [line[:] for line in nib.streamlines.load(tmp_path / "true.trk").streamlines]
        tractogram = nib.streamlines.Tractogram(lines, affine_to_rasmm=np.eye(4))
        nib.streamlines.save(tractogram, str(tmp_path / name), header=header)
        caplog.clear()
        out = str(tmp_path / name.replace(".", "_"))
        assert main(["show_loss", str(experiment), "sub-b", out, "--tractogram", str(tmp_path / name)]) == 0
        return caplog.text

    hdf5 = read_json(experiment / "parameters.json", "It")["data"]["hdf5_file"]
    assert main(["extract_hdf5", hdf5, "sub-b", "streamlines", str(tmp_path / "true.trk")]) == 0
    assert "was written on another voxel grid than that of the subject (different" in told("a.trk", np.eye(4))
    assert "another voxel grid" not in told("b.tck", np.eye(4))


def test_a_tractogram_that_cannot_be_used(experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def sentence(subject: str, path: Path) -> str:
        command = ["show_loss", str(experiment), subject, str(tmp_path / "out"), "--tractogram", str(path)]
        assert main(command) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    far, empty = tmp_path / "far.tck", tmp_path / "empty.tck"
    for path, lines in ((far, [np.full((3, 3), 9e4, np.float32)]), (empty, [])):
        nib.streamlines.save(nib.streamlines.Tractogram(lines, affine_to_rasmm=np.eye(4)), path)
    assert "was not found" in sentence("sub-b", tmp_path / "none.trk")
    assert f"The tractogram '{empty}' has no streamline." in sentence("sub-b", empty)
    told = sentence("sub-b", far)
    assert "check the space of the tractogram, and remove this streamline." in told
    assert "HDF5" not in told
    assert "give its name instead of 'all'" in sentence("all", far)
