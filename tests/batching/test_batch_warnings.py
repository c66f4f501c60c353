"""Before a training, the user is told what its batches will teach the model by mistake."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from small_training import small_trainer


@pytest.mark.parametrize(
    ("dg", "split_ratio", "warned"),
    [
        ({"dg_key": "cosine-regression", "dg_args": {"add_eos": True}}, 0.3, True),
        ({"dg_key": "sphere-classification"}, 0.3, True),
        ({"dg_key": "cosine-regression", "dg_args": {"add_eos": True}}, 0.0, False),
        ({"dg_key": "sphere-classification", "dg_args": {"add_eos": False}}, 0.3, False),
        ({}, 0.3, False),
    ],
)
def test_ends_that_are_learned_and_cut(
    tiny_hdf5: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    dg: dict[str, Any],
    split_ratio: float,
    warned: bool,
) -> None:
    trainer = small_trainer(
        tiny_hdf5, tmp_path, model_args=dg, loader_args={"split_ratio": split_ratio}, max_epochs=1, fast_dev_run=True
    )
    found = [each for each in trainer.notes if "with split_ratio=0.3 it also learns the places" in each]
    assert len(found) == warned
    trainer.train_and_validate()
    told = [each for each in caplog.records if "split_ratio=0.3" in each.getMessage()]
    assert [each.levelno for each in told] == [logging.WARNING] * warned
