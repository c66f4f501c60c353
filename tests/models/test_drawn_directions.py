"""Directions that are drawn: their distribution, their independence of other rows, and those that are allowed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm, vonmises_fisher
from torch import Tensor

from dwiml.models.direction_getters import DIRECTION_GETTERS, DirectionGetter
from dwiml.models.direction_getters.base import NB_TRIES
from dwiml.models.direction_getters.gaussian import standard_deviations
from dwiml.models.direction_getters.von_mises_fisher import MAX_KAPPA, mean_cosine
from dwiml.ops.randomness import KeyedDraws, standard_normal

NB = 100_000
DRAWN = ["fisher-von-mises", "fisher-von-mises-mixture", "gaussian", "gaussian-mixture"]
DISTRIBUTIONS = [*DRAWN, "smooth-sphere-classification", "sphere-classification"]


def getter(key: str, **options: Any) -> DirectionGetter:
    small = {"sphere": "repulsion100"} if "sphere" in key else {}
    return DIRECTION_GETTERS[key](8, **small, **options)


def draws(nb: int = NB, step: int = 4) -> KeyedDraws:
    return KeyedDraws(11, torch.arange(nb), step)


def in_cap(axis: Tensor, cosine: float) -> Any:
    """Allow directions near an axis, in both forms that a direction getter may ask for."""

    def allowed(directions: Tensor) -> Tensor:
        within = (directions * axis).sum(dim=-1) >= cosine
        return within if directions.ndim == 3 else within.expand(NB, -1)

    return allowed


@pytest.mark.parametrize("key", sorted(DIRECTION_GETTERS))
def test_those_with_a_distribution(key: str) -> None:
    head = getter(key)
    assert head.has_distribution == (key in DISTRIBUTIONS)
    if not head.has_distribution:
        with pytest.raises(NotImplementedError, match="gives one direction and no other"):
            head.sample(torch.zeros(2, 3), draws(2))


@pytest.mark.parametrize("kappa", [1e-6, 0.5, 8.0, 400.0, 9e4])
def test_von_mises_fisher_draws_have_its_mean_and_concentration(kappa: float) -> None:
    mean = torch.tensor([0.48, -0.6, -0.64], dtype=torch.float64)
    outputs = torch.cat([3 * mean, torch.tensor([math.log(kappa / (1 - kappa / MAX_KAPPA))])]).expand(NB, 4)
    drawn = getter("fisher-von-mises").sample(outputs, draws())
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(NB, dtype=torch.float64))
    expected = mean_cosine(torch.tensor(kappa, dtype=torch.float64)).item()
    cosines = drawn @ mean
    # The cosine has the distribution function (exp(kappa w) - exp(-kappa)) / (exp(kappa) - exp(-kappa)).
    away = (1 - cosines) * kappa
    uniform = (torch.expm1(-away) / math.expm1(-2 * kappa)).numpy()
    assert kstest(uniform, "uniform").pvalue > 0.01
    error = 4 * (cosines.std().item() + 1e-9) / math.sqrt(NB)
    assert cosines.mean().item() == pytest.approx(expected, abs=error)
    across = drawn - cosines[:, None] * mean
    assert across.mean(dim=0).norm() < 4 * across.norm(dim=1).square().mean().sqrt() / math.sqrt(NB)
    first = torch.linalg.cross(mean, torch.tensor([0.0, 0, 1], dtype=torch.float64))
    first, second = first / first.norm(), torch.linalg.cross(mean, first / first.norm())
    around = torch.atan2(drawn @ second, drawn @ first) / (2 * math.pi) + 0.5
    assert kstest(around.numpy(), "uniform").pvalue > 0.01
    if 0.1 < kappa < 1000:
        fitted_mean, fitted_kappa = vonmises_fisher.fit(drawn.numpy())
        assert fitted_kappa == pytest.approx(kappa, rel=0.02)
        assert np.degrees(np.arccos(min(fitted_mean @ mean.numpy(), 1.0))) < 60 / math.sqrt(
            NB * min(kappa, 1) ** 2 / 20
        )


def test_components_are_drawn_as_often_as_their_weights() -> None:
    head = getter("fisher-von-mises-mixture", nb_clusters=3)
    axes, logits = torch.eye(3), torch.tensor([0.2, 0.5, 0.3]).log()
    outputs = torch.cat([logits, torch.cat([axes, torch.full((3, 1), math.log(2000.0))], dim=1).flatten()])
    drawn = head.sample(outputs.expand(NB, -1), draws())
    shares = torch.bincount((drawn @ axes.T).argmax(dim=1), minlength=3) / NB
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.5, 0.3]), atol=0.006, rtol=0)
    gaussians = getter("gaussian-mixture", nb_gaussians=3)
    outputs = torch.cat([logits, torch.cat([axes, torch.full((3, 3), -4.0)], dim=1).flatten()])
    drawn = gaussians.sample(outputs.expand(NB, -1), draws())
    shares = torch.bincount((drawn @ axes.T).argmax(dim=1), minlength=3) / NB
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.5, 0.3]), atol=0.006, rtol=0)


def test_gaussian_draws_are_directions_of_gaussian_steps() -> None:
    outputs = torch.tensor([0.2, -0.1, 0.6, -1.5, -2.0, -1.0], dtype=torch.float64)
    drawn = getter("gaussian").sample(outputs.expand(NB, -1), draws())
    sigmas = standard_deviations(outputs[3:]).numpy()
    steps = np.random.default_rng(0).normal(outputs[:3].numpy(), sigmas, (NB, 3))
    units = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    errors = np.sqrt(units.var(axis=0) * 2 / NB)
    assert (np.abs(drawn.numpy().mean(axis=0) - units.mean(axis=0)) < 4 * errors).all()
    np.testing.assert_allclose(drawn.numpy().std(axis=0), units.std(axis=0), rtol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("key", DRAWN)
def test_extremes_are_drawn_too(key: str, dtype: torch.dtype) -> None:
    head: Any = getter(key, add_eos=True)
    outputs = torch.randn(600, head.output_size, generator=torch.Generator().manual_seed(1)).to(dtype)
    spread = slice(head.direction_size - (1 if "mises" in key else 3), head.direction_size)
    for value in (-1e4, -100.0, 100.0, 1e4):
        outputs[:, spread] = value
        drawn = head.sample(outputs, draws(600))
        assert drawn.dtype == torch.float32
        torch.testing.assert_close(drawn.norm(dim=1), torch.ones(600))


@pytest.mark.parametrize("key", DISTRIBUTIONS)
def test_draws_of_a_row_do_not_depend_on_the_others(key: str) -> None:
    head = getter(key)
    nb = 1003
    outputs = torch.randn(nb, head.output_size, generator=torch.Generator().manual_seed(5))
    keys = torch.randint(0, 2**40, (nb,), generator=torch.Generator().manual_seed(6))
    axis = torch.tensor([0.0, 0.6, 0.8])

    def drawn(rows: Tensor) -> Tensor:
        def allowed(directions: Tensor) -> Tensor:
            within = (directions * axis).sum(dim=-1) >= 0.5
            return within if directions.ndim == 3 else within.expand(len(rows), -1)

        return head.sample(outputs[rows], KeyedDraws(3, keys[rows], 7), allowed)

    whole = drawn(torch.arange(nb))
    assert whole.any(dim=1).sum() > 200
    for rows in torch.randperm(nb, generator=torch.Generator().manual_seed(0)).split([1, 2, 3, 13, 100, 884]):
        assert torch.equal(drawn(rows), whole[rows])
    other = head.sample(outputs, KeyedDraws(3, keys, 8))
    assert (other != head.sample(outputs, KeyedDraws(3, keys, 7))).any(dim=1).float().mean() > 0.7


@pytest.mark.first(2)
@pytest.mark.parametrize("key", DISTRIBUTIONS)
def test_those_that_are_allowed_are_drawn_in_proportion(key: str) -> None:
    head = getter(key)
    outputs = torch.randn(1, head.output_size, generator=torch.Generator().manual_seed(2)).expand(NB, -1)
    axis = torch.tensor([0.0, 0.6, 0.8])
    free = head.sample(outputs, draws())
    inside = free[free @ axis >= 0.2]
    drawn = head.sample(outputs, draws(step=5), in_cap(axis, 0.2))
    found = drawn[drawn.any(dim=1)]
    assert (found @ axis >= 0.2).all()
    # All tries fail as often as they should.
    missed = (1 - len(inside) / NB) ** NB_TRIES if key in DRAWN else 0.0
    assert 1 - len(found) / NB == pytest.approx(missed, abs=0.004)
    errors = (inside.var(dim=0) * (1 / len(inside) + 1 / len(found))).sqrt()
    assert ((found.mean(dim=0) - inside.mean(dim=0)).abs() < 4 * errors).all()
    assert not head.sample(outputs, draws(), in_cap(axis, 2.0)).any()


def test_normal_numbers() -> None:
    numbers = draws().normal(3)
    assert kstest(numbers.numpy(), "norm").pvalue > 0.01
    torch.testing.assert_close(numbers, torch.from_numpy(norm.ppf(draws().uniform(3).numpy())), rtol=1e-8, atol=1e-8)
    assert standard_normal(torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)).isfinite().all()
