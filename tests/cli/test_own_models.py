"""A model in a file of the user, or of an installed package: trained, killed, resumed, evaluated, tracked, shown."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import run_watched
from own_models import DATA, install, write_own_model, write_own_trainer
from small_training import interrupt, logs

from dwiml import Learn2TrackModel
from dwiml.cli import (
    autoencode,
    evaluate,
    filter_latent,
    filter_plausible,
    resume,
    show_attention,
    show_loss,
    track,
    train,
)
from dwiml.cli.main import main
from dwiml.training.catalog import find_trainer_class
from dwiml.training.loading import rebuild_experiment


@pytest.fixture(autouse=True)
def same_sys_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


def run_train(model: str, hdf5: Path, experiments: Path, *options: str, name: str = "exp") -> int:
    return train.main([model, str(hdf5), str(experiments), name, *DATA, "--max_epochs", "1", "-q", *options])


@pytest.fixture(scope="module")
def trained(tiny_hdf5: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An experiment of a model in a file, and the name of the model."""
    folder = tmp_path_factory.mktemp("trained")
    name = write_own_model(folder, "own_trained")
    assert run_train(name, tiny_hdf5, folder, "--hidden_sizes", "5", "3", "--slope", "0.3") == 0
    return folder / "exp", name


def test_its_parameters_are_options(trained: tuple[Path, str]) -> None:
    recorded = json.loads((trained[0] / "parameters.json").read_text())
    assert (recorded["model"]["hidden_sizes"], recorded["model"]["slope"]) == ([5, 3], 0.3)
    assert recorded["classes"]["model"] == trained[1]
    assert recorded["classes"]["trainer"] == "dwiml.training.one_input:DWIMLTrainerOneInput"
    assert json.loads((trained[0] / "best_model" / "parameters.json").read_text())["class_path"] == trained[1]


def test_the_help_has_its_docstrings(trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        train.main([trained[1], "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "A perceptron at each point. To continue a training" in text
    assert "--hidden_sizes N [N ...] sizes of the hidden layers [6 4]" in text
    assert "--slope X slope of the activation [0.1]" in text
    assert "--dg_key TEXT direction getter" in text
    assert "--reverse_ratio X" in text
    assert "--nb_features" not in text


def test_killed_and_resumed_it_ends_as_one_that_was_not(tiny_hdf5: Path, tmp_path: Path) -> None:
    model, trainer = write_own_model(tmp_path, "own_killed"), write_own_trainer(tmp_path)
    options = ["--trainer_class", trainer, "--scale", "0.5", "--max_epochs", "2", "--batch_size_training", "16"]
    options += ["--checkpoint_minutes", "1e-9"]
    assert run_train(model, tiny_hdf5, tmp_path, *options, name="whole") == 0
    (tmp_path / "die_in").write_text("2")
    killed = run_watched(lambda: run_train(model, tiny_hdf5, tmp_path, *options, name="killed"), watched=[])
    assert killed.code == -signal.SIGKILL
    assert len(logs(tmp_path / "killed")) == 1
    (tmp_path / "die_in").unlink()
    command = [str(tmp_path / "killed"), "--model_class", model, "--trainer_class", trainer, "-q"]
    assert resume.main(command) == 0
    states = [
        torch.load(tmp_path / name / "best_model" / "model_state.pt", weights_only=True) for name in ("whole", "killed")
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert logs(tmp_path / "whole") == logs(tmp_path / "killed")


COMMANDS = {
    "evaluate": [],
    "track": ["sub-d", "OUT/o.tck", "--tracking_mask", "wm_mask", "--nb_seeds", "20"],
    "show_loss": ["sub-d", "OUT/losses"],
    "resume": ["--new_max_epochs", "2", "-q"],
}


def command_of(name: str, experiment: Path, out: Path) -> list[str]:
    return [name, str(experiment), *(word.replace("OUT", str(out)) for word in COMMANDS[name])]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_other_commands_ask_for_the_class(
    trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    experiment = Path(shutil.copytree(trained[0], tmp_path / "exp"))
    command = command_of(name, experiment, tmp_path)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "is of class OwnModel, which is not part of dwiml or of an installed package: " in error
    assert error.endswith(f"give --model_class {trained[1]} if you trust its code.\n")
    assert main([*command, "--model_class", trained[1]]) == 0


def test_with_two_workers_and_the_phase_that_tracks(trained: tuple[Path, str], tiny_hdf5: Path, tmp_path: Path) -> None:
    options = ["--nb_cpu_processes", "2", "--tracking_phase_frequency", "1", "--hidden_sizes", "4"]
    assert run_train(trained[1], tiny_hdf5, tmp_path, *options) == 0
    assert "gv_length_ratio" in logs(tmp_path / "exp")[0]


FIXING = """
from dwiml import DWIMLTrainerOneInput, Learn2TrackModel


class FixedModel(Learn2TrackModel):
    def __init__(self, *, width=4, **kwargs):
        super().__init__(rnn_layer_sizes=[width], dropout=0.0, **kwargs)


class FixedTrainer(DWIMLTrainerOneInput):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, optimizer="SGD", **kwargs)
"""


def test_what_a_class_chooses_itself_is_no_option(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_fixing.py").write_text(FIXING)
    model, trainer = (f"{tmp_path / 'own_fixing.py'}:{name}" for name in ("FixedModel", "FixedTrainer"))
    classes = ["--trainer_class", trainer]
    assert run_train(model, tiny_hdf5, tmp_path, *classes, "--width", "3") == 0
    recorded = json.loads((tmp_path / "exp/parameters.json").read_text())
    assert recorded["model"]["width"] == 3
    assert recorded["model"]["fixed_by_class"]["rnn_layer_sizes"] == [3]
    assert recorded["trainer"]["fixed_by_class"]["optimizer"] == "SGD"
    words = [str(tmp_path / "exp"), "--model_class", model, *classes, "--new_max_epochs", "2", "-q"]
    assert resume.main(words) == 0
    assert len(logs(tmp_path / "exp")) == 2
    capsys.readouterr()
    assert main(["info", str(tmp_path / "exp")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "rnn_layer_sizes [3] (set by the class)" in text
    assert "optimizer SGD (set by the class)" in text
    for option, owner in (("--rnn_layer_sizes", "FixedModel"), ("--optimizer", "FixedTrainer")):
        assert run_train_or_exit(model, tiny_hdf5, tmp_path, *classes, option, "5", name="other") == 2
        name = option.removeprefix("--")
        assert f"error: {owner} sets {name} itself: leave out {option}\n" in capsys.readouterr().err
    (tmp_path / "common.yaml").write_text("optimizer: Adam\n")
    config = ["--config", str(tmp_path / "common.yaml")]
    assert run_train_or_exit(model, tiny_hdf5, tmp_path, *classes, *config, name="other") == 2
    assert "common.yaml': FixedTrainer sets optimizer itself: leave out 'optimizer'.\n" in capsys.readouterr().err


def test_a_class_that_sets_the_step_size_has_no_other_resampling(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = FIXING.replace("dropout=0.0", "step_size=2.0")
    (tmp_path / "own_step.py").write_text(source)
    words = [f"{tmp_path / 'own_step.py'}:FixedModel", str(tiny_hdf5), str(tmp_path), "exp", *DATA[:4], "-q"]
    with pytest.raises(SystemExit) as stopped:
        train.main([*words, "--nb_points", "20"])
    assert stopped.value.code == 2
    assert "FixedModel sets step_size itself: leave out --nb_points" in capsys.readouterr().err
    assert train.main([*words, "--max_epochs", "1"]) == 0


def run_train_or_exit(*words: Any, name: str) -> Any:
    try:
        return run_train(*words, name=name)
    except SystemExit as stopped:
        return stopped.code


def test_a_trainer_without_that_phase(
    trained: tuple[Path, str], tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trainer_class", write_own_trainer(tmp_path), "--tracking_phase_frequency", "1"]
    assert run_train(trained[1], tiny_hdf5, tmp_path, *options) == 2
    assert "Options of generation-validation are given, but OwnTrainer has no such phase" in capsys.readouterr().err


def test_the_message_of_a_stop_names_the_classes(
    trained: tuple[Path, str], tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_trainer = write_own_trainer(tmp_path)
    command = [trained[1], str(tiny_hdf5), str(tmp_path), "exp", *DATA, "--trainer_class", own_trainer, "-q"]
    assert train.main([*command, "--max_epochs", "1"]) == 0
    rebuilt = rebuild_experiment(tmp_path / "exp", model_class=trained[1])
    found = find_trainer_class(own_trainer)
    objects = (rebuilt.model, tmp_path, "exp", rebuilt.sampler, rebuilt.loader)
    interrupt(found.init_from_checkpoint(*objects, new_max_epochs=3), 1)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Stopped")]
    words = shlex.split(line.partition(", or dwiml resume ")[2].removesuffix("."))
    assert words[1:] == ["--trainer_class", own_trainer, "--model_class", trained[1]]
    assert resume.main([*words, "-q"]) == 0
    assert len(logs(tmp_path / "exp")) == 3


@pytest.mark.slow
def test_the_model_of_an_installed_package(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_own_model(tmp_path, "package_with_model")
    install(tmp_path, "perceptron", "package_with_model:OwnModel")
    sys.path.append(str(tmp_path))
    with pytest.raises(SystemExit):
        train.main(["--help"])
    assert "perceptron                  of an installed package" in capsys.readouterr().out
    assert run_train("perceptron", tiny_hdf5, tmp_path) == 0
    experiment = tmp_path / "exp"
    for name in COMMANDS:
        assert main(command_of(name, experiment, tmp_path)) == 0
    config = ["--config", str(experiment / "config.yaml"), "--experiment_name", "again", "-q"]
    assert train.main(config) == 0
    shutil.rmtree(tmp_path / "somebodys_models-1.0.dist-info")
    assert evaluate.main([str(experiment)]) == 2
    assert "give --model_class package_with_model:OwnModel if you trust" in capsys.readouterr().err


def test_a_config_file_names_no_code(
    trained: tuple[Path, str], tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_trainer = write_own_trainer(tmp_path)
    options = ["--trainer_class", own_trainer, "--scale", "2"]
    assert run_train(trained[1], tiny_hdf5, tmp_path, *options) == 0
    config = ["--config", str(tmp_path / "exp" / "config.yaml"), "--experiment_name", "again", "-q"]
    with pytest.raises(SystemExit):
        train.main(config)
    assert f"If you trust its code, give it as MODEL: dwiml train {trained[1]} --config" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train.main([trained[1], *config])
    assert f"names a trainer. If you trust its code, give --trainer_class {own_trainer}" in capsys.readouterr().err
    assert train.main([trained[1], *config, "--trainer_class", own_trainer]) == 0
    weights = [(tmp_path / name / "best_model" / "model_state.pt").read_bytes() for name in ("exp", "again")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("exists", [True, False])
def test_a_file_without_its_class_is_told_with_a_config_too(
    trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], exists: bool
) -> None:
    (tmp_path / "common.yaml").write_text("max_epochs: 1\n")
    file = trained[1].partition(":")[0] if exists else str(tmp_path / "none.py")
    with pytest.raises(SystemExit) as stopped:
        train.main([file, "data.hdf5", "exps", "exp", "--config", str(tmp_path / "common.yaml")])
    assert stopped.value.code == 2
    end = "; the classes of the file are 'OwnModel'." if exists else "."
    assert f"MODEL '{file}' names no class: give FILE.py:CLASS{end}\n" in capsys.readouterr().err


def craft(folder: Path, source: Path, name: str, path: Any) -> Path:
    """Return a copy of an experiment whose files name another class."""
    experiment = Path(shutil.copytree(source, folder))
    for file in (experiment / "parameters.json", experiment / "best_model" / "parameters.json"):
        recorded = json.loads(file.read_text())
        if "classes" in recorded:
            recorded["classes"] = dict.fromkeys(recorded["classes"], path)
            recorded["model"]["class"] = name
        else:
            recorded |= {"class": name, "class_path": path}
        file.write_text(json.dumps(recorded))
    return experiment


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("in_file", [False, True], ids=["module", "file"])
def test_nothing_is_imported_that_a_file_names(
    trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, in_file: bool
) -> None:
    canary = tmp_path / "canary_in_the_mine.py"
    canary.write_text(f"open({str(tmp_path / 'dead')!r}, 'w').close()\nclass Net:\n    pass\n")
    sys.path.append(str(tmp_path))
    path = f"{canary}:Net" if in_file else "canary_in_the_mine:Net"
    experiment = craft(tmp_path / "crafted", trained[0], "Net", path)
    before = set(sys.modules)
    assert main(command_of(command, experiment, tmp_path)) == 2
    assert "which is not part of dwiml" in capsys.readouterr().err
    assert not (tmp_path / "dead").exists()
    assert not [name for name in set(sys.modules) - before if not name.startswith(("dwiml.", "matplotlib"))]


@pytest.mark.parametrize("path", [3, None, [], {"a": 1}, "", "x" * 10**5, "a\nb", ":", "__main__:OwnModel"])
def test_a_damaged_path_of_the_class_is_a_sentence(
    trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], path: Any
) -> None:
    experiment = craft(tmp_path / "crafted", trained[0], "OwnModel", path)
    for command in ("evaluate", "track"):
        assert main(command_of(command, experiment, tmp_path)) == 2
        error = capsys.readouterr().err
        assert len(error) < 1000
        assert "is of class OwnModel" in error or "is of class DWIMLBatchLoaderOneInput" in error


OF_THE_SAME_NAME = """
from dwiml import Learn2TrackModel as Parent


class Learn2TrackModel(Parent):
    pass
"""


def test_a_class_with_the_name_of_a_model_of_dwiml(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "same_name.py").write_text(OF_THE_SAME_NAME)
    own = f"{tmp_path / 'same_name.py'}:Learn2TrackModel"
    for model, name in ((own, "own"), ("learn2track", "builtin")):
        assert run_train(model, tiny_hdf5, tmp_path, "--rnn_layer_sizes", "4", name=name) == 0
    assert evaluate.main([str(tmp_path / "own")]) == 2
    assert f"give --model_class {own} if you trust its code." in capsys.readouterr().err
    assert evaluate.main([str(tmp_path / "own"), "--model_class", own]) == 0
    with pytest.raises(ValueError, match="which is another class than dwiml.models.learn2track:Learn2TrackModel"):
        Learn2TrackModel.load(tmp_path / "own" / "best_model")
    capsys.readouterr()
    assert evaluate.main([str(tmp_path / "builtin"), "--model_class", own]) == 2
    assert f"is another class than {own}, of the same name" in capsys.readouterr().err
    assert evaluate.main([str(tmp_path / "builtin"), "--model_class", "learn2track"]) == 0


@pytest.mark.slow
def test_an_older_experiment_names_no_place_of_its_classes(tiny_hdf5: Path, tmp_path: Path) -> None:
    assert run_train("learn2track", tiny_hdf5, tmp_path, "--rnn_layer_sizes", "4") == 0
    for file in (tmp_path / "exp" / "parameters.json", tmp_path / "exp" / "best_model" / "parameters.json"):
        recorded = json.loads(file.read_text())
        assert recorded.pop("classes", None) or recorded.pop("class_path", None)
        file.write_text(json.dumps(recorded))
    for name in COMMANDS:
        assert main(command_of(name, tmp_path / "exp", tmp_path)) == 0


CLASHING = """
from dwiml import DWIMLTrainerOneInput, ModelWithDirectionGetter, ModelWithOneInput


class Base(ModelWithOneInput, ModelWithDirectionGetter):
    def forward(self, inputs, streamlines):
        return inputs.data


class Clash(Base):
    def __init__(self, *, patience=3, lazy=False, **kwargs):
        super().__init__(**kwargs)


class NoText(Base):
    def __init__(self, *, layers, callback=None, **kwargs):
        super().__init__(**kwargs)


class NotATrainer:
    pass
"""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["Clash"], "MODEL"),
        (["Clash"], "Parameters of Clash have the names of other options of this command ('patience', 'lazy'): rename"),
        (["NoText"], "Parameters of NoText cannot be given as text ('layers'): give them a default, or an annotation"),
        (["Base", "--hiden_sizes", "3"], "there is no option --hiden_sizes"),
        (["Base", "--trainer_class", "FILE:NotATrainer"], "is not a subclass of dwiml's DWIMLTrainer."),
        (["Base", "--trainer_class", "nowhere.py:Mine"], "--trainer_class: 'nowhere.py' was not found."),
        (["Missing"], "there is no class 'Missing'; its classes are 'Base', 'Clash', 'NoText'."),
    ],
)
def test_what_cannot_be_an_option_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    (tmp_path / "clashing.py").write_text(CLASHING)
    name, *more = (word.replace("FILE", str(tmp_path / "clashing.py")) for word in options)
    with pytest.raises(SystemExit) as stopped:
        train.main([f"{tmp_path / 'clashing.py'}:{name}", "a", "b", "c", *DATA, *more])
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_classes_of_a_file_are_checked_as_those_of_the_user(
    trained: tuple[Path, str], tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "from dwiml import DWIMLTrainerOneInput\n\n\nclass Hiding(DWIMLTrainerOneInput):\n    model_batch = 3\n"
    (tmp_path / "hiding.py").write_text(code)
    assert run_train(trained[1], tiny_hdf5, tmp_path, "--trainer_class", f"{tmp_path / 'hiding.py'}:Hiding") == 2
    assert "Hiding.model_batch must be a method, as in DWIMLTrainer, got 3" in capsys.readouterr().err


def test_a_model_without_a_volume_in_a_module(tiny_hdf5: Path, tmp_path: Path) -> None:
    name = "without_volume:NextPointModel"
    command = [name, str(tiny_hdf5), str(tmp_path), "exp", "--streamline_group_name", "streamlines", "-q"]
    assert train.main([*command, "--max_epochs", "1"]) == 0
    assert resume.main([str(tmp_path / "exp"), "--model_class", name, "--new_max_epochs", "2", "-q"]) == 0
    assert show_loss.main([str(tmp_path / "exp"), "sub-e", str(tmp_path / "out"), "--model_class", name]) == 0


def test_no_other_command_was_forgotten() -> None:
    for module in (autoencode, evaluate, filter_latent, filter_plausible, resume, show_attention, show_loss, track):
        assert "--model_class" in module.build_parser().format_help()
    assert importlib.metadata.entry_points(group="dwiml.models") is not None
