"""Do plain values from a file have the keys, kinds and lengths of this run's own? Each check raises ValueError."""

from __future__ import annotations

import math
from typing import Any

from dwiml.arguments import quoted, shown
from dwiml.models.saving import described


def check_keys(what: str, given: Any, wanted: Any) -> None:
    """Check that a dictionary has exactly some keys, all of them texts."""
    if type(given) is not dict:
        raise ValueError(f"{what} should be a dictionary and is {described(given)}")
    missing, unknown = [key for key in wanted if key not in given], [key for key in given if key not in wanted]
    if missing or unknown:
        names = [" ".join(str(key).split())[:60] for key in unknown]
        lacking, strange = quoted(missing, limit=5), quoted(names, limit=5)
        parts = [f"lacks {lacking}"] * bool(missing) + [f"has unknown {strange}"] * bool(unknown)
        raise ValueError(f"{what} {' and '.join(parts)}")


def check_like(what: str, given: Any, own: Any) -> None:
    """Check that plain values have the kinds and lengths of this run's own, and that no number is NaN."""
    if isinstance(own, dict):
        check_keys(what, given, own)
        for key, value in own.items():
            check_like(f"'{key}' of {what}", given[key], value)
    elif isinstance(own, (list, tuple)):
        if type(given) not in (list, tuple) or len(given) != len(own):
            raise ValueError(f"{what} should have {len(own)} items and is {said(given)}")
        for theirs, ours in zip(given, own, strict=True):
            check_like(what, theirs, ours)
    elif own is None:
        if type(given) not in (type(None), bool, int, float, str):
            raise ValueError(f"{what} should be a plain value and is {said(given)}")
    elif isinstance(own, (bool, str)):
        if type(given) is not type(own):
            raise ValueError(f"{what} should be {described(own)} and is {said(given)}")
    elif type(given) not in (int, float) or math.isnan(given):
        raise ValueError(f"{what} should be a number and is {said(given)}")


def check_json(what: str, value: Any) -> None:
    """Check that a value is what JSON holds: no tensors, and texts as keys."""
    if type(value) is dict:
        for key, each in value.items():
            if type(key) is not str:
                raise ValueError(f"{what} has the key {said(key)}, which is not a text")
            check_json(what, each)
    elif type(value) is list:
        for each in value:
            check_json(what, each)
    elif type(value) not in (type(None), bool, int, float, str):
        raise ValueError(f"{what} has {described(value)}")


def said(value: Any) -> str:
    """Return a value as a sentence tells it: plain ones as they are, others by their kind."""
    if type(value) in (type(None), bool, int, float, str):
        return " ".join(shown(value).split())
    return f"a {type(value).__name__} of {len(value)}" if type(value) in (list, tuple, dict) else described(value)
