"""What a subclass of the trainer may define and use, and the errors raised otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from dwiml.arguments import RENAMED_METHODS
from dwiml.overriding import check_overrides, hidden_methods, is_of_user
from dwiml.seeding import Seeded


class Extensible(Seeded):
    """Base class of trainers, with a clear error if a subclass uses its trainer before ``super().__init__()``."""

    _computed = Seeded._computed | {"is_finished", "next_epoch"}

    # Type checkers must still report attributes that do not exist.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Raise the error for an attribute that does not exist, or not yet."""
            cls = type(self)
            if hasattr(cls, name):
                # A property failed with an AttributeError of its own, which is raised here.
                return object.__getattribute__(self, name)
            sentence = f"'{cls.__name__}' object has no attribute '{name}'"
            if "_built" not in vars(self) and any(
                name in inspect.get_annotations(each) for each in cls.__mro__ if not is_of_user(each)
            ):
                sentence = (
                    f"{cls.__name__} is used before it is complete (it has no '{name}' yet): call "
                    "super().__init__(...) first in its __init__."
                )
            raise AttributeError(sentence, name=name, obj=self)


def check_names(trainer: Any, loader: Any, own: Collection[str]) -> None:
    """Check that no subclass defines a method by its old name, or an attribute that the trainer is about to set.

    Parameters
    ----------
    trainer
        The trainer, before it sets its attributes.
    loader
        The batch loader.
    own
        Names of the attributes of the trainer.

    Raises
    ------
    TypeError
        If a name is an old one, or is already used, or a method or a property is replaced by a value.
    """
    for thing, kind in ((trainer, "trainer"), (loader, "loader")):
        for old, new in RENAMED_METHODS[kind].items():
            if hasattr(type(thing), old):
                raise TypeError(f"{type(thing).__name__} defines {old!r}, which is no longer used: it is now {new!r}.")
    # Many scripts set the arguments themselves, which changes nothing.
    for name in set(own) - trainer._not_params:
        users = filter(is_of_user, type(trainer).__mro__)
        if name in vars(trainer) or any(name in vars(each) for each in users):
            raise TypeError(_taken(trainer, name))
    _check_methods(trainer)
    check_overrides(trainer)


def check_attributes(trainer: Any, built: Mapping[str, Any]) -> None:
    """Check that a subclass has not replaced an attribute of its trainer.

    Parameters
    ----------
    trainer
        The trainer, before its training starts.
    built
        Its attributes, as the constructor set them.

    Raises
    ------
    TypeError
        If an object is another one, or a plain value has another type.
    """
    for name, value in built.items():
        now = vars(trainer).get(name)
        is_plain = isinstance(value, (bool, int, str)) or name == "config"
        if now is not value and not (is_plain and isinstance(now, (type(value), str))):
            raise TypeError(_taken(trainer, name))
    _check_methods(trainer)


def _check_methods(trainer: Any) -> None:
    for name in hidden_methods(trainer):
        raise TypeError(_taken(trainer, name))


def _taken(trainer: Any, name: str) -> str:
    return (
        f"{type(trainer).__name__} has its own '{name}', which is an attribute or a method of the trainer itself: "
        "choose another name (or give the object to the trainer's constructor, if it is one of its parameters)."
    )
