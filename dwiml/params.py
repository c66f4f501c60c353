"""What an object was built with, recorded once, so that JSON, checkpoints and Comet all tell the same."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

KEYWORD_ONLY_OR_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def to_plain(value: Any, name: str = "value") -> Any:
    """Turn a parameter into what JSON holds: None, bool, int, float, str, list or dict.

    Raises
    ------
    TypeError
        For anything else, naming the parameter.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return [to_plain(item, name) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    raise TypeError(
        f"Parameter {name!r} is a {type(value).__name__}, which cannot be written to parameters.json; "
        "give a number, text, list or dict, or override the property 'params'."
    )


class Parameterized:
    """Records the arguments of a constructor, the defaults included, through the whole chain of classes.

    A child needs to declare nothing: its arguments, and those that it hands on to its parents through ``**kwargs``,
    are all in :attr:`params`, and ``cls(**obj.params)`` builds the same object again (``cls(a, b, **obj.params)``
    where some arguments are listed in ``_not_params``).
    """

    _not_params: ClassVar[frozenset[str]] = frozenset()
    """Arguments that are objects of their own (a dataset, a model): never in :attr:`params`."""

    _recorded: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make the object and record its arguments; ``__init__`` judges them."""
        instance = super().__new__(cls)
        # object.__setattr__: a torch module refuses nothing here, but has not been initialised yet.
        object.__setattr__(instance, "_recorded", _bound_arguments(cls, args, kwargs))
        return instance

    @property
    def params(self) -> dict[str, Any]:
        """All that was chosen, as JSON holds it."""
        return {name: to_plain(value, name) for name, value in self._recorded.items() if name not in self._not_params}

    def _record(self, **values: Any) -> None:
        """Replace what was recorded by what is used, for instance a seed that was drawn."""
        self._recorded.update(values)


def _bound_arguments(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Match the arguments with the names in the signatures of ``cls`` and of the parents that ``**kwargs`` reach."""
    recorded: dict[str, Any] = {}
    positional = list(args)
    for owner in cls.__mro__:
        init = owner.__dict__.get("__init__")
        if init is None:
            continue
        parameters = list(inspect.signature(init).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind not in KEYWORD_ONLY_OR_NAMED or parameter.name in recorded:
                continue
            if positional and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and owner is _first_init(cls):
                recorded[parameter.name] = positional.pop(0)
            elif parameter.name in kwargs:
                recorded[parameter.name] = kwargs[parameter.name]
            elif parameter.default is not inspect.Parameter.empty:
                recorded[parameter.name] = parameter.default
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return recorded


def _first_init(cls: type) -> type | None:
    """Return the class whose constructor receives the caller's arguments."""
    return next((owner for owner in cls.__mro__ if "__init__" in owner.__dict__), None)
