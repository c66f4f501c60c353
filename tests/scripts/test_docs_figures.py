"""The script that draws the documentation's figures, run on a small example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dwiml.cli import train
from dwiml.hdf5.creator import create_hdf5
from dwiml.phantom.create import create_phantom

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_figures_are_drawn(tmp_path: Path) -> None:
    phantom = tmp_path / "phantom"
    create_phantom(phantom, nb_subjects=6, size="small")
    lists = [phantom / f"{name}.txt" for name in ("training", "validation", "testing")]
    create_hdf5(phantom / "subjects", tmp_path / "phantom.hdf5", phantom / "config.json", *lists)
    options = ["--input_group_name", "input", "--streamline_group_name", "streamlines", "--rnn_layer_sizes", "4"]
    options += ["--max_epochs", "1", "--seed", "1", "-q"]
    place = str(tmp_path / "experiments")
    assert train.main(["learn2track", str(tmp_path / "phantom.hdf5"), place, "learn2track", *options]) == 0
    script = [sys.executable, str(ROOT / "scripts" / "docs_figures.py"), str(tmp_path), str(tmp_path / "images")]
    subprocess.run(script, check=True, timeout=120, capture_output=True)
    assert {path.name for path in (tmp_path / "images").iterdir()} >= {"curves.png", "loss.png", "phantom.png"}
    for path in (tmp_path / "images").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
