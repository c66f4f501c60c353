"""The errors of a command say its options, not the parameters of the library."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

import pytest
from small_training import small_trainer

from dwiml.cli import resume, run_command, train
from dwiml.cli.main import COMMANDS
from dwiml.cli.options.option_names import OptionNames, with_option_names
from dwiml.training.cluster.process import how_to_resume

GROUPS = ["--input_group_name", "input", "--streamline_group_name", "streamlines"]


@pytest.mark.parametrize(
    ("command", "message", "said"),
    [
        ("train", "resume it (resume='auto').", "resume it (--resume auto)."),
        ("train", "or set nan_policy='skip'.", "or set --nan_policy skip."),
        ("train", "(or allow_changed_data=True)", "(or --allow_changed_data)"),
        ("train", "the model has use_skip_connection=False", "the model has --no_skip_connection"),
        ("train", "verbose=False; use_gpu=False; use_gpu=True", "--no_verbose; --use_gpu no; --use_gpu yes"),
        ("train", "not its options: overwrite=True, add_eos=True", "not its options: overwrite=True, add_eos=True"),
        ("train", "no such values: resume=True, lazy='yes'", "no such values: resume=True, lazy='yes'"),
        ("train", "a schedule with step_size=True", "a schedule with step_size=True"),
        ("train", "'a/resume='auto'', x.lazy=True, my_lazy=True", "'a/resume='auto'', x.lazy=True, my_lazy=True"),
        ("train", "give trainer_class=X, as input of the model", "give trainer_class=X, as input of the model"),
        ("train", "add_eos=(1, 2), split_ratio=(1, 2)", "add_eos=(1, 2), split_ratio=(1, 2)"),
        ("track", "was not recorded; give standardization.", "was not recorded; give --standardization."),
        ("track", "give the mask as std_mask.", "give the mask as --std_mask."),
        ("show_loss", "give the mask as std_mask.", "give the mask as --std_mask."),
        ("create_hdf5", "for instance split=(0.8, 0.1, 0.1).", "for instance --split 0.8 0.1 0.1."),
        ("create_hdf5", "without step_size, not with 1.0;", "without --step_size, not with 1.0;"),
        ("create_hdf5", "with compress = 0.1, not 0.2;", "with --compress 0.1, not 0.2;"),
        ("create_hdf5", "with allow_missing, not without it", "with --allow_missing, not without it"),
        ("create_hdf5", "are kept; continue with resume=True.", "are kept; continue with --continue."),
        # A script that uses the library.
        ("resume", "run its script again with resume='auto'.", "run its script again with resume='auto'."),
        ("resume", "(or allow_changed_data=True)", "(or --allow_changed_data)"),
        ("create_hdf5", "allow this with allow_missing=True.", "allow this with --allow_missing."),
        ("create_hdf5", "remove them with remove_invalid=True.", "remove them with --remove_invalid."),
    ],
)
def test_arguments_are_said_as_options(command: str, message: str, said: str) -> None:
    module = importlib.import_module(f"dwiml.cli.{command}")
    parser = train.build_model_parser("learn2track") if command == "train" else module.build_parser()
    assert with_option_names(message, parser) == said


def test_warnings_of_commands_name_their_options() -> None:
    parser = importlib.import_module("dwiml.cli.create_hdf5").build_parser()
    record = logging.LogRecord("dwiml", logging.WARNING, "file.py", 1, "%s (resume=True keeps them)", ("one",), None)
    assert OptionNames(parser).format(record) == "WARNING: one (--continue keeps them)"


def test_an_option_that_overwrites_is_said_by_all_commands() -> None:
    for command in sorted(COMMANDS.keys() - {"train"}):
        parser = importlib.import_module(f"dwiml.cli.{command}").build_parser()
        said = with_option_names("replace it with overwrite=True.", parser)
        has_it = any(action.dest == "overwrite" for action in parser._actions)
        assert said == ("replace it with -f." if has_it else "replace it with overwrite=True.")


def test_errors_of_commands_name_their_options(
    tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["learn2track", str(tiny_hdf5), str(tmp_path), "exp", *GROUPS, "--rnn_layer_sizes", "8", "-q"]
    assert train.main([*words, "--max_epochs", "1"]) == 0
    capsys.readouterr()
    assert train.main(words) == 2
    assert "already exists: resume it (--resume auto), choose another experiment_name" in capsys.readouterr().err


def test_a_stopped_command_says_how_to_continue(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path)
    ending = f", or dwiml resume {tmp_path / 'exp'}"
    assert how_to_resume(trainer) == f"the same script and resume='auto'{ending}"
    trainer.config = "model: learn2track\n"
    assert how_to_resume(trainer) == f"the same command and --resume auto{ending}"


def test_an_error_of_the_library_keeps_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("give nan_policy='skip', or add_eos=True")

    assert run_command(fail, parser=resume.build_parser()) == 2
    assert capsys.readouterr().err == "error: give --nan_policy skip, or add_eos=True\n"
