"""``dwiml visualize_logs`` on real files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dwiml.cli.main import main as dwiml_main
from dwiml.cli.visualize_logs import main
from dwiml.training.reporting.loggers import LocalLogger


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    log = LocalLogger(tmp_path / "run")
    for epoch in range(3):
        log.log_metrics({"train_loss": 1 / (epoch + 1), "valid_loss": 1.2 / (epoch + 1)}, epoch)
    return tmp_path / "run"


def test_bare_command_saves_a_png_and_says_where(experiment: Path) -> None:
    command = [sys.executable, "-m", "dwiml.cli.visualize_logs", str(experiment)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Curves saved in {experiment / 'curves.png'}\n"
    assert (experiment / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_options(experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "figure.svg")
    assert dwiml_main(["visualize_logs", str(experiment), "--out", out, "--log_scale", "loss"]) == 0
    assert capsys.readouterr().out == f"Curves saved in {out}\n"
    assert main([str(experiment), "--out", out]) == 2
    assert "exists; replace it with -f." in capsys.readouterr().err
    assert main([str(experiment), "--out", out, "-f"]) == 0
    assert main([str(experiment), "--save"]) == 0
    assert main([str(experiment), "--linear_scale", "loss"]) == 0


def test_the_weights_of_a_training(
    tiny_hdf5: Path, experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--rnn_layer_sizes", "4"]
    options += ["--log_weights", "--max_epochs", "1", "--seed", "1", "-q"]
    assert dwiml_main(["train", "learn2track", str(tiny_hdf5), str(tmp_path), "with", *options]) == 0
    folder = tmp_path / "with"
    assert "log_weights: true" in (folder / "config.yaml").read_text()
    # A figure in the folder does not prevent a resume.
    assert main([str(folder), "--weights"]) == 0
    assert capsys.readouterr().out == f"Weights saved in {folder / 'weights.png'}\n"
    assert dwiml_main(["resume", str(folder), "--new_max_epochs", "2", "-q"]) == 0
    assert main([str(folder), "--weights", "--out", str(folder / "weights.svg")]) == 0
    assert main([str(experiment), "--weights"]) == 2
    assert "'run' has no weights of layers; they are logged by a training with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no logs/metrics.jsonl"),
        ("", "is empty: no epoch is finished yet"),
        ('{"epoch": 0, "train_loss": NaN}\n', "Line 1 of"),
        ("\x89PNG\x00", "is not valid JSON"),
        (f'{{"epoch": 0, "train_loss": {"9" * 401}}}\n', "metrics.jsonl' is too large a number"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    tmp_path: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "metrics.jsonl").write_text(content)
    assert main([str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_an_unknown_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no/such/folder"]) == 2
    assert capsys.readouterr().err == "error: Experiment folder 'no/such/folder' does not exist.\n"
