from __future__ import annotations

import numpy as np
import pytest

from dwiml.arguments import check_number, check_whole


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2)])
def test_numbers_are_plain_floats(value: object) -> None:
    got = check_number("size", value, low=0)
    assert type(got) is float
    assert got == 2.0


@pytest.mark.parametrize("value", [True, "2", None, float("nan"), float("inf"), -1, 11, [2]])
def test_other_things_are_named(value: object) -> None:
    with pytest.raises(ValueError, match="^size must be a number from 0 to 10, got "):
        check_number("size", value, low=0, high=10)


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ({"low": 0}, "size must be a number, 0 or more, got -5."),
        ({"low": 0, "low_included": False}, "size must be positive, got -5."),
        ({"low": 3}, "size must be a number of at least 3, got -5."),
    ],
)
def test_bounds_are_told(bounds: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_number("size", np.int64(-5), **bounds)  # type: ignore[arg-type]


def test_a_bound_may_be_left_out() -> None:
    assert check_number("size", 0, low=0) == 0
    with pytest.raises(ValueError, match="positive, got 0"):
        check_number("size", 0, low=0, low_included=False)


@pytest.mark.parametrize("value", [True, "2", None, 2.0, float("nan"), 0, np.float64(3)])
def test_whole_numbers(value: object) -> None:
    assert type(check_whole("count", np.int64(3), low=1)) is int
    with pytest.raises(ValueError, match="^count must be a whole number of at least 1, got "):
        check_whole("count", value, low=1)
