from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from dwiml.ops.randomness import KeyedDraws, check_seed, keyed_generator, keyed_uniform


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


def splitmix64(state: int) -> tuple[int, int]:
    """Return the next state and word, in Python's own whole numbers."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    word = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) % 2**64
    return state, word ^ (word >> 31)


def test_keyed_numbers_are_splitmix64_s() -> None:
    # The generator's published first word, from state 0.
    assert splitmix64(0)[1] == 0xE220A8397B1DCDAF
    keys = [0, 1, 77, 2**40]
    for key in keys:
        state = splitmix64(5)[1] ^ key
        state = splitmix64((state - 0x9E3779B97F4A7C15) % 2**64)[1]
        for counter in range(3):
            state, word = splitmix64(state)
            drawn = keyed_uniform(5, torch.tensor(keys), counter)
            assert float(drawn[keys.index(key)]) == (word >> 11) / 2**53


def test_keyed_numbers_are_uniform_and_unrelated() -> None:
    keys = torch.arange(100_000)
    drawn = [keyed_uniform(seed, keys, counter).numpy() for seed, counter in ((7, 0), (7, 1), (8, 0))]
    assert all(kstest(values, "uniform").pvalue > 1e-3 for values in drawn)
    along = torch.cat([keyed_uniform(7, keys[:1], counter) for counter in range(3000)]).numpy()
    assert kstest(along, "uniform").pvalue > 1e-3
    related = np.corrcoef([*(values[:-1] for values in drawn), drawn[0][1:]]) - np.eye(4)
    assert np.abs(related).max() < 0.02
    assert min(values.min() for values in drawn) >= 0
    assert max(values.max() for values in drawn) < 1


def test_draws_of_a_step_are_keyed_numbers() -> None:
    keys = torch.tensor([3, 2**50, 7])
    draws = KeyedDraws(9, keys, 12)
    assert torch.equal(draws.uniform(0), keyed_uniform(9, keys, 12))
    assert torch.equal(draws.uniform(3), keyed_uniform(9, keys, 3 * 2**17 + 12))
    assert torch.equal(draws.uniforms(5), torch.stack([draws.uniform(i) for i in range(5)], dim=1))
    assert draws.normal(2).dtype == torch.float64
