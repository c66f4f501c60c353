"""Digests of states, by which processes compare them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

from dwiml.training.cluster.agreement import differing_states, digest_of
from dwiml.training.cluster.ranks import Ranks

STATE: dict[str, Any] = {
    "a": 1,
    "b": [True, None, "x", 0.5, float("nan")],
    "c": {"d": torch.arange(6.0).reshape(2, 3), "e": {3, 1}, "f": torch.tensor(1 + 2j)},
    "g": torch.zeros(0),
    "h": torch.ones(3, dtype=torch.bfloat16),
    "i": (torch.tensor([True, False]),),
}


def test_equal_states_have_one_digest() -> None:
    other = dict(reversed(STATE.items()))
    wide = torch.zeros(2, 6)
    wide[:, ::2] = STATE["c"]["d"]
    # A view of another memory layout, with the same values.
    other["c"] = {**STATE["c"], "d": wide[:, ::2], "f": torch.tensor(1 - 2j).conj()}
    assert digest_of(other) == digest_of(STATE)


@pytest.mark.parametrize(
    "change",
    [
        {"a": 2},
        {"a": True},
        {"b": [True, None, "x", float("nan"), 0.5]},
        {"c": OrderedDict(STATE["c"])},
        {"c": {**STATE["c"], "d": torch.arange(6.0)}},
        {"c": {**STATE["c"], "d": torch.arange(6.0).reshape(2, 3) + 1e-6}},
        {"c": {**STATE["c"], "e": {3}}},
        {"g": torch.zeros(0, dtype=torch.float64)},
        {"h": torch.ones(3)},
        {"more": 1},
    ],
)
def test_another_value_has_another_digest(change: dict[str, Any]) -> None:
    assert digest_of({**STATE, **change}) != digest_of(STATE)


def test_what_a_checkpoint_cannot_hold_has_a_digest_too() -> None:
    for thing in (torch.eye(2).to_sparse(), np.float64(0.5), "\ud800"):
        assert digest_of({"a": thing}) == digest_of({"a": thing})


def test_the_states_that_differ_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks()
    assert differing_states(ranks, {"a": 1}) == []
    ranks.nb = 3
    monkeypatch.setattr(ranks, "gather", lambda own: [own, own, {**own, "b": digest_of(3)}])
    assert differing_states(ranks, {"a": 1, "b": 2, "c": {}}) == ["b"]
