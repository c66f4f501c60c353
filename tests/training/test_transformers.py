"""Transformers in training: a resumed run is the run, and the saved model is the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_training import interrupt, logs, same_weights, small_trainer
from small_transformers import KINDS, SMALL_OF

from dwiml.training.loading import load_best_model


@pytest.mark.first(1)
@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_is_the_same_to_the_last_bit(tiny_hdf5: Path, tmp_path: Path, kind: str) -> None:
    model = {"model_class": KINDS[kind], "model_args": SMALL_OF[kind] | {"dropout": 0.2}, "learning_rates": 0.005}
    whole = small_trainer(tiny_hdf5, tmp_path, "whole", max_epochs=4, **model)
    whole.train_and_validate()
    for nth in (2, 5):
        interrupt(small_trainer(tiny_hdf5, tmp_path, "parts", resume="auto", max_epochs=4, **model), nth)
    last = small_trainer(tiny_hdf5, tmp_path, "parts", resume="auto", max_epochs=4, **model)
    last.train_and_validate()
    assert same_weights(whole.model, last.model)
    assert logs(tmp_path / "whole") == logs(tmp_path / "parts")
    best = load_best_model(tmp_path / "whole")
    saved = torch.load(tmp_path / "whole" / "best_model" / "model_state.pt", weights_only=True)
    assert type(best) is KINDS[kind]
    assert best.params == whole.model.params
    assert all(torch.equal(value, saved[name]) for name, value in best.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_generation_validation_phase_tracks(tiny_hdf5: Path, tmp_path: Path, kind: str) -> None:
    options = {"model_class": KINDS[kind], "tracking": True, "max_epochs": 1}
    trainer = small_trainer(tiny_hdf5, tmp_path, model_args=SMALL_OF[kind], **options)
    trainer.train_and_validate()
    assert logs(tmp_path / "exp")[0]["gv_length_ratio"] > 0
    with pytest.raises(ValueError, match=r"^max_length \(300 mm\) in steps of 2 mm makes up to 151 points"):
        small_trainer(tiny_hdf5, tmp_path, "other", model_args=SMALL_OF[kind] | {"max_len": 150}, **options)
