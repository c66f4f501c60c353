"""The guide's script runs to the letter: guide_script.txt is its code block, untouched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dwiml
from dwiml import ModelWithOneInput, TensorSequence

SCRIPT = Path(__file__).with_name("guide_script.txt")


class OneLayer(ModelWithOneInput):
    """Predicts the next direction from the input under each point."""

    def __init__(self, nb_features: int) -> None:
        super().__init__(nb_features=nb_features)
        self.layer = nn.Linear(self.input_size, 3)

    def forward(self, inputs: TensorSequence, streamlines: TensorSequence) -> TensorSequence:
        assert inputs.lengths.tolist() == streamlines.lengths.tolist()
        return inputs.mapped(self.layer(inputs.data))

    def compute_loss(
        self, outputs: TensorSequence, targets: TensorSequence, average_results: bool = True
    ) -> tuple[Tensor, int]:
        errors = (outputs.trimmed_last().data - targets.diff().data).square().sum(dim=1)
        return errors.mean() if average_results else errors, len(errors)


@pytest.fixture
def names(tmp_path: Path, tiny_hdf5: Path) -> dict[str, Any]:
    """What a user fills in, and dwiml's public names."""
    return {name: getattr(dwiml, name) for name in dwiml.__all__} | {
        "myModel": OneLayer,
        "args": 4,
        "hdf5_file": str(tiny_hdf5),
        "input_group_name": "input",
        "streamline_group_name": "streamlines",
        "experiments_path": str(tmp_path),
        "experiment_name": "my_experiment",
    }


def test_guide_script_trains_and_its_curves_are_drawn(
    names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    exec(compile(SCRIPT.read_text(encoding="utf-8"), str(SCRIPT), "exec"), names)

    experiment = tmp_path / "my_experiment"
    lines = [json.loads(line) for line in (experiment / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(10))
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    assert lines[-1]["valid_loss"] < lines[0]["valid_loss"]
    best = OneLayer.load(experiment / "best_model")
    assert best.params == {"nb_features": 4}

    from dwiml.cli.visualize_logs import main

    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main([str(experiment)]) == 0
    assert list(experiment.rglob("*.png"))
