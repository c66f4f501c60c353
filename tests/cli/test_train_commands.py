"""``dwiml train``, ``resume``, ``evaluate`` and the example scripts, run for real."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_training import logs

from dwiml import Learn2TrackModel
from dwiml.batching.loader import DWIMLStreamlinesBatchLoader
from dwiml.batching.sampler import DWIMLBatchIDSampler
from dwiml.cli import evaluate, main, resume, train
from dwiml.cli.options.config_file import parse_options
from dwiml.training.experiment.parameters import MAY_CHANGE
from dwiml.training.settings import TrainerSettings
from dwiml.training.trainer import DWIMLTrainer

SCRIPTS = Path(__file__).parents[2] / "scripts"
OPTIONS = [
    "--input_group_name",
    "input",
    "--streamline_group_name",
    "streamlines",
    "--rnn_layer_sizes",
    "8",
    "8",
    "--seed",
    "1",
]


def run_train(hdf5: Path, experiments: Path, *options: str) -> int:
    return train.main(["learn2track", str(hdf5), str(experiments), "exp", *OPTIONS, *options])


def test_train_resume_evaluate(tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_train(tiny_hdf5, tmp_path, "--max_epochs", "1", "--nb_previous_dirs", "1", "-q") == 0
    assert len(logs(tmp_path / "exp")) == 1
    assert resume.main([str(tmp_path / "exp"), "--new_max_epochs", "2", "-q"]) == 0
    assert len(logs(tmp_path / "exp")) == 2
    capsys.readouterr()
    assert evaluate.main([str(tmp_path / "exp"), "--subset", "testing"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Direction error on the testing set (")
    assert [line.split("  ")[0] for line in lines[2:5]] == ["untrained model", "trained model", "straight on"]
    assert "hard to beat on smooth bundles, but it cannot track" in lines[-2]
    # The same script again goes on; an ended run stays as it is.
    options = ["--max_epochs", "2", "--nb_previous_dirs", "1", "--resume", "auto"]
    assert run_train(tiny_hdf5, tmp_path, *options) == 0
    assert "To train further, give a larger max_epochs ('dwiml resume': --new_max_epochs)." in capsys.readouterr().err
    assert len(logs(tmp_path / "exp")) == 2


# What the command of a cluster's job says, and what is recorded of it.
JOB = {
    "--nb_cpu_processes": ("2", 2),
    "--use_gpu": ("no", False),
    "--checkpoint_minutes": ("5", 5.0),
    "--max_time": ("23:50:00", "23:50:00"),
    "--stop_signal": ("SIGUSR2", "SIGUSR2"),
    "--nan_policy": ("skip", "skip"),
    "--patience": ("7", 7),
}
FLAGS = {"requeue": True, "profile": True, "verbose": False}


def recorded_settings(experiment: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((experiment / "parameters.json").read_text())["trainer"]
    return settings


@pytest.mark.slow
def test_resume_keeps_what_was_recorded(tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [word for name, (given, _) in JOB.items() for word in (name, given)]
    assert run_train(tiny_hdf5, tmp_path, *options, "--requeue", "--profile", "-q", "--max_epochs", "1") == 0
    expected = FLAGS | {name[2:]: value for name, (_, value) in JOB.items()}
    settings = recorded_settings(tmp_path / "exp")
    assert {name: settings[name] for name in expected} == expected
    assert resume.main([str(tmp_path / "exp"), "--new_max_epochs", "2"]) == 0
    settings = recorded_settings(tmp_path / "exp")
    assert {name: settings[name] for name in expected} == expected
    # Each one that is given is changed, and no other; inside of the experiment, it is '.'.
    changes = ["--max_time", "none", "--no_requeue", "--nb_cpu_processes", "0", "--use_gpu", "auto", "--no_profile"]
    changes += ["--checkpoint_minutes", "none", "--new_patience", "none"]
    monkeypatch.chdir(tmp_path / "exp")
    assert resume.main([".", *changes, "--new_max_epochs", "3"]) == 0
    after = {"max_time": None, "requeue": False, "nb_cpu_processes": 0, "use_gpu": None, "profile": False}
    expected |= after | {"checkpoint_minutes": None, "patience": None}
    settings = recorded_settings(tmp_path / "exp")
    assert {name: settings[name] for name in expected} == expected
    assert len(logs(tmp_path / "exp")) == 3


@pytest.mark.slow
def test_resume_keeps_comet_and_turns_it_off(tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "comet_ml", None)
    names = ["--comet_workspace", "me", "--comet_project", "mine"]
    assert run_train(tiny_hdf5, tmp_path, *names, "-q", "--max_epochs", "1") == 0
    assert resume.main([str(tmp_path / "exp"), "--new_max_epochs", "2", "--verbose"]) == 0
    settings = recorded_settings(tmp_path / "exp")
    assert [settings[name] for name in ("comet_workspace", "comet_project", "verbose")] == ["me", "mine", True]
    off = ["--comet_workspace", "none", "--comet_project", "none", "-q"]
    assert resume.main([str(tmp_path / "exp"), "--new_max_epochs", "3", *off]) == 0
    settings = recorded_settings(tmp_path / "exp")
    assert [settings[name] for name in ("comet_workspace", "comet_project", "verbose")] == [None, None, False]


def test_resume_offers_what_may_change_and_keeps_what_is_not_given() -> None:
    parser = resume.build_parser()
    others = {"help", "experiment", "informative", "model_class", "trainer_class"}
    offered = {action.dest.removeprefix("new_") for action in parser._actions} - others
    # How a resume is done is what the command is; loggers are objects.
    assert offered == {name.partition(".")[2] for name in MAY_CHANGE} - {"resume", "loggers"}
    assert set(vars(parser.parse_args(["exp"]))) <= others


def test_the_model_tracks_when_asked_to(tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--step_size", "2", "--tracking_phase_mask_group", "wm_mask", "--tracking_phase_frequency", "2"]
    assert run_train(tiny_hdf5, tmp_path, *options, "--best_model_metric", "gv_left_mask", "--max_epochs", "2") == 0
    assert resume.main([str(tmp_path / "exp"), "--new_max_epochs", "4", "-q"]) == 0
    assert ["gv_left_mask" in line for line in logs(tmp_path / "exp")] == [False, True, False, True]
    capsys.readouterr()
    assert train.main(["learn2track", str(tiny_hdf5), str(tmp_path), "other", *OPTIONS, *options[:2]]) == 0
    assert "gv_left_mask" not in logs(tmp_path / "other")[0]
    assert run_train(tiny_hdf5, tmp_path, "--tracking_phase_mask_group", "brain") == 2
    assert "Volume group 'brain' not found in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--input_group_name", "dwi"], "Volume group 'dwi' not found in"),
        (["--streamline_group_name", "wb"], "Streamlines group 'wb' not found in"),
        (["--batch_size_training", "0"], "batch_size_training must be positive, got 0."),
        (["--rnn_key", "transformer"], "rnn_key"),
        (
            ["--lr_scheduler", "StepLR", "--lr_scheduler_args", '{"step_size": true}'],
            "The argument 'step_size' of the schedule StepLR must be a whole number, got True.",
        ),
        (["--dg_args", '{"add_eos": "false"}'], "add_eos must be True or False, got 'false'."),
        (["--optimizer", "adam"], "optimizer must be one of Adam, AdamW, RAdam, SGD, got 'adam'."),
    ],
)
def test_bad_input_is_one_sentence(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert run_train(tiny_hdf5, tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "exp").exists()


def test_an_experiment_that_exists_and_one_that_does_not(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train(tiny_hdf5, tmp_path, "--max_epochs", "1", "-q") == 0
    assert run_train(tiny_hdf5, tmp_path) == 2
    assert "already exists" in capsys.readouterr().err
    assert resume.main([str(tmp_path / "other")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert evaluate.main([str(tmp_path / "exp"), "--subset", "all"]) == 2
    assert "--subset must be one of 'training', 'validation', 'testing', got 'all'." in capsys.readouterr().err
    assert evaluate.main([str(tmp_path / "exp"), "--max_batches", "0"]) == 2
    assert "--max_batches must be a whole number of at least 1, got 0." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "hint"), [("trian", "did you mean 'train'?"), ("qwertz", "'dwiml --help' lists them.")]
)
def test_an_unknown_command(capsys: pytest.CaptureFixture[str], command: str, hint: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main.main([command, "--help"])
    assert capsys.readouterr().err.endswith(f"dwiml: error: there is no command '{command}': {hint}\n")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--learning_rates", "1e-3,1e-4"],
            "argument --learning_rates: a number expected, got '1e-3,1e-4'; separate values by spaces",
        ),
        (["--epochs", "3"], "there is no option --epochs: did you mean --max_epochs?"),
        (["--learning-rates=3"], "there is no option --learning-rates: did you mean --learning_rates"),
        (["--max_epoch_s", "3"], "there is no option --max_epoch_s: did you mean --max_epochs"),
        (["--step_siz", "1"], "there is no option --step_siz: did you mean --step_size"),
        (["--step", "1"], "there is no option --step: did you mean --step_size"),
        (["--layers", "1"], "there is no option --layers: did you mean --rnn_layer_sizes or"),
        (["--lr", "1"], "there is no option --lr: did you mean --learning_rates?"),
        (["-step_size", "1"], "there is no option -step_size: did you mean --step_size"),
        (["--qwertz", "3"], "there is no option --qwertz\n"),
        (["--qwertz=3", "-x"], "there is no option --qwertz; there is no option -x\n"),
        (["--lazy", "true"], "--lazy takes no value, got 'true': give --lazy or --no_lazy alone"),
        (["--lazy=no"], "--lazy takes no value, got 'no': give --lazy or --no_lazy alone"),
        (["--verbose", "off"], "--verbose takes no value, got 'off': give --verbose or --no_verbose alone"),
        (["--print_config", "yes"], "--print_config takes no value, got 'yes': give --print_config alone"),
        (["one", "more"], "too many arguments: one more"),
    ],
)
def test_an_unknown_option_shows_the_models_usage(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_train(tiny_hdf5, tmp_path, *options)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: dwiml train learn2track HDF5 EXPERIMENTS_PATH EXPERIMENT_NAME\n")
    assert f"dwiml train learn2track: error: {sentence}" in error


def test_a_trainer_of_ones_own_matters_to_resume_only(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train(tiny_hdf5, tmp_path, "--max_epochs", "1", "-q") == 0
    path = tmp_path / "exp" / "parameters.json"
    recorded = json.loads(path.read_text())
    recorded["trainer"]["class"] = "Mine"
    path.write_text(json.dumps(recorded))
    assert evaluate.main([str(tmp_path / "exp")]) == 0
    capsys.readouterr()
    assert resume.main([str(tmp_path / "exp")]) == 2
    error = capsys.readouterr().err
    assert "is of class Mine, which is not part of dwiml. To continue the training, run its script again" in error
    assert "or give --trainer_class FILE.py:Mine if you trust its code." in error


@pytest.mark.parametrize("option", ["--max_epochs", "--epochs", "--new_max_epoch"])
def test_resume_suggests_its_own_options(capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        resume.main(["exp", option, "6"])
    assert stopped.value.code == 2
    assert f"dwiml resume: error: there is no option {option}: did you mean --new_max_epochs" in capsys.readouterr().err


@pytest.mark.parametrize("command", main.COMMANDS)
def test_no_parser_takes_a_shortened_option(command: str) -> None:
    assert not train.build_model_parser("learn2track").allow_abbrev
    assert not importlib.import_module(f"dwiml.cli.{command}").build_parser().allow_abbrev


def test_two_resamplings(tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_train(tiny_hdf5, tmp_path, "--step_size", "1", "--nb_points", "20")
    assert stopped.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_each_option_has_the_default_of_the_class_it_is_for() -> None:
    words = ["a", "b", "c", "--input_group_name", "x", "--streamline_group_name", "y"]
    given = parsed(words)
    owners = [*Learn2TrackModel.__mro__, DWIMLBatchIDSampler, DWIMLStreamlinesBatchLoader, *DWIMLTrainer.__mro__]
    owners.append(TrainerSettings)
    # Those of the generation-validation phase are left to the class.
    tracking = parsed(_tracking_options())
    init = inspect.signature(pkgutil.resolve_name(train.TRACKING_SETTINGS))
    left = {name for name, parameter in init.parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    assert left <= set(tracking)
    assert not left & set(given)
    checked = 0
    for owner in owners:
        init = owner.__dict__.get("__init__")
        if init is None or not owner.__module__.startswith("dwiml."):
            continue
        for parameter in inspect.signature(init).parameters.values():
            if parameter.default is inspect.Parameter.empty or parameter.name in ("experiment_name", "loggers"):
                continue
            assert given[parameter.name] == parameter.default, f"{owner.__name__}: {parameter.name}"
            checked += 1
    assert checked > 40


def parsed(words: list[str]) -> dict[str, Any]:
    return vars(parse_options(train.build_model_parser("learn2track"), words, positional=tuple(train.PATHS)))


def _tracking_options() -> list[str]:
    text = "a b c --input_group_name x --streamline_group_name y --best_model_metric gv_length_ratio"
    text += " --tracking_phase_frequency 2 --tracking_phase_nb_segments_init 2 --tracking_phase_max_batches 3"
    text += " --tracking_phase_mask_group wm --tracking_phase_mask_interpolation trilinear --tracking_phase_theta 30"
    text += " --tracking_phase_ground_truth d --tracking_phase_step_size 1 --tracking_phase_max_length 200"
    return [*text.split(), "--tracking_phase_eos_thresh", "0.5"]


def test_every_command_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    for command in main.COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main.main([command, "--help"])
        assert stopped.value.code == 0
        assert f"usage: dwiml {command}" in capsys.readouterr().out or command == "visualize_logs"
    with pytest.raises(SystemExit) as stopped:
        main.main(["trian"])
    assert stopped.value.code == 2


@pytest.mark.first(1)
@pytest.mark.parametrize("script", ["train_minimal.py", "train_custom_trainer.py"])
def test_example_scripts_run_and_resume(tiny_hdf5: Path, tmp_path: Path, script: str) -> None:
    command = [sys.executable, str(SCRIPTS / script), str(tiny_hdf5), str(tmp_path), "exp", "--max_epochs"]
    for epochs in ("1", "3"):
        done = subprocess.run([*command, epochs], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    losses = [line["train_loss"] for line in logs(tmp_path / "exp")]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("as_option", ["hdf5_file", "experiments_path", "experiment_name"])
def test_a_path_that_is_given_twice_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_option: str
) -> None:
    words = {"hdf5_file": "a.hdf5", "experiments_path": "runs", "experiment_name": "first"}
    for option in ([f"--{as_option}", "other"], [f"--{as_option}=other"]):
        with pytest.raises(SystemExit) as stopped:
            train.main(["learn2track", *words.values(), *option])
        assert stopped.value.code == 2
        sentence = f"error: {as_option} is given twice: '{words[as_option]}' and --{as_option} 'other'\n"
        assert capsys.readouterr().err.endswith(sentence)
    # The command line has priority over the file.
    (tmp_path / "options.yaml").write_text(f"{as_option}: other\n")
    with pytest.raises(SystemExit) as stopped:
        train.main(["learn2track", *words.values(), "--config", str(tmp_path / "options.yaml"), "--print_config"])
    assert stopped.value.code == 0
    assert f"{as_option}: {words[as_option]}\n" in capsys.readouterr().out
