"""The parameters and the weights of a file, taken one by one: what is missing, of the wrong kind or left is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from dwiml.arguments import quoted, shown

Value = TypeVar("Value")
_REQUIRED: Any = object()


class Given:
    """The parameters of a model of dwi_ml.

    Parameters
    ----------
    values
        The parameters, by name.
    path
        Their file, for error messages.
    within
        Name of the parameter that holds them; empty for the parameters of the model.
    """

    def __init__(self, values: Mapping[str, Any], path: Path, within: str = "") -> None:
        self._left = dict(values)
        self.path = path
        self._within = within

    def whole(self, name: str, default: Any = _REQUIRED) -> Any:
        """Take a whole number; ``default`` if it is missing or null."""
        return self._take(name, default, "a whole number", lambda value: type(value) is int)

    def number(self, name: str, default: Any = _REQUIRED) -> Any:
        """Take a number; ``default`` if it is missing or null."""
        return self._take(name, default, "a number", lambda value: isinstance(value, (bool, int, float)))

    def flag(self, name: str, default: Any = _REQUIRED) -> Any:
        """Take true or false; ``default`` if it is missing or null."""
        return self._take(name, default, "true or false", lambda value: isinstance(value, bool))

    def text(self, name: str, default: Any = _REQUIRED) -> Any:
        """Take a string; ``default`` if it is missing or null."""
        return self._take(name, default, "a string", lambda value: isinstance(value, str))

    def sizes(self, name: str, default: Any = _REQUIRED) -> Any:
        """Take a list of whole numbers, at least one; ``default`` if it is missing or null."""

        def is_sizes(value: Any) -> bool:
            return isinstance(value, list) and bool(value) and all(type(size) is int for size in value)

        return self._take(name, default, "a list of whole numbers", is_sizes)

    def part(self, name: str) -> Given:
        """Take an object, for its own values; empty if it is missing or null."""
        value = self._take(name, {}, "an object", lambda value: isinstance(value, dict))
        return Given(value, self.path, name)

    def refuse_rest(self) -> None:
        """Check that all parameters were taken, except those that are null, false or 0.

        Raises
        ------
        ValueError
            If one is left.
        """
        unknown = [name for name, value in self._left.items() if value not in (None, False, 0)]
        if unknown:
            where = f" in '{self._within}'" if self._within else ""
            raise ValueError(
                f"'{self.path}' has parameters{where} that dwi_ml 1.0 does not have for this model "
                f"({quoted(unknown, limit=5)}): it was written by another version, or for another model."
            )

    def _take(self, name: str, default: Any, kind: str, is_kind: Callable[[Any], bool]) -> Any:
        value = self._left.pop(name, None)
        if value is None and default is not _REQUIRED:
            return default
        if value is None or not is_kind(value):
            inside = f"'{self._within}': '{name}'" if self._within else f"'{name}'"
            raise ValueError(f"'{self.path}': {inside} should be {kind}, got {shown(value)}.")
        return value


class Weights:
    """The weights of a model of dwi_ml, taken by name.

    Parameters
    ----------
    tensors
        The weights, by name.
    path
        Their file, for error messages.
    """

    def __init__(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        self._left = dict(tensors)
        self._path = path

    def has(self, name: str) -> bool:
        """Return whether a weight of this name is left."""
        return name in self._left

    def take(self, name: str) -> Tensor:
        """Take a weight.

        Raises
        ------
        ValueError
            If it is missing.
        """
        if name not in self._left:
            raise ValueError(f"The weights in '{self._path}' lack '{name}': they belong to a model of another kind.")
        return self._left.pop(name)

    def matrix(self, name: str) -> Tensor:
        """Take a weight that must have two dimensions.

        Raises
        ------
        ValueError
            If it is missing or has other dimensions.
        """
        found = self.take(name)
        if found.ndim != 2:
            raise ValueError(f"The weights in '{self._path}': '{name}' should be a matrix, got {tuple(found.shape)}.")
        return found

    def nb_columns(self, name: str) -> int:
        """Return the number of columns of a matrix, without taking it; 0 if there is no such matrix."""
        found = self._left.get(name)
        return found.shape[1] if found is not None and found.ndim == 2 else 0

    def move(self, prefix: str, to: str, state: dict[str, Tensor]) -> None:
        """Take all weights whose names start with a prefix, and add them to a state under another one."""
        for name in [each for each in self._left if each.startswith(prefix)]:
            state[to + name.removeprefix(prefix)] = self._left.pop(name)

    def refuse_rest(self) -> None:
        """Check that all weights were taken.

        Raises
        ------
        ValueError
            If one is left.
        """
        if self._left:
            raise ValueError(
                f"The weights in '{self._path}' have parts that this model of dwi_ml 1.0 does not have "
                f"({quoted(self._left, limit=5)}): they were written by another version."
            )


@dataclass
class Translated:
    """A model of dwi_ml in terms of dwiml.

    Attributes
    ----------
    class_name
        Name of the model's class in dwiml.
    params
        Arguments of its constructor.
    state
        Its weights, by name.
    notes
        Sentences for the user: what differs from dwi_ml.
    """

    class_name: str
    params: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
