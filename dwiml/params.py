"""What an object was built with, recorded once, so that JSON, checkpoints and Comet all tell the same."""

from __future__ import annotations

import enum
import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

RENAMED = {
    "wander_size": "noise_correlated_size",
    "wander_nb_points": "noise_correlated_nb_points",
    "wander_nb_steps_back": "nb_recovery_steps",
    "both_ways": "antipodal",
}
"""Old names of parameters, which the error for them tells for one release."""


def to_plain(value: Any, name: str = "value") -> Any:
    """Turn a parameter into what JSON holds: None, bool, int, float, str, list or dict, of these very types.

    Raises
    ------
    TypeError
        For anything else, naming the parameter.
    ValueError
        For NaN and infinity, which JSON does not have.
    """
    # Before Python's own types: numpy's float64 and str_ and many enums are children of these.
    if isinstance(value, enum.Enum):
        return to_plain(value.value, name)
    if isinstance(value, (np.generic, np.ndarray)):
        return to_plain(value.tolist(), name)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"Parameter {name!r} is {value}, which cannot be written to parameters.json; use None.")
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return [to_plain(item, name) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    raise TypeError(
        f"Parameter {name!r} is a {type(value).__name__}, which cannot be written to parameters.json; "
        "give a number, text, list or dict, or override the property 'params'."
    )


def qualified_name(made_by: Any) -> str:
    """Return the name by which a function or a class is recorded: ``my_script.make_optimizer``.

    Of a ``functools.partial``, the arguments follow; those that are objects are named by their class.
    """
    if isinstance(made_by, functools.partial):
        arguments = [_brief(each) for each in made_by.args]
        arguments += [f"{name}={_brief(value)}" for name, value in made_by.keywords.items()]
        return f"{qualified_name(made_by.func)}({', '.join(arguments)})"
    named = made_by if hasattr(made_by, "__qualname__") else type(made_by)
    return f"{named.__module__}.{named.__qualname__}"


def _brief(value: Any) -> str:
    try:
        return repr(to_plain(value))
    except (TypeError, ValueError):
        return qualified_name(value)


class Parameterized:
    """Records the arguments of a constructor, the defaults included, through the whole chain of classes.

    A child needs to declare nothing: its arguments, and those that it hands on to its parents through ``**kwargs``,
    are all in :attr:`params`, and ``cls(**obj.params)`` builds the same object again (``cls(a, b, **obj.params)``
    where some arguments are listed in ``_not_params``). What a child gives its parents by itself is not the caller's
    choice: it is in :attr:`fixed_params`.
    """

    _not_params: ClassVar[frozenset[str]] = frozenset()
    """Arguments that are objects of their own (a dataset, a model): never in :attr:`params`."""

    _recorded: dict[str, Any]
    _fixed: dict[str, Any]
    _handed_on: list[Any]
    _hands_on: bool

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have the class's own constructor tell what it was given."""
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]

    @property
    def params(self) -> dict[str, Any]:
        """All that was chosen, as JSON holds it."""
        return self._plain(self._recorded)

    @property
    def fixed_params(self) -> dict[str, Any]:
        """What the class itself chose for its parents, as JSON holds it; what JSON cannot hold is left out."""
        plain = {}
        for name, value in self._fixed.items():
            try:
                plain.update(self._plain({name: value}))
            except (TypeError, ValueError):
                continue
        return plain

    def _plain(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: to_plain(value, name) for name, value in values.items() if name not in self._not_params}

    def _record_part(self, settings_class: type[Any], given: Mapping[str, Any]) -> None:
        """Record what an object of settings is made of, its defaults included, as if its class were of the chain."""
        hands_on = self._hands_on
        _record_level(self, inspect.signature(settings_class.__init__).bind(self, **given))
        self.__dict__["_hands_on"] = hands_on

    def _record(self, **values: Any) -> None:
        """Replace what was recorded by what is used, for instance a seed that was drawn."""
        self._recorded.update(values)


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor so that it records its arguments before it runs."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self: Parameterized, *args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            _refuse_old_names(type(self).__name__, set(kwargs) - set(signature.parameters))
            # Python's own message, from the call itself, is the one that users know.
            init(self, *args, **kwargs)
            raise
        _record_level(self, bound)
        init(self, *args, **kwargs)

    return wrapped


def _refuse_old_names(class_name: str, unknown: Iterable[str]) -> None:
    for name in sorted(set(unknown) & set(RENAMED)):
        raise TypeError(f"{class_name} has no parameter {name!r} any more: it is called {RENAMED[name]!r} now.")


def _record_level(instance: Parameterized, bound: inspect.BoundArguments) -> None:
    """Record what the constructor of one class of the chain was given, the caller's own class first."""
    outermost = "_recorded" not in instance.__dict__
    if outermost:
        # Not by setattr: a torch module has not been initialised yet.
        instance.__dict__.update(_recorded={}, _fixed={}, _handed_on=[], _hands_on=True)
    given = dict(bound.arguments)
    # A class that takes no **kwargs chooses all that its parents are given, defaults included.
    reached = instance._hands_on
    for parameter in list(bound.signature.parameters.values())[1:]:
        name = parameter.name
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            instance._handed_on.extend(given.get(name, ()) if outermost else ())
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            instance._recorded.update(given.get(name, {}) if outermost else {})
        elif name in instance._recorded or name in instance._fixed:
            continue
        elif name not in given:
            (instance._recorded if reached else instance._fixed)[name] = parameter.default
        elif outermost or any(given[name] is value for value in instance._handed_on):
            instance._recorded[name] = given[name]
        else:
            instance._fixed[name] = given[name]
    instance.__dict__["_hands_on"] = reached and any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in bound.signature.parameters.values()
    )
