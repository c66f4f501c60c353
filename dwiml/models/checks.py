"""Checks of what several models' parts are given: one sentence each, with the name and what was received."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from dwiml.arguments import check_number, check_whole, shown

# Far above what anyone trains: a number from a damaged or a stranger's file must not become an allocation.
MOST_UNITS = 100_000
MOST_LAYERS = 1_000
MOST_FEATURES = 10_000_000
MOST_PREVIOUS_DIRS = 10_000
MOST_RESAMPLED_POINTS = 100_000


def check_key(name: str, key: Any, known: Iterable[str]) -> str:
    """Return a key that is one of those known.

    Raises
    ------
    ValueError
        When it is none of them, or not a text.
    """
    known = sorted(known)
    if not isinstance(key, str) or key not in known:
        raise ValueError(f"{name} must be one of {known}, got {shown(key)}.")
    return key


def check_dropout(name: str, value: Any) -> float:
    """Return a share that is at least 0 and less than 1.

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


def check_layer_sizes(name: str, sizes: Any) -> list[int]:
    """Return the sizes of layers as a list of Python integers; any sequence of integers is taken.

    Raises
    ------
    ValueError
        When it is not a sequence, is empty, or holds something else than integers of at least 1.
    """
    try:
        # A text is a sequence too; its characters, named one by one, would puzzle.
        listed = [] if isinstance(sizes, (str, bytes)) else list(sizes)
        checked = [check_whole(name, size, low=1) for size in listed]
    except (TypeError, ValueError):
        checked = []
    if not checked:
        received = list(sizes) if isinstance(sizes, tuple) else sizes
        raise ValueError(
            f"{name} must hold one positive size a layer, got {shown(received)}: give a list such as [256, 256]."
        )
    if len(checked) > MOST_LAYERS:
        raise ValueError(f"{name} must hold at most {MOST_LAYERS} sizes, one a layer; got {len(checked)}.")
    return [check_whole(name, size, low=1, high=MOST_UNITS) for size in checked]


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
