"""Checks of plain values from a file: keys, types and lengths. Each check raises ValueError with the reason."""

from __future__ import annotations

import math
from typing import Any

from dwiml.arguments import quoted, shown
from dwiml.models.saving import described


def check_keys(what: str, given: Any, wanted: Any) -> None:
    """Check that a value is a dictionary with exactly the wanted keys."""
    if type(given) is not dict:
        raise ValueError(f"{what} should be a dictionary but is {described(given)}")
    missing, unknown = [key for key in wanted if key not in given], [key for key in given if key not in wanted]
    if missing or unknown:
        names = [" ".join(str(key).split())[:60] for key in unknown]
        lacking, strange = quoted(missing, limit=5), quoted(names, limit=5)
        parts = [f"lacks {lacking}"] * bool(missing) + [f"has unknown {strange}"] * bool(unknown)
        raise ValueError(f"{what} {' and '.join(parts)}")


def check_like(what: str, given: Any, own: Any) -> None:
    """Check that plain values have the types and lengths of those of this run (`own`), and that no number is NaN."""
    if isinstance(own, dict):
        check_keys(what, given, own)
        for key, value in own.items():
            check_like(f"'{key}' of {what}", given[key], value)
    elif isinstance(own, (list, tuple)):
        if type(given) not in (list, tuple) or len(given) != len(own):
            raise ValueError(f"{what} should have {len(own)} items but is {value_or_type(given)}")
        for given_item, own_item in zip(given, own, strict=True):
            check_like(what, given_item, own_item)
    elif own is None:
        if type(given) not in (type(None), bool, int, float, str):
            raise ValueError(f"{what} should be a plain value but is {value_or_type(given)}")
    elif isinstance(own, (bool, str)):
        if type(given) is not type(own):
            raise ValueError(f"{what} should be {described(own)} but is {value_or_type(given)}")
    elif type(given) not in (int, float) or math.isnan(given):
        raise ValueError(f"{what} should be a number but is {value_or_type(given)}")


def check_json(what: str, value: Any) -> None:
    """Check that a value consists of JSON types: no tensors, and strings as keys."""
    if type(value) is dict:
        for key, each in value.items():
            if type(key) is not str:
                raise ValueError(f"{what} has the key {value_or_type(key)}, which is not a string")
            check_json(what, each)
    elif type(value) is list:
        for each in value:
            check_json(what, each)
    elif type(value) not in (type(None), bool, int, float, str):
        raise ValueError(f"{what} has {described(value)}")


def value_or_type(value: Any) -> str:
    """Return a value for a message: a plain one as it is, otherwise its type and size."""
    if type(value) in (type(None), bool, int, float, str):
        return " ".join(shown(value).split())
    return f"a {type(value).__name__} of {len(value)}" if type(value) in (list, tuple, dict) else described(value)
