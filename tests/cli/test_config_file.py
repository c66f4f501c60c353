"""``--config``: a file of options makes an experiment again, and a bad one is told in a sentence."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import logs

from dwiml.cli import resume, train
from dwiml.cli.main import main
from dwiml.cli.options.config_file import MAX_BYTES, parse_options
from dwiml.params import to_plain

GROUPS = ["--input_group_name", "input", "--streamline_group_name", "streamlines"]
SMALL = ["--rnn_layer_sizes", "8", "8", "--batch_size_training", "10", "-q"]


def weights(experiment: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(experiment / "checkpoint" / "latest.pt", weights_only=True)["model"]
    return state


def losses(experiment: Path) -> list[float]:
    return [line["train_loss"] for line in logs(experiment)]


def options_of(*words: str) -> dict[str, Any]:
    parser = train.build_model_parser("learn2track")
    return vars(parse_options(parser, words, positional=tuple(train.PATHS), fixed={"model": "learn2track"}))


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.first(1)
@pytest.mark.parametrize(
    "options",
    [
        ["--seed", "3", "--max_epochs", "2", "--reverse_ratio", "0.5", "--learning_rates", "0.01", "0.001"],
        # The seed that was drawn is in the file too.
        ["--max_epochs", "1", "--step_size", "2", "--no_skip_connection", "--tracking_phase_mask_group", "wm_mask"],
    ],
)
def test_the_file_of_an_experiment_makes_it_again(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.chdir(tiny_hdf5.parent)
    experiments = os.path.relpath(tmp_path)
    words = [tiny_hdf5.name, experiments, "first", *GROUPS, *SMALL, *options]
    assert train.main(["learn2track", *words]) == 0
    config = tmp_path / "first" / "config.yaml"
    before = config.read_bytes()
    monkeypatch.chdir(tmp_path)
    assert "model: learn2track\n" in before.decode()
    assert train.main(["--config", str(config), "--experiment_name", "second"]) == 0
    assert (tmp_path / "second/config.yaml").read_text() == before.decode().replace("_name: first\n", "_name: second\n")
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert losses(tmp_path / "first") == losses(tmp_path / "second")
    assert ["gv_left_mask" in line for line in logs(tmp_path / "second")] == ["wm_mask" in options] * len(
        logs(Path("first"))
    )
    assert resume.main(["first", "--new_max_epochs", "3", "-q"]) == 0
    assert train.main(["learn2track", "--config", str(config), "--max_epochs", "4", "--resume", "auto"]) == 0
    assert len(losses(tmp_path / "first")) == 4
    assert config.read_bytes() == before


def test_no_file_is_left_by_a_trial_or_a_training_without_result(
    tiny_hdf5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["learn2track", str(tiny_hdf5), str(tmp_path / "exps"), "exp", *GROUPS, *SMALL]
    assert train.main([*words, "--fast_dev_run"]) == 0
    assert not (tmp_path / "exps").exists()

    def fail(*_: object) -> None:
        assert (tmp_path / "exps/exp/config.yaml").is_file()
        raise ValueError("no batch")

    monkeypatch.setattr("dwiml.training.trainer.DWIMLTrainer.back_propagate", fail)
    assert train.main(words) == 2
    assert not (tmp_path / "exps").exists()


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        "hdf5_file: data.hdf5\nexperiments_path: exps\nexperiment_name: 007\ninput_group_name: input\n"
        "streamline_group_name: 'none'\nmax_time: 11:50:00\nlearning_rates: [1e-3, 1.0e-04]\nrnn_layer_sizes: 16\n"
        "use_skip_connection: false\nlazy: true\ndg_args: {dropout: 0.5, add_eos: true}\nstop_signal: null\n"
        "use_gpu: no\nstep_size: 2\npatience: ~\nbest_model_metric: gv_left_mask\n",
    )
    options = options_of("--config", config)
    expected = {
        "hdf5_file": "data.hdf5",
        "experiment_name": "007",
        "streamline_group_name": "none",
        "max_time": "11:50:00",
        "learning_rates": [0.001, 0.0001],
        "rnn_layer_sizes": [16],
        "use_skip_connection": False,
        "lazy": True,
        "dg_args": {"dropout": 0.5, "add_eos": True},
        "stop_signal": None,
        "use_gpu": False,
        "step_size": 2.0,
        "patience": None,
        "best_model_metric": "gv_left_mask",
    }
    assert {name: options[name] for name in expected} == expected
    changes = ["other.hdf5", "--config", config, "--experiment_name", "8", "--nb_points", "20", "--no_lazy"]
    changes += ["--use_skip_connection", "--learning_rates", "0.1", "--stop_signal", "SIGUSR2", "--verbose"]
    changed = options_of(*changes)
    expected = {"hdf5_file": "other.hdf5", "experiments_path": "exps", "experiment_name": "8", "nb_points": 20}
    # Of options that exclude each other, the file's gives way.
    expected |= {"step_size": None, "lazy": False, "use_skip_connection": True, "learning_rates": [0.1]}
    expected |= {"stop_signal": "SIGUSR2", "verbose": True, "max_time": "11:50:00"}
    assert {name: changed[name] for name in expected} == expected


def parameters(experiment: Path) -> dict[str, Any]:
    sections: dict[str, Any] = json.loads((experiment / "parameters.json").read_text())
    return {name: sections[name] for name in ("trainer", "sampler", "loader", "model")}


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["train", *words, "--print_config"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        [],
        [
            "--batch_size_training",
            "60",
            "--step_size",
            "2",
            "--learning_rates",
            "1",
            "0.1",
            "1e-9",
            "--clip_grad",
            "1.0",
        ],
        ["--batch_size_training", "60.0", "--lr_scheduler_args", '{"gamma": 1.0, "step_size": 3}', "--ema_decay", "0"],
    ],
)
def test_numbers_stay_as_they_were_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    text = printed(["learn2track", "a", "b", "007", *GROUPS, *options], capsys)
    size = options[1] if options else "1000"
    assert f"\nbatch_size_training: {size}\n" in text
    assert printed(["--config", written(tmp_path, text)], capsys) == text


def test_the_file_names_its_model(tiny_hdf5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = "input_group_name: input\nstreamline_group_name: streamlines\nmax_epochs: 3\n"
    config = written(tmp_path, f"model: transformer-src-only\n{common}")
    paths = [str(tiny_hdf5), "exps", "first"]
    expected = printed(["transformer-src-only", *paths, *GROUPS, "--max_epochs", "3"], capsys)
    assert printed(["--config", config, *paths], capsys) == expected
    assert printed([*paths, "--config", config], capsys) == expected
    assert printed(["transformer-src-only", *paths, "--config", config], capsys) == expected
    named = [word for name, value in zip(train.PATHS, paths, strict=True) for word in (f"--{name}", value)]
    assert printed([*named, "--config", config], capsys) == expected
    # The command line decides.
    text = printed(["learn2track", *paths, "--config", config], capsys)
    assert text.startswith("model: learn2track\n")
    assert "\nrnn_layer_sizes:" in text
    with pytest.raises(SystemExit):
        main(["train", "--config", config, "--help"])
    assert capsys.readouterr().out.startswith("usage: dwiml train transformer-src-only ")
    for text, words, sentence in (
        (common, [], f"'{config}' does not name the model: add 'model: NAME' to it, or give MODEL first (learn2track,"),
        (common, ["gone.hdf5"], "does not name the model"),
        (f"model: gru\n{common}", [], f"invalid configuration '{config}': model: one of learn2track, "),
        ("model: [gru]", [], f"invalid configuration '{config}': model: a single value expected, got ['gru']."),
        ("model:", [], f"invalid configuration '{config}': model: a single value expected, got None."),
        (f"model: learn2track\nmodel: learn2track\n{common}", [], "'model' appears twice"),
        (f"model: learn2track\n{common}", ["learn2trak"], "known name, got 'learn2trak'; did you mean 'learn2track'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["train", *words, "--config", written(tmp_path, text)])
        assert stopped.value.code == 2
        assert sentence in capsys.readouterr().err


def test_a_rerun_records_the_same_values(tiny_hdf5: Path, tmp_path: Path) -> None:
    words = ["learn2track", str(tiny_hdf5), str(tmp_path), "first", *GROUPS, "--seed", "1", "--max_epochs", "1", "-q"]
    assert train.main([*words, "--rnn_layer_sizes", "8", "--step_size", "2", "--noise_gaussian_size_loss", "0.0"]) == 0
    assert train.main(["--config", str(tmp_path / "first/config.yaml"), "--experiment_name", "second"]) == 0
    # 1000 and 1000.0 are equal in Python, and not in the file.
    first, second = (json.dumps(parameters(tmp_path / name)) for name in ("first", "second"))
    assert first.replace("first", "second") == second
    assert '"batch_size_training": 1000,' in first


@pytest.mark.parametrize("words", [[], ["--conf", "config.yaml"], ["--max_epochs", "3", "learn2track"]])
def test_a_command_without_a_model_or_a_file_says_what_to_give(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", *words])
    assert stopped.value.code == 2
    assert re.search(
        r"required: MODEL \(learn2track, .*\), or --config YAML, which names it\n$", capsys.readouterr().err
    )


def test_what_is_printed_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "learn2track", "--print_config"])
    assert stopped.value.code == 0
    template = written(tmp_path, capsys.readouterr().out)
    words = ["a", "b", "c", *GROUPS]
    assert to_plain(options_of(*words, "--config", template)) == to_plain(options_of(*words))
    with pytest.raises(SystemExit) as stopped:
        options_of("--config", template)
    assert stopped.value.code == 2
    required = "HDF5, EXPERIMENTS_PATH, EXPERIMENT_NAME, --input_group_name, --streamline_group_name\n"
    assert capsys.readouterr().err.endswith(f"the following arguments are required: {required}")
    nested = '{"a": [null, 1e-9, "\\u00e9", "1e-9", "yes", "null", "[1]", "NaN", true], "on": {"1": {}}}'
    odd = [
        *words,
        "--comet_project",
        "a: 'b' \udcff\n#",
        "--dg_args",
        nested,
        "--seed",
        "7",
        "--comet_workspace",
        "1e5",
    ]
    with pytest.raises(SystemExit):
        options_of(*odd, "--print_config")
    assert to_plain(options_of("--config", written(tmp_path, capsys.readouterr().out))) == to_plain(options_of(*odd))


@pytest.mark.parametrize("text", ["yes", "On", "TRUE", "true", "'true'"])
def test_all_booleans_are_read_alike(tmp_path: Path, text: str) -> None:
    lines = f"lazy: {text}\nuse_gpu: {text}\nuse_skip_connection: {text}\ndg_args: {{add_eos: {text}}}\n"
    options = options_of("a", "b", "c", *GROUPS, "--config", written(tmp_path, lines))
    # In a JSON object, a text in quotes is a text.
    eos = "true" if "'" in text else True
    assert [options[name] for name in ("lazy", "use_gpu", "use_skip_connection")] == [True] * 3
    assert options["dg_args"] == {"add_eos": eos}
    lines = "lazy: off\nuse_gpu: No\nuse_skip_connection: false\ndg_args: {add_eos: no}\n"
    options = options_of("a", "b", "c", *GROUPS, "--config", written(tmp_path, lines))
    assert [options[name] for name in ("lazy", "use_gpu", "use_skip_connection")] == [False] * 3
    assert options["dg_args"] == {"add_eos": False}


@pytest.mark.parametrize("option", ["--weight_decay", "--learning_rates", "--patience", "--clip_grad"])
@pytest.mark.parametrize("value", ["inf", "nan", "1e999"])
def test_options_are_finite(capsys: pytest.CaptureFixture[str], option: str, value: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "learn2track", option, value, "--print_config"])
    assert stopped.value.code == 2
    assert f"argument {option}: a " in (error := capsys.readouterr().err)
    assert f" expected, got '{value}'\n" in error


def test_tracking_takes_a_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["track", "exp", "sub", "out.trk", "--tracking_mask", "wm", "--nb_seeds", "5", "--theta", "30"]
    with pytest.raises(SystemExit):
        main([*words, "--print_config"])
    printed = capsys.readouterr().out
    assert "\nnb_seeds: 5\n" in printed
    assert "overwrite" not in printed
    config = written(tmp_path, printed)
    with pytest.raises(SystemExit):
        main([*words[:4], "--config", config, "--seeds_per_voxel", "2", "--print_config"])
    printed = capsys.readouterr().out
    assert "\nseeds_per_voxel: 2\nnb_seeds: null\n" in printed
    assert "\ntheta: 30\n" in printed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epochs: 3", "there is no option 'epochs': did you mean max_epochs?"),
        ("wander_size: 1", "there is no option 'wander_size': did you mean noise_correlated_size?"),
        ("no_skip_connection: true", "there is no option 'no_skip_connection': did you mean use_skip_connection"),
        ("config: a.yaml", "there is no option 'config'"),
        ("? [a]\n: 1", "there is no option"),
        ("max_epochs: many", "max_epochs: a whole number expected, got 'many'"),
        ("max_epochs: [1]", "max_epochs: a single value expected"),
        ("max_epochs:", "max_epochs: a value expected"),
        ("optimizer: null", "optimizer: a value expected"),
        ("lazy: 1", "lazy: yes or no expected, got '1'"),
        ("lazy: [true]", "lazy: a single value expected"),
        ("lazy: null", "lazy: a value expected"),
        ("use_gpu: 1", "use_gpu: yes, no or auto expected, got '1'"),
        ("dg_args: {dropout: .1, dropout: .2}", "dg_args: 'dropout' appears twice"),
        ("dg_args: {a: {b: 1, 'b': 1}}", "dg_args: 'b' appears twice"),
        ("weight_decay: .inf", "weight_decay: a number expected, got '.inf'"),
        ("clip_grad: inf", "clip_grad: a number or 'none' expected, got 'inf'"),
        ("learning_rates: [[1]]", "learning_rates: a list of values expected"),
        ("dg_args: [1]", "dg_args: a JSON object expected, got '[1]'; give one in quotes, such as '{\"name\": 0.5}'"),
        ("max_epochs: 1\nmax_epochs: 2", "'max_epochs' appears twice"),
        ("- 1", "it is not a list of options"),
        ("a: [", "it is not valid YAML"),
        ("a: 1\n---\nb: 2", "it is not valid YAML"),
        ("\0", "it is not valid YAML"),
        ("optimizer: !!python/object/apply:os.system ['touch evil']", "the tag tag:yaml.org,2002:python/object/apply"),
        ("optimizer: !evil x", "the tag !evil is not supported"),
        ("dg_args: {a: &a [1, 1], b: [*a, *a]}", "it has an alias (*name), which is not supported"),
        ("dg_args: " + "[" * 60_000, "it is nested too deeply"),
        ("dg_args:\n  " + "- " * 20_000, "it is nested too deeply"),
        ("dg_args: {a: " + "[" * 9_000 + "]" * 9_000 + "}", "it is nested too deeply"),
        ("#" * MAX_BYTES + "\n", "it is larger than 64 KiB"),
    ],
)
def test_a_bad_file_is_told_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = written(tmp_path, text)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "learn2track", "--config", config])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert re.match(rf"dwiml train( learn2track)?: error: invalid configuration '{re.escape(config)}': ", error)
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert len(error) < 600
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize("name", ["gone.yaml", ".", "pipe", "binary", "locked"])
def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    (tmp_path / "locked").symlink_to("locked")
    with pytest.raises(SystemExit) as stopped:
        main(["train", "learn2track", "--config", str(tmp_path / name)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert str(tmp_path / name) in error
    assert len(error.splitlines()) == 1
