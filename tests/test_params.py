from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

from dwiml.params import Parameterized


class Base(Parameterized):
    def __init__(self, *, size: int = 3, name: str = "a") -> None:
        self.size = size
        self.name = name


class Child(Base):
    _not_params = frozenset({"tool"})

    def __init__(self, tool: object, layers: tuple[int, ...] = (1, 2), **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.tool = tool
        self.layers = layers


def test_records_arguments_and_the_parents_defaults() -> None:
    child = Child(object(), name="b")
    assert child.params == {"layers": [1, 2], "size": 3, "name": "b"}
    assert json.loads(json.dumps(child.params)) == child.params


def test_positional_arguments_are_named() -> None:
    assert Child("tool", (np.int64(5),)).params["layers"] == [5]


def test_params_build_the_same_object_again() -> None:
    child = Child("tool", name="b", size=9)
    again = Child("tool", **child.params)
    assert again.params == child.params
    assert again.size == 9


def test_survives_copy_and_pickle() -> None:
    child = Child("tool", name="b")
    assert copy.deepcopy(child).params == child.params
    assert pickle.loads(pickle.dumps(child)).params == child.params


def test_names_what_json_cannot_hold() -> None:
    with pytest.raises(TypeError, match="Parameter 'layers' is a object"):
        _ = Child("tool", layers=object()).params  # type: ignore[arg-type]
