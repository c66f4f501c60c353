"""The command ``dwiml phantom``, run as a user runs it."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path

import pytest

from dwiml.cli import create_hdf5
from dwiml.cli import track as track_command
from dwiml.cli import train as train_command
from dwiml.cli.main import main
from dwiml.cli.options.config_file import parse_options
from dwiml.cli.phantom import build_parser
from dwiml.phantom import create
from dwiml.phantom.create import GROUPS_CONFIG, README
from dwiml.phantom.output import new_folder


@pytest.mark.slow
def test_creates_the_folder_and_replaces_another_only_with_f(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["phantom", str(tmp_path / "ph"), "--nb_subjects", "3", "--size", "small", "--seed", "4"]
    with new_folder(tmp_path / "ph", overwrite=False, description={}) as older:
        (older / "older.txt").write_text("from another version")
    assert main(command) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: Folder")
    assert "replace it with -f." in captured.err
    assert captured.err.count("\n") == 1
    assert (tmp_path / "ph/older.txt").exists()

    assert main([*command, "-f"]) == 0
    said = capsys.readouterr().out
    assert all(f"sub-0{k} done ({k} of 3)" in said for k in (1, 2, 3))
    assert f"3 subjects in {tmp_path / 'ph'}" in said
    assert [path.name for path in tmp_path.iterdir()] == ["ph"]
    assert not (tmp_path / "ph/older.txt").exists()
    assert (tmp_path / "ph/subjects/sub-03/bundles/arch.trk").exists()


def test_commands_in_the_readme_exist() -> None:
    values = {"nb_subjects": 7, "seed": 3, "size": "small", "snr_option": " --snr 12-25"}
    text = README.format(**values, dwiml_version="0", labels="", testing="sub-07").replace("\\\n", "")
    phantom, create, train, track, score = [line.split() for line in text.splitlines() if line.startswith("    dwiml")]
    assert phantom[:2] == ["dwiml", "phantom"]
    arguments = build_parser().parse_args(phantom[2:])
    assert (arguments.nb_subjects, arguments.seed, arguments.size) == (7, 3, "small")
    assert arguments.snr == [12, 25]
    created = vars(create_hdf5.build_parser().parse_args(create[2:]))
    model_parser = train_command.build_model_parser(train[2])
    parsed = vars(parse_options(model_parser, train[3:], positional=tuple(train_command.PATHS)))
    assert "../phantom.hdf5" in created.values()
    assert parsed["hdf5_file"] == "../phantom.hdf5"
    tracked = track_command.parse_arguments(track_command.build_parser(), track[2:])
    assert tracked.subject == "sub-07"
    assert len(tracked.experiments) == 1
    scored = importlib.import_module("dwiml.cli.score").build_parser().parse_args(score[2:])
    assert "sub-07" in scored.ground_truth
    assert {parsed["input_group_name"], parsed["streamline_group_name"]} <= set(GROUPS_CONFIG)


def test_termination_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create, "simulate_subject", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["phantom", str(tmp_path / "ph")]) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--nb_subjects", "1"], "error: nb_subjects must be at least 3 (training, validation, testing), got 1.\n"),
        (["--seed", "-3"], "error: seed must be 0 or more, got -3.\n"),
        (["--snr", "35-12"], "error: snr must be the lowest value and then the highest one, got 35 and 12.\n"),
        (["--size", "tiny"], "error: Unknown size 'tiny'; choose one of: 'small', 'medium', 'large'.\n"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert main(["phantom", str(tmp_path / "ph"), *options]) == 2
    assert capsys.readouterr().err == sentence
    assert not list(tmp_path.iterdir())


def test_an_snr_that_is_not_a_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["phantom", "ph", "--snr", "high"])
    assert "--snr: must be a number or a range such as 12-35, got 'high'" in capsys.readouterr().err


def test_help_shows_the_options_and_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["phantom", "--help"])
    assert stop.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for expected in (
        "OUT_DIR",
        "--nb_subjects",
        "[6]",
        "--seed",
        "--size {small,medium,large}",
        "[medium]",
        "--snr X|LOW-HIGH",
        "[25-35]",
        "-f",
        "-v",
    ):
        assert expected in said


def test_a_command_without_arguments_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["phantom"])
    assert "the following arguments are required: OUT_DIR" in capsys.readouterr().err
