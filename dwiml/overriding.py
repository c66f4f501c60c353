"""Checks of what a user's subclass defines: a method stays a method, and a property is not replaced by any value."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from typing import Any, Generic, Protocol

from dwiml.arguments import shown
from dwiml.user_classes.from_file import is_dwiml_module

_PYTHON = (object, ABC, Generic, Protocol)
# Where a torch module keeps the modules, parameters and buffers that are set on it.
_TORCH_PLACES = ("_modules", "_parameters", "_buffers")


def is_of_user(cls: type[Any]) -> bool:
    """Return whether a class was defined outside dwiml, torch and Python itself."""
    # The module of a class that type() creates may be that of its metaclass.
    return cls not in _PYTHON and not _is_of_library(cls)


def check_settable(thing: Any, name: str) -> None:
    """Check that an attribute of an object can be set: that it is not one of dwiml's properties without a setter.

    Raises
    ------
    AttributeError
        If it is one; the message says how to define it, if a subclass may.
    """
    owner = next(each for each in type(thing).__mro__ if name in vars(each))
    if is_of_user(owner) or vars(owner)[name].fset is not None:
        return
    advice = f"define it in the class, as '{name} = ...' or with @property"
    raise AttributeError(
        f"{type(thing).__name__} cannot set '{name}' (self.{name} = ...), which is a property of {owner.__name__}: "
        f"{'choose another name' if _is_computed(thing, name) else advice}."
    )


def check_overrides(thing: Any) -> None:
    """Check what the classes of the user define in an object of a subclass of dwiml's classes.

    Raises
    ------
    TypeError
        If a method or a property is replaced by something that cannot be used in its place.
    """
    for cls, name, value, owner in _overrides(type(thing)):
        original, title = vars(owner)[name], f"{cls.__name__}.{name}"
        is_value = not callable(value) and not hasattr(type(value), "__get__")
        if isinstance(original, property):
            if callable(value):
                raise TypeError(f"{title} must be a property, as in {owner.__name__}: write @property above its def.")
            if is_value and _is_computed(thing, name):
                raise TypeError(
                    f"{title} must be a property, as in {owner.__name__}, got {shown(value)}: choose another name, or "
                    "define it with @property."
                )
        elif _is_method(original) and (is_value or isinstance(value, property)):
            received = "a property" if isinstance(value, property) else shown(value)
            raise TypeError(
                f"{title} must be a method, as in {owner.__name__}, got {received}: choose another name, or define it "
                "with def."
            )


def hidden_methods(thing: Any) -> list[str]:
    """Return the names of the methods of an object that are hidden by values set on it, such as ``self.log = []``.

    In a model, also those that one of its modules, parameters or buffers has, such as ``self.forward = Linear(2, 3)``:
    torch stores it in another place, and the method would be called instead.
    """
    cls = type(thing)
    hidden = [name for name, value in vars(thing).items() if callable(getattr(cls, name, None)) and not callable(value)]
    stored = [name for place in _TORCH_PLACES for name in vars(thing).get(place, {})]
    return hidden + [name for name in stored if name not in hidden and callable(getattr(cls, name, None))]


def _overrides(cls: type[Any]) -> Iterator[tuple[type[Any], str, Any, type[Any]]]:
    """Yield what the user's classes redefine: the class, the name, the value, and the class of the library."""
    for index, each in enumerate(cls.__mro__):
        if not is_of_user(each):
            continue
        libraries = [base for base in cls.__mro__[index:] if _is_of_library(base)]
        for name, value in vars(each).items():
            owner = next((base for base in libraries if name in vars(base)), None)
            if owner is not None and not (name.startswith("__") and name.endswith("__")):
                yield each, name, value, owner


def _is_of_library(cls: type[Any]) -> bool:
    return cls.__module__.partition(".")[0] == "torch" or is_dwiml_module(cls.__module__)


def _is_method(value: Any) -> bool:
    return isinstance(value, (classmethod, staticmethod)) or (callable(value) and not isinstance(value, type))


def _is_computed(thing: Any, name: str) -> bool:
    return name in thing._computed or name.startswith("_")
