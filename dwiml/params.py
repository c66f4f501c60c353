"""Record the arguments of constructors once, for JSON files, checkpoints and Comet."""

from __future__ import annotations

import enum
import functools
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from dwiml.arguments import check_flags, unknown_parameter
from dwiml.overriding import check_settable

Callee = TypeVar("Callee", bound="Callable[..., Any]")


def to_plain(value: Any, name: str = "value") -> Any:
    """Convert the value of a parameter to JSON types: None, bool, int, float, str, list or dict.

    Parameters
    ----------
    value
        The value; enums, NumPy arrays and scalars, and paths are also accepted.
    name
        Name of the parameter, for error messages.

    Raises
    ------
    TypeError
        If the value has another type. The message names the parameter.
    ValueError
        If it holds NaN or infinity, which are not JSON.
    """
    # Checked first: NumPy's float64 and str_ and many enums are subclasses of Python's own types.
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
        f"Parameter {name!r} is of type {type(value).__name__}, which cannot be written to parameters.json; "
        "give a number, string, list or dict, or override the property 'params'."
    )


def qualified_name(made_by: Any) -> str:
    """Return the name by which a function or a class is recorded: ``my_package.my_module.make_optimizer``.

    A function of the script itself is ``my_script.py:make_optimizer``; a lambda is ``a lambda at my_script.py:12``. The
    arguments of a ``functools.partial`` follow its name; those that are objects are named by their class.
    """
    if isinstance(made_by, functools.partial):
        arguments = [_brief(each) for each in made_by.args]
        arguments += [f"{name}={_brief(value)}" for name, value in made_by.keywords.items()]
        return f"{qualified_name(made_by.func)}({', '.join(arguments)})"
    named = made_by if hasattr(made_by, "__qualname__") else type(made_by)
    module, name = str(named.__module__), str(named.__qualname__)
    # A notebook has no file, or another one in each session.
    file = os.path.basename(getattr(sys.modules.get(module), "__file__", None) or "")
    code = getattr(named, "__code__", None)
    if file.endswith(".py") and getattr(named, "__name__", "") == "<lambda>" and code is not None:
        return f"a lambda at {file}:{code.co_firstlineno}"
    return f"{file}:{name}" if module == "__main__" and file.endswith(".py") else f"{module}.{name}"


def is_same_function(name: str, other: str) -> bool:
    """Return whether two names of :func:`qualified_name` may be those of one function.

    The line of a lambda changes when its script is edited, and earlier versions recorded ``__main__.make_optimizer``.
    """
    return _without_place(name) == _without_place(other)


def _without_place(name: str) -> str:
    name = re.sub(r"a lambda at [^(]*?\.py:\d+|[\w.<>]*<lambda>", "<lambda>", name)
    return re.sub(r"(?<![^(,= ])[^(),= ]*\.py:(?=[^\W\d])", "__main__.", name)


def _brief(value: Any) -> str:
    try:
        return repr(to_plain(value))
    except (TypeError, ValueError):
        return qualified_name(value)


class Parameterized:
    """Base class that records the arguments of its constructor, including defaults and those of parent classes.

    Subclasses need no declaration. Their arguments, and those that they forward to parent classes through ``**kwargs``,
    are all in :attr:`params`, and ``cls(**obj.params)`` recreates the object (``cls(a, b, **obj.params)`` if some
    arguments are listed in ``_not_params``). Arguments that a subclass itself chooses for its parents are in
    :attr:`fixed_params`.
    """

    _not_params: ClassVar[frozenset[str]] = frozenset()
    """Arguments that are objects with their own parameters (a dataset, a model); never in :attr:`params`."""

    _recorded_only: ClassVar[frozenset[str]] = frozenset()
    """Arguments that have no effect; subclasses need not pass them on."""

    _computed: ClassVar[frozenset[str]] = frozenset({"params", "fixed_params"})
    """Properties that a subclass may compute in another way, but not replace by a value."""

    _recorded: dict[str, Any]
    _fixed: dict[str, Any]
    _forwarded: list[Any]
    _extra: set[str]
    _passed: set[str]
    _forwards: bool

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make the constructor of the subclass record its arguments."""
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recording(cls, cls.__init__)  # type: ignore[method-assign]

    # Type checkers must still report attributes that do not exist.
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            """Set an attribute; Python's own error for a property of dwiml does not say what to do."""
            if isinstance(getattr(type(self), name, None), property):
                check_settable(self, name)
            super().__setattr__(name, value)

    @property
    def params(self) -> dict[str, Any]:
        """All recorded arguments, as JSON types."""
        return self._plain(self._recorded)

    @property
    def fixed_params(self) -> dict[str, Any]:
        """Arguments that the class itself chose for its parent classes, as JSON types; others are omitted."""
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
        """Record the arguments of a settings object, defaults included, as if its class were one of the parents."""
        forwards = self._forwards
        _record_level(self, inspect.signature(settings_class.__init__).bind(self, **given))
        self.__dict__["_forwards"] = forwards

    def _check_passed_on(self) -> None:
        """Raise TypeError if an argument for a base class was recorded, but its constructor did not receive it."""
        for name in sorted(self._extra - self._passed - self._recorded_only):
            if self._is_for_base(name):
                raise not_passed_on(self, name)

    def _is_for_base(self, name: str) -> bool:
        """Return whether a recorded argument is one of a base class, and another value than the default there."""
        for each in (*type(self).__mro__[1:], *getattr(self, "settings_classes", ())):
            parameter = inspect.signature(each.__init__).parameters.get(name)
            if parameter is not None:
                return not _is_equal(self._recorded[name], parameter.default)
        return False

    def _record(self, **values: Any) -> None:
        """Replace recorded arguments by the values in use, for instance a seed that was drawn."""
        self._recorded.update(values)


def checks_arguments(callee: Callee) -> Callee:
    """Decorate a function or a class, so that it rejects strings as flags, and suggests the right name of a keyword.

    Parameters
    ----------
    callee
        The function or the class; it takes no ``**kwargs``. When called, it raises TypeError for an unknown keyword,
        and ValueError for an invalid flag (:func:`dwiml.arguments.check_flags`).
    """
    if isinstance(callee, type):
        callee.__init__ = checks_arguments(callee.__init__)  # type: ignore[misc]
        return callee
    signature = inspect.signature(callee)
    known = [name for name in signature.parameters if name != "self"]
    shown = callee.__qualname__.removesuffix(".__init__")

    @functools.wraps(callee)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name not in known:
                raise unknown_parameter(shown, name, known)
        # Python's own error for other wrong arguments is the one that users know.
        with suppress(TypeError):
            check_flags(signature.bind(*args, **kwargs))
        return callee(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def _is_equal(value: Any, other: Any) -> bool:
    try:
        return bool(to_plain(value) == to_plain(other))
    except (TypeError, ValueError):
        return value is other


def not_passed_on(instance: Parameterized, name: str) -> TypeError:
    """Return the error for an argument that was recorded, although it has no effect.

    Parameters
    ----------
    instance
        The object.
    name
        Name of the argument, a parameter of a base class.
    """
    passed = "**kwargs" if name in instance._extra else f"{name}={name}"
    return TypeError(
        f"{type(instance).__name__} received {name}={instance._recorded[name]!r}, but its base classes did not: pass "
        f"it on in its __init__, with super().__init__({passed}, ...)."
    )


def _recording(cls: type[Parameterized], init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor so that it records its arguments before it runs."""
    signature = inspect.signature(init)
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in signature.parameters.values())

    @functools.wraps(init)
    def wrapped(self: Parameterized, *args: Any, **kwargs: Any) -> None:
        unknown = None if takes_any else next((name for name in kwargs if name not in signature.parameters), None)
        if unknown is not None:
            raise _unknown_argument(self, cls, unknown, list(signature.parameters)[1:], args, kwargs)
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            # Python's own error message is the one that users know.
            init(self, *args, **kwargs)
            raise
        check_flags(bound)
        outermost = "_recorded" not in self.__dict__
        _record_level(self, bound)
        init(self, *args, **kwargs)
        if outermost:
            self._check_passed_on()

    return wrapped


def _unknown_argument(
    instance: Parameterized, cls: type, unknown: str, own: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> TypeError:
    """Return the error for an argument that no constructor has taken.

    Parameters
    ----------
    instance
        Object under construction.
    cls, own
        The class whose constructor got the argument, and the names of the parameters of this constructor.
    unknown, args, kwargs
        Name of the unknown argument, and all arguments.
    """
    outermost = "_recorded" not in instance.__dict__
    if not outermost and unknown not in instance._extra:
        # Given by a subclass, not by the user.
        return unknown_parameter(cls.__name__, unknown, own)
    recorded = own if outermost else instance._recorded
    chosen_by_subclass = {*own[: len(args)], *kwargs} - set(recorded)
    not_taken = set(kwargs) - set(own)
    return unknown_parameter(type(instance).__name__, unknown, {*recorded, *own} - chosen_by_subclass - not_taken)


def _record_level(instance: Parameterized, bound: inspect.BoundArguments) -> None:
    """Record the arguments of one constructor in the chain of classes; the class of the instance comes first."""
    outermost = "_recorded" not in instance.__dict__
    if outermost:
        # setattr would fail, because a torch module is not initialized yet.
        instance.__dict__.update(_recorded={}, _fixed={}, _forwarded=[], _extra=set(), _passed=set(), _forwards=True)
    given = dict(bound.arguments)
    instance._passed.update(given)
    # A class without **kwargs chooses all arguments of its parents, including their defaults.
    reached = instance._forwards
    for parameter in list(bound.signature.parameters.values())[1:]:
        name = parameter.name
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            instance._forwarded.extend(given.get(name, ()) if outermost else ())
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            if outermost:
                instance._recorded.update(given.get(name, {}))
                instance._extra.update(given.get(name, {}))
        elif name in instance._recorded or name in instance._fixed:
            continue
        elif name not in given:
            (instance._recorded if reached else instance._fixed)[name] = parameter.default
        elif outermost or any(given[name] is value for value in instance._forwarded):
            instance._recorded[name] = given[name]
        else:
            instance._fixed[name] = given[name]
    instance.__dict__["_forwards"] = reached and any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in bound.signature.parameters.values()
    )
