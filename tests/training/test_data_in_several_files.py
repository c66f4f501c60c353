"""Training on several HDF5 files: as on one, and recorded as a list."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from several_files import split, write_whole
from small_training import logs, same_weights, small_trainer

from dwiml import load_experiment
from dwiml.cli.main import main
from dwiml.trained.tracking_data import read_subject
from dwiml.training.loading import rebuild_experiment, recorded_parameters

GROUPS = "--input_group_name input --streamline_group_name streamlines"
SMALL = "--rnn_layer_sizes 8 --batch_size_training 10 --step_size 2 --seed 3 -q"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_whole(tmp_path / "whole.hdf5")


@pytest.fixture
def files(whole: Path, tmp_path: Path) -> list[Path]:
    return split(whole, tmp_path / "parts")


def test_the_same_training_and_a_resume_with_the_other_form_of_the_data(
    whole: Path, files: list[Path], tmp_path: Path
) -> None:
    one = small_trainer(whole, tmp_path, "one", max_epochs=2)
    one.train_and_validate()
    several = small_trainer(files, tmp_path, "several", max_epochs=1, lazy=True)  # type: ignore[arg-type]
    several.train_and_validate()
    recorded = recorded_parameters(tmp_path / "several")["data"]
    assert recorded["hdf5_file"] == [str(path) for path in files]
    assert recorded_parameters(tmp_path / "one")["data"]["hdf5_file"] == str(whole)
    assert recorded["fingerprint"] == recorded_parameters(tmp_path / "one")["data"]["fingerprint"]
    # The joined data are the same data, whatever file they are in.
    resumed = small_trainer(whole, tmp_path, "several", max_epochs=2, resume="must")
    resumed.train_and_validate()
    assert same_weights(one.model, resumed.model)
    assert logs(tmp_path / "one") == logs(tmp_path / "several")
    with pytest.raises(ValueError, match="data.fingerprint was"):
        small_trainer(files[::-1], tmp_path, "several", max_epochs=3, resume="must")  # type: ignore[arg-type]


def test_what_is_rebuilt_from_the_record(files: list[Path], tmp_path: Path) -> None:
    small_trainer(files, tmp_path, max_epochs=1).train_and_validate()  # type: ignore[arg-type]
    assert rebuild_experiment(tmp_path / "exp").dataset.hdf5_files == files
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "parts", moved)
    with pytest.raises(FileNotFoundError, match=r"part-0.hdf5' \(and 2 more\), the HDF5 file of .* was not found"):
        rebuild_experiment(tmp_path / "exp")
    dataset = load_experiment(tmp_path / "exp").open_dataset(moved)
    assert dataset.training_set.subjects == ["sub-a", "sub-b", "sub-c"]
    recorded = recorded_parameters(tmp_path / "exp")
    data = read_subject(tmp_path / "exp", recorded, "sub-e", tracking_mask="wm_mask", hdf5_file=moved)
    assert data.subject.volume.shape[-1] == 4


@pytest.mark.first(2)
@pytest.mark.parametrize("damaged", [[], [3], {}, 3, [["a"]]])
def test_a_damaged_record_is_told(files: list[Path], tmp_path: Path, damaged: object) -> None:
    small_trainer(files, tmp_path, max_epochs=1).train_and_validate()  # type: ignore[arg-type]
    path = tmp_path / "exp" / "parameters.json"
    parameters = json.loads(path.read_text())
    parameters["data"]["hdf5_file"] = damaged
    path.write_text(json.dumps(parameters))
    with pytest.raises(ValueError, match="is damaged or not from this version of dwiml: no data.hdf5_file"):
        recorded_parameters(tmp_path / "exp")


def test_the_commands_accept_a_folder(
    whole: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(f"train learn2track parts exps folder {GROUPS} {SMALL} --max_epochs 1".split()) == 0
    assert main(f"train learn2track whole.hdf5 exps one {GROUPS} {SMALL} --max_epochs 1".split()) == 0
    assert logs(tmp_path / "exps/folder") == logs(tmp_path / "exps/one")
    # The folder as it was given, which the record lists.
    assert f"hdf5_file: {tmp_path}/parts\n" in (tmp_path / "exps/folder/config.yaml").read_text()
    assert recorded_parameters(tmp_path / "exps/folder")["data"]["hdf5_file"] == [str(path) for path in files]
    assert main(["train", "--config", "exps/folder/config.yaml", "--experiment_name", "again", "-q"]) == 0
    assert logs(tmp_path / "exps/again") == logs(tmp_path / "exps/one")
    command = "train --config exps/folder/config.yaml --hdf5_file parts/part-0.hdf5 parts/part-1.hdf5 parts/part-2.hdf5"
    assert main([*command.split(), "--experiment_name", "listed", "-q"]) == 0
    assert logs(tmp_path / "exps/listed") == logs(tmp_path / "exps/one")
    text = (tmp_path / "exps/listed/config.yaml").read_text()
    assert re.search(r"hdf5_file:\n- .*/parts/part-0.hdf5\n- .*/parts/part-1.hdf5\n", text)
    assert main(["train", "--config", "exps/listed/config.yaml", "--experiment_name", "once_more", "-q"]) == 0
    assert main(["resume", "exps/folder", "--new_max_epochs", "2", "-q"]) == 0
    assert len(logs(tmp_path / "exps/folder")) == 2
    capsys.readouterr()
    assert main(["info", "exps/folder"]) == 0
    assert f"{files[0]} and 2 more" in capsys.readouterr().out
    for data in ("", "--hdf5_file parts", "--hdf5_file whole.hdf5"):
        assert main(f"track exps/folder sub-e lines.trk -f --tracking_mask wm_mask --nb_seeds 3 {data}".split()) == 0
        assert main(f"evaluate exps/folder {data}".split()) == 0
    # What is tracked on is never replaced.
    before = files[0].read_bytes()
    command = "track exps/folder sub-e parts/part-0.hdf5 -f --tracking_mask wm_mask --nb_seeds 3"
    assert main(command.split()) == 2
    shutil.copytree("parts", "others")
    command = "track exps/folder sub-e l.trk --report others/part-0.hdf5 --hdf5_file others -f --tracking_mask wm_mask"
    assert main(command.split()) == 2
    assert "is an input" in capsys.readouterr().err
    assert files[0].read_bytes() == before == (tmp_path / "others/part-0.hdf5").read_bytes()
