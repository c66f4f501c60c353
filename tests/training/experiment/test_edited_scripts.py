"""A script that was edited is still that of the experiment."""

from __future__ import annotations

import pytest

from dwiml.training.experiment.parameters import refuse_differences


def test_a_run_is_resumed_if_its_script_was_edited() -> None:
    recorded = {"trainer": {"optimizer": "a lambda at train.py:12", "lr_scheduler": "__main__.make", "max_epochs": 1}}
    edited = {"trainer": {"optimizer": "a lambda at train.py:15", "lr_scheduler": "train.py:make", "max_epochs": 1}}
    refuse_differences(recorded, edited, "first")
    other = {"trainer": {**edited["trainer"], "optimizer": "train.py:make_optimizer"}}
    with pytest.raises(ValueError, match="trainer.optimizer was 'a lambda at train.py:12' and is now 'train.py"):
        refuse_differences(recorded, other, "first")
