"""An experiment says when the class it is given is not the one of its training: another file, or a changed one."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from pathlib import Path

import pytest
from own_models import DATA, write_own_model
from small_training import small_trainer

import dwiml
from dwiml.cli import train
from dwiml.cli.main import main
from dwiml.training.loading import rebuild_experiment
from dwiml.user_classes import source
from dwiml.user_classes.finding import find_class


@pytest.fixture(autouse=True)
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(source, "_SAID", set())


@pytest.fixture(scope="module")
def trained(tiny_hdf5: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An experiment of a model in a file, and the file."""
    folder = tmp_path_factory.mktemp("recorded")
    name = write_own_model(folder, "own_recorded")
    command = [name, str(tiny_hdf5), str(folder), "exp", *DATA, "--max_epochs", "1", "-q"]
    assert train.main(command) == 0
    return folder / "exp", folder / "own_recorded.py"


def copied(trained: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    """Return copies of an experiment and of the file of its model, in another folder."""
    experiment = Path(shutil.copytree(trained[0], folder / "exp"))
    # The module that it imports is imported already.
    shutil.copy(trained[1], folder)
    return experiment, folder / "own_recorded.py"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def test_the_digest_of_the_file_is_recorded(trained: tuple[Path, Path]) -> None:
    digest = hashlib.sha256(trained[1].read_bytes()).hexdigest()
    recorded = json.loads((trained[0] / "parameters.json").read_text())
    assert recorded["class_digests"] == {"model": digest}
    assert json.loads((trained[0] / "best_model" / "parameters.json").read_text())["class_digest"] == digest


def test_none_is_recorded_for_classes_of_dwiml(tiny_hdf5: Path, tmp_path: Path) -> None:
    small_trainer(tiny_hdf5, tmp_path, max_epochs=1).train_and_validate()
    assert "class_digests" not in json.loads((tmp_path / "exp" / "parameters.json").read_text())
    assert "class_digest" not in json.loads((tmp_path / "exp" / "best_model" / "parameters.json").read_text())


def test_the_same_class_in_another_folder_is_silent(
    trained: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment, file = copied(trained, tmp_path)
    for name in (trained[1], file):
        rebuild_experiment(experiment, model_class=f"{name}:OwnModel")
        dwiml.load_experiment(experiment, f"{name}:OwnModel")
        dwiml.load_experiment(experiment, f"{name}:OwnModel", weights="latest")
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("has_digest", [True, False])
def test_another_class_of_the_same_name_is_told_once(
    trained: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, has_digest: bool
) -> None:
    experiment, file = copied(trained, tmp_path)
    file.write_text(file.read_text().replace("self.dropout(self", "-self.dropout(self"))
    if not has_digest:
        for path, key in (("parameters.json", "class_digests"), ("best_model/parameters.json", "class_digest")):
            recorded = json.loads((experiment / path).read_text())
            del recorded[key]
            (experiment / path).write_text(json.dumps(recorded))
    dwiml.load_experiment(experiment, f"{trained[1]}:OwnModel")
    assert warnings_of(caplog) == []
    name = f"{file}:OwnModel"
    recorded_name = f"{trained[1]}:OwnModel"
    expected = (
        f"The model of '{experiment}' was recorded with the class '{recorded_name}', and is now used with '{name}'."
    )
    assert main(["evaluate", str(experiment), "--model_class", name]) == 0
    (message,) = [each for each in warnings_of(caplog) if "was recorded with" in each]
    assert message.startswith(expected)
    # The resumed training says it too, and records the new class.
    source._SAID.clear()
    caplog.clear()
    assert main(["resume", str(experiment), "--model_class", name, "--new_max_epochs", "2", "-q"]) == 0
    (message,) = [each for each in warnings_of(caplog) if "was recorded with" in each]
    assert message.startswith(expected)
    recorded = json.loads((experiment / "parameters.json").read_text())
    assert recorded["classes"]["model"] == name
    assert recorded["class_digests"]["model"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_training_that_is_repeated_to_resume_tells_it(
    trained: tuple[Path, Path], tiny_hdf5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, file = copied(trained, tmp_path)
    file.write_text(file.read_text() + "\nMORE = 1\n")
    words = [str(tiny_hdf5), str(tmp_path), "exp", *DATA, "--max_epochs", "2", "-q", "--resume", "auto"]
    assert train.main([f"{file}:OwnModel", *words]) == 0
    assert sum("was recorded with" in each for each in warnings_of(caplog)) == 1


@pytest.mark.parametrize("change", ["file", "record"])
def test_a_file_that_changed_since_is_told(
    trained: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    experiment, _ = copied(trained, tmp_path)
    best = experiment / "best_model" / "parameters.json"
    recorded = json.loads(best.read_text())
    best.write_text(json.dumps({**recorded, "class_digest": "0" * 64 if change == "file" else 5}))
    dwiml.load_experiment(experiment, f"{trained[1]}:OwnModel")
    messages = warnings_of(caplog)
    if change == "record":
        # A damaged record is as an older one, which has none.
        assert messages == []
    else:
        (message,) = messages
        assert f"is used with the class '{trained[1]}:OwnModel', whose file has changed since" in message


def test_a_class_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    made = type("Made", (dwiml.Learn2TrackModel,), {"__module__": "nowhere"})
    assert source.source_digest(made) is None
    assert source.source_digest(dwiml.Learn2TrackModel) is None
    with pytest.raises(ValueError, match=r"none.py' names no class: give FILE.py:CLASS\.$"):
        find_class("none.py", dwiml.Learn2TrackModel, parameter="model")


def test_changed_parameters_are_told_once(
    trained: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment, _ = copied(trained, tmp_path)
    best = experiment / "best_model" / "parameters.json"
    recorded = json.loads(best.read_text())
    recorded["params"]["step_size"] = 1.0
    best.write_text(json.dumps(recorded))
    dwiml.load_experiment(experiment, f"{trained[1]}:OwnModel")
    (message,) = warnings_of(caplog)
    assert "have changed since they were saved" in message
