from __future__ import annotations

import copy
import enum
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dwiml.params import Parameterized, checks_arguments, is_same_function, qualified_name, to_plain


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
    with pytest.raises(TypeError, match="Parameter 'layers' is of type object"):
        _ = Child("tool", layers=object()).params  # type: ignore[arg-type]


class Fixing(Base):
    def __init__(self, **kwargs: object) -> None:
        super().__init__(size=7, **kwargs)  # type: ignore[arg-type]


class Renaming(Base):
    def __init__(self, length: int, **kwargs: object) -> None:
        super().__init__(size=length, **kwargs)  # type: ignore[arg-type]


class Closed(Base):
    def __init__(self, width: int) -> None:
        super().__init__(size=2 * width)


class HandingOn(Child):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("built", "params", "fixed"),
    [
        (Fixing(name="b"), {"name": "b"}, {"size": 7}),
        (Renaming(4), {"length": 4, "name": "a"}, {"size": 4}),
        (Closed(4), {"width": 4}, {"size": 8, "name": "a"}),
        (HandingOn("tool", (4, 5)), {"layers": [4, 5], "size": 3, "name": "a"}, {}),
    ],
)
def test_what_a_class_chooses_for_its_parents_is_apart(
    built: Base, params: dict[str, object], fixed: dict[str, object]
) -> None:
    assert built.params == params
    assert built.fixed_params == fixed
    arguments = ["tool"] if isinstance(built, HandingOn) else []
    again = type(built)(*arguments, **built.params)
    assert again.params == params
    assert again.size == built.size


class Colour(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float64(0.5), 0.5),
        (np.str_("gru"), "gru"),
        (np.bool_(True), True),
        (np.logspace(0, 1, 2), [1.0, 10.0]),
        (Colour.RED, "red"),
        ({"a": np.int64(1)}, {"a": 1}),
        (Path("x"), "x"),
    ],
)
def test_plain_values_have_pythons_own_types(value: object, plain: object) -> None:
    got = to_plain(value)
    assert got == plain
    assert type(got) is type(plain)


def test_infinity_is_named() -> None:
    with pytest.raises(ValueError, match="Parameter 'size' is inf, which cannot be written"):
        _ = Base(size=float("inf")).params  # type: ignore[arg-type]


class Naming(Base):
    def __init__(self, *, colour: str = "red", **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]


class Misspelling(Base):
    def __init__(self, *, length: int = 4, **kwargs: object) -> None:
        super().__init__(sizes=length, length=length, **kwargs)  # type: ignore[call-arg, arg-type]


class Setting(Base):
    def __init__(self, *, length: int = 4, **kwargs: object) -> None:
        super().__init__(size=length, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cls", "given", "sentence"),
    [
        (Base, {"sise": 3}, "Base has no parameter 'sise'; did you mean 'size'?"),
        (Base, {"other": 3}, "Base has no parameter 'other'; it has: 'name', 'size'."),
        (Naming, {"sise": 3, "zz": 1}, "Naming has no parameter 'sise'; did you mean 'size'?"),
        (Naming, {"color": 3}, "Naming has no parameter 'color'; did you mean 'colour'?"),
        (Naming, {"zz": 1, "yy": 2}, "Naming has no parameter 'zz'; it has: 'colour', 'name', 'size'."),
        # A parameter that the subclass sets itself is not suggested.
        (Setting, {"siz": 3}, "Setting has no parameter 'siz'; it has: 'length', 'name'."),
        # An error in the code of the subclass names the class that it calls.
        (Misspelling, {}, "Base has no parameter 'sizes'; did you mean 'size'?"),
        (HandingOn, {"tool": 0, "layer": 2}, "HandingOn has no parameter 'layer'; did you mean 'layers'?"),
    ],
)
def test_an_unknown_parameter_is_named_with_suggestions(
    cls: type[Base], given: dict[str, object], sentence: str
) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        cls(**given)  # type: ignore[arg-type]


@checks_arguments
class Plain:
    """A class that records nothing."""

    def __init__(self, size: int) -> None:
        self.size = size

    @checks_arguments
    def grow(self, *, factor: int = 2) -> int:
        return factor * self.size


class Swallowing(Base):
    def __init__(self, **kwargs: object) -> None:
        super().__init__(name="b")
        self.kwargs = kwargs


class Consuming(Base):
    def __init__(self, **kwargs: object) -> None:
        self.color = kwargs.pop("color", None)
        super().__init__(size=2 * kwargs.pop("size", 3))  # type: ignore[operator]


def test_an_argument_that_is_not_passed_on_is_refused() -> None:
    sentence = "Swallowing received size=4, but its base classes did not: pass it on in its __init__, with super"
    with pytest.raises(TypeError, match=sentence):
        Swallowing(size=4)
    assert Swallowing(color=3).kwargs == {"color": 3}
    assert Swallowing().size == Swallowing(size=3).size == 3
    assert Consuming(size=4, color="red").size == 8


def test_functions_and_other_classes_suggest_parameters_too() -> None:
    assert Plain(3).grow(factor=3) == 9
    with pytest.raises(TypeError, match=r"^Plain has no parameter 'sise'; did you mean 'size'\?$"):
        Plain(sise=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^Plain\.grow has no parameter 'factr'; did you mean 'factor'\?$"):
        Plain(3).grow(factr=3)  # type: ignore[call-arg]


def test_an_old_name_is_told_the_new_one() -> None:
    class Noisy(Parameterized):
        def __init__(self, *, noise_correlated_size: float = 0.0) -> None:
            self.size = noise_correlated_size

    class Child(Noisy):
        def __init__(self, **kwargs: float) -> None:
            super().__init__(**kwargs)

    for cls in (Noisy, Child):
        with pytest.raises(TypeError, match="'wander_size'; it was renamed to 'noise_correlated_size'"):
            cls(wander_size=0.3)  # type: ignore[call-arg]


SCRIPT = """
import functools, json
from dwiml.params import qualified_name

class Maker:
    def __call__(self): ...

def make(lr): ...

def main():
    return lambda parameters: parameters

named = [make, Maker, Maker(), main(), functools.partial(make, 0.1, by=lambda x: x), json.dumps]
print(json.dumps([qualified_name(each) for each in named]))
"""


def test_functions_of_a_script_are_named_by_its_file(tmp_path: Path) -> None:
    script = tmp_path / "my script.py"
    script.write_text(SCRIPT)

    def names(*command: str) -> list[str]:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, check=True)
        found: list[str] = json.loads(done.stdout)
        return found

    assert names(str(script)) == [
        "my script.py:make",
        "my script.py:Maker",
        "my script.py:Maker",
        "a lambda at my script.py:11",
        "my script.py:make(0.1, by=a lambda at my script.py:13)",
        "json.dumps",
    ]
    # As in a notebook, which has no file.
    assert names("-c", SCRIPT)[:4] == [
        "__main__.make",
        "__main__.Maker",
        "__main__.Maker",
        "__main__.main.<locals>.<lambda>",
    ]
    assert qualified_name(test_functions_of_a_script_are_named_by_its_file) == (
        f"{__name__}.test_functions_of_a_script_are_named_by_its_file"
    )


@pytest.mark.parametrize(
    ("name", "other", "expected"),
    [
        ("a.py:make", "a.py:make", True),
        ("a.py:make", "__main__.make", True),
        ("a.py:make", "a.py:other", False),
        ("my_module.make", "other_module.make", False),
        ("a lambda at a.py:12", "a lambda at a.py:13", True),
        ("a lambda at a.py:12", "__main__.main.<locals>.<lambda>", True),
        ("a lambda at a.py:12", "a.py:make", False),
        ("a.py:make(0.1, by=a lambda at a.py:13)", "__main__.make(0.1, by=__main__.<lambda>)", True),
        ("a.py:make(0.1, by=a.py:f)", "__main__.make(0.2, by=__main__.f)", False),
        ("a.py:make('x')", "a.py:make('y')", False),
        ("Adam", "SGD", False),
    ],
)
def test_a_function_is_the_same_whatever_its_line(name: str, other: str, expected: bool) -> None:
    assert is_same_function(name, other) is expected
    assert is_same_function(other, name) is expected
