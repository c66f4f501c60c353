"""``dwiml import_dwi_ml``, run for real, and the commands that use what it made."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from dwi_ml_models import learn2track, save_experiment, transformer
from tests_support import AFFINE, NB_FEATURES, SHAPE, edited

from dwiml.cli.main import main

LOGS = {
    "train_loss_monitor_per_epoch.npy": [-0.5, -0.6],
    "valid_local_loss_monitor_per_epoch.npy": [-0.4, -0.45],
    "training_time_monitor_duration.npy": [2.0, 1.5],
}


def training(hdf5_file: Path) -> dict[str, Any]:
    loader = {"input_group_name": "input", "streamline_group_name": "streamlines", "rng": 1}
    return {"hdf5 file": str(hdf5_file), "Loader params": loader, "Patience": float("inf")}


@pytest.fixture
def imported(tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    axes = {"neighborhood_type": "axes", "neighborhood_radius": 1, "neighborhood_resolution": 1.0}
    theirs = learn2track(nb_features=NB_FEATURES, use_skip_connection=True, use_layer_normalization=True, **axes)
    source = save_experiment(tmp_path / "theirs", theirs, logs=LOGS, training=training(tiny_hdf5))
    assert main(["import_dwi_ml", str(source), str(tmp_path / "ours")]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert re.match(
        r"Learn2TrackModel of '.*best_model' \([\d ]+ weights\) is now the Learn2TrackModel of", printed.out
    )
    assert "with the logs of 2 epochs." in printed.out
    assert "- Volumes are read half a voxel off, as in dwi_ml, because" in printed.out
    assert "--theta 90" in printed.out
    assert "not found" not in printed.out
    return tmp_path / "ours"


@pytest.mark.slow
def test_all_commands_use_it(imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(imported)]) == 0
    assert "trained model" in capsys.readouterr().out
    assert main(["show_loss", str(imported), "sub-d", str(tmp_path / "loss")]) == 0
    tracking = ["--tracking_mask", "wm_mask", "--nb_seeds", "5", "--theta", "90", "--max_length", "20", "--seed", "1"]
    assert main(["track", str(imported), "sub-d", str(tmp_path / "out.trk"), *tracking]) == 0
    assert len(nib.streamlines.load(tmp_path / "out.trk").streamlines) > 0
    assert main(["visualize_logs", str(imported), "--save"]) == 0
    assert (imported / "curves.png").exists()
    capsys.readouterr()
    assert main(["resume", str(imported)]) == 2
    assert "checkpoint" in capsys.readouterr().err


def test_a_transformer_on_images_without_the_hdf5_file(
    tmp_path: Path, tiny_hdf5: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = transformer("OriginalTransformerModel", nb_features=NB_FEATURES)
    source = save_experiment(tmp_path / "theirs", theirs, training=training(tmp_path / "moved.hdf5"))
    assert main(["import_dwi_ml", str(source), str(tmp_path / "ours")]) == 0
    printed = capsys.readouterr().out
    assert "is now the TransformerSrcAndTgtModel of" in printed
    assert "moved.hdf5') was not found: 'dwiml evaluate' and 'dwiml show_loss' need --hdf5_file" in printed
    assert "It has no logs." in printed
    with h5py.File(tiny_hdf5) as file:
        volume = file["sub-d/input/data"][()]
    for name, values in (("input", volume), ("mask", np.ones(SHAPE, dtype=np.uint8))):
        nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / f"{name}.nii.gz")
    command = ["track", str(tmp_path / "ours"), str(tmp_path / "out.trk"), "--input", str(tmp_path / "input.nii.gz")]
    command += ["--tracking_mask", str(tmp_path / "mask.nii.gz"), "--nb_seeds", "3", "--max_length", "20"]
    assert main(command) == 2
    assert "it records how the volumes were standardized" in capsys.readouterr().err
    assert main([*command, "--standardization", "none"]) == 0
    assert main(["evaluate", str(tmp_path / "ours")]) == 2
    assert main(["evaluate", str(tmp_path / "ours"), "--hdf5_file", str(tiny_hdf5)]) == 0


def test_an_interrupted_import_can_be_repeated(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_experiment(tmp_path / "theirs", learn2track(nb_features=NB_FEATURES), training=training(tiny_hdf5))
    command, out = ["import_dwi_ml", str(source), str(tmp_path / "ours")], tmp_path / "ours"

    def full(*_: Any, **__: Any) -> None:
        assert (out / "best_model" / "model_state.pt").exists()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("dwiml.importing.experiment.write_parameters", full)
        assert main(command) == 2
    assert capsys.readouterr().err == "error: No space left on the disk.\n"
    assert not out.exists()
    assert main(command) == 0
    before = (out / "parameters.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("dwiml.importing.experiment.write_parameters", full)
        assert main([*command, "-f"]) == 2
    assert (out / "parameters.json").read_bytes() == before
    assert main([*command, "-f"]) == 0


def test_options(imported: Path, tmp_path: Path, tiny_hdf5: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["import_dwi_ml", str(tmp_path / "theirs"), str(imported)]
    assert main(command) == 2
    assert capsys.readouterr().err.endswith("exists; replace the results with -f.\n")
    assert main([*command, "-f", "--no_volume_shift", "--hdf5_file", str(tiny_hdf5)]) == 0
    assert "- Volumes are read where they are. dwi_ml reads them half a voxel off" in capsys.readouterr().out
    assert json.loads((imported / "parameters.json").read_text())["model"]["volume_shift"] is None
    assert main([*command, "-f", "--use_latest_epoch"]) == 2
    assert "it has no 'checkpoint/model/model_state.pkl'" in capsys.readouterr().err


def test_data_that_do_not_fit(
    imported: Path, tmp_path: Path, tiny_hdf5: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["import_dwi_ml", str(tmp_path / "theirs"), str(tmp_path / "new")]
    for options, sentence in (
        (["--hdf5_file", str(tmp_path / "none.hdf5")], "none.hdf5' was not found"),
        (["--input_group_name", "wm_mask"], "has 1 features, but the model has 4: give the data of this model"),
        (["--input_group_name", "dwi"], "'dwi'"),
        (["--streamline_group_name", "tracts"], "'tracts'"),
    ):
        assert main([*command, *options]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_order_of_the_files_of_dwi_ml(tmp_path: Path, tiny_hdf5: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.hdf5"
    data.write_bytes(tiny_hdf5.read_bytes())
    with edited(data) as file:
        file.attrs["groups_config"] = str({"input": {"type": "volume", "files": ["dwi/*.nii.gz"]}})
    source = save_experiment(tmp_path / "theirs", learn2track(nb_features=NB_FEATURES), training=training(data))
    assert main(["import_dwi_ml", str(source), str(tmp_path / "ours")]) == 0
    assert "given as 'dwi/*.nii.gz', which dwi_ml reads in the order of the disk" in capsys.readouterr().out
    assert json.loads((tmp_path / "ours" / "parameters.json").read_text())["groups_config"]["input"]


def test_commands_given_the_experiment_of_dwi_ml_say_to_import_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_experiment(tmp_path / "theirs", learn2track(), logs=LOGS)
    for command in ("evaluate", "resume"):
        assert main([command, str(source)]) == 2
        assert "import it first, with 'dwiml import_dwi_ml'" in capsys.readouterr().err
