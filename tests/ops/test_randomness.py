from __future__ import annotations

import numpy as np
import pytest

from dwiml.ops.randomness import check_seed, keyed_generator


def test_same_key_same_numbers_whatever_was_drawn_before() -> None:
    first = keyed_generator(5, 2, 7, "noise").normal(size=4)
    keyed_generator(5, 2, 8, "noise").normal(size=100)
    assert np.array_equal(first, keyed_generator(5, 2, 7, "noise").normal(size=4))


@pytest.mark.parametrize("key", [(6, 2, 7, "noise"), (5, 3, 7, "noise"), (5, 2, 8, "noise"), (5, 2, 7, "split")])
def test_another_key_other_numbers(key: tuple[int, int, int, str]) -> None:
    assert not np.array_equal(keyed_generator(5, 2, 7, "noise").normal(size=4), keyed_generator(*key).normal(size=4))


def test_streams_of_neighbouring_keys_are_uncorrelated() -> None:
    draws = np.stack([keyed_generator(0, epoch, batch).normal(size=2000) for epoch in range(3) for batch in range(3)])
    correlations = np.corrcoef(draws) - np.eye(9)
    assert np.abs(correlations).max() < 5 / np.sqrt(2000)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "3", 2**63])
def test_refuses_odd_seeds(seed: object) -> None:
    with pytest.raises(ValueError, match="seed must be an integer"):
        check_seed(seed)  # type: ignore[arg-type]
