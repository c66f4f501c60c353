"""Losses of the direction getters against scipy and torch.distributions, their gradients, and EOS."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr
from scipy.stats import multivariate_normal, vonmises_fisher
from torch import Tensor, nn

from dwiml import Learn2TrackModel, TensorSequence
from dwiml.models.direction_getters import DIRECTION_GETTERS, DirectionGetter, EOSLogitDirectionGetter
from dwiml.models.direction_getters.gaussian import SIGMA_BOUNDS, standard_deviations
from dwiml.models.direction_getters.von_mises_fisher import (
    MAX_KAPPA,
    concentrations,
    entropy,
    log_peak_density,
    mean_cosine,
)
from dwiml.models.with_direction_getter import ModelWithDirectionGetter
from dwiml.ops.directions import normalize_directions

ROOT = Path(__file__).parents[2]
KEYS = sorted(DIRECTION_GETTERS)
SPHERES = [key for key in KEYS if "sphere" in key]
SEPARATE_EOS = [key for key in KEYS if key not in SPHERES]
OF_KAPPA = ["fisher-von-mises", "fisher-von-mises-mixture"]
OF_SIGMA = ["gaussian", "gaussian-mixture"]


def getter(key: str, **options: Any) -> DirectionGetter:
    small = {"sphere": "repulsion100"} if key in SPHERES else {}
    return DIRECTION_GETTERS[key](8, **small, **options)


def rows(nb: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs and steps in float64."""
    generator = torch.Generator().manual_seed(seed)
    steps = 0.5 * torch.randn(nb, 3, dtype=torch.float64, generator=generator)
    return torch.randn(nb, size, dtype=torch.float64, generator=generator), steps


def none(nb: int) -> Tensor:
    return torch.zeros(nb, dtype=torch.bool)


def check(head: DirectionGetter, outputs: Tensor, steps: Tensor, expected: Any, **tolerance: float) -> None:
    """Compare losses with those expected, in float64 and in float32."""
    expected = torch.as_tensor(np.asarray(expected))
    tolerance = tolerance or {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(head.losses(outputs, steps, none(len(steps))), expected, **tolerance)
    single = head.losses(outputs.float(), steps.float(), none(len(steps)))
    torch.testing.assert_close(single, expected.float(), rtol=1e-5, atol=1e-5)


def of_mixture(outputs: Tensor, nb: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-weights (N, K) and parameters (N, K, P) of outputs, as the documentation describes the columns."""
    return log_softmax(outputs[:, :nb].numpy(), axis=1), outputs[:, nb : nb + nb * size].reshape(-1, nb, size).numpy()


def test_losses_of_regression() -> None:
    outputs, steps = rows(7, 3)
    unit, out = (x / x.norm(dim=1, keepdim=True) for x in (steps, outputs))
    cosines = 1 - (unit * out).sum(1)
    check(getter("cosine-regression"), outputs, steps, cosines)
    for key, more in (("l2-regression", 0), ("cosine-plus-l2-regression", cosines)):
        check(getter(key), outputs, steps, (outputs - unit).square().sum(1) + more)
        check(getter(key, normalize_targets=False), outputs, steps, (outputs - steps).square().sum(1) + more)
        check(getter(key, normalize_outputs=True), outputs, steps, (out - unit).square().sum(1) + more)
        with pytest.raises(ValueError, match="^dg_args: normalize_outputs needs normalize_targets"):
            getter(key, normalize_outputs=True, normalize_targets=False)


@pytest.mark.parametrize("normalize", [True, False])
def test_losses_of_gaussians_are_those_of_scipy(normalize: bool) -> None:
    outputs, steps = rows(7, 6)
    targets = normalize_directions(steps) if normalize else steps
    sigmas = standard_deviations(outputs[:, 3:]).numpy()
    expected = [
        -multivariate_normal(mean, np.diag(sigma**2)).logpdf(target)
        for mean, sigma, target in zip(outputs[:, :3].numpy(), sigmas, targets.numpy(), strict=True)
    ]
    check(getter("gaussian", normalize_targets=normalize), outputs, steps, expected)


@pytest.mark.parametrize("nb", [2, 5])
def test_losses_of_gaussian_mixtures_are_those_of_torch(nb: int) -> None:
    outputs, steps = rows(7, 7 * nb)
    _, parameters = of_mixture(outputs, nb, 6)
    means, sigmas = torch.from_numpy(parameters).split(3, dim=2)
    components = torch.distributions.Independent(torch.distributions.Normal(means, standard_deviations(sigmas)), 1)
    weights = torch.distributions.Categorical(logits=outputs[:, :nb])
    expected = -torch.distributions.MixtureSameFamily(weights, components).log_prob(steps)
    check(getter("gaussian-mixture", nb_gaussians=nb), outputs, steps, expected)
    best = getter("gaussian-mixture", nb_gaussians=nb).best_directions(outputs)
    heaviest = means[torch.arange(7), outputs[:, :nb].argmax(1)]
    torch.testing.assert_close(best, heaviest / heaviest.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("kappa", [1e-3, 0.09, 0.11, 1.0, 30.0, 1e3, 9e4])
def test_losses_of_von_mises_fisher_are_those_of_scipy(kappa: float) -> None:
    outputs, steps = rows(20, 4)
    if kappa > 100:
        # Targets near the mean, as they are when the concentration is high: far from it, densities are of no use.
        outputs[:, :3] = normalize_directions(steps) + outputs[:, :3] / math.sqrt(kappa)
    outputs[:, 3] = math.log(kappa / (1 - kappa / MAX_KAPPA))
    torch.testing.assert_close(concentrations(outputs[:, 3]), torch.full((20,), kappa, dtype=torch.float64))
    means, targets = (normalize_directions(x).numpy() for x in (outputs[:, :3], steps))
    expected = [-vonmises_fisher(mu, kappa).logpdf(x) for mu, x in zip(means, targets, strict=True)]
    head = getter("fisher-von-mises")
    # Scipy computes the cosine in float64, which has 16 digits, and multiplies it by kappa.
    tolerance = {"rtol": 1e-9, "atol": max(1e-10, 1e-14 * kappa)}
    torch.testing.assert_close(head.losses(outputs, steps, none(20)), torch.tensor(expected).double(), **tolerance)
    # In float32, kappa and the angle have 7 digits.
    single = head.losses(outputs.float(), steps.float(), none(20))
    torch.testing.assert_close(single.double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("nb", [2, 4])
def test_losses_of_von_mises_fisher_mixtures_are_those_of_scipy(nb: int) -> None:
    outputs, steps = rows(7, 5 * nb)
    log_weights, parameters = of_mixture(outputs, nb, 4)
    kappas, targets = concentrations(torch.from_numpy(parameters[..., 3])).numpy(), normalize_directions(steps).numpy()
    logs = np.zeros((7, nb))
    for n, k in np.ndindex(7, nb):
        mu = parameters[n, k, :3] / np.linalg.norm(parameters[n, k, :3])
        logs[n, k] = log_weights[n, k] + vonmises_fisher(mu, kappas[n, k]).logpdf(targets[n])
    head = getter("fisher-von-mises-mixture", nb_clusters=nb)
    check(head, outputs, steps, -np.log(np.exp(logs).sum(1)))
    heaviest = torch.from_numpy(parameters[np.arange(7), log_weights.argmax(1), :3])
    torch.testing.assert_close(head.best_directions(outputs), heaviest / heaviest.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_of_the_concentration(dtype: torch.dtype) -> None:
    kappas = np.array([1e-8, 1e-4, 0.05, 0.0999, 0.1001, 0.7, 5.0, 50.0, 700.0, 1e5])
    given = torch.tensor(kappas, dtype=dtype)
    tolerance = {"rtol": 1e-5, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-12}
    entropies = [vonmises_fisher([0, 0, 1], kappa).entropy() for kappa in kappas[2:]]
    torch.testing.assert_close(entropy(given[2:]), torch.tensor(entropies, dtype=dtype), **tolerance)
    peaks = [vonmises_fisher([0, 0, 1], kappa).logpdf([0, 0, 1]) for kappa in kappas]
    torch.testing.assert_close(log_peak_density(given), torch.tensor(np.array(peaks), dtype=dtype), **tolerance)
    x = kappas.astype(np.longdouble)
    cosines = np.where(x < 1e-3, x / 3, 1 / np.tanh(x) - 1 / x)
    torch.testing.assert_close(mean_cosine(given), torch.tensor(cosines.astype(float), dtype=dtype), **tolerance)
    uniform = torch.zeros(1, dtype=dtype)
    assert entropy(uniform).item() == pytest.approx(math.log(4 * math.pi))
    assert mean_cosine(uniform).item() == 0


def test_entropy_regularization() -> None:
    outputs, steps = rows(9, 4)
    kappas = concentrations(outputs[:, 3])
    plain = getter("fisher-von-mises").losses(outputs, steps, none(9))
    check(getter("fisher-von-mises", entropy_weight=0.3), outputs, steps, plain - 0.3 * entropy(kappas))
    cosines = (normalize_directions(outputs[:, :3]) * normalize_directions(steps)).sum(1)
    of_entrack = 1 - (1 / kappas.tanh() - 1 / kappas) * cosines - 0.3 * entropy(kappas)
    check(getter("fisher-von-mises", entropy_weight=0.3, expected_cosine=True), outputs, steps, of_entrack)
    # Identical components are one, with its entropy.
    same = torch.cat([torch.randn(9, 2, dtype=torch.float64), outputs, outputs], dim=1)
    for options in ({"entropy_weight": 0.3}, {"entropy_weight": 0.3, "expected_cosine": True}):
        alone = getter("fisher-von-mises", **options).losses(outputs, steps, none(9))
        check(getter("fisher-von-mises-mixture", nb_clusters=2, **options), same, steps, alone)
    # Components that differ, with the closed form of the documentation.
    others, _ = rows(9, 10, seed=1)
    weights = others[:, :2].softmax(1)
    each = others[:, 2:].reshape(9, 2, 4)
    kappas = concentrations(each[..., 3])
    cosines = nn.functional.cosine_similarity(each[..., :3], steps[:, None], dim=2)
    cost = 1 - (weights * (1 / kappas.tanh() - 1 / kappas) * cosines).sum(1)
    expected = cost - 2.0 * (weights * entropy(kappas)).sum(1)
    mixture = getter("fisher-von-mises-mixture", nb_clusters=2, entropy_weight=2.0, expected_cosine=True)
    check(mixture, others, steps, expected)
    # The expected cost is 0 at best, the loss is not.
    assert cost.min() > 0 > expected.min()
    with pytest.raises(ValueError, match="^dg_args: expected_cosine needs a positive entropy_weight"):
        getter("fisher-von-mises", expected_cosine=True)


def test_the_optimum_of_entrack_is_the_inverse_temperature() -> None:
    head = getter("fisher-von-mises", entropy_weight=0.04, expected_cosine=True)
    # Where the mean is the target, d(-W - T H) / d kappa is 0 at kappa = 1 / T.
    outputs = torch.tensor([[0.0, 0, 1, math.log(25 / (1 - 25 / MAX_KAPPA))]], dtype=torch.float64, requires_grad=True)
    head.losses(outputs, torch.tensor([[0.0, 0, 2]], dtype=torch.float64), none(1)).sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.abs().max() < 1e-12


def test_soft_labels_are_those_of_a_loop() -> None:
    head: Any = getter("smooth-sphere-classification", label_width=0.2)
    outputs, steps = rows(6, 101)
    ends = torch.tensor([False, False, True, False, False, True])
    expected = []
    for output, step, end in zip(outputs.numpy(), steps.numpy(), ends, strict=True):
        angles = np.arccos(np.clip(head.directions.double().numpy() @ (step / np.linalg.norm(step)), -1, 1))
        label = np.append(np.zeros(100), 1.0) if end else np.append(np.exp(-angles / 0.2), 0.0)
        expected.append(rel_entr(label / label.sum(), np.exp(log_softmax(output))).sum())
    torch.testing.assert_close(head.losses(outputs, steps, ends), torch.tensor(np.array(expected)))


@pytest.mark.parametrize("add_eos", [True, False])
@pytest.mark.parametrize("key", KEYS)
def test_gradients_are_those_of_finite_differences(key: str, add_eos: bool) -> None:
    options = {"entropy_weight": 0.2} if key in OF_KAPPA else {}
    head = getter(key, add_eos=add_eos, **options).double()
    outputs, steps = rows(4, head.output_size, seed=3)
    ends = torch.tensor([False, False, add_eos, False])
    assert torch.autograd.gradcheck(lambda x: head.losses(x, steps, ends), outputs.requires_grad_())
    features = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: head.losses(head(x), steps, ends), features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [-1e4, -100.0, -5.0, 0.0, 5.0, 100.0, 1e4])
@pytest.mark.parametrize("key", OF_KAPPA + OF_SIGMA)
def test_extreme_outputs_have_finite_losses_and_gradients(key: str, value: float, dtype: torch.dtype) -> None:
    options: dict[str, Any] = {"entropy_weight": 0.1} if key in OF_KAPPA else {}
    for options_of_head in ({}, options, {**options, "expected_cosine": True} if options else {}):
        head: Any = getter(key, add_eos=True, **options_of_head)
        outputs = torch.randn(6, head.output_size, generator=torch.Generator().manual_seed(1)).to(dtype)
        outputs[:, head.direction_size - (3 if key in OF_SIGMA else 1) : head.direction_size] = value
        outputs[4, :-1] = value
        outputs[5, :3] = 0
        outputs.requires_grad_()
        steps = torch.cat([torch.zeros(1, 3), torch.randn(5, 3)])
        losses = head.losses(outputs, steps, torch.tensor([True, False, False, False, False, True]))
        assert losses.dtype == torch.float32
        assert losses.isfinite().all()
        (gradient,) = torch.autograd.grad(losses.sum(), outputs)
        assert gradient.isfinite().all()
        assert head.best_directions(outputs).isfinite().all()


def test_bounds_of_the_outputs_are_those_of_the_documentation() -> None:
    wide = torch.tensor([-1e4, 0.0, 1e4], dtype=torch.float64)
    torch.testing.assert_close(concentrations(wide), torch.tensor([0.0, 1 / (1 + 1e-5), MAX_KAPPA]).double())
    low, high = SIGMA_BOUNDS
    assert standard_deviations(wide)[[0, 2]].tolist() == pytest.approx([low, high])
    assert standard_deviations(wide)[1].item() == pytest.approx(1.0, abs=2e-3)


def model(key: str, **options: Any) -> Learn2TrackModel:
    torch.manual_seed(0)
    small = {"sphere": "repulsion100"} if key in SPHERES else {}
    return Learn2TrackModel(nb_features=2, rnn_layer_sizes=(6,), dg_key=key, dg_args={**small, **options}).double()


@pytest.mark.parametrize("key", KEYS)
def test_the_end_is_a_target_at_last_points_only(key: str) -> None:
    targets = TensorSequence(torch.randn(203, 3).cumsum(0).double(), torch.tensor([2, 1, 200]))
    lasts = [1, 2, 202]
    network = model(key, add_eos=True)
    assert network.forward_uses_last_point
    outputs = torch.randn(203, network.direction_getter.output_size, dtype=torch.float64, requires_grad=True)
    losses, n = network.compute_loss(outputs, targets, average_results=False)
    assert n == 203
    if key in SPHERES:
        torch.testing.assert_close(losses[lasts], -outputs.log_softmax(1)[lasts, -1])
        return
    steps = targets.diff().data
    before_last = torch.tensor([i for i in range(203) if i not in lasts])
    eos = nn.functional.softplus(
        torch.where(torch.isin(torch.arange(203), torch.tensor(lasts)), -1, 1) * outputs[:, -1]
    )
    alone = model(key).compute_loss(outputs[before_last, :-1], targets, average_results=False)[0]
    assert len(steps) == len(alone) == 200
    torch.testing.assert_close(losses, eos.index_add(0, before_last, alone))
    mean = network.compute_loss(outputs, targets)[0]
    torch.testing.assert_close(mean, losses.mean())
    heavier = model(key, add_eos=True, eos_weight=2.5).compute_loss(outputs, targets, average_results=False)[0]
    torch.testing.assert_close(heavier, losses + 1.5 * eos)
    # At the ends, what the direction would be changes nothing.
    (gradient,) = torch.autograd.grad(mean, outputs)
    assert not gradient[lasts, :-1].any()
    assert (gradient[:, -1] != 0).all()
    assert torch.equal(network.eos_probability(outputs), outputs[:, -1].sigmoid())  # type: ignore[arg-type]


@pytest.mark.parametrize("key", KEYS)
def test_a_repeated_point_is_no_end(key: str) -> None:
    network = model(key, add_eos=True)
    points = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0]], dtype=torch.float64)
    outputs = torch.randn(3, network.direction_getter.output_size, dtype=torch.float64, requires_grad=True)
    targets = TensorSequence(points, torch.tensor([3]))
    losses, _ = network.compute_loss(outputs, targets, average_results=False)
    mean, _ = network.compute_loss(outputs, targets)
    assert losses[0] == 0
    torch.testing.assert_close(mean, losses.sum() / 2)
    (gradient,) = torch.autograd.grad(mean, outputs)
    assert not gradient[0].any()
    assert gradient.isfinite().all()
    points[1, 0] = torch.nan
    assert network.compute_loss(outputs, targets)[0].isnan()


@pytest.mark.parametrize("add_eos", [True, False])
@pytest.mark.parametrize("key", KEYS)
def test_losses_never_wait_for_the_device(key: str, add_eos: bool) -> None:
    # On the meta device, a value cannot be read: anything that waits for one fails.
    head = getter(key, add_eos=add_eos).to("meta")
    features, steps = torch.zeros(5, 8, device="meta"), torch.zeros(5, 3, device="meta")
    losses = head.losses(head(features), steps, torch.zeros(5, dtype=torch.bool, device="meta"))
    assert losses.shape == (5,)
    assert head.best_directions(head(features)).shape == (5, 3)


class Mine(EOSLogitDirectionGetter):
    """A direction getter of a user."""

    def __init__(self, input_size: int, *, power: float = 1.0) -> None:
        super().__init__(input_size, direction_size=3)
        self.power = power

    def direction_losses(self, outputs: Tensor, steps: Tensor) -> Tensor:
        return (outputs - steps).abs().sum(dim=1) ** self.power

    def best_directions(self, outputs: Tensor) -> Tensor:
        return normalize_directions(outputs)


def test_one_may_be_added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(DIRECTION_GETTERS, "mine", Mine)
    network = Learn2TrackModel(nb_features=2, rnn_layer_sizes=(6,), dg_key="mine", dg_args={"power": 2.0})
    network.save(tmp_path)
    again = Learn2TrackModel.load(tmp_path).direction_getter
    assert isinstance(again, Mine)
    assert again.power == 2.0
    with pytest.raises(ValueError, match=r"dg_args of 'mine' has no option 'dropout'; it has: \['power'\]"):
        Learn2TrackModel(nb_features=2, dg_key="mine", dg_args={"dropout": 0.1})


@pytest.mark.parametrize(
    ("key", "option", "value", "sentence"),
    [
        ("gaussian", "eos_weight", -1, "dg_args: eos_weight must be a number, 0 or more, got -1."),
        ("gaussian-mixture", "nb_gaussians", 1, "dg_args: nb_gaussians must be a whole number of at least 2, got 1."),
        ("fisher-von-mises-mixture", "nb_clusters", 0, "dg_args: nb_clusters must be .* at least 2, got 0."),
        ("gaussian-mixture", "nb_gaussians", 10**18, "dg_args: nb_gaussians must be .* at most 1000, got 10"),
        ("fisher-von-mises", "entropy_weight", "1", "dg_args: entropy_weight must be a number, 0 or more, got '1'."),
        ("smooth-sphere-classification", "label_width", 0, "dg_args: label_width must be a number of at least 0.01"),
        ("cosine-regression", "add_eos", "yes", "add_eos must be True or False, got 'yes'."),
    ],
)
def test_options_are_checked(key: str, option: str, value: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        getter(key, **{option: value})


@pytest.mark.parametrize("key", KEYS)
def test_the_size_of_the_hidden_layer(key: str) -> None:
    assert getter(key).layers[0].out_features == 4
    assert getter(key, hidden_size=5).layers[0].out_features == 5


@pytest.mark.parametrize("key", ["l2-regression", "cosine-plus-l2-regression"])
def test_a_distance_that_is_not_squared(key: str) -> None:
    outputs, steps = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    outputs[0] = steps[0]
    outputs.requires_grad_()
    losses = getter(key, squared=False, normalize_targets=False).direction_losses(outputs, steps)
    expected = (outputs - steps).norm(dim=1)
    if key != "l2-regression":
        expected = expected + 1 - torch.nn.functional.cosine_similarity(outputs, steps)
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_the_docs_have_all_keys_and_options() -> None:
    docs = (ROOT / "docs" / "models.rst").read_text(encoding="utf-8")
    assert ModelWithDirectionGetter.__doc__ is not None
    for key, cls in DIRECTION_GETTERS.items():
        assert f"'{key}'" in ModelWithDirectionGetter.__doc__
        assert f"``{key}``" in docs
        for name in set(cls.__init__.__annotations__) - {"input_size", "return"}:
            assert f"``{name}``" in docs, name


@pytest.mark.parametrize(
    ("parameter", "options"),
    [("dg_args", {"add_eos": 1}), ("dg_args", {"add_eos": "yes"}), ("rnn_args", {"normalize_last": "no"})],
)
def test_an_option_that_should_be_bool_is_named_with_its_parameter(parameter: str, options: dict[str, Any]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"^{parameter}: {name} must be True or False, got {value!r}"):
        Learn2TrackModel(nb_features=2, **{parameter: options})
