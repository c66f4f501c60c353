from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch

from dwiml.training.optimization.optimizers import (
    FUSED,
    OPTIMIZERS,
    build_optimizer,
    can_be_fused,
    check_learning_rates,
    load_optimizer_state,
)
from dwiml.training.optimization.schedules import build_schedule


class StandIn:
    """What can_be_fused looks at in a parameter."""

    def __init__(self, is_cuda: bool = True, floating: bool = True) -> None:
        self.is_cuda = is_cuda
        self.floating = floating

    def is_floating_point(self) -> bool:
        return self.floating


def linear() -> torch.nn.Linear:
    torch.manual_seed(3)
    return torch.nn.Linear(4, 2)


def some_steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, nb: int) -> None:
    inputs = torch.linspace(-1, 1, 12).reshape(3, 4).to(next(model.parameters()).device)
    for _ in range(nb):
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()


def saved(state: Any) -> Any:
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("Adam", [StandIn(), StandIn()], True),
        ("AdamW", [StandIn()], True),
        ("SGD", [StandIn()], True),
        ("RAdam", [StandIn()], False),
        ("Adam", [StandIn(), StandIn(is_cuda=False)], False),
        ("Adam", [StandIn(is_cuda=False)], False),
        ("Adam", [StandIn(), StandIn(floating=False)], False),
    ],
)
def test_which_optimizers_are_fused(name: str, parameters: list[Any], expected: bool) -> None:
    assert can_be_fused(name, parameters) is expected


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_torch_agrees_on_which_have_a_fused_version(name: str) -> None:
    has_one = True
    try:
        OPTIMIZERS[name](linear().parameters(), lr=0.1, fused=True)  # type: ignore[call-arg]
    except TypeError:
        has_one = False
    assert (name in FUSED) is has_one


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_on_the_cpu_it_is_what_torch_does_by_itself(name: str) -> None:
    ours, theirs = linear(), linear()
    some_steps(ours, build_optimizer(name, ours.parameters(), learning_rate=0.01, weight_decay=0.1), 3)
    some_steps(theirs, OPTIMIZERS[name](theirs.parameters(), lr=0.01, weight_decay=0.1), 3)  # type: ignore[call-arg]
    assert torch.equal(ours.weight, theirs.weight)
    assert not torch.equal(ours.weight, linear().weight)


def test_fused_is_asked_for_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwiml.training.optimization.optimizers.can_be_fused", lambda name, parameters: name == "Adam")
    build = {
        name: build_optimizer(name, linear().parameters(), learning_rate=0.01, weight_decay=0.0)
        for name in ("Adam", "SGD")
    }
    assert build["Adam"].param_groups[0]["fused"] is True
    assert build["SGD"].param_groups[0]["fused"] is None


def test_unknown_names_and_models_without_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^optimizer must be one of Adam, AdamW, RAdam, SGD, got 'Adm'\.$"):
        build_optimizer("Adm", linear().parameters(), learning_rate=0.1, weight_decay=0.0)
    frozen = linear().requires_grad_(False)
    with pytest.raises(ValueError, match=r"^The model has no parameter to train\.$"):
        build_optimizer("Adam", frozen.parameters(), learning_rate=0.1, weight_decay=0.0)


@pytest.mark.parametrize("fused", [True, False, None])
@pytest.mark.parametrize("name", sorted(FUSED))
def test_a_state_is_taken_up_with_the_implementation_of_this_machine(name: str, fused: bool | None) -> None:
    before, after = linear(), linear()
    theirs = OPTIMIZERS[name](before.parameters(), lr=0.02, fused=fused)  # type: ignore[call-arg]
    some_steps(before, theirs, 2)
    state = saved(theirs.state_dict())
    recorded = copy.deepcopy(state["param_groups"])
    optimizer = build_optimizer(name, after.parameters(), learning_rate=0.5, weight_decay=0.0)
    load_optimizer_state(optimizer, state)
    assert optimizer.param_groups[0]["fused"] is None
    assert optimizer.param_groups[0]["lr"] == 0.02
    assert state["param_groups"] == recorded
    after.load_state_dict(before.state_dict())
    some_steps(before, theirs, 1)
    some_steps(after, optimizer, 1)
    torch.testing.assert_close(after.weight, before.weight, rtol=0, atol=1e-6)


def test_a_resumed_optimizer_goes_on_to_the_bit() -> None:
    undisturbed, resumed = linear(), linear()
    first = build_optimizer("Adam", undisturbed.parameters(), learning_rate=0.01, weight_decay=0.0)
    some_steps(undisturbed, first, 2)
    second = build_optimizer("Adam", resumed.parameters(), learning_rate=0.01, weight_decay=0.0)
    load_optimizer_state(second, saved(first.state_dict()))
    resumed.load_state_dict(saved(undisturbed.state_dict()))
    some_steps(undisturbed, first, 3)
    some_steps(resumed, second, 3)
    assert torch.equal(undisturbed.weight, resumed.weight)


def test_the_state_of_other_parameters_is_refused() -> None:
    optimizer = build_optimizer("Adam", linear().parameters(), learning_rate=0.01, weight_decay=0.0)
    other = build_optimizer("Adam", torch.nn.Linear(4, 2, bias=False).parameters(), learning_rate=0.1, weight_decay=0.0)
    with pytest.raises(ValueError, match="parameter group"):
        load_optimizer_state(optimizer, other.state_dict())
    other.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="parameter groups"):
        load_optimizer_state(optimizer, other.state_dict())


def test_learning_rates_by_epoch() -> None:
    optimizer = build_optimizer("SGD", linear().parameters(), learning_rate=0.1, weight_decay=0.0)
    rates = check_learning_rates([0.1, 0.05])
    schedule = build_schedule(None, None, optimizer=optimizer, learning_rates=rates, planned_epochs=4)
    found = []
    for epoch in range(4):
        schedule.begin_epoch(epoch)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == [0.1, 0.05, 0.05, 0.05]
    assert check_learning_rates(0.3) == [0.3]


@pytest.mark.parametrize("rate", [np.float32(0.5), np.float64(0.5), np.array(0.5), np.array([0.5], dtype=np.float32)])
def test_learning_rates_of_numpy(rate: Any) -> None:
    rates = check_learning_rates(rate)
    assert rates == [0.5]
    assert type(rates[0]) is float
    with pytest.raises(ValueError, match=r"got tensor\(0.5000\); use its tolist\(\)[.]$"):
        check_learning_rates(torch.tensor(0.5))  # type: ignore[arg-type]


@pytest.mark.parametrize("rates", [[], 0, -1.0, [0.1, 0], "fast", [0.1, float("nan")], None])
def test_learning_rates_that_are_none(rates: Any) -> None:
    with pytest.raises(ValueError, match="learning_rates must be a positive number, or a list of one per epoch, each"):
        check_learning_rates(rates)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", sorted(FUSED))
def test_on_cuda_it_is_fused_and_moves_between_devices(name: str) -> None:
    on_gpu, on_cpu = linear().cuda(), linear()
    fused = build_optimizer(name, on_gpu.parameters(), learning_rate=0.01, weight_decay=0.1)
    plain = build_optimizer(name, on_cpu.parameters(), learning_rate=0.01, weight_decay=0.1)
    assert fused.param_groups[0]["fused"] is True
    some_steps(on_gpu, fused, 2)
    some_steps(on_cpu, plain, 2)
    torch.testing.assert_close(on_gpu.weight.cpu(), on_cpu.weight, rtol=0, atol=1e-5)
    states = saved(fused.state_dict()), saved(plain.state_dict())
    load_optimizer_state(plain, states[0])
    load_optimizer_state(fused, states[1])
    assert fused.param_groups[0]["fused"] is True
    assert plain.param_groups[0]["fused"] is None
    some_steps(on_gpu, fused, 1)
    some_steps(on_cpu, plain, 1)
    torch.testing.assert_close(on_gpu.weight.cpu(), on_cpu.weight, rtol=0, atol=1e-5)
