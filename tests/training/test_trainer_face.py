"""What a reader finds of a trainer: its keywords, and its attributes, each declared where a class begins."""

from __future__ import annotations

import dataclasses
import pydoc
import typing
from pathlib import Path
from typing import Any

import pytest
from small_training import interrupt, small_trainer

from dwiml.training.generation.phase import DWIMLTrainerOneInputWithGVPhase
from dwiml.training.generation.settings import GVPhaseKeywords, TrackingPhaseSettings
from dwiml.training.one_input import DWIMLTrainerOneInput
from dwiml.training.settings import TrainerKeywords, TrainerSettings
from dwiml.training.trainer import DWIMLTrainer


@pytest.mark.parametrize(
    ("settings", "keywords", "others"),
    [(TrainerSettings, TrainerKeywords, None), (TrackingPhaseSettings, GVPhaseKeywords, TrainerKeywords)],
)
def test_settings_and_the_keywords_that_editors_know_are_alike(settings: Any, keywords: Any, others: Any) -> None:
    inherited = {} if others is None else typing.get_type_hints(others)
    own = {name: kind for name, kind in typing.get_type_hints(keywords).items() if name not in inherited}
    assert list(own.items()) == list(typing.get_type_hints(settings).items())
    assert not keywords.__required_keys__
    assert set(inherited) <= set(keywords.__optional_keys__)


def test_settings_are_frozen_and_have_the_names_of_the_parameters(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=3, ema_decay=0.9, tracking=True)
    assert trainer.settings.ema_decay == 0.9
    with pytest.raises(dataclasses.FrozenInstanceError):
        trainer.settings.max_epochs = 4  # type: ignore[misc]
    names = {each.name for cls in type(trainer).settings_classes for each in dataclasses.fields(cls)}
    assert set(trainer.params) == names - {"loggers", "log_weights", "log_batches"}
    # A trial uses other settings than the given ones, which are recorded.
    trial = small_trainer(tiny_hdf5, tmp_path, max_epochs=3, fast_dev_run=True)
    assert (trial.settings.max_epochs, trial.params["max_epochs"]) == (1, 3)


def declared_in(cls: type) -> set[str]:
    return {name for each in cls.__mro__ for name in vars(each).get("__annotations__", {})}


@pytest.mark.parametrize("tracking", [False, True])
def test_every_attribute_is_declared_in_a_class_head(tiny_hdf5: Path, tmp_path: Path, tracking: bool) -> None:
    options: dict[str, Any] = {"tracking_phase_theta": 180.0} if tracking else {}
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2, ema_decay=0.9, tracking=tracking, **options)
    interrupt(trainer, 2)
    trainer.train_and_validate()
    trainer.train_and_validate()
    assert isinstance(trainer, DWIMLTrainerOneInputWithGVPhase if tracking else DWIMLTrainerOneInput)
    # What interrupt puts there.
    del vars(trainer)["run_one_batch"]
    assert set(vars(trainer)) <= declared_in(type(trainer))
    # And nothing is declared that no trainer has.
    head = {name for name, kind in vars(DWIMLTrainer)["__annotations__"].items() if "ClassVar" not in str(kind)}
    assert head <= set(vars(trainer))


@pytest.mark.parametrize("cls", [DWIMLTrainer, DWIMLTrainerOneInput, DWIMLTrainerOneInputWithGVPhase])
def test_the_help_of_a_trainer_says_where_its_settings_are_explained(cls: Any) -> None:
    shown = pydoc.render_doc(cls, renderer=pydoc.plaintext)
    for settings in cls.settings_classes:
        assert settings.__name__ in shown
        explained = pydoc.render_doc(
            pydoc.locate(f"{settings.__module__}.{settings.__name__}"), renderer=pydoc.plaintext
        )
        for each in dataclasses.fields(settings):
            assert f"\n |  {each.name}\n |      " in explained
