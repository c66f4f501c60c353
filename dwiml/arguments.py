"""Checks of what users give: one sentence each, with the name and what was received."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_MOST_SHOWN = 200


def check_number(name: str, value: Any, *, low: float, high: float = math.inf, low_included: bool = True) -> float:
    """Return a finite number within bounds as a Python float.

    Parameters
    ----------
    name
        What the sentence calls it.
    value
        A Python or numpy number; bool is rejected.
    low, high
        The bounds; ``high`` is included when it is finite.
    low_included
        Whether ``low`` itself is allowed.

    Raises
    ------
    ValueError
        When it is something else.
    """
    if not isinstance(value, bool) and isinstance(value, (int, float, np.integer, np.floating)):
        number = float(value)
        if math.isfinite(number) and (number >= low if low_included else number > low) and number <= high:
            return number
    if math.isfinite(high):
        wanted = f"a number from {low:g} to {high:g}" if low_included else f"above {low:g}, and {high:g} at most"
    elif low == 0:
        wanted = "a number, 0 or more" if low_included else "positive"
    else:
        wanted = f"a number of at least {low:g}"
    raise ValueError(f"{name} must be {wanted}, got {shown(value)}.")


def check_whole(name: str, value: Any, *, low: int, high: int | None = None) -> int:
    """Return a whole number within bounds as a Python int; numpy's integers are taken, bools and floats are not.

    Parameters
    ----------
    name
        What the sentence calls it.
    value
        A Python or numpy integer.
    low, high
        The bounds, both included; ``high`` may be None.

    Raises
    ------
    ValueError
        When it is something else.
    """
    is_whole = not isinstance(value, bool) and isinstance(value, (int, np.integer))
    if is_whole and value >= low and (high is None or value <= high):
        return int(value)
    wanted = f"of at least {low}" if high is None or not is_whole or value < low else f"of at most {high}"
    raise ValueError(f"{name} must be a whole number {wanted}, got {shown(value)}.")


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> str:
    """Return a text that is one of those allowed.

    Parameters
    ----------
    name
        What the sentence calls it.
    value
        What was given.
    allowed
        The choices, in the order in which the sentence lists them.

    Raises
    ------
    ValueError
        When it is another text, or not a text.
    """
    allowed = list(allowed)
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {shown(value)}.")
    return value


def check_dropout(name: str, value: Any) -> float:
    """Return a share that is at least 0 and less than 1, as a Python float.

    Parameters
    ----------
    name
        What the sentence calls it.
    value
        A Python or numpy number; bool is rejected.

    Raises
    ------
    ValueError
        When it is something else.
    """
    try:
        share = check_number(name, value, low=0)
    except ValueError:
        share = 1.0
    if share >= 1:
        raise ValueError(f"{name} must be at least 0 and less than 1, got {shown(value)}.")
    return share


def unknown_parameter(
    class_name: str, unknown: str, known: Iterable[str], usual: Mapping[str, str] | None = None
) -> TypeError:
    """Return the error for a parameter that a class does not have, with similar names.

    Parameters
    ----------
    class_name, unknown
        The class, and what it was given.
    known
        What it has.
    usual
        Names that other libraries have, and ours.
    """
    known = sorted(known)
    near = difflib.get_close_matches(unknown, known)
    if usual and unknown in usual:
        hint = f"did you mean {usual[unknown]}?"
    elif near:
        hint = f"did you mean {' or '.join(repr(name) for name in near)}?"
    else:
        hint = f"it has: {', '.join(repr(name) for name in known)}."
    return TypeError(f"{class_name} has no parameter {unknown!r}; {hint}")


def shown(value: Any) -> str:
    """Return a value as a sentence shows it: texts in quotes, numpy's numbers as plain ones, long ones cut."""
    try:
        text = repr(value.item() if isinstance(value, np.generic) else value)
    except ValueError:
        # Python does not write out a number of thousands of digits.
        text = f"a number of {value.bit_length()} bits"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def kind_shown(value: Any) -> str:
    """Return what a sentence says of an object that is of the wrong kind."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"an object of type {type(value).__name__}"


def quoted(names: Iterable[object], limit: int | None = None) -> str:
    """Return names as they are shown in a sentence: ``'a', 'b'``, or ``none``; after ``limit`` names, how many more."""
    shown = [f"'{name}'" for name in names]
    if limit is not None and len(shown) > limit:
        return f"{', '.join(shown[:limit])} and {len(shown) - limit} more"
    return ", ".join(shown) or "none"
