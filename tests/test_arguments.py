from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dwiml
from dwiml.arguments import check_number, check_whole, counted
from dwiml.models.direction_getters import DIRECTION_GETTERS
from dwiml.training.settings import TrainerSettings


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2)])
def test_numbers_are_plain_floats(value: object) -> None:
    got = check_number("size", value, low=0)
    assert type(got) is float
    assert got == 2.0


@pytest.mark.parametrize("value", [True, "2", None, float("nan"), float("inf"), -1, 11, [2]])
def test_other_things_are_named(value: object) -> None:
    with pytest.raises(ValueError, match="^size must be a number from 0 to 10, got "):
        check_number("size", value, low=0, high=10)


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ({"low": 0}, "size must be a number, 0 or more, got -5."),
        ({"low": 0, "low_included": False}, "size must be positive, got -5."),
        ({"low": 3}, "size must be a number of at least 3, got -5."),
    ],
)
def test_bounds_are_told(bounds: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_number("size", np.int64(-5), **bounds)  # type: ignore[arg-type]


def test_a_bound_may_be_left_out() -> None:
    assert check_number("size", 0, low=0) == 0
    with pytest.raises(ValueError, match="positive, got 0"):
        check_number("size", 0, low=0, low_included=False)


@pytest.mark.parametrize("value", [True, "2", None, 2.0, float("nan"), 0, np.float64(3)])
def test_whole_numbers(value: object) -> None:
    assert type(check_whole("count", np.int64(3), low=1)) is int
    with pytest.raises(ValueError, match="^count must be a whole number of at least 1, got "):
        check_whole("count", value, low=1)


def flags() -> list[tuple[Callable[..., Any], str]]:
    """Return all flags of constructors and functions that users call, as (function, parameter)."""
    names = [f"{module}:{name}" for name, module in dwiml._MODULE_OF.items()]
    names += [
        "dwiml.data.checking:check_hdf5_file",
        *(f"dwiml.models.direction_getters:{cls.__name__}" for cls in DIRECTION_GETTERS.values()),
        "dwiml.tracking.propagation:PropagationRules",
        "dwiml.tracking.tracker:Tracker",
        "dwiml.tractograms.writing.writer:TractogramWriter",
        "dwiml.training.generation.settings:TrackingPhaseSettings",
        "dwiml.training.loading:rebuild_experiment",
        "dwiml.training.settings:TrainerSettings",
        "dwiml.viz.tractograms:plot_tractograms",
    ]
    found = [pkgutil.resolve_name(name) for name in names]
    found.append(dwiml.MultiSubjectDataset.load_data)
    return [
        (function, parameter.name)
        for function in found
        for parameter in inspect.signature(function).parameters.values()
        if not inspect.isabstract(function) and str(parameter.annotation).startswith("bool")
    ]


@pytest.mark.parametrize(("function", "name"), flags())
def test_text_is_not_a_flag(function: Callable[..., Any], name: str) -> None:
    parameters = inspect.signature(function).parameters.values()
    needed = {each.name: None for each in parameters if each.default is each.empty and each.name != "kwargs"}
    own = [needed.pop("self")] if "self" in needed else []
    with pytest.raises(ValueError, match=f"^{name} must be True(, False or None| or False), got 'false'.$"):
        function(*own, **needed, **{name: "false"})


def test_flags_of_numpy_and_none() -> None:
    assert TrainerSettings(verbose=np.bool_(False), use_gpu=None).use_gpu is None  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^use_gpu must be True, False or None, got 1.$"):
        TrainerSettings(use_gpu=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^verbose must be True or False, got None.$"):
        TrainerSettings(verbose=None)  # type: ignore[arg-type]


def test_numbers_with_their_nouns() -> None:
    assert counted(1, "batch") == "1 batch"
    assert counted(2, "batch") == "2 batches"
    assert counted(3, "epoch") == "3 epochs"
