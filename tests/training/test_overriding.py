"""What a subclass defines in place of a method or a property: one clear sentence where it cannot be used."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import small_trainer

from dwiml import DWIMLTrainerOneInput, DWIMLTrainerOneInputWithGVPhase, Learn2TrackModel
from dwiml.overriding import check_overrides, hidden_methods


def _trainer(**attributes: Any) -> Any:
    return type("Own", (DWIMLTrainerOneInput,), attributes)


def _setting(base: Any, name: str, value: Any) -> Any:
    """Return a class whose objects set an attribute after the constructor of the superclass."""

    class Own(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            setattr(self, name, value)

    return Own


@pytest.mark.parametrize(
    ("name", "owner", "advice"),
    [
        (
            "selection_metric",
            "DWIMLTrainer",
            r"define it in the class, as 'selection_metric = ...' or with @property\.",
        ),
        ("params", "Parameterized", r"choose another name\."),
        ("is_finished", "DWIMLTrainer", r"choose another name\."),
        ("next_epoch", "DWIMLTrainer", r"choose another name\."),
    ],
)
def test_a_property_that_is_set(tiny_hdf5: Path, tmp_path: Path, name: str, owner: str, advice: str) -> None:
    sentence = rf"^Own cannot set '{name}' \(self.{name} = ...\), which is a property of {owner}: {advice}$"
    with pytest.raises(AttributeError, match=sentence):
        small_trainer(tiny_hdf5, tmp_path, trainer_class=_setting(DWIMLTrainerOneInput, name, "x"))


def test_a_property_of_a_model_that_is_set(tiny_hdf5: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model_args": {"rnn_layer_sizes": (8, 8)}}
    cls = _setting(Learn2TrackModel, "forward_uses_last_point", True)
    sentence = (
        r"^Own cannot set 'forward_uses_last_point' .*: define it in the class, as 'forward_uses_last_point = ...'"
    )
    with pytest.raises(AttributeError, match=sentence):
        small_trainer(tiny_hdf5, tmp_path, model_class=cls, **options)
    with pytest.raises(AttributeError, match=r"^Own cannot set 'device' .*: choose another name\.$"):
        small_trainer(tiny_hdf5, tmp_path, model_class=_setting(Learn2TrackModel, "device", "cpu"), **options)
    # A property of the user's own has Python's own error; one with a setter is set.
    mine = type("Mine", (Learn2TrackModel,), {"mine": property(lambda self: 3)})
    with pytest.raises(AttributeError, match="^(?!Own cannot set)"):
        _setting(mine, "mine", 4)(nb_features=2)


VALUES: list[tuple[dict[str, Any], str]] = [
    (
        {"params": 3},
        r"^Own.params must be a property, as in Parameterized, got 3: choose another name, or define it with",
    ),
    ({"is_finished": True}, r"^Own.is_finished must be a property, as in DWIMLTrainer, got True: choose another name"),
    ({"is_finished": lambda self: True}, r"^Own.is_finished must be a property, .*: write @property above its def\.$"),
    (
        {"describe": {}},
        r"^Own.describe must be a method, as in DWIMLTrainer, got \{\}: choose another name, or define it",
    ),
    ({"run_one_batch": 3}, r"^Own.run_one_batch must be a method, as in DWIMLTrainer, got 3"),
    ({"summary": property(lambda self: "")}, r"^Own.summary must be a method, as in DWIMLTrainer, got a property"),
    ({"init_from_checkpoint": None}, r"^Own.init_from_checkpoint must be a method, as in DWIMLTrainer, got None"),
]


@pytest.mark.parametrize(("attributes", "sentence"), VALUES)
def test_a_value_in_place_of_a_method_or_a_property(
    tiny_hdf5: Path, tmp_path: Path, attributes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(TypeError, match=sentence):
        small_trainer(tiny_hdf5, tmp_path, trainer_class=_trainer(**attributes))


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"params": 3}, "^OwnModel.params must be a property"),
        ({"compute_loss": 3}, "^OwnModel.compute_loss must be a method, as in .*, got 3"),
        ({"train": True}, "^OwnModel.train must be a method, as in Module, got True"),
        (
            {"forward_uses_last_point": lambda self: False},
            "^OwnModel.forward_uses_last_point must be a property, as in",
        ),
    ],
)
def test_a_value_in_place_of_a_method_of_the_model(
    tiny_hdf5: Path, tmp_path: Path, attributes: dict[str, Any], sentence: str
) -> None:
    cls = type("OwnModel", (Learn2TrackModel,), attributes)
    with pytest.raises(TypeError, match=sentence):
        small_trainer(tiny_hdf5, tmp_path, model_class=cls, model_args={"rnn_layer_sizes": (8, 8)})


def test_a_value_that_hides_a_method_of_the_model(tiny_hdf5: Path, tmp_path: Path) -> None:
    cls = _setting(Learn2TrackModel, "compute_loss", 3)
    with pytest.raises(
        TypeError, match=r"^Own sets its own 'compute_loss', which hides its method: choose another name"
    ):
        small_trainer(tiny_hdf5, tmp_path, model_class=cls, model_args={"rnn_layer_sizes": (8, 8)})


@pytest.mark.parametrize("name", ["forward", "compute_loss", "device", "forward_uses_last_point"])
def test_a_module_that_torch_would_ignore(tiny_hdf5: Path, tmp_path: Path, name: str) -> None:
    cls = _setting(Learn2TrackModel, name, torch.nn.Identity())
    sentence = (
        f"^Own sets its own '{name}', which hides its method: choose another name"
        if name in ("forward", "compute_loss")
        else f"^Own cannot set '{name}' "
    )
    with pytest.raises((TypeError, AttributeError), match=sentence):
        small_trainer(tiny_hdf5, tmp_path, model_class=cls, model_args={"rnn_layer_sizes": (8, 8)})


def test_a_buffer_or_an_assigned_module_with_the_name_of_a_method() -> None:
    model = Learn2TrackModel(nb_features=2, rnn_layer_sizes=(8, 8))
    assert hidden_methods(model) == []
    model._buffers["compute_loss"] = torch.zeros(2)
    model._parameters["forward"] = None
    model.add_module("mine", torch.nn.Identity())
    assert sorted(hidden_methods(model)) == ["compute_loss", "forward"]


class Allowed(DWIMLTrainerOneInput):
    """Defines things in other ways than dwiml does."""

    selection_metric = "train_loss"
    run_model = functools.partialmethod(lambda self, batch: batch.run(self.model))
    mine = 3

    @property
    def is_finished(self) -> bool:
        return self.next_epoch > 0 or super().is_finished

    @functools.cached_property
    def params(self) -> dict[str, Any]:  # type: ignore[override]
        return {**super().params}

    @staticmethod
    def compute_loss(outputs: Any, batch: Any) -> Any:  # type: ignore[override]
        return outputs.mean(), 1

    @classmethod
    def summary(cls) -> str:  # type: ignore[override]
        return "summary"


def test_what_can_be_used_is_accepted(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tiny_hdf5, tmp_path, max_epochs=2, trainer_class=Allowed, seed=3)
    check_overrides(trainer)
    assert trainer.params["seed"] == 3
    assert not trainer.is_finished


@pytest.mark.parametrize(
    "use",
    [
        lambda self: self.register_state("a", torch.nn.Linear(1, 1)),
        lambda self: self.log("a", 1.0, 1),
        lambda self: self.model,
        lambda self: self.is_finished,
        lambda self: self.selection_value({}),
        lambda self: self.describe(),
    ],
    ids=["register_state", "log", "model", "is_finished", "selection_value", "describe"],
)
@pytest.mark.parametrize("base", [DWIMLTrainerOneInput, DWIMLTrainerOneInputWithGVPhase])
def test_a_trainer_that_is_used_before_it_is_complete(tiny_hdf5: Path, tmp_path: Path, use: Any, base: Any) -> None:
    class Own(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            use(self)
            super().__init__(*args, **kwargs)

    sentence = (
        r"^Own is used before it is complete \(it has no '\w+' yet\): call super\(\).__init__\(...\) first in its __i"
    )
    with pytest.raises(AttributeError, match=sentence):
        small_trainer(tiny_hdf5, tmp_path, trainer_class=Own)


class Failing(DWIMLTrainerOneInput):
    own: int

    @property
    def failing(self) -> Any:
        return self.model.does_not_exist


def test_other_attributes_that_do_not_exist_have_the_usual_error(tiny_hdf5: Path, tmp_path: Path) -> None:
    trainer: Any = small_trainer(tiny_hdf5, tmp_path, trainer_class=Failing)
    for name in ("modl", "own"):
        with pytest.raises(AttributeError, match=f"^'Failing' object has no attribute '{name}'$"):
            getattr(trainer, name)
    with pytest.raises(AttributeError, match="'does_not_exist'"):
        _ = trainer.failing
    assert not hasattr(trainer, "nothing")
    assert copy.copy(trainer).model is trainer.model
