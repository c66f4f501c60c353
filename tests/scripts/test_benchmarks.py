from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmarks" / "run.py"
NAMES = {
    "sampler_2m",
    "loader_lazy_step1",
    "loader_lazy_augmented",
    "loader_eager_augmented",
    "trilinear_1thread",
    "axes1_1thread",
    "grid1_1thread",
    "learn2track_step",
    "transformer_step",
    "transformer_src_and_tgt_step",
    "transformer_src_and_tgt_step_masks",
    "transformer_src_tgt_concat_step",
    "autoencoder_step",
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=500, check=False
    )


def check_figures(path: Path, names: set[str]) -> None:
    figures = {figure["name"]: figure for figure in json.loads(path.read_text())}
    assert figures.keys() >= names
    for figure in figures.values():
        assert figure["unit"] in ("batches/s", "streamlines/s", "points/s")
        assert figure["value"] > 0
        assert figure["baseline"] > 0
        assert figure["baseline_name"]
        assert figure["ratio"] == pytest.approx(figure["value"] / figure["baseline"])
        assert figure["peak_mb"] > 10
        if "1thread" in figure["name"]:
            bytes_moved = figure["value"] * figure["bytes_each"]
            assert figure["bandwidth_share"] == pytest.approx(bytes_moved / figure["bandwidth"])
        else:
            assert figure["bandwidth_share"] is figure["bytes_each"] is figure["bandwidth"] is None


@pytest.mark.slow
def test_table_and_json(tmp_path: Path) -> None:
    chosen = ["sampler_2m", "loader_lazy_step1", "axes1_1thread", "transformer_src_and_tgt_step", "autoencoder_step"]
    result = run("--quick", "--json", str(tmp_path / "figures.json"), "--only", *chosen)
    assert result.returncode == 0, result.stderr
    check_figures(tmp_path / "figures.json", set(chosen))
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *chosen]
    assert all(f"{name} ..." in result.stderr for name in chosen)


@pytest.mark.slow
def test_all_benchmarks(tmp_path: Path) -> None:
    result = run("--quick", "--rst", "--json", str(tmp_path / "figures.json"))
    assert result.returncode == 0, result.stderr
    check_figures(tmp_path / "figures.json", NAMES)
    assert "8 rows gathered, one after the other" in result.stdout
    assert result.stdout.startswith(".. list-table::")


@pytest.mark.slow
def test_options_that_cannot_be(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing" / "figures.json"):
        result = run("--json", str(place))
        assert result.returncode == 2
        assert f"--json must be a file in a folder that exists, got '{place}'." in result.stderr
    import torch

    assert "invalid choice: 'nothing'" in run("--only", "nothing").stderr
    if not torch.cuda.is_available():
        result = run("--device", "cuda")
        assert result.returncode == 2
        assert result.stderr == "--device cuda was asked for, but torch finds no GPU here.\n"


def test_the_creation_of_a_file_is_measured_beside_a_plain_script(tmp_path):
    script = SCRIPT.with_name("creation.py")
    done = subprocess.run(
        [sys.executable, str(script), "--quick", "--repeats", "1", "--json", str(tmp_path / "figures.json")],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures) == ["plain script", "dwiml, 1 process", "dwiml, 2 processes"]
    assert all(figure["seconds"] > 0 and figure["peak_mb"] > 10 for figure in figures.values())
