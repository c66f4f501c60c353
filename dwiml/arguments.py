"""Checks of numbers that users give: one sentence each, with the name and what was received."""

from __future__ import annotations

import math
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
        A Python or numpy number; a bool is none.
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
